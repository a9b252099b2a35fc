//! Sticky events for sliding sync (MSC4480): of all rooms that match a list, the oldest first, as many as the client wants.

use std::collections::BTreeMap;

use entente_rooms::{ObjectWriter, Reader, Seen, Shape, UserRoom, state::EventNumber};
use entente_storage::Position;

use super::{StickyEventsExtension, extensions::Extending, lists::Facts};
use crate::{SyncError, SyncToken, joined::sticky, response::Making};

/// Sticky events of one answer at the most, and unless the client says otherwise.
const MOST_EVENTS: usize = 100;

/// The sticky events of an answer.
#[derive(Debug, Default)]
pub(super) struct StickyEvents {
    /// `None`: there is nothing that the client has not.
    next_batch: Option<Position>,
    /// Events as they are sent, by room id.
    rooms: BTreeMap<String, Vec<Vec<u8>>>,
    pub(super) has_news: bool,
}

/// A room's part of them.
struct Found<'a> {
    room: u64,
    facts: &'a Facts,
    seen: Seen,
    /// Whether it lies before the place up to which the client says that it has them: of a room that the user came into since.
    is_late: bool,
}

impl StickyEvents {
    pub(super) async fn find(
        extending: &Extending<'_>,
        making: &Making<'_>,
        wanted: &StickyEventsExtension,
    ) -> Result<Self, SyncError> {
        let since = match &wanted.since {
            None => None,
            Some(since) => Some(SyncToken::parse(since).ok_or(SyncError::UnknownPosition)?.position),
        };
        let limit = wanted.limit.unwrap_or(MOST_EVENTS).clamp(1, MOST_EVENTS);
        let mut found = Vec::new();
        for (number, (room, facts)) in &extending.selection.matched {
            find_in_room(making, room, facts, since.as_ref(), *number, &mut found).await?;
        }
        if found.is_empty() {
            return Ok(Self::default());
        }
        found.sort_unstable_by_key(|found| (found.seen.event.position, found.seen.event.number));
        // Those of rooms that the user came into are no part of what the token counts: they come now, or never.
        let counted = found.iter().filter(|found| !found.is_late);
        let last = counted.clone().nth(limit - 1).map(|found| found.seen.event.position);
        let is_complete =
            last.is_none_or(|last| counted.clone().all(|found| found.seen.event.position <= last));
        if let Some(last) = last {
            // What was committed together has one place in the log, and is not torn apart.
            found.retain(|found| found.is_late || found.seen.event.position <= last);
        }
        let mut next_batch = since.clone().unwrap_or_default();
        if is_complete {
            next_batch = making.position.clone();
        } else {
            for found in &found {
                next_batch.include(found.seen.event.position);
            }
        }
        let is_new = |found: &Found<'_>| {
            extending.since.is_none_or(|since| !since.includes(found.seen.event.position))
        };
        // A client that never says what it has is not answered over and over.
        let has_news = since.is_some() || found.iter().any(is_new);
        let mut sticky = Self { next_batch: Some(next_batch), rooms: BTreeMap::new(), has_news };
        for found in found {
            let made = extending.made.get(&found.room);
            // What is in the timeline is not told twice.
            if made.is_some_and(|made| made.timeline.contains(found.seen.event.event_id.as_str())) {
                continue;
            }
            let view = making.view(entente_rooms::RoomNumber(found.room)).await?;
            let request = making.request;
            let reader = Reader { user_id: &request.user_id, device_id: request.device_id.as_str() };
            let events = view.client_events(reader, &[found.seen], Shape::WithoutRoom).await?;
            sticky.rooms.entry(found.facts.room_id().to_owned()).or_default().extend(events);
        }
        Ok(sticky)
    }

    pub(super) fn write(&self, writer: &mut ObjectWriter<'_>) {
        let Some(next_batch) = &self.next_batch else { return };
        writer.key("org.matrix.msc4354.sticky_events");
        let mut part = ObjectWriter::begin(writer.json);
        part.value("next_batch", SyncToken::new(next_batch.clone()).to_string());
        part.key("rooms");
        let mut rooms = ObjectWriter::begin(part.json);
        for (room_id, events) in &self.rooms {
            rooms.key(room_id);
            let mut room = ObjectWriter::begin(rooms.json);
            room.list("events", events, |json, event| json.extend_from_slice(event));
            room.end();
        }
        rooms.end();
        part.end();
    }
}

async fn find_in_room<'a>(
    making: &Making<'_>,
    room: &UserRoom,
    facts: &'a Facts,
    since: Option<&Position>,
    number: u64,
    found: &mut Vec<Found<'a>>,
) -> Result<(), SyncError> {
    let view = making.view(room.number).await?;
    let mut from = since;
    if let Some(known) = since {
        let came_in = !known.includes(room.position) && {
            let joined_by = view.joined_by(&making.request.user_id).await?;
            let joined = view.event(joined_by.unwrap_or(EventNumber(i64::MAX))).await?;
            joined.is_some_and(|joined| !known.includes(joined.position))
        };
        if came_in {
            from = None;
        } else if !making.sync.inner.news.of_room(room.number, known).sticky {
            return Ok(());
        }
    }
    for seen in sticky(making, &view, from).await? {
        let is_late = since.is_some_and(|since| since.includes(seen.event.position));
        found.push(Found { room: number, facts, seen, is_late });
    }
    Ok(())
}
