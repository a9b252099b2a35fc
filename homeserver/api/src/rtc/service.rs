//! The service for `LiveKit` tokens that clients know from before homeservers had an endpoint for that. Who asks is shown by an `OpenID`
//! token.

use axum::{Json, extract::State};
use ruma::OwnedUserId;
use serde_json::{Value, json};

use super::{
    CallMember,
    identity::{ROOM_CALL, of_member, plain, sfu_room},
    request::{GetToken, OpenIdToken, SfuGet, check_ids, read},
    tokens::{Seat, token},
};
use crate::{
    ApiState, MatrixError,
    endpoint::{Anonymous, JsonBody},
};

/// `GET /healthz`.
pub(super) async fn health() -> Json<Value> {
    Json(json!({}))
}

/// `POST /sfu/get`: a token for the room's own call.
pub(super) async fn sfu_get(
    State(state): State<ApiState>,
    _: Anonymous,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    let request: SfuGet = read(&body)?;
    check_ids(&[&request.device_id])?;
    let user_id = bearer(&state, &request.openid_token).await?;
    let seat = Seat {
        sfu_room: sfu_room(request.room.as_str(), ROOM_CALL),
        identity: plain(user_id.as_str(), &request.device_id),
        member: CallMember { room_id: request.room, user_id },
    };
    token(&state, seat).await
}

/// `POST /get_token`: a token for any call of a room.
pub(super) async fn get_token(
    State(state): State<ApiState>,
    _: Anonymous,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    let request: GetToken = read(&body)?;
    let GetToken { room_id, slot_id, openid_token, member } = request;
    check_ids(&[&slot_id, &member.id, &member.claimed_device_id])?;
    let user_id = bearer(&state, &openid_token).await?;
    if member.claimed_user_id.is_some_and(|claimed| claimed != user_id) {
        return Err(MatrixError::unauthorized(
            "the OpenID token is of another user than member.claimed_user_id",
        ));
    }
    let seat = Seat {
        sfu_room: sfu_room(room_id.as_str(), &slot_id),
        identity: of_member(user_id.as_str(), &member.claimed_device_id, &member.id),
        member: CallMember { room_id, user_id },
    };
    token(&state, seat).await
}

/// Whose `OpenID` token it is.
async fn bearer(state: &ApiState, token: &OpenIdToken) -> Result<OwnedUserId, MatrixError> {
    if token.matrix_server_name != state.accounts.server_name() {
        return Err(MatrixError::unauthorized("only users of this server can hold calls through it"));
    }
    let user = state.accounts.openid_user(&token.access_token).await;
    user.map_err(|error| match error {
        entente_accounts::AccountError::UnknownToken { .. } => {
            MatrixError::unauthorized("the OpenID token is not known, or its time is over")
        }
        error => error.into(),
    })
}
