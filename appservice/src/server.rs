//! What the homeserver asks of the service, and what its operator does.

use std::net::SocketAddr;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Bridge, inbox::Handled, transaction::Transaction};

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
    Router::new()
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

/// Whether there is a user. Ghosts that were never used are not made because somebody asks for them.
async fn user(
    State(bridge): State<Bridge>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    let known = bridge.store().user(&id).await.map_err(|_| Refusal::NotNow)?;
    known.map(|_| done()).ok_or(Refusal::NotFound)
}

/// No alias is made because somebody asks for it.
async fn room(State(bridge): State<Bridge>, request: Request) -> Result<Response, Refusal> {
    authenticate(&bridge, &request)?;
    Err(Refusal::NotFound)
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
    address: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}
