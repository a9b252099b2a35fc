//! The way from `ruma`'s description of an endpoint to a handler: adding an endpoint is one function and one line.

use std::{
    future::Future,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, MatchedPath, RawPathParams, Request, State},
    http::{HeaderValue, Method, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use entente_accounts::{AccountError, Session};
use entente_rooms::LONGEST_STICKY;
use ruma::api::{
    IncomingRequest, IncomingRequestExt, OutgoingResponseExt,
    auth_scheme::{AccessToken, AccessTokenOptional, AuthScheme, NoAccessToken, NoAuthentication},
    path_builder::PathBuilder,
};

use crate::{
    ApiState, LimitKind, MatrixError,
    address::{ClientAddress, address_key},
    guests, masquerading,
};

/// Whoever sends a request that needs no proof of who it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anonymous {
    address: Option<IpAddr>,
}

impl Anonymous {
    /// What limits are counted by: the address, an IPv6 one by its /64.
    pub(crate) fn address_key(self) -> String {
        address_key(self.address)
    }
}

/// What a handler may learn of who is asking, for an endpoint with the authentication `A`. That the wrong kind does not
/// compile is what keeps an endpoint from forgetting to ask.
pub(crate) trait Caller<A>: Sized + Send {
    /// Asks.
    fn identify(
        state: &ApiState,
        parts: &Parts,
        rate_limited: bool,
    ) -> impl Future<Output = Result<Self, MatrixError>> + Send;
}

impl Caller<AccessToken> for Session {
    async fn identify(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        let token = access_token::<AccessToken, _>(parts)?;
        authenticate(state, parts, &token, rate_limited).await
    }
}

/// The largest number that canonical JSON has.
const MOST_TIMESTAMP: u64 = (1 << 53) - 1;

/// Whoever sends an event, perhaps later (MSC4140).
#[derive(Debug)]
pub(crate) struct Sending {
    /// Who.
    pub(crate) session: Session,
    /// How much later.
    pub(crate) delay: Option<Duration>,
    /// For how long the event is sticky, in ms (MSC4354).
    pub(crate) sticky: Option<u64>,
    /// When it was sent, in ms since 1970, as an application service says (A-S API, "Timestamp massaging").
    pub(crate) origin_server_ts: Option<u64>,
}

/// A parameter that is a number of milliseconds.
fn milliseconds(parts: &Parts, name: &str) -> Result<Option<u64>, MatrixError> {
    let mut pairs = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let value = pairs.find(|(given, _)| given == name).map(|(_, value)| value.parse());
    value.transpose().map_err(|_| MatrixError::invalid_param(&format!("{name} is a number of ms")))
}

/// For how long an event is to be sticky, in ms (MSC4354).
pub(crate) fn sticky_duration(parts: &Parts) -> Result<Option<u64>, MatrixError> {
    let sticky = milliseconds(parts, "org.matrix.msc4354.sticky_duration_ms")?;
    if sticky.is_some_and(|duration| duration > LONGEST_STICKY) {
        return Err(MatrixError::invalid_param("an event is sticky for at most 3600000 ms"));
    }
    Ok(sticky)
}

impl Caller<AccessToken> for Sending {
    async fn identify(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        let session = <Session as Caller<AccessToken>>::identify(state, parts, rate_limited).await?;
        let delay = milliseconds(parts, "org.matrix.msc4140.delay")?.map(Duration::from_millis);
        // Others' clocks are not asked.
        let origin_server_ts = match session.service {
            Some(_) => milliseconds(parts, "ts")?,
            None => None,
        };
        if origin_server_ts.is_some_and(|ts: u64| ts > MOST_TIMESTAMP) {
            return Err(MatrixError::invalid_param("ts is a number of ms since 1970, below 2^53"));
        }
        Ok(Self { session, delay, sticky: sticky_duration(parts)?, origin_server_ts })
    }
}

impl Caller<AccessTokenOptional> for Option<Session> {
    async fn identify(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        match access_token::<AccessTokenOptional, _>(parts)? {
            Some(token) => authenticate(state, parts, &token, rate_limited).await.map(Some),
            None => anonymous(state, parts, rate_limited).map(|_| None),
        }
    }
}

