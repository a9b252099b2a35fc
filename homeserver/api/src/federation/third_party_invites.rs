use axum::{
    Json,
    extract::{Path, State},
};
use ruma::OwnedRoomId;
use serde_json::{Value, json};

use super::peer::{Peer, parsed};
use crate::{ApiState, MatrixError};

/// `PUT /v1/exchange_third_party_invite/{roomId}`: an address that was invited is a user of the asking server.
pub(super) async fn exchange(
    State(state): State<ApiState>,
    Path(room_id): Path<String>,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let room_id: OwnedRoomId = parsed(&room_id)?;
    let (origin, event) = peer.object()?;
    state.federation.rooms.exchange_third_party_invite(&origin, &room_id, &event).await?;
    Ok(Json(json!({})))
}
