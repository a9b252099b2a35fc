//! Addresses that were invited, and turn out to be somebody's (S-S API, "Third-party invites").

use axum::{
    Json,
    extract::{Path, State},
    http::request::Parts,
};
use entente_federation::FederationError;
use entente_rooms::MembershipRequest;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::peer::{Peer, parsed};
use crate::{
    ApiState, LimitKind, MatrixError,
    address::{ClientAddress, address_key},
    client::{look_for_user, profile_of},
    endpoint::JsonBody,
};

/// Invites that one notice may carry.
const MOST_INVITES: usize = 100;

/// What an identity server says when an address becomes somebody's.
#[derive(Deserialize)]
struct Bound {
    mxid: OwnedUserId,
    #[serde(default)]
    invites: Vec<BoundInvite>,
}

/// An invite that waited for the address.
#[derive(Deserialize)]
struct BoundInvite {
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    /// That the address is the user's, signed.
    signed: CanonicalJsonObject,
}

/// `PUT /v1/exchange_third_party_invite/{roomId}`: an address that was invited is a user of the asking server.
pub(super) async fn exchange(
    State(state): State<ApiState>,
    Path(room_id): Path<String>,
    mut peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let room_id: OwnedRoomId = parsed(&room_id)?;
    let event = peer.object()?;
    state.federation.rooms.exchange_third_party_invite(&peer.origin, &room_id, &event).await?;
    Ok(Json(json!({})))
}

/// `PUT /v1/3pid/onbind`: an address is a user of this server now. Identity servers do not sign their requests, but what is in this one:
/// what none of those signed that the operator names causes no packet to anybody but them.
pub(super) async fn bound(
    State(state): State<ApiState>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    state.limits.take(LimitKind::RequestsByAddress, &address_key(ClientAddress::of(&parts)))?;
    if state.federation.identity_servers.is_empty() {
        return Err(FederationError::IdentityServerNotTrusted.into());
    }
    let Bound { mxid, mut invites } = serde_json::from_slice(&body).map_err(MatrixError::bad_json)?;
    if state.rooms.local(mxid.as_str()).is_none() {
        return Err(MatrixError::invalid_param("that is no user of this server"));
    }
    invites.truncate(MOST_INVITES);
    for invite in invites {
        let text = |field: &str| invite.signed.get(field).and_then(|text| text.as_str());
        if text("mxid") != Some(mxid.as_str()) || text("token").is_none() {
            return Err(MatrixError::invalid_param("the proof is not of that user"));
        }
        state.federation.identity_servers.has_signed(&invite.signed).await?;
        // One that fails is no reason to let the others wait.
        if let Err(error) = accept(&state, &mxid, &invite).await {
            let BoundInvite { room_id, sender, .. } = &invite;
            tracing::info!(%room_id, %sender, user_id = %mxid, ?error, "an invite that waited for an address fails");
        }
    }
    Ok(Json(json!({})))
}

/// Has whoever invited an address invite the user: here, or at their server.
async fn accept(state: &ApiState, user_id: &UserId, invite: &BoundInvite) -> Result<(), MatrixError> {
    let BoundInvite { room_id, sender, signed } = invite;
    look_for_user(state, user_id).await?;
    state.accounts.require_invitable(user_id).await?;
    let mut proof = CanonicalJsonObject::new();
    proof.insert(String::from("signed"), CanonicalJsonValue::Object(signed.clone()));
    if state.rooms.local(sender.as_str()).is_some() {
        let token = signed.get("token").and_then(|token| token.as_str()).unwrap_or_default();
        if let Some(shown) = state.rooms.view(room_id).await?.third_party_name(token).await? {
            proof.insert(String::from("display_name"), CanonicalJsonValue::String(shown));
        }
        let profile = profile_of(state, user_id).await?;
        let mut request = MembershipRequest::others(sender, user_id, profile, None);
        request.extra.insert(String::from("third_party_invite"), CanonicalJsonValue::Object(proof));
        return Ok(state.rooms.invite(room_id, &request).await?);
    }
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let content = CanonicalJsonObject::from([
        (String::from("membership"), text("invite")),
        (String::from("third_party_invite"), CanonicalJsonValue::Object(proof)),
    ]);
    let event = CanonicalJsonObject::from([
        (String::from("type"), text("m.room.member")),
        (String::from("room_id"), text(room_id.as_str())),
        (String::from("sender"), text(sender.as_str())),
        (String::from("state_key"), text(user_id.as_str())),
        (String::from("content"), CanonicalJsonValue::Object(content)),
    ]);
    let client = &state.federation.client;
    Ok(client.exchange_third_party_invite(sender.server_name(), room_id, &event).await?)
}