/// Whoever wants to log out: also who is locked.
#[derive(Debug)]
pub(crate) struct LoggingOut(pub(crate) Session);

impl Caller<AccessToken> for LoggingOut {
    async fn identify(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        let token: String = access_token::<AccessToken, _>(parts)?;
        if state.appservices.by_token(&token).is_some() {
            return authenticate(state, parts, &token, rate_limited).await.map(Self);
        }
        let session = state.accounts.authenticate_to_log_out(&token, ClientAddress::of(parts)).await;
        let session = session.map_err(|error| guessed(state, parts, error))?;
        if rate_limited {
            state.limits.take_for(&session)?;
        }
        guests::check(&session, parts)?;
        Ok(Self(session))
    }
}

/// Whoever asks for what needs no token. Who sends one that is good is known by it.
#[derive(Debug)]
pub(crate) enum Visitor {
    /// A user.
    User(Session),
    /// Anybody.
    Stranger(Anonymous),
}

impl Visitor {
    /// The user, if it is one.
    pub(crate) fn user(&self) -> Option<&Session> {
        match self {
            Self::User(session) => Some(session),
            Self::Stranger(_) => None,
        }
    }

    /// Counts what a stranger has others asked: other servers, or application services.
    pub(crate) fn count_question(&self, state: &ApiState) -> Result<(), MatrixError> {
        match self {
            Self::User(_) => Ok(()),
            Self::Stranger(stranger) => {
                state.limits.take(LimitKind::RequestsByAddress, &stranger.address_key())
            }
        }
    }

    async fn of(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        if let Ok(Some(token)) = access_token::<AccessTokenOptional, Option<String>>(parts)
            && let Ok(session) = authenticate(state, parts, &token, rate_limited).await
        {
            return Ok(Self::User(session));
        }
        anonymous(state, parts, rate_limited).map(Self::Stranger)
    }
}

impl Caller<NoAccessToken> for Visitor {
    async fn identify(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        Self::of(state, parts, rate_limited).await
    }
}

impl Caller<AccessTokenOptional> for Visitor {
    async fn identify(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        match access_token::<AccessTokenOptional, Option<String>>(parts)? {
            Some(token) => authenticate(state, parts, &token, rate_limited).await.map(Self::User),
            None => anonymous(state, parts, rate_limited).map(Self::Stranger),
        }
    }
}

/// The same for handlers of endpoints that `ruma` does not describe. Rate limited.
impl FromRequestParts<ApiState> for Visitor {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, MatrixError> {
        <Self as Caller<AccessTokenOptional>>::identify(state, parts, true).await
    }
}

impl Caller<NoAccessToken> for Anonymous {
    async fn identify(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        anonymous(state, parts, rate_limited)
    }
}

impl Caller<NoAuthentication> for Anonymous {
    async fn identify(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        anonymous(state, parts, rate_limited)
    }
}

pub(crate) fn access_token<A, T>(parts: &Parts) -> Result<T, MatrixError>
where
    A: AuthScheme<Output = T, ExtractAuthenticationError: std::fmt::Display>,
{
    let mut request = http::Request::new(());
    *request.uri_mut() = parts.uri.clone();
    if let Some(authorization) = parts.headers.get(http::header::AUTHORIZATION) {
        request.headers_mut().insert(http::header::AUTHORIZATION, authorization.clone());
    }
    A::extract_authentication(&request).map_err(|_| MatrixError::missing_token())
}

async fn authenticate(
    state: &ApiState,
    parts: &Parts,
    token: &str,
    rate_limited: bool,
) -> Result<Session, MatrixError> {
    if let Some(service) = state.appservices.by_token(token) {
        return masquerading::session_of(state, parts, &service, rate_limited).await;
    }
    let session = state.accounts.authenticate(token, ClientAddress::of(parts)).await;
    let session = session.map_err(|error| guessed(state, parts, error))?;
    if rate_limited {
        state.limits.take_for(&session)?;
    }
    guests::check(&session, parts)?;
    Ok(session)
}

/// Counts a token that is nobody's against who sent it: guessing is slowed down.
fn guessed(state: &ApiState, parts: &Parts, error: AccountError) -> MatrixError {
    let address = address_key(ClientAddress::of(parts));
    match state.limits.take(LimitKind::RequestsByAddress, &address) {
        Ok(()) => error.into(),
        Err(limited) => limited,
    }
}

