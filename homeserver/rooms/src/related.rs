//! The events that relate to an event (C-S API, "Relationships API").

use std::collections::BTreeSet;

use entente_storage::Scan;
use ruma::UserId;

use crate::{
    Direction, Event, RoomError, RoomView, Seen, TimelinePlace, rows, rows::RelationRow, state::EventNumber,
};

/// Indirect relations are followed over so many events, the last included.
pub const RECURSION_DEPTH: usize = 3;
/// Relations that one request may look at.
const MOST_LOOKED_AT: usize = 5_000;
/// Events that are read at once.
const PAGE: usize = 200;

/// Which related events somebody wants.
#[derive(Clone, Debug)]
pub struct RelatedFilter {
    /// Those with this `rel_type`.
    pub rel_type: Option<String>,
    /// Those with this event type.
    pub event_type: Option<String>,
    /// Whether also those that relate to related events.
    pub recurse: bool,
}

/// From where to where, and in which direction, a list of events is read.
#[derive(Clone, Copy, Debug)]
pub struct TimelineSpan {
    /// Where it begins; `None`: at the end of the list at which the direction begins.
    pub from: Option<TimelinePlace>,
    /// Where it ends.
    pub to: Option<TimelinePlace>,
    /// The direction.
    pub direction: Direction,
}

/// Some events that relate to an event, in the direction in which they were read.
#[derive(Debug)]
pub struct RelatedPage {
    /// The events that the reader may see.
    pub events: Vec<Seen>,
    /// Where to go on; `None`: there is nothing more.
    pub next: Option<TimelinePlace>,
}

impl RelatedFilter {
    fn passes(&self, row: &RelationRow) -> bool {
        self.rel_type.as_ref().is_none_or(|rel_type| *rel_type == row.rel_type)
            && self.event_type.as_ref().is_none_or(|event_type| *event_type == row.event_type)
    }
}

impl TimelineSpan {
    /// The least number within, and the least above.
    fn bounds(&self) -> (i64, Option<i64>) {
        let (from, to) = (self.from.map(|place| place.0.0), self.to.map(|place| place.0.0));
        let (lower, upper) = match self.direction {
            Direction::Forward => (from, to),
            Direction::Backward => (to, from),
        };
        (lower.unwrap_or(i64::MIN), upper)
    }

    fn contains(&self, number: EventNumber) -> bool {
        let (lower, upper) = self.bounds();
        number.0 >= lower && upper.is_none_or(|upper| number.0 < upper)
    }

    /// The place from which what comes after this event is read.
    fn behind(&self, number: EventNumber) -> TimelinePlace {
        match self.direction {
            Direction::Forward => TimelinePlace(EventNumber(number.0.saturating_add(1))),
            Direction::Backward => TimelinePlace(number),
        }
    }
}

impl RoomView {
    /// The events that relate to an event, at most `limit`, and that a user may see.
    pub async fn related(
        &self,
        reader: &UserId,
        target: &Event,
        filter: &RelatedFilter,
        span: TimelineSpan,
        limit: usize,
    ) -> Result<RelatedPage, RoomError> {
        let mut page = RelatedPage { events: Vec::new(), next: None };
        if filter.recurse {
            let numbers = self.related_over_others(target.number, filter, span).await?;
            self.fill(&mut page, reader, &numbers, span, limit).await?;
            return Ok(page);
        }
        let mut next = Some(self.relations_within(target.number, span));
        let mut looked_at = 0;
        while let Some(scan) = next {
            let found = self.snapshot.scan(&scan).await?;
            let last = found.rows.last().map(|&((_, _, number), _)| EventNumber(number));
            looked_at += found.rows.len();
            let passing = found.rows.into_iter().filter(|(_, row)| filter.passes(row));
            let numbers: Vec<EventNumber> = passing.map(|((_, _, number), _)| EventNumber(number)).collect();
            self.fill(&mut page, reader, &numbers, span, limit).await?;
            if page.next.is_some() {
                return Ok(page);
            }
            next = found.next.map(|at| scan.resume(at));
            if looked_at >= MOST_LOOKED_AT && next.is_some() {
                page.next = last.map(|last| span.behind(last));
                return Ok(page);
            }
        }
        Ok(page)
    }

    /// Adds those of the events that a user may see, until the page is full and there is one more.
    async fn fill(
        &self,
        page: &mut RelatedPage,
        reader: &UserId,
        numbers: &[EventNumber],
        span: TimelineSpan,
        limit: usize,
    ) -> Result<(), RoomError> {
        for numbers in numbers.chunks(PAGE.min(limit.max(1))) {
            for seen in self.seen_by(reader, self.events(numbers).await?).await? {
                if page.events.len() >= limit {
                    page.next = page.events.last().map(|last| span.behind(last.event.number));
                    return Ok(());
                }
                page.events.push(seen);
            }
        }
        Ok(())
    }

    fn relations_within(
        &self,
        target: EventNumber,
        span: TimelineSpan,
    ) -> Scan<(u64, i64, i64), RelationRow> {
        let (room, target) = (self.room.number.0, target.0);
        let (lower, upper) = span.bounds();
        let mut relations = rows::RELATIONS.scan((room, target)).from((room, target, lower)).limit(PAGE);
        if let Some(upper) = upper {
            relations = relations.before((room, target, upper));
        }
        match span.direction {
            Direction::Forward => relations,
            Direction::Backward => relations.reverse(),
        }
    }

    /// The numbers of the events within a span that relate to an event, directly or over others, and pass the filter. Those
    /// over which they do need not pass.
    async fn related_over_others(
        &self,
        target: EventNumber,
        filter: &RelatedFilter,
        span: TimelineSpan,
    ) -> Result<Vec<EventNumber>, RoomError> {
        // What relates to an event comes after it, so that nothing above the span leads into it.
        let (_, upper) = span.bounds();
        let end = upper.map(|upper| TimelinePlace(EventNumber(upper)));
        let above = TimelineSpan { from: end, to: None, direction: Direction::Backward };
        let mut passing = BTreeSet::new();
        let mut level = vec![target];
        let mut room_left = MOST_LOOKED_AT;
        for _ in 0..RECURSION_DEPTH {
            let mut next_level = BTreeSet::new();
            for target in level {
                let mut next = Some(self.relations_within(target, above));
                while let Some(scan) = next.filter(|_| room_left > 0) {
                    let found = self.snapshot.scan(&scan).await?;
                    room_left = room_left.saturating_sub(found.rows.len());
                    for ((_, _, number), row) in found.rows {
                        next_level.insert(EventNumber(number));
                        if filter.passes(&row) && span.contains(EventNumber(number)) {
                            passing.insert(EventNumber(number));
                        }
                    }
                    next = found.next.map(|at| scan.resume(at));
                }
            }
            level = next_level.into_iter().rev().collect();
        }
        let ascending = passing.into_iter();
        Ok(match span.direction {
            Direction::Forward => ascending.collect(),
            Direction::Backward => ascending.rev().collect(),
        })
    }
}
