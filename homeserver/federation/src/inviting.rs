//! Invites between servers (S-S API, "Inviting to a room").

use entente_rooms::{Membership, MembershipRequest, OutsideMembership, Pdu, Profile, Received, RoomError};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomId, OwnedServerName,
    OwnedUserId, RoomId, RoomVersionId, ServerName, UserId, room_version_rules::RoomIdFormatVersion,
};

use crate::{
    FederationError, SharedRooms,
    answering::require_own_user,
    joining::{is_create_of, stripped},
    verification::verify_good,
};

/// Events with which a room is shown to somebody who is invited.
const MOST_TOLD: usize = 100;

/// An invite for a user of this server, as another server sends it.
#[derive(Clone, Debug)]
pub struct ReceivedInvite {
    /// Who sends it.
    pub origin: OwnedServerName,
    /// To which room.
    pub room_id: OwnedRoomId,
    /// The invite's id, as the path has it.
    pub event_id: OwnedEventId,
    /// The room's version.
    pub version: RoomVersionId,
    /// The invite.
    pub event: CanonicalJsonObject,
    /// What the user is told of the room.
    pub told: Vec<CanonicalJsonObject>,
}

impl ReceivedInvite {
    /// Who is invited.
    pub fn target(&self) -> Result<OwnedUserId, FederationError> {
        let state_key = self.event.get("state_key").and_then(|state_key| state_key.as_str());
        let target = state_key.and_then(|state_key| UserId::parse(state_key).ok());
        target.ok_or(FederationError::BadEvent("the invite is for no user"))
    }

    /// Who invites.
    pub fn sender(&self) -> Result<OwnedUserId, FederationError> {
        let sender = self.event.get("sender").and_then(|sender| sender.as_str());
        let sender = sender.and_then(|sender| UserId::parse(sender).ok());
        sender.ok_or(FederationError::BadEvent("the invite comes from no user"))
    }
}

impl SharedRooms {
    /// Takes in an invite for a user of this server, which whoever calls made sure exists and may be invited. Answers it with this
    /// server's signature.
    pub async fn accept_invite(
        &self,
        invite: ReceivedInvite,
    ) -> Result<CanonicalJsonObject, FederationError> {
        let rules = invite.version.rules();
        let rules = rules.ok_or_else(|| FederationError::IncompatibleVersion(invite.version.clone()))?;
        let target = invite.target()?;
        require_own_user(&invite.origin, &invite.sender()?)?;
        let content = invite.event.get("content").and_then(|content| content.as_object());
        let membership = content.and_then(|content| content.get("membership"));
        let room_id = invite.event.get("room_id").and_then(|room_id| room_id.as_str());
        let event_type = invite.event.get("type").and_then(|event_type| event_type.as_str());
        if membership.and_then(|membership| membership.as_str()) != Some("invite")
            || room_id != Some(invite.room_id.as_str())
            || event_type != Some("m.room.member")
        {
            return Err(FederationError::BadEvent("the event is no invite to that room"));
        }
        if rules.room_id_format == RoomIdFormatVersion::V2 {
            check_create(&invite)?;
        }
        let verified = verify_good(&*self.inner.keys, &rules, vec![invite.event.clone()]).await?.pop();
        let verified =
            verified.ok_or(FederationError::BadEvent("the invite is not signed as it should be"))?;
        if verified.event_id != invite.event_id {
            return Err(FederationError::BadEvent("the invite is not the one that the path names"));
        }
        let mut signed = invite.event.clone();
        self.inner.rooms.cosign(&mut signed, &rules)?;
        let own = Pdu::new(signed.clone(), &rules)?;
        debug_assert_eq!(*own.event_id(), invite.event_id);
        if self.is_resident(&invite.room_id).await? {
            let _turn = self.turn(&invite.room_id, &invite.origin).await;
            let received = self.fit_in(&invite.origin, &invite.room_id, &verified).await;
            if matches!(received, Ok(Received::Accepted | Received::Known)) {
                return Ok(signed);
            }
        }
        let outside = OutsideMembership {
            room_id: invite.room_id,
            version: invite.version,
            user_id: target,
            membership: Membership::Invite,
            event: verified,
            told: invite.told.into_iter().take(MOST_TOLD).map(stripped).collect(),
        };
        self.inner.rooms.note_outside(&outside).await?;
        Ok(signed)
    }

