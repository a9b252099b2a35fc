//! Walks through the event graph for other servers.

use std::{
    collections::{BinaryHeap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use crate::{Direction, Event, RoomError, RoomView, TimelinePlace, rows, state::EventNumber};

/// Events that are looked for at once.
const AT_ONCE: usize = 1_000;

/// A gap in a room's timeline: this server was not in the room then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The event behind it.
    pub behind: EventNumber,
    /// The oldest event of what is known of it, or the one behind it.
    pub first: EventNumber,
}

/// An event on the way, the deepest first.
struct OnTheWay(Arc<Event>);

impl OnTheWay {
    fn rank(&self) -> (u64, EventNumber) {
        (self.0.depth, self.0.number)
    }
}

impl PartialEq for OnTheWay {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for OnTheWay {}

impl PartialOrd for OnTheWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OnTheWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl RoomView {
    /// These events and those before them, the newest first, at most `limit` (S-S API, `GET /backfill`).
    pub async fn history_before(
        &self,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        self.walk(from, limit, |_| true).await
    }

    /// The events between some and others, the oldest first, at most `limit`: those before `latest`, not below `least_depth`, up to
    /// those of `earliest` (S-S API, `POST /get_missing_events`).
    pub async fn events_between(
        &self,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        least_depth: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let mut from: Vec<OwnedEventId> = Vec::new();
        for event in self.known(latest).await? {
            from.extend(event.prev_events().iter().cloned());
        }
        let wanted = |event: &Event| event.depth >= least_depth && !earliest.contains(&event.event_id);
        let mut events = self.walk(&from, limit, wanted).await?;
        events.reverse();
        Ok(events)
    }

    async fn walk(
        &self,
        from: &[OwnedEventId],
        limit: usize,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let mut seen: HashSet<OwnedEventId> = from.iter().cloned().collect();
        let mut waiting: BinaryHeap<OnTheWay> = self.known(from).await?.into_iter().map(OnTheWay).collect();
        let mut walked = Vec::new();
        while let Some(OnTheWay(event)) = waiting.pop() {
            if !wanted(&event) {
                continue;
            }
            let unseen: Vec<OwnedEventId> =
                event.prev_events().iter().filter(|id| seen.insert((*id).clone())).cloned().collect();
            waiting.extend(self.known(&unseen).await?.into_iter().map(OnTheWay));
            walked.push(event);
            if walked.len() >= limit {
                break;
            }
        }
        Ok(walked)
    }

    /// Those of the events that have a place in the graph here.
    async fn known(&self, ids: &[OwnedEventId]) -> Result<Vec<Arc<Event>>, RoomError> {
        let mut events = Vec::with_capacity(ids.len());
        for id in ids {
            let event = self.event_by_id(id).await?;
            events.extend(event.filter(|event| !event.is_outlier() && !event.is_rejected()));
        }
        Ok(events)
    }

    /// Events of the room's oldest known part whose past is not known: what to ask history before. Empty once the room's beginning
    /// is known.
    pub async fn unknown_before(&self, events: &[Arc<Event>]) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut open = Vec::new();
        for event in events {
            for id in event.prev_events() {
                let known = self.event_by_id(id).await?;
                if known.is_none_or(|known| known.is_outlier()) {
                    open.push(event.event_id.clone());
                    break;
                }
            }
        }
        Ok(open)
    }

    /// The newest events of the room, to which nothing refers yet.
    pub async fn newest_events(&self) -> Result<Vec<OwnedEventId>, RoomError> {
        let extremities = &self.head().await?.extremities;
        Ok(extremities.iter().filter_map(|extremity| EventId::parse(&extremity.event_id).ok()).collect())
    }

    /// Those of the events that are not known here, not even as what authorises others.
    pub async fn unknown_of(&self, ids: &[OwnedEventId]) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut unknown = Vec::new();
        for some in ids.chunks(AT_ONCE) {
            let found = self.snapshot.get_many(&rows::EVENT_IDS, some.iter().map(|id| id.as_str())).await?;
            let missing = some.iter().zip(found).filter(|(_, place)| place.is_none());
            unknown.extend(missing.map(|(id, _)| id.clone()));
        }
        Ok(unknown)
    }

    /// Those of the events whose place in the graph is not known here.
    pub async fn unplaced_of(&self, ids: &[OwnedEventId]) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut unplaced = Vec::new();
        for id in ids {
            if self.event_by_id(id).await?.is_none_or(|event| event.is_outlier()) {
                unplaced.push(id.clone());
            }
        }
        Ok(unplaced)
    }

    /// The newest gap that somebody meets who reads back from here.
    pub async fn gap_before(&self, place: TimelinePlace) -> Result<Option<Gap>, RoomError> {
        let gaps = &self.head().await?.gaps;
        let met = gaps.iter().filter(|gap| gap.first < place.0.0).max_by_key(|gap| gap.behind);
        Ok(met.map(|gap| Gap { behind: EventNumber(gap.behind), first: EventNumber(gap.first) }))
    }

    /// The oldest events that are known of a gap, up to the one behind it.
    pub async fn oldest_of_gap(&self, gap: Gap, limit: usize) -> Result<Vec<Arc<Event>>, RoomError> {
        let end = TimelinePlace(EventNumber(gap.behind.0.saturating_add(1)));
        self.stored_timeline(TimelinePlace(gap.first), Some(end), Direction::Forward, limit).await
    }

    /// The events behind which this server knows the room, and before which it does not: those by which it came in, or the oldest that it
    /// has fetched since. What they name came before them, whoever tells of it later.
    pub async fn events_at_edges(&self, limit: usize) -> Result<Vec<Arc<Event>>, RoomError> {
        let mut events = self.oldest_events(limit).await?;
        for gap in &self.head().await?.gaps {
            let gap = Gap { behind: EventNumber(gap.behind), first: EventNumber(gap.first) };
            events.extend(self.oldest_of_gap(gap, limit).await?);
        }
        Ok(events)
    }

    /// The oldest events that have a place in the timeline.
    pub async fn oldest_events(&self, limit: usize) -> Result<Vec<Arc<Event>>, RoomError> {
        let first = TimelinePlace(EventNumber(rows::FIRST_NUMBER));
        self.stored_timeline(first, None, Direction::Forward, limit).await
    }
}