pub(crate) fn anonymous(
    state: &ApiState,
    parts: &Parts,
    rate_limited: bool,
) -> Result<Anonymous, MatrixError> {
    let address = ClientAddress::of(parts);
    if rate_limited {
        state.limits.take(LimitKind::RequestsByAddress, &address_key(address))?;
    }
    Ok(Anonymous { address })
}

/// The same for handlers of endpoints that `ruma` does not describe. Rate limited.
impl FromRequestParts<ApiState> for Anonymous {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, MatrixError> {
        anonymous(state, parts, true)
    }
}

/// The session of a request, for handlers of endpoints that `ruma` does not describe in full. Not rate limited.
#[derive(Debug)]
pub(crate) struct SessionOf(pub(crate) Session);

impl FromRequestParts<ApiState> for SessionOf {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, MatrixError> {
        // On the heap: a request that waits for news does not hold the place for it.
        Box::pin(<Session as Caller<AccessToken>>::identify(state, parts, false)).await.map(Self)
    }
}

/// The body of a request, for the same handlers.
#[derive(Debug)]
pub(crate) struct JsonBody(pub(crate) Bytes);

impl FromRequest<ApiState> for JsonBody {
    type Rejection = MatrixError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, MatrixError> {
        let (parts, body) = request.into_parts();
        read_body(&parts, body, state.http.max_request_body).await.map(Self)
    }
}

/// Registers endpoints by their handlers.
pub(crate) trait Endpoints {
    /// Serves an endpoint under all its paths. The request's type says which they are, by which method it is called, whose
    /// token it needs and whether it is rate limited.
    #[must_use]
    fn endpoint<C, R, F, Fut>(self, handler: F) -> Self
    where
        C: Caller<R::Authentication> + 'static,
        R: IncomingRequest + Send + 'static,
        R::OutgoingResponse: Send,
        F: Fn(State<ApiState>, C, R) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R::OutgoingResponse, MatrixError>> + Send;

    /// The same for an endpoint whose answer is written by hand: [`Json`], with another status than 200 if need be.
    #[must_use]
    fn json_endpoint<C, R, T, F, Fut>(self, handler: F) -> Self
    where
        C: Caller<R::Authentication> + 'static,
        R: IncomingRequest + Send + 'static,
        T: IntoResponse + Send + 'static,
        F: Fn(State<ApiState>, C, R) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<T, MatrixError>> + Send;
}

/// An answer whose JSON was written by hand, because it is large and asked for often.
#[derive(Debug)]
pub(crate) struct Json(pub(crate) Vec<u8>);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.0).into_response()
    }
}

/// The paths of an endpoint as they are routed: one that ends in a state key is also served for the empty one.
fn routed_paths(path: &'static str) -> Vec<String> {
    match path.strip_suffix("/{state_key}") {
        Some(short) => vec![path.to_owned(), short.to_owned(), format!("{short}/")],
        None => vec![path.to_owned()],
    }
}

impl Endpoints for Router<ApiState> {
    fn endpoint<C, R, F, Fut>(self, handler: F) -> Self
    where
        C: Caller<R::Authentication> + 'static,
        R: IncomingRequest + Send + 'static,
        R::OutgoingResponse: Send,
        F: Fn(State<ApiState>, C, R) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R::OutgoingResponse, MatrixError>> + Send,
    {
        let render = |response: R::OutgoingResponse| {
            let response = response.try_into_http_response::<Vec<u8>>().map_err(MatrixError::internal)?;
            Ok(response.map(Body::from))
        };
        serve_under_all_paths(self, handler, render)
    }

    fn json_endpoint<C, R, T, F, Fut>(self, handler: F) -> Self
    where
        C: Caller<R::Authentication> + 'static,
        R: IncomingRequest + Send + 'static,
        T: IntoResponse + Send + 'static,
        F: Fn(State<ApiState>, C, R) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<T, MatrixError>> + Send,
    {
        serve_under_all_paths(self, handler, |answer: T| Ok(answer.into_response()))
    }
}

