use axum::{
    extract::{FromRequest, Request},
    http::header,
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName};

use crate::{ApiState, LimitKind, MatrixError};

/// A transaction of 50 events of the greatest size, and what else it carries.
const MOST_BODY_BYTES: usize = 16 * 1024 * 1024;

/// A request of another server, which proved who it is (S-S API, "Request Authentication").
#[derive(Debug)]
pub(crate) struct Peer {
    /// Who.
    pub(super) origin: OwnedServerName,
    /// The body, as it was signed.
    body: Option<CanonicalJsonValue>,
}

impl Peer {
    /// The body, for `serde`.
    pub(super) fn json(&self) -> Result<serde_json::Value, MatrixError> {
        serde_json::to_value(&self.body).map_err(MatrixError::internal)
    }

    /// The body of a request that has a JSON object.
    pub(super) fn object(self) -> Result<(OwnedServerName, CanonicalJsonObject), MatrixError> {
        match self.body {
            Some(CanonicalJsonValue::Object(object)) => Ok((self.origin, object)),
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
        let body = axum::body::to_bytes(body, MOST_BODY_BYTES).await;
        let body = body.map_err(|error| MatrixError::unreadable_body(&error, MOST_BODY_BYTES))?;
        let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let keys = &state.federation.keys;
        let authenticated = keys.authenticate(&parts.method, target, header, &body).await;
        let authenticated = authenticated
            .inspect_err(|error| tracing::info!(%error, "a request of another server is refused"))?;
        state.limits.take(LimitKind::RequestsByServer, authenticated.origin.as_str())?;
        Ok(Self { origin: authenticated.origin, body: authenticated.body })
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
