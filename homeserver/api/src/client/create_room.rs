use axum::extract::State;
use entente_accounts::Session;
use entente_rooms::{MembershipRequest, NewRoom, Preset, object};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomAliasId,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, Response, RoomPreset},
    },
    events::StateEventType,
};
use serde_json::Value;

use super::{
    membership::{active, profile_of},
    remote,
    room_aliases::check_may_have,
    room_send::require_invitable,
    third_party_invites,
};
use crate::{ApiState, MatrixError};

/// Invites that one request may carry.
const MOST_INVITES: usize = 1_000;

/// `POST /createRoom`.
pub(super) async fn create_room(
    State(state): State<ApiState>,
    session: Session,
    request: Request,
) -> Result<Response, MatrixError> {
    active(&session)?;
    for address in &request.invite_3pid {
        state.federation.identity_servers.check(&address.id_server)?;
    }
    if request.invite.len() + request.invite_3pid.len() > MOST_INVITES {
        return Err(MatrixError::invalid_param("a room begins with at most 1000 invites"));
    }
    let preset = match (&request.preset, &request.visibility) {
        (Some(RoomPreset::PublicChat), _) | (None, Visibility::Public) => Preset::Public,
        (Some(RoomPreset::TrustedPrivateChat), _) => Preset::TrustedPrivate,
        _ => Preset::Private,
    };
    let mut new = NewRoom::new(session.user_id.clone(), preset);
    new.profile = profile_of(&state, &session.user_id).await?;
    new.version = request.room_version;
    new.published = request.visibility == Visibility::Public;
    if let Some(content) = &request.creation_content {
        new.creation_content = canonical(content.json().get())?;
    }
    if let Some(levels) = &request.power_level_content_override {
        new.power_levels = canonical(levels.json().get())?;
    }
    for event in &request.initial_state {
        let (event_type, state_key, content) = initial_state(event.json().get())?;
        require_invitable(&state, &event_type, &state_key, &content).await?;
        new.initial_state.push((event_type, state_key, content));
    }
    new.name = request.name;
    new.topic = request.topic;
    new.is_direct = request.is_direct;
    if let Some(name) = request.room_alias_name {
        let alias = format!("#{name}:{}", state.rooms.server_name());
        let alias = RoomAliasId::parse(alias).map_err(|_| MatrixError::invalid_param("that is no alias"))?;
        check_may_have(&state, &session, &alias)?;
        new.alias = Some(alias);
    }
    let mut elsewhere = Vec::new();
    for invitee in request.invite {
        if invitee == session.user_id || new.invite.iter().any(|(other, _)| *other == invitee) {
            continue;
        }
        remote::look_for_user(&state, &invitee).await?;
        state.accounts.require_invitable(&invitee).await?;
        let profile = profile_of(&state, &invitee).await?;
        let invites =
            if invitee.server_name() == state.rooms.server_name() { &mut new.invite } else { &mut elsewhere };
        invites.push((invitee, profile));
    }
    let is_direct = new.is_direct;
    let room_id = state.rooms.create_room(new).await?;
    for (invitee, profile) in elsewhere {
        let mut invite = MembershipRequest::others(&session.user_id, &invitee, profile, None);
        if is_direct {
            invite.extra.insert(String::from("is_direct"), CanonicalJsonValue::Bool(true));
        }
        // The room is there: who could not be invited can be again.
        if let Err(error) = state.federation.rooms.invite(&room_id, &invite).await {
            tracing::info!(%room_id, %invitee, %error, "somebody could not be invited to a new room");
        }
    }
    for address in &request.invite_3pid {
        if let Err(error) = third_party_invites::invite(&state, &session, &room_id, address).await {
            tracing::info!(%room_id, ?error, "an address could not be invited to a new room");
        }
    }
    Ok(Response::new(room_id))
}

fn initial_state(json: &str) -> Result<(StateEventType, String, CanonicalJsonObject), MatrixError> {
    let mut event = canonical(json)?;
    let state_key = match event.remove("state_key") {
        None => String::new(),
        Some(CanonicalJsonValue::String(state_key)) => state_key,
        Some(_) => return Err(MatrixError::bad_json("state_key is a string")),
    };
    match (event.remove("type"), event.remove("content")) {
        (Some(CanonicalJsonValue::String(event_type)), Some(CanonicalJsonValue::Object(content))) => {
            Ok((event_type.into(), state_key, content))
        }
        _ => Err(MatrixError::bad_json("each event of initial_state has a type and a content")),
    }
}

/// A JSON object from a client.
pub(super) fn canonical(json: &str) -> Result<CanonicalJsonObject, MatrixError> {
    let value: Value = serde_json::from_str(json).map_err(MatrixError::bad_json)?;
    Ok(object(value)?)
}
