//! This server as the policy server of rooms (S-S API, "Policy Servers").

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::peer::Peer;
use crate::{ApiState, MatrixError};

/// `POST /_matrix/policy/v1/sign`.
pub(super) async fn sign(State(state): State<ApiState>, mut peer: Peer) -> Result<Json<Value>, MatrixError> {
    let event = peer.object()?;
    Ok(Json(json!(state.federation.rooms.sign_as_policy_server(&peer.origin, event).await?)))
}

/// `GET /.well-known/matrix/policy_server`: the key that rooms name who want this server as their policy server.
pub(super) async fn public_keys(State(state): State<ApiState>) -> Json<Value> {
    let (_, key) = state.rooms.public_key();
    Json(json!({ "public_keys": { "ed25519": key.encode() } }))
}
