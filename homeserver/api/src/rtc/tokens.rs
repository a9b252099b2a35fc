use std::time::Duration;

use axum::{Json, extract::State};
use entente_call_bridge::{Claims, VideoGrant};
use ruma::{OwnedServerName, ServerName, UserId};
use serde_json::{Value, json};

use super::{
    CallMember, Calls, RemoteUsers, RoomMembers, Standing,
    delegations::Place,
    leaves::{Leave, LeaveError, Leaves},
    members::NOT_JOINED,
    request::{HomeserverToken, read},
};
use crate::{
    ApiState, LimitKind, MatrixError,
    endpoint::{JsonBody, SessionOf},
};

/// How long a token lets in. Who is in gets new ones from the SFU.
const LIFETIME: Duration = Duration::from_secs(60 * 60);
/// Tokens and addresses of other servers, in bytes.
const MOST_TOKEN_BYTES: usize = 16 * 1_024;
const MOST_URL_BYTES: usize = 2_048;

/// A place in a call.
pub(super) struct Seat {
    /// Where at the SFU.
    pub(super) place: Place,
    /// On account of what.
    pub(super) member: CallMember,
}

/// How calls are held; 404, `M_UNRECOGNIZED`, if not at all.
pub(super) fn calls(state: &ApiState) -> Result<&Calls, MatrixError> {
    state.calls.as_ref().ok_or_else(MatrixError::unrecognized)
}

/// Who may be in calls. Where none are held, this server's users may be in others' calls.
fn members(state: &ApiState) -> RoomMembers {
    let held_here = state.calls.as_ref().map(|calls| calls.members.clone());
    held_here.unwrap_or_else(|| RoomMembers {
        rooms: state.rooms.clone(),
        policy: state.federation.policy.clone(),
        remote_users: RemoteUsers::Refused,
    })
}

/// 403, `M_FORBIDDEN`, for who is not joined to the room, or may not be in its calls; 429, `M_LIMIT_EXCEEDED`, for who asks too often.
async fn standing(state: &ApiState, member: &CallMember) -> Result<Standing, MatrixError> {
    state.limits.take(LimitKind::RequestsByUser, member.user_id.as_str())?;
    let standing = members(state).standing(member).await?;
    if standing == Standing::Outside { Err(MatrixError::forbidden(NOT_JOINED)) } else { Ok(standing) }
}

/// A token for a place in a call, and where to go with it. The leave is looked after if the user is ours: the leaves of others are with
/// their servers.
///
/// 400, `M_BAD_JSON`, if the leave is of no delayed event that waits.
pub(super) async fn token(
    state: &ApiState,
    seat: Seat,
    leave: Option<Leave>,
) -> Result<Json<Value>, MatrixError> {
    let calls = calls(state)?;
    let standing = standing(state, &seat.member).await?;
    let Seat { place, member } = seat;
    let is_local = member.user_id.server_name() == state.accounts.server_name();
    if let Some(leave) = leave.filter(|_| is_local) {
        let delegated = calls.leaves.delegate(&member, place.clone(), leave).await;
        delegated.map_err(|error| match error {
            // Clients that are told so ask for a token alone.
            LeaveError::Unknown => MatrixError::bad_json(error),
            error => error.into(),
        })?;
    }
    let may_publish = standing == Standing::Publisher;
    let now = state.limits.clock().now();
    let owner = member.to_owner();
    if let Some(livekit) = &calls.livekit {
        if is_local {
            livekit.create_room(&place.room).await.map_err(|error| {
                tracing::warn!(%error, "no token for a call: there may be no room for it");
                MatrixError::unavailable("the server that forwards media cannot be reached")
            })?;
        }
        livekit.note(&owner, &place.room, &place.identity, may_publish, now.after(LIFETIME)).await;
    }
    let video = VideoGrant {
        room: place.room,
        room_join: true,
        // At a LiveKit server the grant would allow to delete others' rooms as well.
        room_create: is_local && calls.bridge.is_some(),
        can_publish: Some(may_publish),
        can_publish_data: Some(may_publish),
        can_subscribe: Some(true),
        can_update_own_metadata: Some(true),
        ..VideoGrant::default()
    };
    let claims = Claims {
        sub: place.identity,
        // A LiveKit server has no use for them.
        owner: if calls.bridge.is_some() { owner } else { String::new() },
        quota_user: if calls.bridge.is_some() { member.user_id.to_string() } else { String::new() },
        video,
        ..Claims::default()
    };
    let jwt = calls.key.sign(claims, now, LIFETIME);
    tracing::debug!(user.id = %member.user_id, room.id = %member.room_id, "a token for a call");
    Ok(Json(json!({ "url": calls.sfu_url, "jwt": jwt })))
}

