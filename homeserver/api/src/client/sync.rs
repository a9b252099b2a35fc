use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use entente_accounts::Session;
use entente_sync::{Answer, Parts, StateMode, SyncFilter, SyncRequest, SyncToken};
use futures_util::TryStreamExt;
use http::{HeaderValue, header};
use serde::Deserialize;

use super::presence::wanted;
use crate::{
    ApiState, MatrixError,
    endpoint::{Json, SessionOf},
};

/// The parameters of `GET /sync`, with those of MSC4222, which `ruma` does not have.
#[derive(Debug, Deserialize)]
struct Parameters {
    filter: Option<String>,
    since: Option<String>,
    #[serde(default)]
    full_state: bool,
    timeout: Option<u64>,
    set_presence: Option<String>,
    #[serde(default)]
    use_state_after: bool,
    #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
    use_state_after_unstable: bool,
}

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/_matrix/client/v3/sync", get(sync)).route("/_matrix/client/r0/sync", get(sync))
}

/// `GET /sync`.
async fn sync(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, MatrixError> {
    let Query(parameters) = parameters.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
    let presence = wanted(parameters.set_presence.as_deref())?;
    // On the heap: a request that waits does not hold the place for what was read of it.
    let request = Box::pin(as_request(&state, session, parameters)).await?;
    // The user is here as long as the request waits.
    let _attendance = state.accounts.attend(&request.user_id, request.device_id.as_str(), presence);
    Ok(match state.sync.sync(&request).await? {
        Answer::Whole(json) => Json(json).into_response(),
        Answer::Parts(parts) => json_in_parts(parts).into_response(),
    })
}

async fn as_request(
    state: &ApiState,
    session: Session,
    parameters: Parameters,
) -> Result<SyncRequest, MatrixError> {
    let since = match parameters.since.as_deref().filter(|since| !since.is_empty()) {
        Some(since) => Some(
            SyncToken::parse(since)
                .ok_or_else(|| MatrixError::invalid_param("since is none of this server's tokens"))?,
        ),
        None => None,
    };
    let filter = match parameters.filter.as_deref() {
        None | Some("") => parse_filter(state, b"{}")?,
        Some(filter) if filter.starts_with('{') => parse_filter(state, filter.as_bytes())?,
        Some(filter_id) => parse_filter(state, &state.accounts.filter(&session.user_id, filter_id).await?)?,
    };
    Ok(SyncRequest {
        user_id: session.user_id,
        device_id: session.device_id,
        since,
        timeout: Duration::from_millis(parameters.timeout.unwrap_or_default()),
        full_state: parameters.full_state,
        state_mode: match (parameters.use_state_after, parameters.use_state_after_unstable) {
            (true, _) => StateMode::After,
            (false, true) => StateMode::AfterUnstable,
            (false, false) => StateMode::Before,
        },
        filter,
    })
}

/// Once it has begun, an answer that cannot be made to the end is cut off.
fn json_in_parts(parts: Parts) -> impl IntoResponse {
    let parts = parts.inspect_err(|error| tracing::warn!(%error, "the answer of a sync is cut off"));
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from_stream(parts))
}

fn parse_filter(state: &ApiState, json: &[u8]) -> Result<Arc<SyncFilter>, MatrixError> {
    state.sync.filter(json).map_err(|error| MatrixError::invalid_param(&format!("the filter: {error}")))
}
