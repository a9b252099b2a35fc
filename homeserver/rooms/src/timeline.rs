use std::{str::FromStr, sync::Arc};

use entente_storage::Position;
use ruma::UserId;

use crate::{Event, RoomError, RoomView, Seen, filter::EventFilter, rows, state::EventNumber};

/// Events that one request may look at before it answers with less than was asked for.
const MOST_LOOKED_AT: usize = 5_000;
/// Events that are read at once.
const PAGE: usize = 200;

/// A place between two events of a room's timeline: before the event with this number. `t17` as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimelinePlace(pub EventNumber);

impl std::fmt::Display for TimelinePlace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "t{}", self.0.0)
    }
}

impl FromStr for TimelinePlace {
    type Err = RoomError;

    fn from_str(text: &str) -> Result<Self, RoomError> {
        let number = text.strip_prefix('t').and_then(|number| number.parse().ok());
        let number = number.ok_or_else(|| RoomError::InvalidParameter(format!("{text:?} is not a token")))?;
        Ok(Self(EventNumber(number)))
    }
}

/// Which way a timeline is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From old to new.
    Forward,
    /// From new to old.
    Backward,
}

/// Some events of a timeline, in the direction in which it was read.
#[derive(Debug)]
pub struct TimelinePage {
    /// The events that the reader may see.
    pub events: Vec<Seen>,
    /// Where to go on; `None`: there is nothing more.
    pub end: Option<TimelinePlace>,
}

impl RoomView {
    /// The events behind a place, at most `limit`, that pass a filter and that a user may see.
    pub async fn timeline(
        &self,
        reader: &UserId,
        from: TimelinePlace,
        to: Option<TimelinePlace>,
        direction: Direction,
        limit: usize,
        filter: &EventFilter,
    ) -> Result<TimelinePage, RoomError> {
        let mut events = Vec::new();
        let mut place = from;
        let mut looked_at = 0;
        loop {
            let wanted = if filter.passes_all() { limit - events.len() } else { PAGE };
            let stored = self.stored_timeline(place, to, direction, wanted.clamp(1, PAGE)).await?;
            let Some(last) = stored.last() else { return Ok(TimelinePage { events, end: None }) };
            looked_at += stored.len();
            let last = last.number;
            let passing = self.passing(filter, stored).await?;
            for seen in self.seen_by(reader, passing).await? {
                let number = seen.event.number;
                events.push(seen);
                if events.len() == limit {
                    return Ok(TimelinePage { events, end: Some(place_behind(number, direction)) });
                }
            }
            place = place_behind(last, direction);
            if looked_at >= MOST_LOOKED_AT {
                return Ok(TimelinePage { events, end: Some(place) });
            }
        }
    }

    /// The events behind a place as they are stored, whoever may see them, at most `limit`.
    pub async fn stored_timeline(
        &self,
        from: TimelinePlace,
        to: Option<TimelinePlace>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let room = self.room.number.0;
        let scan = rows::EVENTS.scan((room,)).limit(limit);
        let from = (room, from.0.0);
        let first = (room, rows::FIRST_NUMBER);
        let mut scan = match direction {
            Direction::Forward => scan.from(from.max(first)),
            Direction::Backward => scan.from(first).before(from.max(first)).reverse(),
        };
        if let Some(TimelinePlace(to)) = to {
            scan = match direction {
                Direction::Forward => scan.before((room, to.0)),
                Direction::Backward => scan.from((room, to.0.max(rows::FIRST_NUMBER))),
            };
        }
        let page = self.snapshot.scan(&scan).await?;
        let event = |((_, number), stored)| Event::new(self.room.number, number, stored).map(Arc::new);
        page.rows.into_iter().map(event).collect()
    }

