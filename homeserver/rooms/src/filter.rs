use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use ruma::{
    OwnedRoomId, RoomId,
    api::client::filter::{RoomEventFilter, UrlFilter},
};
use serde::Deserialize;

use crate::{
    Event, RoomError, RoomView,
    rows::{self, RelationRow},
    state::EventNumber,
};

/// Relations that are read at once.
const PAGE: usize = 200;
/// So many relations to one event are looked through for one that is wanted.
const MOST_LOOKED_AT: usize = 5_000;

/// What a filter says of the events that relate to those that are wanted (MSC3440): there is one that meets all of it. `ruma` has
/// no fields for this in its filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RelatedBy {
    /// One of these users sent it.
    #[serde(rename = "related_by_senders")]
    senders: Option<Vec<String>>,
    /// It relates in one of these ways.
    #[serde(rename = "related_by_rel_types")]
    rel_types: Option<Vec<String>>,
}

impl RelatedBy {
    /// Whether nothing need relate to an event.
    fn is_empty(&self) -> bool {
        self.senders.is_none() && self.rel_types.is_none()
    }

    fn is_met_by(&self, relation: &RelationRow) -> bool {
        self.senders.as_ref().is_none_or(|senders| senders.contains(&relation.sender))
            && self.rel_types.as_ref().is_none_or(|rel_types| rel_types.contains(&relation.rel_type))
    }
}

/// Which events of a timeline or a state somebody wants (C-S API, "Filtering", `RoomEventFilter`).
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    types: Option<Vec<String>>,
    not_types: Vec<String>,
    senders: Option<Vec<String>>,
    not_senders: Vec<String>,
    /// Users whose messages are left out; what they make of the state is not.
    ignored: Vec<String>,
    contains_url: Option<bool>,
    related_by: RelatedBy,
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
            ignored: Vec::new(),
            related_by: RelatedBy::default(),
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
            && self.ignored.is_empty()
            && self.contains_url.is_none()
            && self.related_by.is_empty()
            && !self.passes_nothing
    }

    /// The same for the events of one room.
    #[must_use]
    pub fn in_room(mut self, room_id: &RoomId) -> Self {
        let has_room = |rooms: &[OwnedRoomId]| rooms.iter().any(|room| room == room_id);
        self.passes_nothing = has_room(&self.not_rooms) || !self.rooms.as_deref().is_none_or(has_room);
        self
    }

    /// Leaves out what is not related to in this way.
    #[must_use]
    pub fn related_by(mut self, related_by: RelatedBy) -> Self {
        self.related_by = related_by;
        self
    }

    /// Leaves out the messages of these users. What they make of the room's state is the same for all.
    #[must_use]
    pub fn without_messages_of(mut self, users: &[String]) -> Self {
        self.ignored.extend_from_slice(users);
        self
    }

    /// Whether it lets an event through, as far as the event itself says.
    fn passes(&self, event: &Event) -> bool {
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
            && (event.state_key.is_some() || !self.ignored.iter().any(is_sender))
            && self.contains_url.is_none_or(|wanted| has_url(event) == wanted)
    }
}

impl RoomView {
    /// Those of some events that a filter lets through.
    pub async fn passing(
        &self,
        filter: &EventFilter,
        mut events: Vec<Arc<Event>>,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        if filter.passes_all() {
            return Ok(events);
        }
        events.retain(|event| filter.passes(event));
        if !filter.related_by.is_empty() {
            let related = self.related_to(&events, &filter.related_by).await?;
            events.retain(|event| related.contains(&event.number));
        }
        Ok(events)
    }

    /// Which of these events others relate to in the way that is wanted.
    async fn related_to(
        &self,
        events: &[Arc<Event>],
        wanted: &RelatedBy,
    ) -> Result<HashSet<EventNumber>, RoomError> {
        let room = self.room.number.0;
        let mut related = HashSet::new();
        // In the order in which their relations lie.
        let mut left: BTreeSet<i64> = events.iter().map(|event| event.number.0).collect();
        let Some(&last) = left.last() else { return Ok(related) };
        let mut behind = None;
        let mut looked_at = 0;
        while let Some(&first) = left.first() {
            let scan = rows::RELATIONS.scan((room,)).to((room, last, i64::MAX)).limit(PAGE);
            let scan = match behind {
                Some(number) => scan.after((room, first, number)),
                None => scan.from((room, first, i64::MIN)),
            };
            let page = self.snapshot.scan(&scan).await?;
            for ((_, target, _), row) in &page.rows {
                if left.contains(target) && wanted.is_met_by(row) {
                    left.remove(target);
                    related.insert(EventNumber(*target));
                }
            }
            let Some(&((_, reached, number), _)) = page.rows.last() else { break };
            if page.next.is_none() {
                break;
            }
            looked_at = if reached == first { looked_at + page.rows.len() } else { 0 };
            // What relates to those before it was read.
            left = left.split_off(&reached);
            behind = Some(number).filter(|_| left.contains(&reached));
            if looked_at >= MOST_LOOKED_AT {
                left.remove(&reached);
                (behind, looked_at) = (None, 0);
            }
        }
        Ok(related)
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
