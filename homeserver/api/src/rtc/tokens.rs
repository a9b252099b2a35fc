use std::time::Duration;

use axum::{Json, extract::State};
use entente_call_bridge::{Claims, VideoGrant};
use serde_json::{Value, json};

use super::{
    CallMember, RoomMembers,
    identity::{of_member, of_member_id, sfu_room},
    request::{HomeserverToken, check_ids, read},
};
use crate::{
    ApiState, LimitKind, MatrixError,
    endpoint::{JsonBody, SessionOf},
};

/// How long a token lets in. Who is in gets new ones from the SFU.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// A place in a call.
pub(super) struct Seat {
    /// What the call's room is called at the SFU.
    pub(super) sfu_room: String,
    /// Who the client is there.
    pub(super) identity: String,
    /// On account of what.
    pub(super) member: CallMember,
}

/// A token for a place in a call, and where to go with it.
///
/// 403, `M_FORBIDDEN`, for who is not joined to the room; 429, `M_LIMIT_EXCEEDED`, for who asks too often.
pub(super) async fn token(state: &ApiState, seat: Seat) -> Result<Json<Value>, MatrixError> {
    let calls = state.calls.as_ref().ok_or_else(MatrixError::unrecognized)?;
    state.limits.take(LimitKind::RequestsByUser, seat.member.user_id.as_str())?;
    if !RoomMembers(state.rooms.clone()).contain(&seat.member).await? {
        return Err(MatrixError::forbidden("only who is joined to a room can take part in its calls"));
    }
    let video = VideoGrant {
        room: seat.sfu_room,
        room_join: true,
        can_publish: Some(true),
        can_subscribe: Some(true),
        can_update_own_metadata: Some(true),
        ..VideoGrant::default()
    };
    let claims = Claims { sub: seat.identity, owner: seat.member.to_owner(), video, ..Claims::default() };
    let jwt = calls.key.sign(claims, state.limits.clock().now(), LIFETIME);
    tracing::debug!(user.id = %seat.member.user_id, room.id = %seat.member.room_id, "a token for a call");
    Ok(Json(json!({ "url": calls.sfu_url, "jwt": jwt })))
}

/// `POST /_matrix/client/unstable/io.element.msc4195/rtc/livekit/get_token` (MSC4195).
pub(super) async fn of_session(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    let request: HomeserverToken = read(&body)?;
    let is_ours = request.server_name.is_none_or(|name| name == state.accounts.server_name());
    let leads_here = |url: String| state.calls.as_ref().is_some_and(|calls| calls.sfu_url == url);
    if !is_ours || !request.url.is_none_or(leads_here) {
        return Err(MatrixError::invalid_param("tokens can only be had for the transports of this server"));
    }
    let user_id = session.user_id;
    let identity = match (request.member, request.member_id) {
        (Some(member), _) => {
            check_ids(&[&member.id, &member.claimed_device_id])?;
            of_member(user_id.as_str(), &member.claimed_device_id, &member.id)
        }
        (None, Some(member_id)) => {
            check_ids(&[&member_id])?;
            of_member_id(user_id.as_str(), &member_id)
        }
        (None, None) => return Err(MatrixError::bad_json("member or member_id is missing")),
    };
    check_ids(&[&request.slot_id])?;
    let seat = Seat {
        sfu_room: sfu_room(request.room_id.as_str(), &request.slot_id),
        identity,
        member: CallMember { room_id: request.room_id, user_id },
    };
    token(&state, seat).await
}
