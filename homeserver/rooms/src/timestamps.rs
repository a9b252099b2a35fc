//! The event nearest to a point in time (C-S API, `GET /timestamp_to_event`).

use std::sync::Arc;

use ruma::{ServerName, UserId};

use crate::{Direction, Event, RoomError, RoomView, rows, state::EventNumber};

/// Events that are looked at before it is given up.
const MOST_LOOKED_AT: usize = 1_000;
/// Events that are read at once.
const PAGE: usize = 50;

/// Who wants to see an event.
#[derive(Clone, Copy)]
enum Onlooker<'a> {
    User(&'a UserId),
    Server(&'a ServerName),
}

impl RoomView {
    /// The first event that a reader may see at or behind a time, or the last at or before it. `at` in ms since 1970.
    pub async fn event_at(
        &self,
        reader: &UserId,
        at: u64,
        direction: Direction,
    ) -> Result<Arc<Event>, RoomError> {
        self.find_at(at, direction, Onlooker::User(reader)).await
    }

    /// The same for a server: the first that its users might see.
    pub async fn event_at_for_server(
        &self,
        server: &ServerName,
        at: u64,
        direction: Direction,
    ) -> Result<Arc<Event>, RoomError> {
        self.find_at(at, direction, Onlooker::Server(server)).await
    }

    async fn find_at(
        &self,
        at: u64,
        direction: Direction,
        onlooker: Onlooker<'_>,
    ) -> Result<Arc<Event>, RoomError> {
        let room = self.room.number.0;
        let all = rows::EVENT_TIMES.scan((room,)).limit(PAGE);
        let mut next = Some(match direction {
            Direction::Forward => all.from((room, at, i64::MIN)),
            Direction::Backward => all.before((room, at.saturating_add(1), i64::MIN)).reverse(),
        });
        let mut looked_at = 0;
        while let Some(scan) = next.filter(|_| looked_at < MOST_LOOKED_AT) {
            let page = self.snapshot.scan(&scan).await?;
            looked_at += page.rows.len();
            let numbers: Vec<EventNumber> =
                page.rows.iter().map(|((_, _, number), ())| EventNumber(*number)).collect();
            let events = self.events(&numbers).await?;
            match onlooker {
                Onlooker::User(reader) => {
                    if let Some(found) = self.visible(reader, events).await?.into_iter().next() {
                        return Ok(found);
                    }
                }
                Onlooker::Server(server) => {
                    for event in events {
                        if event.is_shown() && self.may_be_shown(server, &event).await? {
                            return Ok(event);
                        }
                    }
                }
            }
            next = page.next.map(|at| scan.resume(at));
        }
        Err(RoomError::NotFound("there is no event at that time that you may see"))
    }
}