fn serve_under_all_paths<C, R, T, F, Fut, Render>(
    mut router: Router<ApiState>,
    handler: F,
    render: Render,
) -> Router<ApiState>
where
    C: Caller<R::Authentication> + 'static,
    R: IncomingRequest + Send + 'static,
    T: Send,
    F: Fn(State<ApiState>, C, R) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<T, MatrixError>> + Send,
    Render: Fn(T) -> Result<Response, MatrixError> + Copy + Send + Sync + 'static,
{
    let method = MethodFilter::try_from(R::METHOD).expect("the spec uses only standard methods");
    for path in R::PATH_BUILDER.all_paths().flat_map(routed_paths) {
        let handler = handler.clone();
        let serve = move |State(state): State<ApiState>, path_params: RawPathParams, request: Request| {
            let handler = handler.clone();
            async move {
                let outcome = answer(state, &path_params, request, handler).await;
                outcome.and_then(render).unwrap_or_else(IntoResponse::into_response)
            }
        };
        router = router.route(&path, on(method, serve));
    }
    router
}

async fn answer<C, R, T, F, Fut>(
    state: ApiState,
    path_params: &RawPathParams,
    request: Request,
    handler: F,
) -> Result<T, MatrixError>
where
    C: Caller<R::Authentication>,
    R: IncomingRequest,
    F: Fn(State<ApiState>, C, R) -> Fut,
    Fut: Future<Output = Result<T, MatrixError>>,
{
    let (parts, body) = request.into_parts();
    let caller = C::identify(&state, &parts, R::RATE_LIMITED).await?;
    let body = read_body(&parts, body, state.http.max_request_body).await?;
    let path_args: Vec<&str> = path_params.iter().map(|(_, value)| value).collect();
    let request = parse::<R>(parts, &body, &path_args)?;
    handler(State(state), caller, request).await
}

async fn read_body(parts: &Parts, body: Body, most_bytes: usize) -> Result<Bytes, MatrixError> {
    let body = axum::body::to_bytes(body, most_bytes).await;
    let body = body.map_err(|error| MatrixError::unreadable_body(&error, most_bytes))?;
    // Clients leave out the body where all its fields are optional.
    if body.is_empty() && parts.method != Method::GET { Ok(Bytes::from_static(b"{}")) } else { Ok(body) }
}

fn parse<R: IncomingRequest>(parts: Parts, body: &Bytes, path_args: &[&str]) -> Result<R, MatrixError> {
    match parse_strictly(parts.clone(), body, path_args) {
        Err(error) => match without_empty_auth(body) {
            Some(body) => parse_strictly(parts, &body, path_args),
            None => Err(error),
        },
        parsed => parsed,
    }
}

/// A request whose `auth` names neither a stage nor a session asks what is needed, as one without `auth` does. The spec
/// wants either, but matrix-nio sends neither and other servers bear it.
fn without_empty_auth(body: &[u8]) -> Option<Vec<u8>> {
    let mut body: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).ok()?;
    let auth = body.get("auth")?.as_object()?;
    if auth.contains_key("type") || auth.contains_key("session") {
        return None;
    }
    body.remove("auth");
    serde_json::to_vec(&body).ok()
}

fn parse_strictly<R: IncomingRequest>(
    parts: Parts,
    body: &[u8],
    path_args: &[&str],
) -> Result<R, MatrixError> {
    let request = http::Request::from_parts(parts, body);
    // A deserialiser that panics on odd input must not cost the client its connection.
    let parsed = catch_unwind(AssertUnwindSafe(|| R::try_from_http_request(request, path_args)));
    match parsed {
        Ok(parsed) => parsed.map_err(|error| MatrixError::unreadable_request(&error)),
        Err(_) => Err(MatrixError::bad_json("the request does not have the shape that this endpoint needs")),
    }
}

/// The answer to paths that nobody serves.
pub(crate) async fn unrecognized() -> MatrixError {
    MatrixError::unrecognized()
}

/// The answer to a method that a known path does not have.
pub(crate) async fn method_not_allowed(path: Option<MatchedPath>) -> MatrixError {
    tracing::debug!(http.route = path.as_ref().map(MatchedPath::as_str), "method not allowed");
    MatrixError::method_not_allowed()
}
