//! Sticky events (MSC4354): what everybody in a room is given for a while, however far back it lies.

use std::sync::Arc;

use entente_storage::{Keyspace, Position, Transaction, value::Value};

use crate::{Event, RoomError, RoomView, Rooms, rows, state::EventNumber};

/// Sticky events of a room that are given at the most: the newest. A flood of them costs whoever reads no more.
const MOST_STICKY: usize = 2_000;
/// Rows that are looked at at once.
const PAGE: usize = 500;

impl RoomView {
    /// The events that are sticky now, oldest first, of those that came behind a place. Who may see them is not decided.
    pub async fn sticky_events(&self, since: Option<&Position>) -> Result<Vec<Arc<Event>>, RoomError> {
        let now = self.now();
        let mut numbers = Vec::new();
        let mut next = Some(rows::STICKY.scan((self.room.number.0,)).reverse().limit(PAGE));
        while let Some(scan) = next {
            let page = self.snapshot.scan(&scan).await?;
            for ((_, number), row) in &page.rows {
                let is_new = since.is_none_or(|since| !since.includes(row.position));
                if is_new && row.value > now.millis() && numbers.len() < MOST_STICKY {
                    numbers.push(EventNumber(*number));
                }
            }
            next = page.next.filter(|_| numbers.len() < MOST_STICKY).map(|at| scan.resume(at));
        }
        numbers.reverse();
        let mut events = self.events(&numbers).await?;
        // What was redacted meanwhile is as any other event.
        events.retain(|event| event.sticky_for(now).is_some());
        Ok(events)
    }
}

impl Rooms {
    /// Forgets which events were sticky and are so no more.
    pub async fn forget_sticky(&self) -> Result<(), RoomError> {
        self.forget_lapsed(&rows::STICKY, |row| row.value).await?;
        self.forget_lapsed(&rows::REFUSED_STICKY, |until| *until).await
    }

    async fn forget_lapsed<V: Value>(
        &self,
        keyspace: &Keyspace<(u64, i64), V>,
        until: impl Fn(&V) -> u64,
    ) -> Result<(), RoomError> {
        let now = self.inner.environment.now().millis();
        let mut next = Some(keyspace.scan(()).limit(PAGE));
        while let Some(scan) = next {
            let page = self.store().snapshot().await?.scan(&scan).await?;
            let mut transaction = Transaction::relaxed();
            for (key, row) in &page.rows {
                if until(row) <= now {
                    transaction.delete(keyspace, key);
                }
            }
            if !transaction.is_empty() {
                self.store().commit(transaction).await?;
            }
            next = page.next.map(|at| scan.resume(at));
        }
        Ok(())
    }
}
