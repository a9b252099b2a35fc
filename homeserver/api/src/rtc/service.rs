//! The service for `LiveKit` tokens that clients know from before homeservers had an endpoint for that. Who asks is shown by an `OpenID`
//! token.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
};
use entente_call_bridge::WebhookError;
use entente_federation::FederationError;
use ruma::{OwnedUserId, RoomId, ServerName, UserId};
use serde_json::{Value, json};

use super::{
    CallMember,
    delegations::Place,
    identity::{ROOM_CALL, of_member, plain, sfu_room},
    request::{GetToken, LeaveOf, OpenIdToken, SfuGet, check_ids, read},
    tokens::{Seat, calls, delegate, token},
};
use crate::{
    ApiState, MatrixError,
    endpoint::{Anonymous, JsonBody},
};

/// `OpenID` tokens, in bytes.
const MOST_TOKEN_BYTES: usize = 1_024;

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
    let user_id = bearer(&state, &request.room, &request.openid_token).await?;
    let place = Place {
        room: sfu_room(request.room.as_str(), ROOM_CALL),
        identity: plain(user_id.as_str(), &request.device_id),
    };
    let seat = Seat { place, member: CallMember { room_id: request.room, user_id } };
    token(&state, seat, request.leave.leave()?).await
}

/// `POST /get_token`: a token for any call of a room.
pub(super) async fn get_token(
    State(state): State<ApiState>,
    _: Anonymous,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    let (seat, leave) = claimed_seat(&state, &body).await?;
    token(&state, seat, leave.leave()?).await
}

/// `POST /delegate_delayed_leave`: the server sends a client's delayed leave when it is gone from the call.
pub(super) async fn delegate_delayed_leave(
    State(state): State<ApiState>,
    _: Anonymous,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    let leaves = &calls(&state)?.leaves;
    let (seat, leave) = claimed_seat(&state, &body).await?;
    delegate(&state, leaves, seat, leave.required()?).await
}

/// `POST /sfu_webhook`: a `LiveKit` server tells who comes and goes. It is known by the key.
///
/// 401, `M_UNAUTHORIZED`, for who has not the key; 400, `M_BAD_JSON`, for what cannot be read; 404, `M_UNRECOGNIZED`, if the SFU is ours.
pub(super) async fn sfu_webhook(
    State(state): State<ApiState>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    let livekit = calls(&state)?.livekit.as_ref().ok_or_else(MatrixError::unrecognized)?;
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let taken = livekit.take_webhook(authorization.unwrap_or_default(), &body);
    taken.map_err(|error| match error {
        WebhookError::Stranger => MatrixError::unauthorized(&error.to_string()),
        WebhookError::Unreadable => MatrixError::bad_json(error),
    })?;
    Ok(Json(json!({})))
}

/// The place of who asks, if it is whom it says.
async fn claimed_seat(state: &ApiState, body: &[u8]) -> Result<(Seat, LeaveOf), MatrixError> {
    let GetToken { room_id, slot_id, openid_token, member, leave } = read(body)?;
    check_ids(&[&slot_id, &member.id, &member.claimed_device_id])?;
    let user_id = bearer(state, &room_id, &openid_token).await?;
    if member.claimed_user_id.is_some_and(|claimed| claimed != user_id) {
        return Err(MatrixError::unauthorized(
            "the OpenID token is of another user than member.claimed_user_id",
        ));
    }
    let place = Place {
        room: sfu_room(room_id.as_str(), &slot_id),
        identity: of_member(user_id.as_str(), &member.claimed_device_id, &member.id),
    };
    Ok((Seat { place, member: CallMember { room_id, user_id } }, leave))
}

/// Whose `OpenID` token it is. A token of another server is shown to that one, if it has users in the room.
///
/// 401, `M_UNAUTHORIZED`, if it is nobody's; 403, `M_FORBIDDEN`, if its server is not in the room, or not spoken to; 502 or 504 if the
/// server does not answer.
async fn bearer(state: &ApiState, room_id: &RoomId, token: &OpenIdToken) -> Result<OwnedUserId, MatrixError> {
    let server = &token.matrix_server_name;
    if token.access_token.is_empty() || token.access_token.len() > MOST_TOKEN_BYTES {
        return Err(unknown_token());
    }
    if server != state.accounts.server_name() {
        calls(state)?.members.require_server(room_id, server).await?;
        return bearer_elsewhere(state, server, &token.access_token).await;
    }
    let user = state.accounts.openid_user(&token.access_token).await;
    user.map_err(|error| match error {
        entente_accounts::AccountError::UnknownToken { .. } => unknown_token(),
        error => error.into(),
    })
}

fn unknown_token() -> MatrixError {
    MatrixError::unauthorized("the OpenID token is not known, or its time is over")
}

async fn bearer_elsewhere(
    state: &ApiState,
    server: &ServerName,
    token: &str,
) -> Result<OwnedUserId, MatrixError> {
    let answer = state.federation.client.openid_userinfo(server, token).await;
    let answer = answer.map_err(|error| match error {
        FederationError::Status { status: 400..500, .. } => unknown_token(),
        error => error.into(),
    })?;
    user_of(server, &answer).ok_or_else(|| {
        MatrixError::unauthorized("the server of the OpenID token does not name a user of its own")
    })
}

/// The user that a server names: nobody speaks for users of another one.
fn user_of(server: &ServerName, answer: &Value) -> Option<OwnedUserId> {
    let user_id = UserId::parse(answer.get("sub")?.as_str()?).ok()?;
    (user_id.server_name() == server).then_some(user_id)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn a_server_speaks_for_its_own_users_only() {
        let server = server_name!("there.example");
        let named = |sub: Value| user_of(server, &json!({ "sub": sub }));
        assert_eq!(named(json!("@bob:there.example")).unwrap().as_str(), "@bob:there.example");
        for sub in [json!("@bob:here.example"), json!("@bob:there.example:8448"), json!("bob"), json!(1)] {
            assert_eq!(named(sub), None);
        }
        assert_eq!(user_of(server, &json!({})), None);
        assert_eq!(user_of(server, &json!("@bob:there.example")), None);
    }
}
