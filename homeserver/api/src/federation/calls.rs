//! Calls that are held at this server, for users of others (MSC4195).

use axum::{Json, extract::State};
use serde_json::Value;

use super::peer::Peer;
use crate::{ApiState, MatrixError, rtc};

/// `POST /unstable/io.element.msc4195/rtc/livekit/get_token`, and `POST /v1/rtc/livekit/get_token`.
pub(super) async fn token(State(state): State<ApiState>, peer: Peer) -> Result<Json<Value>, MatrixError> {
    let body = peer.json()?;
    rtc::for_peer(&state, &peer.origin, body).await
}
