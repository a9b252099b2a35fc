use std::time::Duration;

use entente_rooms::{Direction, EventFilter, Membership, Reader, RoomView, Seen, Shape};
use ruma::RoomId;
use tokio::time::{Instant, timeout_at};

use crate::{Sync, SyncError, SyncToken};

/// Events of one answer.
const MOST_EVENTS: usize = 100;
/// Events of one answer about all rooms: who is further behind gets the newest.
const MOST_EVENTS_EVERYWHERE: usize = 1_000;

/// What was new between two tokens: events as clients get them.
#[derive(Debug)]
pub struct Peeked {
    /// The events.
    pub events: Vec<Vec<u8>>,
    /// Where they begin.
    pub start: SyncToken,
    /// Where they end.
    pub end: SyncToken,
}

impl Sync {
    /// What is new in a room that a user may read, perhaps without being in it (C-S API, `GET /events` with `room_id`). Waits until
    /// there is something.
    pub async fn peek(
        &self,
        reader: Reader<'_>,
        room_id: &RoomId,
        from: Option<SyncToken>,
        timeout: Duration,
    ) -> Result<Peeked, SyncError> {
        let deadline = self.deadline(timeout);
        let mut watch = self.inner.store.watch();
        let start = from.unwrap_or_else(|| SyncToken::new(self.inner.store.published()));
        loop {
            let view = self.inner.rooms.view(room_id).await?;
            view.require_reader(reader.user_id).await?;
            let position = view.position().await?;
            let place = view.place_at(&start.position).await?;
            let filter = EventFilter::default();
            let page =
                view.timeline(reader.user_id, place, None, Direction::Forward, MOST_EVENTS, &filter).await?;
            if !page.events.is_empty() || Instant::now() >= deadline {
                let end = match page.events.last() {
                    // There may be more: the token stands behind what is given.
                    Some(last) if page.end.is_some() && page.events.len() == MOST_EVENTS => {
                        let mut reached = start.position.clone();
                        reached.include(last.event.position);
                        reached
                    }
                    _ => position,
                };
                let events = view.client_events(reader, &page.events, Shape::WithRoom).await?;
                return Ok(Peeked { events, start, end: SyncToken::new(end) });
            }
            if let Ok(grown) = timeout_at(deadline, watch.beyond(&position)).await {
                grown?;
            }
        }
    }

    /// What is new in all rooms that a user is in (C-S API, `GET /events`): the newest 1000 events. Waits until there is
    /// something.
    pub async fn peek_everywhere(
        &self,
        reader: Reader<'_>,
        from: Option<SyncToken>,
        timeout: Duration,
    ) -> Result<Peeked, SyncError> {
        let inner = &self.inner;
        let deadline = self.deadline(timeout);
        let start = from.unwrap_or_else(|| SyncToken::new(inner.store.published()));
        let localpart = reader.user_id.localpart();
        // What was acknowledged to anybody before this request came is news already.
        inner.news.reached(&inner.store.published()).await?;
        loop {
            let waker = inner.news.attend(localpart);
            let woken = timeout_at(deadline, waker.notified());
            if !inner.news.is_quiet_since(localpart, &start.position) {
                let peeked = self.look_everywhere(reader, &start).await?;
                if !peeked.events.is_empty() {
                    return Ok(peeked);
                }
            }
            if woken.await.is_err() {
                return Ok(Peeked { events: Vec::new(), end: start.clone(), start });
            }
        }
    }

    async fn look_everywhere(&self, reader: Reader<'_>, start: &SyncToken) -> Result<Peeked, SyncError> {
        let inner = &self.inner;
        let _place = inner.at_once.acquire().await.map_err(|_| SyncError::closed())?;
        let redactions = inner.rooms.redactions();
        let snapshot = inner.store.snapshot().await?;
        let position = snapshot.position().await?;
        inner.news.reached(&position).await?;
        let mut found: Vec<(RoomView, Seen)> = Vec::new();
        for room in inner.rooms.user_rooms(&snapshot, reader.user_id.localpart()).await? {
            let has_events = inner.news.of_room(room.number, &start.position).events;
            if room.membership != Membership::Join || !has_events {
                continue;
            }
            let view = inner.rooms.view_in(&snapshot, room.number, redactions).await?;
            let (end, place) = (view.timeline_end().await?, view.place_at(&start.position).await?);
            let (limit, filter) = (MOST_EVENTS_EVERYWHERE, EventFilter::default());
            let page =
                view.timeline(reader.user_id, end, Some(place), Direction::Backward, limit, &filter).await?;
            found.extend(page.events.into_iter().map(|seen| (view.clone(), seen)));
            found.sort_by_key(|(_, seen)| (seen.event.position, seen.event.number));
            found.drain(..found.len().saturating_sub(MOST_EVENTS_EVERYWHERE));
        }
        let mut events = Vec::with_capacity(found.len());
        for (view, seen) in found {
            let seen = std::slice::from_ref(&seen);
            events.extend(view.client_events(reader, seen, Shape::WithRoom).await?);
        }
        Ok(Peeked { events, start: start.clone(), end: SyncToken::new(position) })
    }
}
