use std::{ops::Range, sync::OnceLock};

use entente_environment::Timestamp;
use entente_storage::{Bytes, LogPosition};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
    events::TimelineEventType,
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{
    Membership, RoomError, RoomNumber,
    rows::{EventHeader, SentAs, StoredEvent},
    state::{EventNumber, StateRoot},
};

/// No event is sticky for longer, in ms (MSC4354).
pub const LONGEST_STICKY: u64 = 60 * 60 * 1_000;

/// An event of a room: its canonical JSON as it was signed, what this server knows of it, and a parsed view.
#[derive(Clone, Debug)]
pub struct Event {
    /// The room.
    pub room: RoomNumber,
    /// Its number there.
    pub number: EventNumber,
    /// The commit that stored it.
    pub position: LogPosition,
    /// Its id.
    pub event_id: OwnedEventId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Its type.
    pub event_type: TimelineEventType,
    /// Its state key, if it is a state event.
    pub state_key: Option<String>,
    /// When its sender says that it was sent, in ms since 1970.
    pub origin_server_ts: u64,
    /// Its depth in the event graph.
    pub depth: u64,
    room_id: Option<OwnedRoomId>,
    redacts: Option<OwnedEventId>,
    /// For how long its sender wants it to be sticky, in ms.
    sticky: Option<u64>,
    content: Range<usize>,
    header: EventHeader,
    json: Bytes,
    references: OnceLock<References>,
}

/// The events that an event names.
#[derive(Clone, Debug, Default)]
struct References {
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: TimelineEventType,
    state_key: Option<String>,
    origin_server_ts: u64,
    #[serde(default)]
    depth: u64,
    room_id: Option<OwnedRoomId>,
    /// Anything else than an event's id in its place names no event: other servers take such events.
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
    #[serde(borrow)]
    msc4354_sticky: Option<&'a RawValue>,
}

/// Whether an event of this JSON could be read from the store. Says why not.
pub(crate) fn check_readable(json: &[u8]) -> Result<(), RoomError> {
    let read = serde_json::from_slice::<Fields<'_>>(json);
    read.map(drop).map_err(|error| RoomError::BadEvent(error.to_string()))
}

/// What makes an event sticky (MSC4354). Anything else in its place makes it nothing.
#[derive(Deserialize)]
struct Sticky {
    duration_ms: u64,
}

#[derive(Deserialize)]
struct ReferenceFields {
    #[serde(default, deserialize_with = "event_ids")]
    prev_events: Vec<OwnedEventId>,
    #[serde(default, deserialize_with = "event_ids")]
    auth_events: Vec<OwnedEventId>,
}

/// Reads `["$id"]`, and the `[["$id", {"sha256": "…"}]]` of room versions 1 and 2.
fn event_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OwnedEventId>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Reference {
        Id(OwnedEventId),
        WithHashes(OwnedEventId, serde::de::IgnoredAny),
    }
    let references = Vec::<Reference>::deserialize(deserializer)?;
    let id = |reference| match reference {
        Reference::Id(id) | Reference::WithHashes(id, _) => id,
    };
    Ok(references.into_iter().map(id).collect())
}

