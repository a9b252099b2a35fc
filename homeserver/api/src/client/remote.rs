//! Users, rooms and aliases of other servers.

use std::{collections::BTreeMap, time::Duration};

use entente_federation::JoinRequest;
use entente_rooms::{MembershipRequest, Profile, RoomError};
use futures_util::future::join_all;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId,
    RoomOrAliasId, ServerName, UserId,
};
use serde_json::{Map, Value, json};

use crate::{ApiState, MatrixError, endpoint::Visitor};

/// How long a client waits for keys of other servers' users, if it does not say.
const KEYS_TIMEOUT: Duration = Duration::from_secs(10);
/// Servers that a client may name as ways into a room.
const MOST_VIA: usize = 20;

/// The room that a client means, and servers that may be in it.
pub(super) async fn resolve(
    state: &ApiState,
    named: &RoomOrAliasId,
    via: &[OwnedServerName],
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), MatrixError> {
    resolve_unless(state, named, via, || Ok(())).await
}

/// The same for whoever asks. A stranger makes others look for an alias only so often.
pub(super) async fn resolve_for(
    state: &ApiState,
    visitor: &Visitor,
    named: &RoomOrAliasId,
    via: &[OwnedServerName],
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), MatrixError> {
    resolve_unless(state, named, via, || visitor.count_question(state)).await
}

/// The same, unless `check` refuses that an application service or another server is asked.
async fn resolve_unless(
    state: &ApiState,
    named: &RoomOrAliasId,
    via: &[OwnedServerName],
    check: impl Fn() -> Result<(), MatrixError>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), MatrixError> {
    let mut servers: Vec<OwnedServerName> = via.iter().take(MOST_VIA).cloned().collect();
    let alias = match <&RoomId>::try_from(named) {
        Ok(room_id) => return Ok((room_id.to_owned(), servers)),
        Err(alias) => alias,
    };
    if alias.server_name() == state.rooms.server_name() {
        return Ok((resolve_here(state, alias, check).await?, servers));
    }
    check()?;
    let answer = state.federation.client.query_directory(alias.server_name(), alias).await?;
    servers.extend(answer.servers.into_iter().take(MOST_VIA));
    servers.push(alias.server_name().to_owned());
    Ok((answer.room_id, servers))
}

/// The room behind an alias of this server. An application service may make it now that somebody looks for it, unless `check` refuses
/// that one is asked.
pub(crate) async fn resolve_here(
    state: &ApiState,
    alias: &RoomAliasId,
    check: impl Fn() -> Result<(), MatrixError>,
) -> Result<OwnedRoomId, MatrixError> {
    match state.rooms.resolve_alias(alias).await {
        Err(RoomError::NotFound(unknown)) => {
            check()?;
            if !state.appservices.query_alias(alias).await {
                return Err(RoomError::NotFound(unknown).into());
            }
            Ok(state.rooms.resolve_alias(alias).await?)
        }
        resolved => Ok(resolved?),
    }
}

/// Lets application services make a user of this server who is not there yet.
pub(crate) async fn look_for_user(state: &ApiState, user_id: &UserId) -> Result<(), MatrixError> {
    if user_id.server_name() == state.accounts.server_name() && !state.accounts.exists(user_id).await? {
        state.appservices.query_user(user_id).await;
    }
    Ok(())
}

/// Joins a room where it is: here, or through another server.
pub(super) async fn join(
    state: &ApiState,
    room_id: &RoomId,
    request: &MembershipRequest,
    servers: Vec<OwnedServerName>,
) -> Result<(), MatrixError> {
    if state.federation.rooms.is_resident(room_id).await? {
        match state.rooms.join(room_id, request).await {
            // Somebody elsewhere may have the power that nobody here has.
            Err(RoomError::UnableToAuthoriseJoin) => {}
            outcome => return Ok(outcome?),
        }
    }
    Ok(state.federation.rooms.join(&outward(room_id, request, servers)).await?)
}

/// Knocks at a room where it is.
pub(super) async fn knock(
    state: &ApiState,
    room_id: &RoomId,
    request: &MembershipRequest,
    servers: Vec<OwnedServerName>,
) -> Result<(), MatrixError> {
    if state.federation.rooms.is_resident(room_id).await? {
        return Ok(state.rooms.knock(room_id, request).await?);
    }
    Ok(state.federation.rooms.knock(&outward(room_id, request, servers)).await?)
}

