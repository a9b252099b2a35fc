//! Requests to the homeserver, in the name of the service's users.

mod answer;
mod repeat;

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::body::Bytes;
use entente_environment::Environment;
use http::{Method, Request, Response, header};
use matrix_sdk::ruma::{
    DeviceId, UserId,
    api::{
        AppserviceUserIdentity, IncomingResponse, MatrixVersion, OutgoingRequest,
        OutgoingRequestAppserviceExt as _, SupportedVersions,
        auth_scheme::{AuthScheme, SendAccessToken},
        path_builder::PathBuilder,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;
use url::Url;

use self::repeat::Repeat;
use crate::{Error, metrics::Metrics};

/// The largest answer that is read, other than media.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Who a request is made for: one of the service's users, or, without one, the bot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity<'a> {
    /// The user.
    pub user_id: Option<&'a UserId>,
    /// One of the user's devices (MSC4326).
    pub device_id: Option<&'a DeviceId>,
}

impl<'a> Identity<'a> {
    /// A user, without a device.
    pub fn user(user_id: &'a UserId) -> Self {
        Self { user_id: Some(user_id), device_id: None }
    }

    /// A device of a user.
    pub fn device(user_id: &'a UserId, device_id: &'a DeviceId) -> Self {
        Self { user_id: Some(user_id), device_id: Some(device_id) }
    }
}

/// The homeserver, as the service speaks to it. Cheap to clone.
///
/// A request that the homeserver answers with 429 is made again when it says so; one that it does not answer, or with 5xx, after a
/// pause that grows, if making it twice does the same as making it once. All of it ends after the patience that was set.
#[derive(Clone)]
pub struct Homeserver {
    inner: Arc<Inner>,
}

struct Inner {
    client: reqwest::Client,
    base: Url,
    as_token: String,
    patience: Duration,
    environment: Environment,
    metrics: Metrics,
    shutdown: CancellationToken,
}

impl std::fmt::Debug for Homeserver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Homeserver").field("base", &self.inner.base.as_str()).finish_non_exhaustive()
    }
}