/// Looks after a delayed leave.
pub(super) async fn delegate(
    state: &ApiState,
    leaves: &Leaves,
    seat: Seat,
    leave: Leave,
) -> Result<Json<Value>, MatrixError> {
    standing(state, &seat.member).await?;
    leaves.delegate(&seat.member, seat.place, leave).await?;
    Ok(Json(json!({})))
}

/// Refuses another transport than ours.
fn require_ours(calls: &Calls, url: Option<&str>) -> Result<(), MatrixError> {
    let leads_here = url.is_none_or(|url| url.trim_end_matches('/') == calls.sfu_url);
    if leads_here { Ok(()) } else { Err(MatrixError::invalid_param("url is of no transport of this server")) }
}

/// `POST /_matrix/client/unstable/io.element.msc4195/rtc/livekit/get_token` (MSC4195). For a call that is held at another server,
/// that one is asked.
pub(super) async fn of_session(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    let request: HomeserverToken = read(&body)?;
    let elsewhere = request.server_name.clone().filter(|name| name != state.accounts.server_name());
    if let Some(server) = elsewhere {
        return of_peer(&state, &server, &session.user_id, &request).await;
    }
    require_ours(calls(&state)?, request.url.as_deref())?;
    let seat = request.seat(session.user_id)?;
    token(&state, seat, request.leave.leave()?).await
}

/// `POST /_matrix/client/unstable/io.element.msc4195/rtc/livekit/delegate_delayed_leave` (MSC4195).
pub(super) async fn delegate_of_session(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    let leaves = &calls(&state)?.leaves;
    let request: HomeserverToken = read(&body)?;
    if request.server_name.as_ref().is_some_and(|name| name != state.accounts.server_name()) {
        return Err(MatrixError::invalid_param(
            "the call is held at another server, which knows who is there",
        ));
    }
    require_ours(calls(&state)?, request.url.as_deref())?;
    let seat = request.seat(session.user_id)?;
    delegate(&state, leaves, seat, request.leave.required()?).await
}

/// A token of another server, for a user of this one.
async fn of_peer(
    state: &ApiState,
    server: &ServerName,
    user_id: &UserId,
    request: &HomeserverToken,
) -> Result<Json<Value>, MatrixError> {
    let seat = request.seat(user_id.to_owned())?;
    if request.url.as_ref().is_some_and(|url| url.len() > MOST_URL_BYTES) {
        return Err(MatrixError::invalid_param("url is too long"));
    }
    standing(state, &seat.member).await?;
    members(state).require_server(&request.room_id, server).await?;
    let answer = state.federation.client.livekit_token(server, &request.to_peer(user_id)).await?;
    let text = |name: &str, most: usize| {
        answer.get(name).and_then(Value::as_str).filter(|text| !text.is_empty() && text.len() <= most)
    };
    let Some(jwt) = text("jwt", MOST_TOKEN_BYTES) else {
        return Err(MatrixError::from(entente_federation::FederationError::BadAnswer {
            server: server.to_owned(),
            reason: String::from("there is no token in it"),
        }));
    };
    let url = text("url", MOST_URL_BYTES).or(request.url.as_deref());
    Ok(Json(url.map_or_else(|| json!({ "jwt": jwt }), |url| json!({ "jwt": jwt, "url": url }))))
}

/// A token for a user of another server, which asks for it by
/// `POST /_matrix/federation/unstable/io.element.msc4195/rtc/livekit/get_token` (MSC4195).
pub(crate) async fn for_peer(
    state: &ApiState,
    origin: &OwnedServerName,
    body: Value,
) -> Result<Json<Value>, MatrixError> {
    let calls = calls(state)?;
    let request: HomeserverToken = serde_json::from_value(body).map_err(MatrixError::bad_json)?;
    let claimed = || request.member.as_ref().and_then(|member| member.claimed_user_id.clone());
    let user_id = request.user_id.clone().or_else(claimed);
    let user_id = user_id.ok_or_else(|| MatrixError::missing_param("user_id is missing"))?;
    if user_id.server_name() != origin {
        return Err(MatrixError::forbidden("the user is of another server than the one that asks"));
    }
    require_ours(calls, request.url.as_deref())?;
    let seat = request.seat(user_id)?;
    token(state, seat, None).await
}