    /// Invites a user of another server: that server signs, then it is part of the room.
    pub async fn invite(&self, room_id: &RoomId, request: &MembershipRequest) -> Result<(), FederationError> {
        let server = request.target.server_name();
        let view = self.inner.rooms.view(room_id).await?;
        view.require_allowed(server).await?;
        let prepared = self.inner.rooms.prepare_invite(room_id, request).await?;
        let parsed = |json: &[u8]| {
            serde_json::from_slice::<CanonicalJsonObject>(json)
                .map_err(|error| FederationError::Internal(error.to_string()))
        };
        let event = parsed(&prepared.event)?;
        let told = prepared.told.iter().map(|json| parsed(json)).collect::<Result<Vec<_>, _>>()?;
        let peers = &self.inner.peers;
        let signed =
            peers.invite(server, room_id, &prepared.event_id, &prepared.version, &event, &told).await?;
        let pdu = self.verify_one(&view, signed).await?;
        if pdu.event_id != prepared.event_id {
            let reason = String::from("the signed invite is another one");
            return Err(FederationError::BadAnswer { server: server.to_owned(), reason });
        }
        let _turn = self.turn(room_id, server).await;
        match self.inner.rooms.receive(room_id, &pdu).await? {
            Received::Accepted | Received::Known => Ok(()),
            Received::Rejected(reason) => Err(RoomError::Unauthorized(reason).into()),
            _ => Err(RoomError::Forbidden("the room does not allow the invite any more").into()),
        }
    }

    /// Invites the user of another server whom an address turned out to be, in the name of the user of this server who invited that
    /// address (S-S API, "Third-party invites"). The rules of the room decide whether the proof of that is good.
    pub async fn exchange_third_party_invite(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event: &CanonicalJsonObject,
    ) -> Result<(), FederationError> {
        let view = self.resident_view(origin, room_id).await?;
        let text = |object: &CanonicalJsonObject, field: &str| {
            object.get(field).and_then(|text| text.as_str()).map(str::to_owned)
        };
        let user = |field: &str| text(event, field).and_then(|user_id| UserId::parse(user_id).ok());
        let (Some(sender), Some(target)) = (user("sender"), user("state_key")) else {
            return Err(FederationError::BadEvent("the event names no sender or no user"));
        };
        require_own_user(origin, &target)?;
        if self.inner.rooms.local(sender.as_str()).is_none() {
            return Err(FederationError::BadEvent("the sender is not of this server"));
        }
        let content = event.get("content").and_then(|content| content.as_object());
        let content = content.ok_or(FederationError::BadEvent("the event has no content"))?;
        let invite = content.get("third_party_invite").and_then(|invite| invite.as_object());
        let invite = invite.ok_or(FederationError::BadEvent("the event proves no address"))?;
        let signed = invite.get("signed").and_then(|signed| signed.as_object());
        let is_fitting = text(event, "type").as_deref() == Some("m.room.member")
            && text(content, "membership").as_deref() == Some("invite")
            && signed.and_then(|signed| text(signed, "mxid")).as_deref() == Some(target.as_str());
        if !is_fitting {
            return Err(FederationError::BadEvent("the event is no invite of that user"));
        }
        let token = signed.and_then(|signed| text(signed, "token")).unwrap_or_default();
        let shown = view.third_party_name(&token).await?;
        let mut proof = invite.clone();
        // How the address may be shown is known here, and need not be to the other server.
        if let Some(shown) = shown.filter(|_| !proof.contains_key("display_name")) {
            proof.insert(String::from("display_name"), CanonicalJsonValue::String(shown));
        }
        let mut request = MembershipRequest::others(&sender, &target, Profile::default(), None);
        request.extra.insert(String::from("third_party_invite"), CanonicalJsonValue::Object(proof));
        self.invite(&view.room.room_id, &request).await
    }

    /// Whether this server is in a room.
    pub async fn is_resident(&self, room_id: &RoomId) -> Result<bool, FederationError> {
        match self.inner.rooms.view(room_id).await {
            Ok(view) => Ok(view.is_resident().await?),
            Err(RoomError::RoomNotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Refuses an invite whose create event, if it is told, is another room's (room version 12, "Room IDs").
fn check_create(invite: &ReceivedInvite) -> Result<(), FederationError> {
    let is_create = |event: &&CanonicalJsonObject| {
        event.get("type").and_then(|event_type| event_type.as_str()) == Some("m.room.create")
    };
    let Some(create) = invite.told.iter().find(is_create) else { return Ok(()) };
    // Older servers tell stripped state, from which no id can be made.
    if !create.contains_key("hashes") {
        return Ok(());
    }
    let rules = invite.version.rules();
    let rules = rules.ok_or_else(|| FederationError::IncompatibleVersion(invite.version.clone()))?;
    let create: Pdu = Pdu::new(create.clone(), &rules)?;
    let event_id: &EventId = create.event_id();
    if is_create_of(&invite.room_id, event_id) {
        Ok(())
    } else {
        Err(FederationError::BadEvent("the create event is another room's"))
    }
}
