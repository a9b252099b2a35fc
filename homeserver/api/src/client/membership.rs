use axum::extract::State;
use entente_accounts::{AccountError, Session};
use entente_rooms::{Membership, MembershipRequest, Profile, RoomError};
use ruma::{
    OwnedServerName, RoomId, UserId,
    api::client::{
        knock::knock_room,
        membership::{
            ban_user, forget_room,
            invite_user::{self, v3::InvitationRecipient},
            join_room_by_id, join_room_by_id_or_alias, joined_rooms, kick_user, leave_room, unban_user,
        },
    },
};
use serde_json::Value;

use super::{remote, third_party_invites};
use crate::{ApiState, MatrixError};

/// Reasons have at most this many bytes.
const MOST_REASON_BYTES: usize = 4_096;

/// `POST /rooms/{roomId}/join`.
pub(super) async fn join(
    State(state): State<ApiState>,
    session: Session,
    request: join_room_by_id::v3::Request,
) -> Result<join_room_by_id::v3::Response, MatrixError> {
    join_room(&state, &session, &request.room_id, Vec::new(), request.reason).await?;
    Ok(join_room_by_id::v3::Response::new(request.room_id))
}

/// `POST /join/{roomIdOrAlias}`.
pub(super) async fn join_by_alias(
    State(state): State<ApiState>,
    session: Session,
    request: join_room_by_id_or_alias::v3::Request,
) -> Result<join_room_by_id_or_alias::v3::Response, MatrixError> {
    let (room_id, servers) = remote::resolve(&state, &request.room_id_or_alias, &request.via).await?;
    join_room(&state, &session, &room_id, servers, request.reason).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room_id))
}

async fn join_room(
    state: &ApiState,
    session: &Session,
    room_id: &RoomId,
    servers: Vec<OwnedServerName>,
    reason: Option<String>,
) -> Result<(), MatrixError> {
    active(session)?;
    if session.guest && !state.rooms.lets_guests_in(room_id).await? {
        return Err(MatrixError::guest_access_forbidden("guests may not join this room"));
    }
    let profile = profile_of(state, &session.user_id).await?;
    let request = MembershipRequest::own(&session.user_id, profile, short(reason)?);
    remote::join(state, room_id, &request, servers).await
}

/// `POST /knock/{roomIdOrAlias}`.
pub(super) async fn knock(
    State(state): State<ApiState>,
    session: Session,
    request: knock_room::v3::Request,
) -> Result<knock_room::v3::Response, MatrixError> {
    active(&session)?;
    let (room_id, servers) = remote::resolve(&state, &request.room_id_or_alias, &request.via).await?;
    let profile = profile_of(&state, &session.user_id).await?;
    let knock = MembershipRequest::own(&session.user_id, profile, short(request.reason)?);
    remote::knock(&state, &room_id, &knock, servers).await?;
    Ok(knock_room::v3::Response::new(room_id))
}

/// `POST /rooms/{roomId}/invite`.
pub(super) async fn invite(
    State(state): State<ApiState>,
    session: Session,
    request: invite_user::v3::Request,
) -> Result<invite_user::v3::Response, MatrixError> {
    active(&session)?;
    match request.recipient {
        InvitationRecipient::UserId(invite) => {
            let reason = short(invite.reason)?;
            invite_by_id(&state, &session, &request.room_id, &invite.user_id, reason).await?;
        }
        InvitationRecipient::ThirdPartyId(address) => {
            third_party_invites::invite(&state, &session, &request.room_id, &address).await?;
        }
        _ => return Err(MatrixError::invalid_param("a user or an address is invited")),
    }
    Ok(invite_user::v3::Response::new())
}

/// Invites a user of this server or another.
pub(super) async fn invite_by_id(
    state: &ApiState,
    session: &Session,
    room_id: &RoomId,
    target: &UserId,
    reason: Option<String>,
) -> Result<(), MatrixError> {
    remote::look_for_user(state, target).await?;
    state.accounts.require_invitable(target).await?;
    let profile = profile_of(state, target).await?;
    let invite = MembershipRequest::others(&session.user_id, target, profile, reason);
    remote::invite(state, room_id, &invite).await
}