    /// The newest events before a place, oldest first, at most `limit`. What is remembered of them is not read again.
    pub async fn newest_before(
        &self,
        place: TimelinePlace,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let end = place.0.0;
        let oldest = self.head().await?.first_event;
        let first = end.saturating_sub(i64::try_from(limit).unwrap_or(i64::MAX)).max(oldest);
        let remembered = &self.rooms.inner.events;
        let mut events = Vec::new();
        for number in (first..end).rev() {
            match remembered.get(&(self.room.number, number)) {
                Some(event) => events.push(event),
                None => break,
            }
        }
        let missing = limit.saturating_sub(events.len());
        let end = events.last().map_or(place, |oldest| TimelinePlace(oldest.number));
        if missing > 0 && end.0.0 > oldest {
            let room = self.room.number.0;
            let scan = rows::EVENTS.scan((room,)).from((room, rows::FIRST_NUMBER));
            let scan = scan.before((room, end.0.0)).reverse().limit(missing);
            for ((_, number), stored) in self.snapshot.scan(&scan).await?.rows {
                events.push(self.remember(Event::new(self.room.number, number, stored)?));
            }
        }
        events.reverse();
        Ok(events)
    }

    /// The place behind the newest event.
    pub async fn timeline_end(&self) -> Result<TimelinePlace, RoomError> {
        Ok(TimelinePlace(self.next_event().await?))
    }

    /// The place behind the last event that was committed before `position`. Events of a room are committed one after the
    /// other, so that all before it were too.
    pub async fn place_at(&self, position: &Position) -> Result<TimelinePlace, RoomError> {
        let mut place = self.timeline_end().await?;
        // Mostly it is near the end.
        for page in [8, 32] {
            let events = self.newest_before(place, page).await?;
            for event in events.iter().rev() {
                if position.includes(event.position) {
                    return Ok(place);
                }
                place = TimelinePlace(event.number);
            }
            if events.is_empty() {
                return Ok(place);
            }
        }
        self.place_far_back(position, place).await
    }

    /// The same for a position that lies before all events behind `place`. It is found by halves: a client that comes back after
    /// years, or says so, costs no more than a few events. What was fetched of the time before the room was known here came later
    /// than all of it, and lies before it; what fills a gap came later than what is behind the gap, and stands with that.
    async fn place_far_back(
        &self,
        position: &Position,
        place: TimelinePlace,
    ) -> Result<TimelinePlace, RoomError> {
        // All events before `low` had come then, and none from `high` on.
        let (mut low, mut high) = (0, place.0.0);
        while low < high {
            let middle = low.midpoint(high);
            let behind = TimelinePlace(EventNumber(middle.saturating_add(1)));
            let found = self.newest_before(behind, 1).await?.pop().filter(|event| event.number.0 >= low);
            let stands_with = match found.as_ref().and_then(|event| rows::gap_filled_by(event.number.0)) {
                Some(behind) => self.event(EventNumber(behind)).await?,
                None => found.clone(),
            };
            match (found, stands_with) {
                (Some(event), Some(other)) if !position.includes(other.position) => high = event.number.0,
                _ => low = middle.saturating_add(1),
            }
        }
        if high <= 0 {
            return Ok(TimelinePlace(EventNumber(self.head().await?.first_event)));
        }
        Ok(TimelinePlace(EventNumber(high)))
    }

    /// The numbers of the events on both sides of one, and the event: for `/context`.
    pub async fn around(
        &self,
        reader: &UserId,
        event: &Event,
        limit: usize,
        filter: &EventFilter,
    ) -> Result<(TimelinePage, TimelinePage), RoomError> {
        let before_limit = limit / 2;
        let place = TimelinePlace(event.number);
        let before = match before_limit {
            0 => TimelinePage { events: Vec::new(), end: Some(place) },
            limit => self.timeline(reader, place, None, Direction::Backward, limit, filter).await?,
        };
        let place = TimelinePlace(EventNumber(event.number.0.saturating_add(1)));
        let after = match limit.saturating_sub(before_limit) {
            0 => TimelinePage { events: Vec::new(), end: Some(place) },
            limit => self.timeline(reader, place, None, Direction::Forward, limit, filter).await?,
        };
        Ok((before, after))
    }
}

fn place_behind(number: EventNumber, direction: Direction) -> TimelinePlace {
    match direction {
        Direction::Forward => TimelinePlace(EventNumber(number.0.saturating_add(1))),
        Direction::Backward => TimelinePlace(number),
    }
}
