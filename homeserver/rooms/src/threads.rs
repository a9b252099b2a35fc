//! The threads of a room (C-S API, "Threading").

use ruma::{OwnedEventId, UserId};

use crate::{Event, Relation, RoomError, RoomView, Seen, TimelinePlace, rows, state::EventNumber};

/// Threads that one request may look at before it answers with less than was asked for.
const MOST_LOOKED_AT: usize = 5_000;
/// Threads that are read at once.
const PAGE: usize = 100;
/// An event is in the thread to which it leads over at most so many relations.
const MOST_STEPS: usize = 3;

/// Some threads of a room, those with the newest events first.
#[derive(Debug)]
pub struct ThreadsPage {
    /// Their roots.
    pub roots: Vec<Seen>,
    /// Where to go on; `None`: there is nothing more.
    pub next: Option<TimelinePlace>,
}

impl RoomView {
    /// The threads whose newest events lie before a place, at most `limit`, whose roots a user may see; with
    /// `participated` only those in which the user wrote.
    pub async fn threads(
        &self,
        reader: &UserId,
        from: Option<TimelinePlace>,
        participated: bool,
        limit: usize,
    ) -> Result<ThreadsPage, RoomError> {
        let mut roots = Vec::new();
        let mut from = from;
        let mut looked_at = 0;
        while looked_at < MOST_LOOKED_AT {
            let stored = self.stored_threads(from).await?;
            let Some(&(oldest, _)) = stored.last() else { return Ok(ThreadsPage { roots, next: None }) };
            looked_at += stored.len();
            let wanted = if participated { self.participated(reader, &stored).await? } else { stored };
            let numbers: Vec<EventNumber> = wanted.iter().map(|&(_, root)| root).collect();
            for seen in self.seen_by(reader, self.events(&numbers).await?).await? {
                let latest =
                    wanted.iter().find(|&&(_, root)| root == seen.event.number).map(|&(latest, _)| latest);
                roots.push(seen);
                if roots.len() == limit {
                    return Ok(ThreadsPage { roots, next: latest.map(TimelinePlace) });
                }
            }
            from = Some(TimelinePlace(oldest));
        }
        Ok(ThreadsPage { roots, next: from })
    }

    /// The numbers of the newest events of threads, newest first, and those of their roots.
    async fn stored_threads(
        &self,
        from: Option<TimelinePlace>,
    ) -> Result<Vec<(EventNumber, EventNumber)>, RoomError> {
        let room = self.room.number.0;
        let mut scan = rows::THREADS.scan((room,)).reverse().limit(PAGE);
        if let Some(TimelinePlace(from)) = from {
            scan = scan.before((room, from.0));
        }
        let rows = self.snapshot.scan(&scan).await?.rows;
        Ok(rows.into_iter().map(|((_, latest), root)| (EventNumber(latest), EventNumber(root.0))).collect())
    }

    async fn participated(
        &self,
        user_id: &UserId,
        threads: &[(EventNumber, EventNumber)],
    ) -> Result<Vec<(EventNumber, EventNumber)>, RoomError> {
        let keys = threads.iter().map(|(_, root)| (self.room.number.0, root.0, user_id.as_str()));
        let found = self.snapshot.get_many(&rows::THREAD_PARTICIPANTS, keys).await?;
        let with_own = threads.iter().zip(found).filter(|(_, row)| row.is_some());
        Ok(with_own.map(|(thread, _)| *thread).collect())
    }

    /// The root of the thread that an event is in, also by an event to which it relates, as an edit or a reaction does.
    /// `None`: it is in no thread, as are the roots of threads themselves.
    pub async fn thread_of(&self, event: &Event) -> Result<Option<OwnedEventId>, RoomError> {
        let mut relation = Relation::of(event);
        for _ in 0..MOST_STEPS {
            let Some(Relation { rel_type, event_id }) = relation else { return Ok(None) };
            if rel_type == "m.thread" {
                return Ok(Some(event_id));
            }
            let Some(target) = self.event_by_id(&event_id).await? else { return Ok(None) };
            relation = Relation::of(&target);
        }
        Ok(None)
    }
}