/// Leaves a room, declines an invite or takes back a knock, wherever the room is.
pub(super) async fn leave(
    state: &ApiState,
    room_id: &RoomId,
    user_id: &UserId,
    reason: Option<&str>,
) -> Result<(), MatrixError> {
    if state.federation.rooms.is_resident(room_id).await? {
        match state.rooms.leave(room_id, user_id, reason).await {
            // An invite from elsewhere that this server's own state of the room does not have.
            Err(error @ RoomError::Forbidden(_)) => {
                let outside = state.federation.rooms.leave_outside(room_id, user_id, reason).await;
                return outside.map_err(|_| error.into());
            }
            outcome => return Ok(outcome?),
        }
    }
    Ok(state.federation.rooms.leave_outside(room_id, user_id, reason).await?)
}

/// Invites a user, of this server or another.
pub(super) async fn invite(
    state: &ApiState,
    room_id: &RoomId,
    request: &MembershipRequest,
) -> Result<(), MatrixError> {
    if request.target.server_name() == state.rooms.server_name() {
        return Ok(state.rooms.invite(room_id, request).await?);
    }
    Ok(state.federation.rooms.invite(room_id, request).await?)
}

fn outward(room_id: &RoomId, request: &MembershipRequest, servers: Vec<OwnedServerName>) -> JoinRequest {
    JoinRequest {
        room_id: room_id.to_owned(),
        user_id: request.target.clone(),
        profile: request.profile.clone(),
        reason: request.reason.clone(),
        servers,
    }
}

/// The profile of a user of another server, as that server has it.
pub(super) async fn profile(state: &ApiState, user_id: &UserId) -> Result<Map<String, Value>, MatrixError> {
    let answer = state.federation.client.query_profile(user_id.server_name(), user_id, None).await?;
    match answer {
        Value::Object(fields) => Ok(fields),
        _ => Err(MatrixError::not_found("there is no such user")),
    }
}

/// How a user of another server appears, if that can be learnt.
pub(super) async fn profile_in_room(state: &ApiState, user_id: &UserId) -> Profile {
    let fields = profile(state, user_id).await.unwrap_or_default();
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    Profile { displayname: text("displayname"), avatar_url: text("avatar_url") }
}

/// What other servers answer about keys of their users: by field, then by user; and the servers that did not answer.
pub(super) struct RemoteKeys {
    fields: BTreeMap<String, Map<String, Value>>,
    pub(super) failures: BTreeMap<String, Value>,
}

impl RemoteKeys {
    /// What was answered under a name, by user.
    pub(super) fn of(&self, name: &str) -> Map<String, Value> {
        self.fields.get(name).cloned().unwrap_or_default()
    }
}

/// Asks other servers for keys of their users: `which` is `query` or `claim`, `field` the name of what is asked.
pub(super) async fn keys(
    state: &ApiState,
    which: &str,
    field: &'static str,
    asked: Vec<(&UserId, CanonicalJsonValue)>,
    timeout: Option<Duration>,
) -> RemoteKeys {
    let mut by_server: BTreeMap<OwnedServerName, CanonicalJsonObject> = BTreeMap::new();
    for (user_id, devices) in asked {
        by_server.entry(user_id.server_name().to_owned()).or_default().insert(user_id.to_string(), devices);
    }
    let timeout = timeout.unwrap_or(KEYS_TIMEOUT).min(KEYS_TIMEOUT);
    let requests = by_server.into_iter().map(|(server, users)| async move {
        let body = CanonicalJsonObject::from([(field.to_owned(), CanonicalJsonValue::Object(users))]);
        let answer = state.federation.client.user_keys(&server, which, &body, timeout).await;
        (server, answer)
    });
    let mut found = RemoteKeys { fields: BTreeMap::new(), failures: BTreeMap::new() };
    for (server, answer) in join_all(requests).await {
        match answer {
            Ok(Value::Object(fields)) => {
                for (name, users) in fields {
                    let Value::Object(users) = users else { continue };
                    let own = users.into_iter().filter(|(user_id, _)| is_of(&server, user_id));
                    found.fields.entry(name).or_default().extend(own);
                }
            }
            outcome => {
                if let Err(error) = outcome {
                    tracing::info!(%server, %error, "a server does not answer for keys of its users");
                }
                let failure = json!({ "errcode": "M_UNAVAILABLE", "error": "the server does not answer" });
                found.failures.insert(server.to_string(), failure);
            }
        }
    }
    found
}

/// Whether a user is of a server: one speaks for its own users only.
fn is_of(server: &ServerName, user_id: &str) -> bool {
    <&UserId>::try_from(user_id).is_ok_and(|user_id| user_id.server_name() == server)
}
