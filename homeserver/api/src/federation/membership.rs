//! Joining, leaving, knocking and inviting (S-S API, "Joining Rooms" to "Inviting to a room").

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};
use entente_federation::{FederationError, ReceivedInvite};
use entente_storage::Bytes;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
    ServerName,
};
use serde_json::{Value, json, value::RawValue};

use super::peer::{Peer, all_of, one_of, parsed};
use crate::{ApiState, MatrixError, client::look_for_user};

/// `GET /v1/make_join/{roomId}/{userId}`.
pub(super) async fn make_join(
    State(state): State<ApiState>,
    Path(named): Path<(String, String)>,
    RawQuery(query): RawQuery,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    make(&state, "join", named, query, peer).await
}

/// `GET /v1/make_leave/{roomId}/{userId}`.
pub(super) async fn make_leave(
    State(state): State<ApiState>,
    Path(named): Path<(String, String)>,
    RawQuery(query): RawQuery,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    make(&state, "leave", named, query, peer).await
}

/// `GET /v1/make_knock/{roomId}/{userId}`.
pub(super) async fn make_knock(
    State(state): State<ApiState>,
    Path(named): Path<(String, String)>,
    RawQuery(query): RawQuery,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    make(&state, "knock", named, query, peer).await
}

async fn make(
    state: &ApiState,
    membership: &str,
    (room_id, user_id): (String, String),
    query: Option<String>,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let room_id: OwnedRoomId = parsed(&room_id)?;
    let user_id: OwnedUserId = parsed(&user_id)?;
    let mut versions: Vec<RoomVersionId> = all_of(query.as_deref(), "ver")
        .iter()
        .filter_map(|version| RoomVersionId::try_from(version.as_str()).ok())
        .collect();
    if versions.is_empty() {
        versions.push(RoomVersionId::V1);
    }
    let rooms = &state.federation.rooms;
    let template = rooms.make_membership(&peer.origin, &room_id, &user_id, membership, &versions).await;
    let template = template.inspect_err(|error| refused(&peer.origin, &room_id, membership, error))?;
    Ok(Json(json!({ "room_version": template.version, "event": template.event })))
}

/// `PUT /v2/send_join/{roomId}/{eventId}`.
pub(super) async fn send_join(
    State(state): State<ApiState>,
    Path(named): Path<(String, String)>,
    RawQuery(query): RawQuery,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let omits_members = one_of(query.as_deref(), "omit_members").as_deref() == Some("true");
    accept_join(&state, named, omits_members, peer).await.map(Json)
}

/// `PUT /v1/send_join/{roomId}/{eventId}`: the older form, whose answer is a list.
pub(super) async fn send_join_v1(
    State(state): State<ApiState>,
    Path(named): Path<(String, String)>,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    Ok(Json(json!([200, accept_join(&state, named, false, peer).await?])))
}

async fn accept_join(
    state: &ApiState,
    (room_id, event_id): (String, String),
    omits_members: bool,
    mut peer: Peer,
) -> Result<Value, MatrixError> {
    let (room_id, event_id): (OwnedRoomId, OwnedEventId) = (parsed(&room_id)?, parsed(&event_id)?);
    let event = peer.object()?;
    let rooms = &state.federation.rooms;
    let answer = rooms.accept_join(&peer.origin, &room_id, &event_id, event, omits_members).await;
    let answer = answer.inspect_err(|error| refused(&peer.origin, &room_id, "join", error))?;
    let mut body = json!({
        "origin": state.rooms.server_name(),
        "members_omitted": answer.servers.is_some(),
        "event": answer.event,
        "state": raw(&answer.state)?,
        "auth_chain": raw(&answer.auth_chain)?,
    });
    if let Some(servers) = answer.servers {
        body["servers_in_room"] = json!(servers);
    }
    Ok(body)
}

/// `PUT /v2/send_leave/{roomId}/{eventId}`.
pub(super) async fn send_leave(
    State(state): State<ApiState>,
    Path(named): Path<(String, String)>,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    accept_leave(&state, named, peer).await?;
    Ok(Json(json!({})))
}

/// `PUT /v1/send_leave/{roomId}/{eventId}`: the older form, whose answer is a list.
pub(super) async fn send_leave_v1(
    State(state): State<ApiState>,
    Path(named): Path<(String, String)>,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    accept_leave(&state, named, peer).await?;
    Ok(Json(json!([200, {}])))
}

