use std::{collections::HashSet, sync::Arc, time::Duration};

use entente_rooms::{EventFilter, RelatedBy};
use ruma::{
    OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId,
    api::client::filter::{Filter, FilterDefinition, RoomEventFilter},
};
use serde::Deserialize;

use crate::{SyncToken, event_form::EventForm};

/// Events of a timeline unless a filter says otherwise.
const DEFAULT_LIMIT: usize = 10;
/// Events of a timeline at the most.
const MOST_EVENTS: usize = 1_000;

/// A request for what is new.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Whose.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// How far the client has come; `None`: it knows nothing.
    pub since: Option<SyncToken>,
    /// How long to wait for something new.
    pub timeout: Duration,
    /// Whether to give the whole state of every room.
    pub full_state: bool,
    /// Of which point of the timeline the state is.
    pub state_mode: StateMode,
    /// What the client wants, see [`Sync::filter`](crate::Sync::filter).
    pub filter: Arc<SyncFilter>,
}

impl SyncRequest {
    /// From where on the client waits for news: one that is yet to be given what is there does not wait.
    pub(crate) fn waits_from(&self) -> Option<&SyncToken> {
        self.since.as_ref().filter(|since| !self.full_state && since.to_device.is_none())
    }
}

/// Of which point of the timeline the state is, and under which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateMode {
    /// `state`: before the timeline.
    Before,
    /// `state_after`: behind the timeline.
    After,
    /// `org.matrix.msc4222.state_after`: the same.
    AfterUnstable,
}

impl StateMode {
    pub(crate) fn is_after(self) -> bool {
        self != Self::Before
    }

    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Before => "state",
            Self::After => "state_after",
            Self::AfterUnstable => "org.matrix.msc4222.state_after",
        }
    }
}

/// A client's filter (C-S API, "Filtering") in a form that is quick to ask.
#[derive(Clone, Debug)]
pub struct SyncFilter {
    pub(crate) definition: FilterDefinition,
    timeline: EventFilter,
    state: EventFilter,
    pub(crate) limit: usize,
    pub(crate) form: Arc<EventForm>,
    rooms: Option<HashSet<OwnedRoomId>>,
    not_rooms: HashSet<OwnedRoomId>,
}

impl From<FilterDefinition> for SyncFilter {
    fn from(definition: FilterDefinition) -> Self {
        let timeline = &definition.room.timeline;
        let limit = timeline.limit.and_then(|limit| usize::try_from(u64::from(limit)).ok());
        Self {
            timeline: EventFilter::from(timeline),
            state: EventFilter::from(&definition.room.state),
            limit: limit.unwrap_or(DEFAULT_LIMIT).min(MOST_EVENTS),
            rooms: definition.room.rooms.as_ref().map(|rooms| rooms.iter().cloned().collect()),
            not_rooms: definition.room.not_rooms.iter().cloned().collect(),
            form: Arc::new(EventForm::from(&definition)),
            definition,
        }
    }
}

impl Default for SyncFilter {
    fn default() -> Self {
        FilterDefinition::default().into()
    }
}

/// What `ruma` leaves out of a filter.
#[derive(Default, Deserialize)]
struct Relations {
    #[serde(default)]
    room: RelationsOfRooms,
}

#[derive(Default, Deserialize)]
struct RelationsOfRooms {
    #[serde(default)]
    timeline: RelatedBy,
    #[serde(default)]
    state: RelatedBy,
}

impl SyncFilter {
    /// Reads a filter as clients send it: a JSON object.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        let definition: FilterDefinition = serde_json::from_slice(json)?;
        let Relations { room } = serde_json::from_slice(json)?;
        let mut filter = Self::from(definition);
        filter.timeline = filter.timeline.related_by(room.timeline);
        filter.state = filter.state.related_by(room.state);
        Ok(filter)
    }

    /// Whether the client wants to hear of a room.
    pub(crate) fn wants_room(&self, room_id: &RoomId) -> bool {
        self.rooms.as_ref().is_none_or(|rooms| rooms.contains(room_id)) && !self.not_rooms.contains(room_id)
    }

    /// Which events of a room's timeline the client wants.
    pub(crate) fn timeline_of(&self, room_id: &RoomId) -> EventFilter {
        self.timeline.clone().in_room(room_id)
    }

    /// Which state of a room the client wants.
    pub(crate) fn state_of(&self, room_id: &RoomId) -> EventFilter {
        self.state.clone().in_room(room_id)
    }

    /// Whether membership events are given only of those who sent something.
    pub(crate) fn lazy_loads(&self) -> bool {
        let room = &self.definition.room;
        !room.state.lazy_load_options.is_disabled() || !room.timeline.lazy_load_options.is_disabled()
    }
}

/// Whether a filter of one part of a room (receipts, account data) wants this of this room.
pub(crate) fn room_part_wants(filter: &RoomEventFilter, room_id: &RoomId, event_type: &str) -> bool {
    let has_room = |rooms: &[OwnedRoomId]| rooms.iter().any(|room| room == room_id);
    filter.rooms.as_deref().is_none_or(has_room)
        && !has_room(&filter.not_rooms)
        && wants_type(filter.types.as_deref(), &filter.not_types, event_type)
}

/// Whether a filter of global things wants this type.
pub(crate) fn global_wants(filter: &Filter, event_type: &str) -> bool {
    wants_type(filter.types.as_deref(), &filter.not_types, event_type)
}

fn wants_type(types: Option<&[String]>, not_types: &[String], event_type: &str) -> bool {
    let matches = |patterns: &[String]| {
        patterns.iter().any(|pattern| entente_rooms::matches_pattern(pattern, event_type))
    };
    types.is_none_or(matches) && !matches(not_types)
}
