//! Sticky events that were soft-failed: judged again whenever the room's state becomes another (MSC4354).

use std::sync::Arc;

use super::{Composer, note_sticky};
use crate::{
    Change, Event, RoomError, rows,
    rows::{EventHeader, StoredEvent},
    state::EventNumber,
};

/// Events that are judged again at once: the newest.
const MOST_JUDGED: usize = 100;

impl Composer {
    /// Notes that a sticky event is not shown, because the room's present state does not allow it.
    pub(super) fn note_refused(&mut self, event: &Event) {
        let Some(until) = event.header().sticky_until else { return };
        self.transaction.put(&rows::REFUSED_STICKY, (event.room.0, event.number.0), &until);
        self.written.refused.push(event.number.0);
        let latest = &mut self.head.row.refused_sticky_until;
        *latest = until.max(*latest);
    }

    /// Shows the sticky events that were soft-failed and that the room's state allows now. They stay where they came in the timeline:
    /// whoever asks is given them as what sticks.
    pub(super) async fn judge_refused(&mut self) -> Result<(), RoomError> {
        let now = self.view.now();
        if self.head.row.refused_sticky_until <= now.millis() {
            return Ok(());
        }
        let scan = rows::REFUSED_STICKY.scan((self.view.room.number.0,)).reverse().limit(MOST_JUDGED);
        let stored = self.view.snapshot.scan(&scan).await?.rows.into_iter().map(|((_, number), _)| number);
        let mut numbers: Vec<i64> = self.written.refused.iter().rev().copied().chain(stored).collect();
        numbers.truncate(MOST_JUDGED);
        for number in numbers {
            let Some(event) = self.event(EventNumber(number)).await? else { continue };
            let waits = event.header().soft_failed && event.sticky_for(now).is_some();
            if waits && self.is_allowed_now(&event).await? && self.has_policy_signature(&event).await? {
                self.show_refused(&event).await?;
            }
        }
        Ok(())
    }

    async fn show_refused(&mut self, event: &Event) -> Result<(), RoomError> {
        let header = EventHeader { soft_failed: false, ..event.header().clone() };
        let stored = StoredEvent { position: event.position, header, json: event.json().clone() };
        let (room, number) = (event.room, event.number.0);
        let shown = Arc::new(Event::new(room, number, stored.clone())?);
        self.transaction.put(&rows::EVENTS, (room.0, number), &stored);
        self.transaction.put(&rows::EVENT_TIMES, (room.0, shown.origin_server_ts, number), &());
        self.transaction.delete(&rows::REFUSED_STICKY, (room.0, number));
        note_sticky(&mut self.transaction, &shown, &stored);
        Change::Sticky { room: room.0, number: Some(number) }.log_in(&mut self.transaction);
        self.keep(&shown);
        self.redacted.push(EventNumber(number));
        self.apply_early_redaction(&shown).await
    }
}