async fn accept_leave(
    state: &ApiState,
    (room_id, event_id): (String, String),
    mut peer: Peer,
) -> Result<(), MatrixError> {
    let (room_id, event_id): (OwnedRoomId, OwnedEventId) = (parsed(&room_id)?, parsed(&event_id)?);
    let event = peer.object()?;
    let left = state.federation.rooms.accept_leave(&peer.origin, &room_id, &event_id, event).await;
    Ok(left.inspect_err(|error| refused(&peer.origin, &room_id, "leave", error))?)
}

/// `PUT /v1/send_knock`.
pub(super) async fn send_knock(
    State(state): State<ApiState>,
    Path((room_id, event_id)): Path<(String, String)>,
    mut peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let (room_id, event_id): (OwnedRoomId, OwnedEventId) = (parsed(&room_id)?, parsed(&event_id)?);
    let event = peer.object()?;
    let told = state.federation.rooms.accept_knock(&peer.origin, &room_id, &event_id, event).await;
    let told = told.inspect_err(|error| refused(&peer.origin, &room_id, "knock", error))?;
    Ok(Json(json!({ "knock_room_state": raw(&told)? })))
}

/// `PUT /v2/invite`.
pub(super) async fn invite(
    State(state): State<ApiState>,
    Path((room_id, event_id)): Path<(String, String)>,
    mut peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let mut body = peer.object()?;
    let version = match body.get("room_version") {
        Some(CanonicalJsonValue::String(version)) => parsed(version)?,
        _ => return Err(MatrixError::missing_param("the invite has no room_version")),
    };
    let Some(CanonicalJsonValue::Object(event)) = body.remove("event") else {
        return Err(MatrixError::missing_param("there is no event"));
    };
    let told = told_state(body.remove("invite_room_state"));
    let (room_id, event_id, origin) = (parsed(&room_id)?, parsed(&event_id)?, peer.origin.clone());
    let invite = ReceivedInvite { origin, room_id, event_id, version, event, told };
    let event = accept(&state, invite).await?;
    Ok(Json(json!({ "event": event })))
}

/// `PUT /v1/invite`: for rooms of versions 1 and 2, whose answer is a list.
pub(super) async fn invite_v1(
    State(state): State<ApiState>,
    Path((room_id, event_id)): Path<(String, String)>,
    mut peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let event = peer.object()?;
    let unsigned = event.get("unsigned").and_then(CanonicalJsonValue::as_object);
    let told = told_state(unsigned.and_then(|unsigned| unsigned.get("invite_room_state")).cloned());
    let (room_id, event_id, origin) = (parsed(&room_id)?, parsed(&event_id)?, peer.origin.clone());
    let version = RoomVersionId::V1;
    let event = accept(&state, ReceivedInvite { origin, room_id, event_id, version, event, told }).await?;
    Ok(Json(json!([200, { "event": event }])))
}

async fn accept(state: &ApiState, invite: ReceivedInvite) -> Result<CanonicalJsonObject, MatrixError> {
    let target = invite.target()?;
    if target.server_name() != state.rooms.server_name() {
        return Err(MatrixError::invalid_param("the user who is invited is not of this server"));
    }
    look_for_user(state, &target).await?;
    state.accounts.require_invitable(&target).await?;
    // Nobody who does not exist is invited.
    state.accounts.profile(&target).await?;
    let (origin, room_id) = (invite.origin.clone(), invite.room_id.clone());
    let accepted = state.federation.rooms.accept_invite(invite).await;
    Ok(accepted.inspect_err(|error| refused(&origin, &room_id, "invite", error))?)
}

/// Every refusal leaves a line in the log, with the membership that was wanted.
fn refused(origin: &ServerName, room_id: &RoomId, membership: &str, error: &FederationError) {
    tracing::info!(%origin, %room_id, membership, %error, "a membership of another server is refused");
}

fn told_state(told: Option<CanonicalJsonValue>) -> Vec<CanonicalJsonObject> {
    let Some(CanonicalJsonValue::Array(told)) = told else { return Vec::new() };
    let object = |value| match value {
        CanonicalJsonValue::Object(object) => Some(object),
        _ => None,
    };
    told.into_iter().filter_map(object).collect()
}

/// Stored JSON as it is.
pub(super) fn raw(events: &[Bytes]) -> Result<Vec<Box<RawValue>>, MatrixError> {
    events.iter().map(|json| serde_json::from_slice(json).map_err(MatrixError::internal)).collect()
}
