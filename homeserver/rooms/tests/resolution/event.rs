//! Events that are made up: nobody signed them.

use std::{collections::BTreeMap, sync::Arc};

use entente_rooms::resolution::ResolutionEvent;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
    events::TimelineEventType, state_res,
};
use serde_json::{Value, value::RawValue};

pub(crate) type Key = (String, String);
pub(crate) type State = BTreeMap<Key, OwnedEventId>;
pub(crate) type Events = BTreeMap<OwnedEventId, Arc<MadeEvent>>;

#[derive(Debug)]
pub(crate) struct MadeEvent {
    pub(crate) event_id: OwnedEventId,
    pub(crate) room_id: Option<OwnedRoomId>,
    pub(crate) sender: OwnedUserId,
    pub(crate) event_type: TimelineEventType,
    pub(crate) state_key: String,
    pub(crate) content: Value,
    pub(crate) raw_content: Box<RawValue>,
    pub(crate) prev_events: Vec<OwnedEventId>,
    pub(crate) auth_events: Vec<OwnedEventId>,
    pub(crate) origin_server_ts: u32,
    pub(crate) depth: u64,
    pub(crate) rejected: bool,
}

impl MadeEvent {
    pub(crate) fn key(&self) -> Key {
        (self.event_type.to_string(), self.state_key.clone())
    }

    pub(crate) fn is(&self, event_type: &str) -> bool {
        self.event_type.to_string() == event_type
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.content.get(field).and_then(Value::as_str).unwrap_or_default()
    }
}

impl ResolutionEvent for MadeEvent {
    fn depth(&self) -> u64 {
        self.depth
    }
}

impl state_res::Event for MadeEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.room_id.as_deref()
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::from(self.origin_server_ts))
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        &self.raw_content
    }

    fn state_key(&self) -> Option<&str> {
        Some(&self.state_key)
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        None
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}
