//! What other servers ask when their users join, leave or knock (S-S API, "Joining Rooms", "Leaving Rooms", "Knocking upon a room").

use entente_rooms::{Received, RoomError, RoomView, VerifiedPdu};
use ruma::{CanonicalJsonObject, EventId, OwnedEventId, RoomId, RoomVersionId, ServerName, UserId};

use crate::{FederationError, SharedRooms, verification::verify};

/// A membership event for another server to sign.
#[derive(Clone, Debug)]
pub struct Template {
    /// The room's version.
    pub version: RoomVersionId,
    /// The event, without hash and signature.
    pub event: CanonicalJsonObject,
}

/// What a server is told of the room into which its user came.
#[derive(Clone, Debug)]
pub struct SendJoinAnswer {
    /// The join, with the signature of this server where one of its users authorised it, and that of the room's policy server.
    pub event: CanonicalJsonObject,
    /// The state before the join: canonical JSON of each event.
    pub state: Vec<entente_storage::Bytes>,
    /// What authorises it.
    pub auth_chain: Vec<entente_storage::Bytes>,
    /// The servers in the room, where memberships were left out of the state.
    pub servers: Option<Vec<String>>,
}

impl SharedRooms {
    /// A membership event for a user of another server to sign: `join`, `leave` or `knock`.
    pub async fn make_membership(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        membership: &str,
        versions: &[RoomVersionId],
    ) -> Result<Template, FederationError> {
        require_own_user(origin, user_id)?;
        let view = self.resident_view(origin, room_id).await?;
        if membership != "leave" && !versions.contains(&view.room.version) {
            return Err(FederationError::IncompatibleVersion(view.room.version.clone()));
        }
        let (version, event) = self.inner.rooms.membership_template(room_id, user_id, membership).await?;
        Ok(Template { version, event })
    }

    /// Lets a user of another server in. `omits_members`: that server does not need everybody's membership.
    pub async fn accept_join(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        mut event: CanonicalJsonObject,
        omits_members: bool,
    ) -> Result<SendJoinAnswer, FederationError> {
        let view = self.resident_view(origin, room_id).await?;
        check_membership(origin, &event, "join")?;
        self.inner.rooms.cosign_join(room_id, &mut event).await?;
        let event_id = self.accept_membership(origin, &view, event_id, event).await?;
        let event = self.signed_join(room_id, &event_id).await?;
        let answer = self.inner.rooms.join_answer(room_id, &event_id, omits_members).await?;
        let servers = if omits_members {
            let mut servers = self.inner.rooms.view(room_id).await?.servers().await?;
            servers.push(self.inner.rooms.server_name().to_string());
            Some(servers)
        } else {
            None
        };
        Ok(SendJoinAnswer { event, state: answer.state, auth_chain: answer.auth_chain, servers })
    }

    /// A join as it is kept here: with the signatures that it got on its way in.
    async fn signed_join(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<CanonicalJsonObject, FederationError> {
        let join = self.inner.rooms.view(room_id).await?.event_by_id(event_id).await?;
        let join = join.ok_or(RoomError::EventNotFound)?;
        serde_json::from_slice(join.json())
            .map_err(|error| FederationError::Internal(format!("a stored event: {error}")))
    }

    /// Takes in that a user of another server leaves, or declines an invite.
    pub async fn accept_leave(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: CanonicalJsonObject,
    ) -> Result<(), FederationError> {
        let view = self.resident_view(origin, room_id).await?;
        check_membership(origin, &event, "leave")?;
        self.accept_membership(origin, &view, event_id, event).await?;
        Ok(())
    }

    /// Takes in that a user of another server knocks. Answers what that user is told of the room.
    pub async fn accept_knock(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: CanonicalJsonObject,
    ) -> Result<Vec<entente_storage::Bytes>, FederationError> {
        let view = self.resident_view(origin, room_id).await?;
        check_membership(origin, &event, "knock")?;
        self.accept_membership(origin, &view, event_id, event).await?;
        Ok(self.inner.rooms.view(room_id).await?.told_to_others().await?)
    }

    /// A room in which this server is, for a server that the room does not shut out.
    pub async fn resident_view(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<RoomView, FederationError> {
        let view = self.inner.rooms.view(room_id).await?;
        if !view.is_resident().await? {
            return Err(RoomError::RoomNotFound.into());
        }
        view.require_allowed(origin).await?;
        Ok(view)
    }

    /// A room for a server that is in it.
    pub async fn readable_view(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<RoomView, FederationError> {
        let view = self.resident_view(origin, room_id).await?;
        view.require_server(origin).await?;
        Ok(view)
    }

    async fn accept_membership(
        &self,
        origin: &ServerName,
        view: &RoomView,
        event_id: &EventId,
        event: CanonicalJsonObject,
    ) -> Result<OwnedEventId, FederationError> {
        let pdu = self.verify_one(view, event).await?;
        if pdu.event_id != event_id {
            return Err(FederationError::BadEvent("the event is not the one that the path names"));
        }
        let room_id = &view.room.room_id;
        let _turn = self.turn(room_id, origin).await;
        match self.fit_in(origin, room_id, &pdu).await? {
            Received::Accepted | Received::Known => Ok(pdu.event_id),
            Received::Rejected(reason) => Err(RoomError::Unauthorized(reason).into()),
            Received::SoftFailed => Err(RoomError::Forbidden("the room does not allow it any more").into()),
            Received::MissingAuthEvents(_) | Received::MissingPrevEvents(_) => {
                Err(FederationError::BadEvent("the event names events that cannot be had"))
            }
        }
    }

    /// Checks one event; why it is refused is the answer.
    pub(crate) async fn verify_one(
        &self,
        view: &RoomView,
        event: CanonicalJsonObject,
    ) -> Result<VerifiedPdu, FederationError> {
        let verified = verify(&*self.inner.keys, &view.room.rules, vec![event]).await?.pop();
        Ok(verified.ok_or(FederationError::BadEvent("there is no event"))??)
    }
}

/// Refuses what a server says of another one's users.
pub(crate) fn require_own_user(origin: &ServerName, user_id: &UserId) -> Result<(), FederationError> {
    if user_id.server_name() == origin {
        Ok(())
    } else {
        Err(RoomError::Forbidden("a server speaks for its own users only").into())
    }
}

/// Refuses what is not the own membership of a user of the server.
fn check_membership(
    origin: &ServerName,
    event: &CanonicalJsonObject,
    membership: &str,
) -> Result<(), FederationError> {
    let text = |field: &str| event.get(field).and_then(|text| text.as_str());
    let content = event.get("content").and_then(|content| content.as_object());
    let told = content.and_then(|content| content.get("membership")).and_then(|told| told.as_str());
    let is_own = text("sender").is_some() && text("sender") == text("state_key");
    if text("type") != Some("m.room.member") || !is_own || told != Some(membership) {
        return Err(FederationError::BadEvent("the event is not such a membership of its sender"));
    }
    let sender = text("sender").and_then(|sender| <&UserId>::try_from(sender).ok());
    require_own_user(origin, sender.ok_or(FederationError::BadEvent("the sender is no user"))?)
}
