use std::time::Duration;

use entente_rooms::{Direction, EventFilter, Reader, Shape};
use ruma::RoomId;
use tokio::time::{Instant, timeout_at};

use crate::{LONGEST_WAIT, Sync, SyncError, SyncToken};

/// Events of one answer.
const MOST_EVENTS: usize = 100;

/// What was new in a room between two tokens: events as clients get them.
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
        let deadline = Instant::now() + timeout.min(LONGEST_WAIT);
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
}
