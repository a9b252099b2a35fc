//! What a room shows of itself to those who are not in it.

use std::sync::Arc;

use entente_storage::Snapshot;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Event, Membership, RoomError, RoomView, Rooms, RoomsElsewhere, membership::JoinRules, rows,
    visibility::HistoryVisibility,
};

/// Rooms whose members may join are looked through up to this many.
const MOST_ALLOWED_ROOMS: usize = 100;

/// A room in a few words (C-S API, `GET /room_summary`; also a room of the directory, and of a space).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomSummary {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its canonical alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    /// Its avatar, an `mxc` URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// What kind of room it is, such as `m.space`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// How many have joined.
    pub num_joined_members: u64,
    /// Its join rule.
    #[serde(default = "public")]
    pub join_rule: String,
    /// The rooms whose members may join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
    /// Whether everybody may read it.
    pub world_readable: bool,
    /// Whether guests may join.
    pub guest_can_join: bool,
    /// How it is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// Its version; empty if another server did not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub room_version: String,
}

/// What other servers leave out.
fn public() -> String {
    String::from("public")
}

/// The state of which a summary is made.
const KEYS: [(&str, &str); 9] = [
    ("m.room.create", ""),
    ("m.room.name", ""),
    ("m.room.topic", ""),
    ("m.room.canonical_alias", ""),
    ("m.room.avatar", ""),
    ("m.room.join_rules", ""),
    ("m.room.history_visibility", ""),
    ("m.room.guest_access", ""),
    ("m.room.encryption", ""),
];

/// Texts of contents.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Texts {
    name: Option<String>,
    topic: Option<String>,
    alias: Option<String>,
    url: Option<String>,
    #[serde(rename = "type")]
    room_type: Option<String>,
    guest_access: Option<String>,
    algorithm: Option<String>,
}

impl RoomView {
    /// The room in a few words.
    pub async fn summary(&self) -> Result<RoomSummary, RoomError> {
        let events = self.state_events(self.current_state().await?, &KEYS).await?;
        let [create, name, topic, alias, avatar, join_rules, visibility, guests, encryption] =
            <[Option<Arc<Event>>; 9]>::try_from(events)
                .map_err(|_| RoomError::Internal(String::from("a state without its keys")))?;
        let texts = |event: &Option<Arc<Event>>| -> Texts {
            event.as_deref().and_then(Event::content_as).unwrap_or_default()
        };
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let rules: Option<JoinRules> = join_rules.as_deref().and_then(Event::content_as);
        let (join_rule, allowed_room_ids) = match rules {
            Some(rules) => (rules.join_rule.clone(), rules.allowed_rooms().map(ToOwned::to_owned).collect()),
            None => (String::from("invite"), Vec::new()),
        };
        Ok(RoomSummary {
            room_id: self.room.room_id.clone(),
            name: filled(texts(&name).name),
            topic: filled(texts(&topic).topic),
            canonical_alias: filled(texts(&alias).alias),
            avatar_url: filled(texts(&avatar).url),
            room_type: filled(texts(&create).room_type),
            num_joined_members: self.member_counts().await?.0,
            join_rule,
            allowed_room_ids,
            world_readable: HistoryVisibility::of(visibility.as_deref()) == HistoryVisibility::WorldReadable,
            guest_can_join: texts(&guests).guest_access.as_deref() == Some("can_join"),
            encryption: filled(texts(&encryption).algorithm),
            room_version: self.room.version.to_string(),
        })
    }

    /// Whether somebody may be shown the summary of the room: it is open to all, they could come in, or they are in it or invited.
    pub async fn may_see_summary(
        &self,
        summary: &RoomSummary,
        reader: Option<&UserId>,
    ) -> Result<bool, RoomError> {
        let is_open = matches!(summary.join_rule.as_str(), "public" | "knock" | "knock_restricted");
        if is_open || summary.world_readable {
            return Ok(true);
        }
        let Some(reader) = reader else { return Ok(false) };
        let own = self.membership(reader).await?;
        if matches!(own, Some(Membership::Join | Membership::Invite | Membership::Knock)) {
            return Ok(true);
        }
        if summary.join_rule != "restricted" {
            return Ok(false);
        }
        let rooms = summary.allowed_room_ids.iter().map(|room_id| &**room_id);
        self.is_in_any_of(reader, rooms).await
    }
}

impl Rooms {
    /// The same of a room in which this server is not, as another server shows it.
    pub(crate) async fn may_see_elsewhere(
        &self,
        snapshot: &Snapshot,
        summary: &RoomSummary,
        reader: &UserId,
    ) -> Result<bool, RoomError> {
        let is_open = matches!(summary.join_rule.as_str(), "public" | "knock" | "knock_restricted");
        if is_open || summary.world_readable {
            return Ok(true);
        }
        let own = self.own_membership(&summary.room_id, reader).await?;
        if own.is_some_and(|(own, _)| matches!(own, Membership::Invite | Membership::Knock)) {
            return Ok(true);
        }
        if summary.join_rule != "restricted" {
            return Ok(false);
        }
        for room_id in summary.allowed_room_ids.iter().take(MOST_ALLOWED_ROOMS) {
            let room = match self.room(snapshot, room_id).await {
                Ok(room) => room,
                Err(RoomError::RoomNotFound) => continue,
                Err(error) => return Err(error),
            };
            let row = snapshot.get(&rows::MEMBERS, (room.number.0, reader.as_str())).await?;
            if row.is_some_and(|row| row.membership == Membership::Join) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A room in which this server is not, in a few words, as others show it: for a local user who may see it. With what the user has
    /// to do with it.
    pub async fn summary_elsewhere(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
        reader: &UserId,
        elsewhere: &dyn RoomsElsewhere,
    ) -> Result<(RoomSummary, Option<Membership>), RoomError> {
        let mut servers: Vec<OwnedServerName> = self.ways_to(reader, room_id).await?;
        servers.splice(0..0, via.iter().filter(|server| *server != self.server_name()).cloned());
        let answer = elsewhere.room(room_id, &servers, false).await.ok_or(RoomError::RoomNotFound)?;
        let summary = answer.room.summary.clone();
        let snapshot = self.store().snapshot().await?;
        if !self.may_see_elsewhere(&snapshot, &summary, reader).await? {
            return Err(RoomError::RoomNotFound);
        }
        let own = self.own_membership(room_id, reader).await?;
        Ok((summary, own.map(|(own, _)| own)))
    }
}