impl Event {
    pub(crate) fn new(room: RoomNumber, number: i64, stored: StoredEvent) -> Result<Self, RoomError> {
        let StoredEvent { position, header, json } = stored;
        let damaged = |error: &dyn std::fmt::Display| RoomError::Internal(format!("a stored event: {error}"));
        let text = std::str::from_utf8(&json).map_err(|error| damaged(&error))?;
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| damaged(&error))?;
        let content = fields.content.get();
        let start = content.as_ptr().addr() - text.as_ptr().addr();
        let content = start..start + content.len();
        let sticky = fields.msc4354_sticky;
        let sticky = sticky.and_then(|sticky| serde_json::from_str::<Sticky>(sticky.get()).ok());
        let redacts = fields.redacts.and_then(|redacts| serde_json::from_str(redacts.get()).ok());
        let Fields { sender, event_type, state_key, origin_server_ts, depth, room_id, .. } = fields;
        Ok(Self {
            room,
            number: EventNumber(number),
            position,
            event_id: EventId::parse(header.event_id.as_str()).map_err(|error| damaged(&error))?,
            sender,
            event_type,
            state_key,
            origin_server_ts,
            depth,
            room_id,
            redacts,
            sticky: sticky.map(|sticky| sticky.duration_ms),
            content,
            header,
            json,
            references: OnceLock::new(),
        })
    }

    /// The same event with what this server has come to know of it.
    pub(crate) fn stored_as(self, stored: &StoredEvent) -> Result<Self, RoomError> {
        if self.json != stored.json {
            return Self::new(self.room, self.number.0, stored.clone());
        }
        Ok(Self { position: stored.position, header: stored.header.clone(), ..self })
    }

    /// The same event as a commit stored it, if it was not in the store before.
    pub(crate) fn committed_at(&self, position: LogPosition) -> Self {
        let is_new = self.position == LogPosition::AT_COMMIT;
        Self { position: if is_new { position } else { self.position }, ..self.clone() }
    }

    /// The canonical JSON as it was signed, or redacted.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The content.
    ///
    /// # Panics
    ///
    /// Never: the event was parsed when it was read, and its bytes do not change.
    pub fn content(&self) -> &RawValue {
        let text = self.json.get(self.content.clone()).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let content = text.and_then(|text| serde_json::from_str(text).ok());
        content.expect("the range was taken from parsed JSON")
    }

    /// The content's text.
    pub fn content_bytes(&self) -> &[u8] {
        &self.json[self.content.clone()]
    }

    /// The content, read as a `T`. `None` if it is not one.
    pub fn content_as<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_slice(self.content_bytes()).ok()
    }

    /// The state before it.
    pub fn state_before(&self) -> StateRoot {
        StateRoot::decode(&self.header.state_before).unwrap_or_default()
    }

    /// The state after it.
    pub fn state_after(&self) -> StateRoot {
        match &self.header.state_after {
            Some(root) => StateRoot::decode(root).unwrap_or_default(),
            None => self.state_before(),
        }
    }

    /// The room's state when it came: that of all that was there, where the state before it is that of what it names.
    pub fn room_state_before(&self) -> StateRoot {
        match &self.header.room_before {
            Some(root) => StateRoot::decode(root).unwrap_or_default(),
            None => self.state_before(),
        }
    }

    /// The room's state since it came.
    pub fn room_state_after(&self) -> StateRoot {
        match &self.header.room_after {
            Some(root) => StateRoot::decode(root).unwrap_or_default(),
            None => self.state_after(),
        }
    }

    /// The state event that it replaced.
    pub fn replaces(&self) -> Option<EventNumber> {
        self.header.replaces.map(EventNumber)
    }

    /// The event that redacted it.
    pub fn redacted_by(&self) -> Option<EventNumber> {
        self.header.redacted_by.map(EventNumber)
    }

    /// Whether it has a place in the timeline that is shown.
    pub fn is_shown(&self) -> bool {
        !self.header.rejected && !self.header.soft_failed && !self.header.outlier
    }

    /// Whether it failed the rules, and is part of nothing.
    pub(crate) fn is_rejected(&self) -> bool {
        self.header.rejected
    }

    /// Whether it is known only because others are authorised by it: the state before it is not known.
    pub(crate) fn is_outlier(&self) -> bool {
        self.header.outlier
    }

    /// The number under which states and auth chains know it.
    pub(crate) fn state_number(&self) -> EventNumber {
        self.header.known_as.map_or(self.number, EventNumber)
    }

    /// Which event it redacts, if it is a redaction: `redacts` stands in the content since room version 11.
    pub fn redacts(&self) -> Option<OwnedEventId> {
        #[derive(Deserialize)]
        struct Redaction {
            redacts: Option<OwnedEventId>,
        }
        if self.event_type != TimelineEventType::RoomRedaction {
            return None;
        }
        let in_content = || self.content_as::<Redaction>().and_then(|content| content.redacts);
        self.redacts.clone().or_else(in_content)
    }

    /// The membership, if it is a membership event.
    pub fn membership(&self) -> Option<Membership> {
        #[derive(Deserialize)]
        struct Content<'a> {
            membership: &'a str,
        }
        if self.event_type != TimelineEventType::RoomMember {
            return None;
        }
        self.content_as::<Content<'_>>().and_then(|content| Membership::parse(content.membership))
    }

    /// Whether guests may join by it, if it is `m.room.guest_access`.
    pub(crate) fn lets_guests_in(&self) -> bool {
        #[derive(Deserialize)]
        struct Content<'a> {
            guest_access: &'a str,
        }
        self.content_as::<Content<'_>>().is_some_and(|content| content.guest_access == "can_join")
    }

    /// With which transaction id this device sent it.
    pub fn transaction_id_of(&self, user_id: &UserId, device_id: &str) -> Option<&str> {
        let SentAs { device_id: sender, transaction_id } = self.header.transaction.as_ref()?;
        (sender == device_id && self.sender == user_id).then_some(transaction_id)
    }

    /// Under which id it was delayed, if this user sent it.
    pub fn delay_id_of(&self, user_id: &UserId) -> Option<&str> {
        self.header.delay_id.as_deref().filter(|_| self.sender == user_id)
    }

    /// Until when it is sticky if it comes now, in ms since 1970; `None`: it is not. What its sender says of the time in which it
    /// was sent cannot make it later.
    pub(crate) fn sticky_until(&self, now: Timestamp) -> Option<u64> {
        let duration = self.sticky?.min(LONGEST_STICKY);
        let until = self.origin_server_ts.min(now.millis()).saturating_add(duration);
        (until > now.millis()).then_some(until)
    }

    /// For how long it was sticky when it came, in ms; `None`: it was not.
    pub(crate) fn sticky_duration(&self) -> Option<u64> {
        self.sticky.filter(|_| self.header.sticky_until.is_some())
    }

    /// For how long it is still sticky, in ms; `None`: it is not, or not any more.
    pub fn sticky_for(&self, now: Timestamp) -> Option<u64> {
        let left = self.header.sticky_until?.saturating_sub(now.millis());
        (left > 0).then_some(left)
    }

    pub(crate) fn header(&self) -> &EventHeader {
        &self.header
    }

    fn references(&self) -> &References {
        self.references.get_or_init(|| match serde_json::from_slice::<ReferenceFields>(&self.json) {
            Ok(ReferenceFields { prev_events, auth_events }) => References { prev_events, auth_events },
            Err(_) => References::default(),
        })
    }

    /// The events before it.
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.references().prev_events
    }

    /// The events that authorise it.
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.references().auth_events
    }
}

impl ruma::state_res::Event for Event {
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
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.origin_server_ts))
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        Event::content(self)
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(Event::prev_events(self).iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(Event::auth_events(self).iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.header.rejected
    }
}

impl Membership {
    /// Reads the spec's word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "invite" => Some(Self::Invite),
            "join" => Some(Self::Join),
            "knock" => Some(Self::Knock),
            "leave" => Some(Self::Leave),
            "ban" => Some(Self::Ban),
            _ => None,
        }
    }

    /// The spec's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invite => "invite",
            Self::Join => "join",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
    }
}
