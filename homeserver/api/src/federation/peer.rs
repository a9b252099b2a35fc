use axum::{
    extract::{FromRequest, MatchedPath, Request},
    http::header,
};
use entente_config::Rate;
use entente_federation::FederationError;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName};

use super::{SEND, intake::Share};
use crate::{
    ApiState, LimitKind, MatrixError, RateLimit,
    address::{ClientAddress, address_key},
};

/// A request of another server, which proved who it is (S-S API, "Request Authentication").
#[derive(Debug)]
pub(crate) struct Peer {
    /// Who.
    pub(super) origin: OwnedServerName,
    /// The body, as it was signed.
    body: Option<CanonicalJsonValue>,
    /// The place that it has in memory.
    _share: Share,
}

impl Peer {
    /// The body, for `serde`.
    pub(super) fn json(&self) -> Result<serde_json::Value, MatrixError> {
        serde_json::to_value(&self.body).map_err(MatrixError::internal)
    }

    /// Takes out the body of a request that has a JSON object. The request is to be kept for as long as that is.
    pub(super) fn object(&mut self) -> Result<CanonicalJsonObject, MatrixError> {
        match self.body.take() {
            Some(CanonicalJsonValue::Object(object)) => Ok(object),
            _ => Err(MatrixError::bad_json("the body is a JSON object")),
        }
    }
}

impl FromRequest<ApiState> for Peer {
    type Rejection = MatrixError;

    // The target as it was signed: the request is not nested in another router.
    async fn from_request(request: Request, state: &ApiState) -> Result<Self, MatrixError> {
        let (parts, body) = request.into_parts();
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|header| header.to_str().ok());
        let header = header.ok_or_else(|| MatrixError::unauthorized("the request is not signed"))?;
        let keys = &state.federation.keys;
        let refused = |error: &FederationError| {
            tracing::info!(%error, "a request of another server is refused");
        };
        let claim = keys.claimed(header).await.inspect_err(refused)?;
        let no_room = |origin: &ServerName, error: &MatrixError| {
            tracing::info!(%origin, ?error, "the body of another server's request is not read");
        };
        let address = address_key(ClientAddress::of(&parts));
        let path = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        let body = state.intake.read(address, body, path == Some(SEND)).await;
        let (body, mut share) = body.inspect_err(|error| no_room(claim.origin(), error))?;
        let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let authenticated = keys.authenticate(claim, &parts.method, target, &body).await;
        let authenticated = authenticated.inspect_err(refused)?;
        let origin = authenticated.origin;
        share.hand_over(origin.to_string()).inspect_err(|error| no_room(&origin, error))?;
        let rate = state.federation.policy.requests_of(&origin);
        let rate = rate.map(|Rate { per_second, burst }| RateLimit {
            per_second: per_second.as_f64(),
            burst: burst.get(),
        });
        state.limits.take_at(LimitKind::RequestsByServer, origin.as_str(), rate)?;
        Ok(Self { origin, body: authenticated.body, _share: share })
    }
}

/// What a query says under a name, however often.
pub(super) fn all_of(query: Option<&str>, name: &str) -> Vec<String> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
}

/// What a query says under a name.
pub(super) fn one_of(query: Option<&str>, name: &str) -> Option<String> {
    all_of(query, name).into_iter().next()
}

/// What a query must say under a name.
pub(super) fn required(query: Option<&str>, name: &str) -> Result<String, MatrixError> {
    one_of(query, name).ok_or_else(|| MatrixError::missing_param(&format!("the query has no {name}")))
}

/// An identifier of a request.
pub(super) fn parsed<T>(text: &str) -> Result<T, MatrixError>
where
    T: for<'a> TryFrom<&'a str>,
{
    T::try_from(text).map_err(|_| MatrixError::invalid_param("an identifier in the request is none"))
}
