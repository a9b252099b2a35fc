//! What the homeserver asks of the service, and what its operator does.

use std::collections::BTreeMap;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use matrix_sdk::ruma::{RoomAliasId, UserId};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Bridge, ThirdPartyQuery, inbox::Handled, questions::Answer, transaction::Transaction};

/// The largest transaction, in bytes. Homeservers put some hundred events of at most 64 KiB into one.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// The longest transaction id, in bytes.
const MOST_ID_BYTES: usize = 255;

/// Why a request of the homeserver is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// 401 `M_MISSING_TOKEN`
    #[error("the hs_token is missing")]
    MissingToken,
    /// 403 `M_FORBIDDEN`
    #[error("this is not the hs_token")]
    WrongToken,
    /// 400 `M_INVALID_PARAM`
    #[error("a transaction id has 1 to {MOST_ID_BYTES} bytes")]
    BadId,
    /// 413 `M_TOO_LARGE`
    #[error("a transaction may have {MOST_BYTES} bytes")]
    TooLarge,
    /// 400 `M_NOT_JSON`
    #[error("the transaction cannot be read: {0}")]
    NotJson(serde_json::Error),
    /// 503 `M_UNKNOWN`
    #[error("not now; send it again")]
    NotNow,
    /// 404 `M_NOT_FOUND`
    #[error("there is nothing of that name")]
    NotFound,
    /// 404 `M_UNRECOGNIZED`
    #[error("there is no such endpoint")]
    Unrecognized,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, errcode) = match &self {
            Self::MissingToken => (StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN"),
            Self::WrongToken => (StatusCode::FORBIDDEN, "M_FORBIDDEN"),
            Self::BadId => (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
            Self::NotJson(_) => (StatusCode::BAD_REQUEST, "M_NOT_JSON"),
            Self::NotNow => (StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN"),
            Self::NotFound => (StatusCode::NOT_FOUND, "M_NOT_FOUND"),
            Self::Unrecognized => (StatusCode::NOT_FOUND, "M_UNRECOGNIZED"),
        };
        let body = json!({ "errcode": errcode, "error": self.to_string() });
        (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
    }
}

fn done() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], "{}").into_response()
}

/// The endpoints of the application service API.
pub(crate) fn router(bridge: Bridge) -> Router {
    let third_party = Router::new()
        .route("/protocol/{protocol}", get(protocol))
        .route("/user/{protocol}", get(remote_user))
        .route("/user", get(user_in_network))
        .route("/location/{protocol}", get(remote_location))
        .route("/location", get(room_in_network));
    Router::new()
        .nest("/_matrix/app/v1/thirdparty", third_party.clone())
        .nest("/_matrix/app/unstable/thirdparty", third_party)
        .route("/_matrix/app/v1/transactions/{id}", put(transaction))
        .route("/transactions/{id}", put(transaction))
        .route("/_matrix/app/v1/ping", post(ping))
        .route("/_matrix/app/v1/users/{id}", get(user))
        .route("/users/{id}", get(user))
        .route("/_matrix/app/v1/rooms/{alias}", get(room))
        .route("/rooms/{alias}", get(room))
        .route("/health", get(|| async { "ok\n" }))
        .fallback(|| async { Refusal::Unrecognized })
        .with_state(bridge)
}

/// What operators and their monitoring ask, on a listener of its own.
pub(crate) fn observing_router(bridge: Bridge) -> Router {
    Router::new().route("/health", get(health)).route("/metrics", get(metrics)).with_state(bridge)
}

async fn transaction(
    State(bridge): State<Bridge>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    if id.is_empty() || id.len() > MOST_ID_BYTES {
        return Err(Refusal::BadId);
    }
    let body = read(request.into_body()).await?;
    let transaction: Transaction = serde_json::from_slice(&body).map_err(Refusal::NotJson)?;
    // A task of its own: a homeserver that hangs up does not stop a handler halfway.
    let worker = bridge.clone();
    let handled = bridge.tasks().spawn(async move { worker.receive(&id, transaction).await }).await;
    match handled {
        Ok(Ok(Handled::Now)) => bridge.metrics().transaction("handled"),
        Ok(Ok(Handled::Before)) => bridge.metrics().transaction("repeated"),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a transaction is to be sent again");
            bridge.metrics().transaction("failed");
            return Err(Refusal::NotNow);
        }
        Err(error) => {
            tracing::error!(%error, "handling a transaction broke off");
            bridge.metrics().transaction("failed");
            return Err(Refusal::NotNow);
        }
    }
    Ok(done())
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    to_bytes(body, MOST_BYTES).await.map_err(|_| Refusal::TooLarge)
}

