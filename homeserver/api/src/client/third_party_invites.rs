//! Inviting by an e-mail address or a telephone number (C-S API, "Third-party Invites").

use entente_accounts::Session;
use entente_federation::Address;
use entente_rooms::{Draft, RoomView};
use ruma::{
    RoomId, api::client::membership::Invite3pid, events::StateEventType,
    state_res::events::RoomPowerLevelsIntField,
};
use serde_json::{Map, Value, json};

use super::membership::{invite_by_id, profile_of};
use crate::{ApiState, MatrixError};

/// An address has at most this many bytes.
const MOST_ADDRESS_BYTES: usize = 500;

/// Invites the user whose address it is, or leaves an invite for whoever turns out to have it. Only an identity server that the operator
/// names is asked.
pub(super) async fn invite(
    state: &ApiState,
    session: &Session,
    room_id: &RoomId,
    invite: &Invite3pid,
) -> Result<(), MatrixError> {
    let servers = &state.federation.identity_servers;
    servers.check(&invite.id_server)?;
    if invite.address.len() > MOST_ADDRESS_BYTES {
        return Err(MatrixError::invalid_param("an address has at most 500 bytes"));
    }
    let view = state.rooms.view(room_id).await?;
    view.require_joined(&session.user_id).await?;
    // The server learns of nobody whom the room would not let invite.
    if !view.powers().await?.may(&session.user_id, RoomPowerLevelsIntField::Invite) {
        return Err(MatrixError::forbidden("you may not invite into this room"));
    }
    let medium = invite.medium.as_str().to_owned();
    let address = match medium.as_str() {
        "email" => invite.address.to_lowercase(),
        _ => invite.address.clone(),
    };
    let address = Address { medium, address };
    let (server, token) = (invite.id_server.as_str(), invite.id_access_token.as_str());
    if let Some(user_id) = servers.lookup(server, token, &address).await? {
        return invite_by_id(state, session, room_id, &user_id, None).await;
    }
    let more = told_of(state, session, &view).await?;
    let stored = servers.store_invite(server, token, &address, more).await?;
    let event_type = StateEventType::RoomThirdPartyInvite;
    let draft = Draft::state(&session.user_id, event_type, &stored.token, stored.content);
    state.rooms.send(room_id, draft).await?;
    Ok(())
}

/// What the identity server may tell in its message to the address, of the room and of whoever invites.
async fn told_of(
    state: &ApiState,
    session: &Session,
    view: &RoomView,
) -> Result<Map<String, Value>, MatrixError> {
    let summary = view.summary().await?;
    let profile = profile_of(state, &session.user_id).await?;
    let mut told = Map::new();
    told.insert(String::from("room_id"), json!(summary.room_id));
    told.insert(String::from("sender"), json!(session.user_id));
    told.insert(String::from("room_join_rules"), json!(summary.join_rule));
    for (name, value) in [
        ("room_alias", summary.canonical_alias),
        ("room_avatar_url", summary.avatar_url),
        ("room_name", summary.name),
        ("room_type", summary.room_type),
        ("sender_display_name", profile.displayname),
        ("sender_avatar_url", profile.avatar_url),
    ] {
        if let Some(value) = value {
            told.insert(name.to_owned(), json!(value));
        }
    }
    Ok(told)
}