impl Homeserver {
    pub(crate) fn new(
        base: Url,
        as_token: String,
        patience: Duration,
        environment: Environment,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        if base.cannot_be_a_base() || !matches!(base.scheme(), "http" | "https") {
            return Err(Error::Request("the homeserver's URL is no http(s) URL".to_owned()));
        }
        let client = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            // The token goes to the server that was named, and to no other.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::Request(error.to_string()))?;
        let inner = Inner { client, base, as_token, patience, environment, metrics, shutdown };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// `GET`. The path's segments are given unescaped, behind `/_matrix/client/`.
    pub async fn get<T: DeserializeOwned>(&self, identity: Identity<'_>, path: &[&str]) -> Result<T, Error> {
        self.json(Method::GET, identity, path, &[], None::<&()>).await
    }

    /// `GET` of a room's state, where there may be none. The empty state key stands as it is at the path's end.
    pub async fn get_state<T: DeserializeOwned>(
        &self,
        identity: Identity<'_>,
        path: &[&str],
    ) -> Result<Option<T>, Error> {
        match self.get(identity, path).await {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.is("M_NOT_FOUND") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `PUT` of JSON.
    pub async fn put<T: DeserializeOwned>(
        &self,
        identity: Identity<'_>,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.json(Method::PUT, identity, path, &[], Some(body)).await
    }

    /// `POST` of JSON. It is not made again unless the homeserver says that it did nothing yet.
    pub async fn post<T: DeserializeOwned>(
        &self,
        identity: Identity<'_>,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.json(Method::POST, identity, path, &[], Some(body)).await
    }

    /// Any request with a JSON body and further query parameters.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        identity: Identity<'_>,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| Error::Request(error.to_string()))?,
            None => Vec::new(),
        };
        let request = self.request(method, identity, path, query, "application/json", Bytes::from(body))?;
        let answer = self.send(request, MOST_BYTES).await?;
        serde_json::from_slice(answer.body()).map_err(|error| Error::Answer(error.to_string()))
    }

    /// A request that is described by `ruma`.
    pub async fn typed<R>(&self, identity: Identity<'_>, request: R) -> Result<R::IncomingResponse, Error>
    where
        R: OutgoingRequest,
        for<'a> R::Authentication: AuthScheme<Input<'a> = SendAccessToken<'a>>,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = Cow<'a, SupportedVersions>>,
    {
        // Every homeserver has the paths of this version by now; asking would be one more request.
        let versions = [MatrixVersion::V1_11].into_iter().collect();
        let versions = Cow::Owned(SupportedVersions { versions, features: std::iter::empty().collect() });
        let mut masquerade = AppserviceUserIdentity::default();
        masquerade.user_id = identity.user_id;
        masquerade.device_id = identity.device_id;
        let token = SendAccessToken::Appservice(&self.inner.as_token);
        let request = request
            .try_into_http_request_with_identity::<Vec<u8>>(
                self.inner.base.as_str(),
                token,
                masquerade,
                versions,
            )
            .map_err(|error| Error::Request(error.to_string()))?
            .map(Bytes::from);
        let request = self.with_token(request)?;
        let answer = self.send(request, MOST_BYTES).await?;
        R::IncomingResponse::try_from_http_response(answer).map_err(|error| Error::Answer(error.to_string()))
    }

    /// Uploads a file and gives its `mxc://` URL.
    pub(crate) async fn upload(
        &self,
        identity: Identity<'_>,
        content_type: &str,
        body: Bytes,
    ) -> Result<String, Error> {
        #[derive(serde::Deserialize)]
        struct Uploaded {
            content_uri: String,
        }
        let mut request = self.request(Method::POST, identity, &[], &[], content_type, body)?;
        let uri = self.uri(&["_matrix", "media", "v3", "upload"], identity, &[])?;
        *request.uri_mut() = uri;
        let answer = self.send(request, MOST_BYTES).await?;
        let uploaded: Uploaded =
            serde_json::from_slice(answer.body()).map_err(|error| Error::Answer(error.to_string()))?;
        Ok(uploaded.content_uri)
    }

    /// `GET` of bytes, at most `most_bytes`.
    pub(crate) async fn bytes(
        &self,
        identity: Identity<'_>,
        path: &[&str],
        most_bytes: usize,
    ) -> Result<Bytes, Error> {
        let request = self.request(Method::GET, identity, path, &[], "", Bytes::new())?;
        Ok(self.send(request, most_bytes).await?.into_body())
    }

    fn request(
        &self,
        method: Method,
        identity: Identity<'_>,
        path: &[&str],
        query: &[(&str, &str)],
        content_type: &str,
        body: Bytes,
    ) -> Result<Request<Bytes>, Error> {
        let segments: Vec<&str> = ["_matrix", "client"].iter().chain(path).copied().collect();
        let mut request = Request::builder().method(method).uri(self.uri(&segments, identity, query)?);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(|error| Error::Request(error.to_string()))?;
        self.with_token(request)
    }

    fn with_token(&self, mut request: Request<Bytes>) -> Result<Request<Bytes>, Error> {
        let mut value = header::HeaderValue::from_str(&format!("Bearer {}", self.inner.as_token))
            .map_err(|_| Error::Request("the token cannot stand in a header".to_owned()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
        Ok(request)
    }

    fn uri(&self, path: &[&str], identity: Identity<'_>, query: &[(&str, &str)]) -> Result<http::Uri, Error> {
        // A URL would take these for the way to another path. Only an empty state key may be empty, and it stands last.
        let is_misleading = |segment: &str| matches!(segment, "." | "..");
        let inner = path.split_last().map_or(&[][..], |(_, inner)| inner);
        if path.iter().any(|segment| is_misleading(segment)) || inner.contains(&"") {
            return Err(Error::Request("an identifier cannot stand in a URL".to_owned()));
        }
        let mut url = self.inner.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut pairs = url.query_pairs_mut();
        pairs.extend_pairs(query);
        if let Some(user_id) = identity.user_id {
            pairs.append_pair("user_id", user_id.as_str());
        }
        if let Some(device_id) = identity.device_id {
            pairs.append_pair("device_id", device_id.as_str());
        }
        drop(pairs);
        if url.query() == Some("") {
            url.set_query(None);
        }
        url.as_str().parse().map_err(|_| Error::Request("an identifier cannot stand in a URL".to_owned()))
    }

    /// Makes the request until there is an answer other than "later".
    async fn send(&self, request: Request<Bytes>, most_bytes: usize) -> Result<Response<Bytes>, Error> {
        let clock = self.inner.environment.clock();
        let began = clock.monotonic();
        let mut repeat = Repeat::of(request.method());
        loop {
            let failure = match self.once(&request, most_bytes).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let waited = clock.monotonic().saturating_duration_since(began);
            let Some(pause) = repeat.after(&failure) else { return Err(failure.into_error(waited)) };
            // The homeserver names the pause, and may name any.
            if waited.saturating_add(pause) > self.inner.patience {
                return Err(failure.into_error(waited));
            }
            if failure.is_rate_limit() {
                self.inner.metrics.rate_limited.inc();
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.inner.shutdown.cancelled() => return Err(Error::ShuttingDown),
            }
        }
    }
}