async fn ping(State(bridge): State<Bridge>, request: Request) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    Ok(done())
}

/// What a question of the homeserver comes to.
fn answered<T>(answer: Answer<T>) -> Result<T, Refusal> {
    answer.map_err(|error| {
        tracing::warn!(%error, "a question of the homeserver cannot be answered");
        Refusal::NotNow
    })
}

/// Whether there is a user, by now at least.
async fn user(
    State(bridge): State<Bridge>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    let user_id = UserId::parse(id).map_err(|_| Refusal::NotFound)?;
    if answered(bridge.has_user(user_id).await)? { Ok(done()) } else { Err(Refusal::NotFound) }
}

/// Whether there is a room of this alias, by now at least.
async fn room(
    State(bridge): State<Bridge>,
    Path(alias): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    let alias = RoomAliasId::parse(alias).map_err(|_| Refusal::NotFound)?;
    if answered(bridge.has_alias(alias).await)? { Ok(done()) } else { Err(Refusal::NotFound) }
}

fn json_of(value: &impl Serialize) -> Result<Response, Refusal> {
    let body = serde_json::to_string(value).map_err(|_| Refusal::NotNow)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn protocol(
    State(bridge): State<Bridge>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    json_of(bridge.questions().protocol(&name).ok_or(Refusal::NotFound)?)
}

/// The request's query, without the token that older homeservers put there.
fn fields(request: &Request) -> BTreeMap<String, String> {
    let query = request.uri().query().unwrap_or_default();
    let mut fields: BTreeMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    fields.remove("access_token");
    fields
}

fn matrix_query(request: &Request, name: &str) -> Result<ThirdPartyQuery, Refusal> {
    fields(request).remove(name).map(ThirdPartyQuery::Matrix).ok_or(Refusal::NotFound)
}

async fn remote_user(
    State(bridge): State<Bridge>,
    Path(protocol): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    let query = ThirdPartyQuery::Remote { protocol, fields: fields(&request) };
    json_of(&answered(bridge.remote_users(query).await)?)
}

async fn user_in_network(State(bridge): State<Bridge>, request: Request) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    json_of(&answered(bridge.remote_users(matrix_query(&request, "userid")?).await)?)
}

async fn remote_location(
    State(bridge): State<Bridge>,
    Path(protocol): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    let query = ThirdPartyQuery::Remote { protocol, fields: fields(&request) };
    json_of(&answered(bridge.locations(query).await)?)
}

async fn room_in_network(State(bridge): State<Bridge>, request: Request) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    json_of(&answered(bridge.locations(matrix_query(&request, "alias")?).await)?)
}

async fn health(State(bridge): State<Bridge>) -> Response {
    if bridge.is_ready() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n").into_response()
    }
}

async fn metrics(State(bridge): State<Bridge>) -> Response {
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, form)], bridge.metrics().text()).into_response()
}

/// The token in the header, or, from older homeservers, in the query. Digests are compared, so that the time says nothing.
fn authenticate(bridge: &Bridge, request: &Request) -> Result<(), Refusal> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let in_header = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let in_query = || {
        let query = request.uri().query()?;
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(name, _)| name == "access_token").map(|(_, value)| value.into_owned())
    };
    let given = in_header.or_else(in_query).ok_or(Refusal::MissingToken)?;
    let expected = &bridge.registration().hs_token;
    if Sha256::digest(given.as_bytes()) == Sha256::digest(expected.as_bytes()) {
        Ok(())
    } else {
        Err(Refusal::WrongToken)
    }
}

/// Serves a router until the token is cancelled, and what is being answered then to its end.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}
