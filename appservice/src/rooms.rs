//! What is known of rooms: who is there, and whether they are encrypted. In memory, for the homeserver knows better; kept is only what
//! it must not be believed about: that a room is no longer encrypted, that the bot may come back.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use matrix_sdk::ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::room::{encryption::RoomEncryptionEventContent, history_visibility::HistoryVisibility},
};
use serde::Deserialize;

use crate::{Bridge, Error, StoreError, homeserver::Identity, transaction::Envelope};

/// How many rooms are remembered at once.
const MOST_ROOMS: usize = 10_000;
/// Where is kept which rooms are encrypted: none ever stops to be.
const ENCRYPTED_ROOMS: &str = "entente.encrypted_rooms";
/// Where is kept from which rooms the bot stays away until it is asked in.
const ROOMS_TO_AVOID: &str = "entente.rooms_to_avoid";

/// Who gets the keys of a room, and by which rules.
#[derive(Clone, Debug)]
pub(crate) struct Audience {
    pub(crate) settings: RoomEncryptionEventContent,
    pub(crate) history_visibility: HistoryVisibility,
    pub(crate) members: Arc<BTreeSet<OwnedUserId>>,
}

#[derive(Default)]
struct Known {
    rooms: HashMap<OwnedRoomId, Room>,
    joined: HashSet<(OwnedUserId, OwnedRoomId)>,
    /// Counts what was learnt from events, so that an answer from before does not replace it.
    changes: u64,
}

/// Whether a room is encrypted.
#[derive(Clone, Default)]
enum Knowledge {
    /// Nobody asked yet.
    #[default]
    Unknown,
    /// It is not.
    Clear,
    /// It is, by these rules.
    Encrypted(RoomEncryptionEventContent),
}

#[derive(Clone, Default)]
struct Room {
    encryption: Knowledge,
    history_visibility: Option<HistoryVisibility>,
    members: Option<Members>,
}

/// Who is in a room.
#[derive(Clone, Debug, Default)]
struct Members {
    joined: Arc<BTreeSet<OwnedUserId>>,
    joined_or_invited: Arc<BTreeSet<OwnedUserId>>,
}

impl Members {
    /// Those who may read what is said now. Who is invited may where history is visible from the invite on.
    fn readers(&self, history_visibility: &HistoryVisibility) -> Arc<BTreeSet<OwnedUserId>> {
        match history_visibility {
            HistoryVisibility::Invited | HistoryVisibility::Shared | HistoryVisibility::WorldReadable => {
                Arc::clone(&self.joined_or_invited)
            }
            _ => Arc::clone(&self.joined),
        }
    }
}

/// What is known of all rooms.
#[derive(Default)]
pub(crate) struct Rooms {
    known: Mutex<Known>,
}

#[derive(Deserialize)]
struct MemberEvents {
    chunk: Vec<MemberEvent>,
}

#[derive(Deserialize)]
struct MemberEvent {
    #[serde(default)]
    state_key: String,
    content: Membership,
}

#[derive(Deserialize)]
struct Membership {
    #[serde(default)]
    membership: String,
}

#[derive(Deserialize)]
struct Visibility {
    history_visibility: HistoryVisibility,
}

