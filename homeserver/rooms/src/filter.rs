use ruma::{
    OwnedRoomId, RoomId,
    api::client::filter::{RoomEventFilter, UrlFilter},
};

use crate::Event;

/// Which events of a timeline or a state somebody wants (C-S API, "Filtering", `RoomEventFilter`).
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    types: Option<Vec<String>>,
    not_types: Vec<String>,
    senders: Option<Vec<String>>,
    not_senders: Vec<String>,
    contains_url: Option<bool>,
    rooms: Option<Vec<OwnedRoomId>>,
    not_rooms: Vec<OwnedRoomId>,
    /// Whether it is asked in a room of which nothing is wanted.
    passes_nothing: bool,
}

impl From<&RoomEventFilter> for EventFilter {
    fn from(filter: &RoomEventFilter) -> Self {
        let texts = |users: &[ruma::OwnedUserId]| users.iter().map(ToString::to_string).collect::<Vec<_>>();
        Self {
            types: filter.types.clone(),
            not_types: filter.not_types.clone(),
            senders: filter.senders.as_deref().map(texts),
            not_senders: texts(&filter.not_senders),
            contains_url: filter.url_filter.as_ref().map(|filter| matches!(filter, UrlFilter::EventsWithUrl)),
            rooms: filter.rooms.clone(),
            not_rooms: filter.not_rooms.clone(),
            passes_nothing: false,
        }
    }
}

impl EventFilter {
    /// Whether it leaves out nothing.
    pub fn passes_all(&self) -> bool {
        self.types.is_none()
            && self.not_types.is_empty()
            && self.senders.is_none()
            && self.not_senders.is_empty()
            && self.contains_url.is_none()
            && !self.passes_nothing
    }

    /// The same for the events of one room.
    #[must_use]
    pub fn in_room(mut self, room_id: &RoomId) -> Self {
        let has_room = |rooms: &[OwnedRoomId]| rooms.iter().any(|room| room == room_id);
        self.passes_nothing = has_room(&self.not_rooms) || !self.rooms.as_deref().is_none_or(has_room);
        self
    }

    /// Adds senders whose events are left out.
    #[must_use]
    pub fn without_senders(mut self, senders: impl IntoIterator<Item = String>) -> Self {
        self.not_senders.extend(senders);
        self
    }

    /// Whether it lets an event through.
    pub fn passes(&self, event: &Event) -> bool {
        if self.passes_all() {
            return true;
        }
        if self.passes_nothing {
            return false;
        }
        let event_type = event.event_type.to_string();
        let sender = event.sender.as_str();
        let is_type = |pattern: &String| matches_pattern(pattern, &event_type);
        let is_sender = |user_id: &String| user_id == sender;
        let wanted_type = self.types.as_ref().is_none_or(|types| types.iter().any(is_type));
        let wanted_sender = self.senders.as_ref().is_none_or(|senders| senders.iter().any(is_sender));
        wanted_type
            && wanted_sender
            && !self.not_types.iter().any(is_type)
            && !self.not_senders.iter().any(is_sender)
            && self.contains_url.is_none_or(|wanted| has_url(event) == wanted)
    }
}

/// Event types in filters may end in `*`, or have it elsewhere, for any characters.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

fn has_url(event: &Event) -> bool {
    #[derive(serde::Deserialize)]
    struct Content {
        url: Option<serde_json::Value>,
    }
    event.content_as::<Content>().is_some_and(|content| content.url.is_some_and(|url| url.is_string()))
}

#[cfg(test)]
mod tests {
    use super::matches_pattern;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, text, expected) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("m.room.*", "m.room.message", true),
            ("*", "", true),
            ("m.*.x", "m.a.b.x", true),
            ("m.*.x", "m.a.b.y", false),
            ("m.*a*b", "m.xaxb", true),
            ("", "m", false),
        ] {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
        }
    }
}