/// `POST /rooms/{roomId}/leave`.
pub(super) async fn leave(
    State(state): State<ApiState>,
    session: Session,
    request: leave_room::v3::Request,
) -> Result<leave_room::v3::Response, MatrixError> {
    remote::leave(&state, &request.room_id, &session.user_id, short(request.reason)?.as_deref()).await?;
    Ok(leave_room::v3::Response::new())
}

/// `POST /rooms/{roomId}/kick`.
pub(super) async fn kick(
    State(state): State<ApiState>,
    session: Session,
    request: kick_user::v3::Request,
) -> Result<kick_user::v3::Response, MatrixError> {
    let kick = of_other(&session, &request.user_id, request.reason)?;
    state.rooms.kick(&request.room_id, &kick).await?;
    Ok(kick_user::v3::Response::new())
}

/// `POST /rooms/{roomId}/ban`.
pub(super) async fn ban(
    State(state): State<ApiState>,
    session: Session,
    request: ban_user::v3::Request,
) -> Result<ban_user::v3::Response, MatrixError> {
    let ban = of_other(&session, &request.user_id, request.reason)?;
    state.rooms.ban(&request.room_id, &ban).await?;
    Ok(ban_user::v3::Response::new())
}

/// `POST /rooms/{roomId}/unban`.
pub(super) async fn unban(
    State(state): State<ApiState>,
    session: Session,
    request: unban_user::v3::Request,
) -> Result<unban_user::v3::Response, MatrixError> {
    let unban = of_other(&session, &request.user_id, request.reason)?;
    state.rooms.unban(&request.room_id, &unban).await?;
    Ok(unban_user::v3::Response::new())
}

/// `POST /rooms/{roomId}/forget`.
pub(super) async fn forget(
    State(state): State<ApiState>,
    session: Session,
    request: forget_room::v3::Request,
) -> Result<forget_room::v3::Response, MatrixError> {
    state.rooms.forget(&request.room_id, &session.user_id).await?;
    Ok(forget_room::v3::Response::new())
}

/// `GET /joined_rooms`.
pub(super) async fn joined_rooms(
    State(state): State<ApiState>,
    session: Session,
    _: joined_rooms::v3::Request,
) -> Result<joined_rooms::v3::Response, MatrixError> {
    let rooms = state.rooms.rooms_of(&session.user_id, Membership::Join).await?;
    Ok(joined_rooms::v3::Response::new(rooms))
}

fn of_other(
    session: &Session,
    target: &UserId,
    reason: Option<String>,
) -> Result<MembershipRequest, MatrixError> {
    active(session)?;
    Ok(MembershipRequest::others(&session.user_id, target, Profile::default(), short(reason)?))
}

/// How a user appears in rooms. One of whom nothing is known appears by their id.
pub(crate) async fn profile_of(state: &ApiState, user_id: &UserId) -> Result<Profile, MatrixError> {
    if user_id.server_name() != state.accounts.server_name() {
        return Ok(remote::profile_in_room(state, user_id).await);
    }
    let fields = match state.accounts.profile(user_id).await {
        Ok(fields) => fields,
        Err(AccountError::UserNotFound) => return Ok(Profile::default()),
        Err(error) => return Err(error.into()),
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Profile { displayname: text("displayname"), avatar_url: text("avatar_url") })
}

/// Refuses users who were suspended.
pub(crate) fn active(session: &Session) -> Result<(), MatrixError> {
    if session.suspended { Err(AccountError::UserSuspended.into()) } else { Ok(()) }
}

fn short(reason: Option<String>) -> Result<Option<String>, MatrixError> {
    match reason {
        Some(reason) if reason.len() > MOST_REASON_BYTES => {
            Err(RoomError::TooLarge("a reason has at most 4096 bytes").into())
        }
        reason => Ok(reason),
    }
}