impl Rooms {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from a state event of a room.
    pub(crate) async fn learn(&self, bridge: &Bridge, envelope: &Envelope) -> Result<(), Error> {
        let Some(state_key) = &envelope.state_key else { return Ok(()) };
        match envelope.event_type.as_str() {
            "m.room.encryption" if state_key.is_empty() => {
                bridge.store().put(ENCRYPTED_ROOMS, envelope.room_id.as_str(), &true).await?;
                self.forget(&envelope.room_id);
            }
            "m.room.history_visibility" if state_key.is_empty() => self.forget(&envelope.room_id),
            "m.room.member" => {
                self.forget(&envelope.room_id);
                let membership: Option<Membership> = serde_json::from_str(envelope.content.get()).ok();
                let membership = membership.map(|content| content.membership).unwrap_or_default();
                if let Ok(user_id) = UserId::parse(state_key) {
                    self.set_joined(&user_id, &envelope.room_id, membership == "join");
                    match membership.as_str() {
                        "join" => self.come_in(bridge, &user_id, &envelope.room_id).await?,
                        "leave" | "ban" => self.stay_away(bridge, &user_id, &envelope.room_id).await?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The bot left, was removed, or was invited by somebody who may not: it does not join by itself, whatever it has to say there.
    /// Ghosts are the bot's business.
    pub(crate) async fn stay_away(
        &self,
        bridge: &Bridge,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<(), StoreError> {
        if user_id == bridge.bot_id() {
            bridge.store().put(ROOMS_TO_AVOID, room_id.as_str(), &true).await?;
        }
        Ok(())
    }

    /// The bot is in the room, or was asked in.
    pub(crate) async fn come_in(
        &self,
        bridge: &Bridge,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<(), StoreError> {
        if user_id == bridge.bot_id() && self.stays_away(bridge, user_id, room_id).await? {
            bridge.store().delete(ROOMS_TO_AVOID, room_id.as_str()).await?;
        }
        Ok(())
    }

    /// Whether a user does not join by itself.
    pub(crate) async fn stays_away(
        &self,
        bridge: &Bridge,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<bool, StoreError> {
        if user_id != bridge.bot_id() {
            return Ok(false);
        }
        Ok(bridge.store().get(ROOMS_TO_AVOID, room_id.as_str()).await?.unwrap_or(false))
    }

    fn forget(&self, room_id: &RoomId) {
        let mut known = self.known();
        known.changes += 1;
        known.rooms.remove(room_id);
    }

    pub(crate) fn is_joined(&self, user_id: &UserId, room_id: &RoomId) -> bool {
        self.known().joined.contains(&(user_id.to_owned(), room_id.to_owned()))
    }

    pub(crate) fn set_joined(&self, user_id: &UserId, room_id: &RoomId, is_joined: bool) {
        let mut known = self.known();
        let pair = (user_id.to_owned(), room_id.to_owned());
        if !is_joined {
            known.joined.remove(&pair);
            return;
        }
        if known.joined.len() >= MOST_ROOMS {
            known.joined.clear();
        }
        known.joined.insert(pair);
    }

    /// Who is joined or invited, if that is known.
    pub(crate) fn known_members(&self, room_id: &RoomId) -> Option<Arc<BTreeSet<OwnedUserId>>> {
        let known = self.known();
        let members = known.rooms.get(room_id)?.members.as_ref()?;
        Some(Arc::clone(&members.joined_or_invited))
    }

    /// How the room is encrypted, if it is. Asks the homeserver as a user who is there.
    pub(crate) async fn audience(
        &self,
        bridge: &Bridge,
        as_user: &UserId,
        room_id: &RoomId,
    ) -> Result<Option<Audience>, Error> {
        let (mut room, changes) = self.snapshot(room_id);
        let identity = Identity::user(as_user);
        if matches!(room.encryption, Knowledge::Unknown) {
            let found = encryption(bridge, identity, room_id).await?;
            room.encryption = found.map_or(Knowledge::Clear, Knowledge::Encrypted);
        }
        let Knowledge::Encrypted(settings) = room.encryption.clone() else {
            self.keep(room_id, room, changes);
            return Ok(None);
        };
        let history_visibility = match room.history_visibility.take() {
            Some(known) => known,
            None => history_visibility(bridge, identity, room_id).await?,
        };
        room.history_visibility = Some(history_visibility.clone());
        let members = match room.members.take() {
            Some(known) => known,
            None => members(bridge, identity, room_id).await?,
        };
        let readers = members.readers(&history_visibility);
        room.members = Some(members);
        self.keep(room_id, room, changes);
        Ok(Some(Audience { settings, history_visibility, members: readers }))
    }

    fn snapshot(&self, room_id: &RoomId) -> (Room, u64) {
        let known = self.known();
        (known.rooms.get(room_id).cloned().unwrap_or_default(), known.changes)
    }

    fn keep(&self, room_id: &RoomId, room: Room, changes: u64) {
        let mut known = self.known();
        if known.changes != changes {
            return;
        }
        if known.rooms.len() >= MOST_ROOMS {
            known.rooms.clear();
        }
        known.rooms.insert(room_id.to_owned(), room);
    }
}

/// The room's encryption. A homeserver that forgets it does not get the room's messages in the clear.
async fn encryption(
    bridge: &Bridge,
    identity: Identity<'_>,
    room_id: &RoomId,
) -> Result<Option<RoomEncryptionEventContent>, Error> {
    let path = ["v3", "rooms", room_id.as_str(), "state", "m.room.encryption", ""];
    match bridge.homeserver().get_state(identity, &path).await {
        Ok(Some(content)) => {
            bridge.store().put(ENCRYPTED_ROOMS, room_id.as_str(), &true).await?;
            Ok(Some(content))
        }
        Ok(None) => {
            let was_encrypted = bridge.store().get::<bool>(ENCRYPTED_ROOMS, room_id.as_str()).await?;
            Ok(was_encrypted.map(|_| RoomEncryptionEventContent::with_recommended_defaults()))
        }
        Err(error) => Err(error),
    }
}

async fn history_visibility(
    bridge: &Bridge,
    identity: Identity<'_>,
    room_id: &RoomId,
) -> Result<HistoryVisibility, Error> {
    let path = ["v3", "rooms", room_id.as_str(), "state", "m.room.history_visibility", ""];
    let content: Option<Visibility> = bridge.homeserver().get_state(identity, &path).await?;
    Ok(content.map_or(HistoryVisibility::Shared, |content| content.history_visibility))
}

async fn members(bridge: &Bridge, identity: Identity<'_>, room_id: &RoomId) -> Result<Members, Error> {
    let events: MemberEvents =
        bridge.homeserver().get(identity, &["v3", "rooms", room_id.as_str(), "members"]).await?;
    let (mut joined, mut joined_or_invited) = (BTreeSet::new(), BTreeSet::new());
    for event in events.chunk {
        let Ok(user_id) = UserId::parse(event.state_key) else { continue };
        if event.content.membership == "join" {
            joined.insert(user_id.clone());
        }
        if matches!(event.content.membership.as_str(), "join" | "invite") {
            joined_or_invited.insert(user_id);
        }
    }
    Ok(Members { joined: Arc::new(joined), joined_or_invited: Arc::new(joined_or_invited) })
}

#[cfg(test)]
mod tests {
    use matrix_sdk::ruma::user_id;

    use super::*;

    #[test]
    fn who_is_invited_gets_keys_only_where_the_past_is_visible_from_the_invite_on() {
        let (joined, invited) = (user_id!("@joined:x").to_owned(), user_id!("@invited:x").to_owned());
        let members = Members {
            joined: Arc::new([joined.clone()].into()),
            joined_or_invited: Arc::new([joined, invited.clone()].into()),
        };
        let gets_keys = |visibility| members.readers(&visibility).contains(&invited);
        assert!(gets_keys(HistoryVisibility::Shared) && gets_keys(HistoryVisibility::Invited));
        assert!(!gets_keys(HistoryVisibility::Joined));
    }
}
