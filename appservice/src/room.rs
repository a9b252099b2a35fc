//! One of the service's users in a room.

use matrix_sdk::ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{MessageLikeEventContent, StateEventContent, room::message::RoomMessageEventContent},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};

use crate::{
    Bridge, Error, User, encryption::Device, homeserver::Identity, rooms::Audience, transaction_ids,
};

/// A user in a room. It is joined, by an invite of the bot if need be, before it does something there.
#[derive(Clone, Debug)]
pub struct InRoom {
    user: User,
    room_id: OwnedRoomId,
}

#[derive(Deserialize)]
struct Sent {
    event_id: OwnedEventId,
}

impl InRoom {
    pub(crate) fn new(user: User, room_id: OwnedRoomId) -> Self {
        Self { user, room_id }
    }

    /// The room.
    pub fn id(&self) -> &RoomId {
        &self.room_id
    }

    /// The user.
    pub fn user(&self) -> &User {
        &self.user
    }

    fn bridge(&self) -> &Bridge {
        self.user.bridge()
    }

    fn path<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        ["v3", "rooms", self.room_id.as_str()].into_iter().chain(rest.iter().copied()).collect()
    }

    /// Joins the room if the user is not known to be there. If the room takes only who is invited, the bot invites. The bot itself does
    /// not come back by this where it left or was removed ([`Error::StaysAway`]).
    pub async fn ensure_joined(&self) -> Result<(), Error> {
        self.user.ensure_registered().await?;
        let rooms = self.bridge().rooms();
        if rooms.is_joined(self.user.id(), &self.room_id) {
            return Ok(());
        }
        if rooms.stays_away(self.bridge(), self.user.id(), &self.room_id).await? {
            return Err(Error::StaysAway { room_id: self.room_id.clone() });
        }
        match self.join().await {
            Ok(()) => Ok(()),
            Err(error) if error.is("M_FORBIDDEN") && self.is_ghost() => {
                self.bridge().bot().in_room(&self.room_id).invite(self.user.id()).await?;
                self.join().await
            }
            Err(error) => Err(error),
        }
    }

    /// Joins the room, also where the bot stayed away from it.
    pub async fn join(&self) -> Result<(), Error> {
        self.user.ensure_registered().await?;
        let path = self.path(&["join"]);
        self.bridge().homeserver().post::<Value>(self.user.identity(), &path, &json!({})).await?;
        let rooms = self.bridge().rooms();
        rooms.come_in(self.bridge(), self.user.id(), &self.room_id).await?;
        rooms.set_joined(self.user.id(), &self.room_id, true);
        Ok(())
    }

    /// Leaves the room.
    pub async fn leave(&self) -> Result<(), Error> {
        let path = self.path(&["leave"]);
        self.bridge().homeserver().post::<Value>(self.user.identity(), &path, &json!({})).await?;
        let rooms = self.bridge().rooms();
        rooms.stay_away(self.bridge(), self.user.id(), &self.room_id).await?;
        rooms.set_joined(self.user.id(), &self.room_id, false);
        Ok(())
    }

    /// Invites somebody. It is no error if they are there already.
    pub async fn invite(&self, user_id: &UserId) -> Result<(), Error> {
        let (path, body) = (self.path(&["invite"]), json!({ "user_id": user_id }));
        let invited: Result<Value, _> =
            self.bridge().homeserver().post(self.user.identity(), &path, &body).await;
        match invited {
            Ok(_) => Ok(()),
            Err(error) if error.is("M_FORBIDDEN") && self.is_member(user_id).await => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether somebody is joined, as far as the user of this value is told.
    async fn is_member(&self, user_id: &UserId) -> bool {
        let path = self.path(&["state", "m.room.member", user_id.as_str()]);
        let member: Result<Option<Value>, _> =
            self.bridge().homeserver().get_state(self.user.identity(), &path).await;
        member.ok().flatten().is_some_and(|content| content.get("membership") == Some(&json!("join")))
    }

    /// Sends an event, encrypted if the room is.
    pub async fn send(&self, content: impl MessageLikeEventContent) -> Result<OwnedEventId, Error> {
        let event_type = content.event_type().to_string();
        self.send_raw(&event_type, &content).await
    }

    /// Sends a text as a notice: what bots say, so that other bots do not answer.
    pub async fn notice(&self, text: impl Into<String>) -> Result<OwnedEventId, Error> {
        self.send(RoomMessageEventContent::notice_plain(text)).await
    }

    /// Sends an event of any type, encrypted if the room is.
    pub async fn send_raw(&self, event_type: &str, content: &impl Serialize) -> Result<OwnedEventId, Error> {
        let content =
            serde_json::value::to_raw_value(content).map_err(|error| Error::Request(error.to_string()))?;
        let environment = self.bridge().environment();
        let transaction_id = transaction_ids::next(environment, self.user.id(), &self.room_id, event_type);
        self.ensure_joined().await?;
        // Encrypting is a long story; it is kept off the callers' stacks.
        let sent = Box::pin(self.send_as(event_type, &content, transaction_id.as_str())).await;
        match sent {
            // Somebody removed the user, and the news has not come yet.
            Err(error) if error.is("M_FORBIDDEN") && self.is_ghost() && self.rejoin().await => {
                Box::pin(self.send_as(event_type, &content, transaction_id.as_str())).await
            }
            // Somebody deleted the user's device; another takes its place.
            Err(error) if error.is("M_UNKNOWN_DEVICE") => {
                Box::pin(self.send_as(event_type, &content, transaction_id.as_str())).await
            }
            sent => sent,
        }
    }

    /// A bot that was removed stays away until it is invited again; ghosts are the bot's business.
    fn is_ghost(&self) -> bool {
        self.user.id() != self.bridge().bot_id()
    }

    /// Whether the user was not in the room, and is now.
    async fn rejoin(&self) -> bool {
        if self.is_member(self.user.id()).await {
            return false;
        }
        self.bridge().rooms().set_joined(self.user.id(), &self.room_id, false);
        self.ensure_joined().await.is_ok()
    }

    async fn send_as(
        &self,
        event_type: &str,
        content: &RawValue,
        transaction_id: &str,
    ) -> Result<OwnedEventId, Error> {
        let audience = self.bridge().rooms().audience(self.bridge(), self.user.id(), &self.room_id).await?;
        // A reaction is read by the server, to be counted with what it is a reaction to.
        let Some(audience) = audience.filter(|_| event_type != "m.reaction") else {
            return self.put(self.user.identity(), event_type, content, transaction_id).await;
        };
        let not_encrypting =
            || Error::NotEncrypting { user_id: self.user.id().to_owned(), room_id: self.room_id.clone() };
        let encryption = self.bridge().encryption().ok_or_else(not_encrypting)?;
        if !encryption.covers(self.user.id()) {
            return Err(not_encrypting());
        }
        let device = encryption.device(self.bridge(), self.user.id()).await?;
        let sent = self.send_encrypted(&device, &audience, event_type, content, transaction_id).await;
        if sent.as_ref().is_err_and(|error| error.is("M_UNKNOWN_DEVICE")) {
            encryption.close(self.bridge(), &device);
        }
        sent
    }

    async fn send_encrypted(
        &self,
        device: &Device,
        audience: &Audience,
        event_type: &str,
        content: &RawValue,
        transaction_id: &str,
    ) -> Result<OwnedEventId, Error> {
        let encrypted = device.encrypt(&self.room_id, audience, event_type, content).await?;
        let identity = Identity::device(self.user.id(), device.id());
        self.put(identity, "m.room.encrypted", &encrypted, transaction_id).await
    }

    async fn put(
        &self,
        identity: Identity<'_>,
        event_type: &str,
        content: impl Serialize,
        transaction_id: &str,
    ) -> Result<OwnedEventId, Error> {
        let path = self.path(&["send", event_type, transaction_id]);
        let sent: Sent = self.bridge().homeserver().put(identity, &path, &content).await?;
        Ok(sent.event_id)
    }

    /// Reacts to an event.
    pub async fn react(&self, event_id: &EventId, key: &str) -> Result<OwnedEventId, Error> {
        let relation = json!({ "rel_type": "m.annotation", "event_id": event_id, "key": key });
        self.send_raw("m.reaction", &json!({ "m.relates_to": relation })).await
    }

    /// Takes an event back.
    pub async fn redact(&self, event_id: &EventId, reason: &str) -> Result<OwnedEventId, Error> {
        self.ensure_joined().await?;
        let environment = self.bridge().environment();
        let transaction_id =
            transaction_ids::next(environment, self.user.id(), &self.room_id, "m.room.redaction");
        let path = self.path(&["redact", event_id.as_str(), transaction_id.as_str()]);
        let body = json!({ "reason": reason });
        let sent: Sent = self.bridge().homeserver().put(self.user.identity(), &path, &body).await?;
        Ok(sent.event_id)
    }

    /// Sets a state of the room.
    pub async fn set_state(
        &self,
        state_key: &str,
        content: impl StateEventContent,
    ) -> Result<OwnedEventId, Error> {
        let event_type = content.event_type().to_string();
        self.ensure_joined().await?;
        let path = self.path(&["state", &event_type, state_key]);
        let sent: Sent = self.bridge().homeserver().put(self.user.identity(), &path, &content).await?;
        Ok(sent.event_id)
    }

    /// A state of the room, if there is one.
    pub async fn state<T: DeserializeOwned>(
        &self,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<T>, Error> {
        self.ensure_joined().await?;
        let path = self.path(&["state", event_type, state_key]);
        self.bridge().homeserver().get_state(self.user.identity(), &path).await
    }

    /// Who made the room.
    pub async fn creator(&self) -> Result<OwnedUserId, Error> {
        #[derive(Deserialize)]
        struct Creation {
            sender: OwnedUserId,
        }
        self.ensure_joined().await?;
        let path = self.path(&["state", "m.room.create", ""]);
        let query = [("format", "event")];
        let homeserver = self.bridge().homeserver();
        let event: Creation =
            homeserver.json(http::Method::GET, self.user.identity(), &path, &query, None::<&()>).await?;
        Ok(event.sender)
    }

    /// The ids of who is joined.
    pub async fn joined_members(&self) -> Result<Vec<OwnedUserId>, Error> {
        #[derive(Deserialize)]
        struct Joined {
            joined: std::collections::BTreeMap<OwnedUserId, Value>,
        }
        self.ensure_joined().await?;
        let path = self.path(&["joined_members"]);
        let members: Joined = self.bridge().homeserver().get(self.user.identity(), &path).await?;
        Ok(members.joined.into_keys().collect())
    }

    /// Shows, for at most 30 s, that the user is typing, or no longer is.
    pub async fn typing(&self, is_typing: bool) -> Result<(), Error> {
        self.ensure_joined().await?;
        let path = self.path(&["typing", self.user.id().as_str()]);
        let body =
            if is_typing { json!({ "typing": true, "timeout": 30_000 }) } else { json!({ "typing": false }) };
        self.bridge().homeserver().put::<Value>(self.user.identity(), &path, &body).await?;
        Ok(())
    }
}
