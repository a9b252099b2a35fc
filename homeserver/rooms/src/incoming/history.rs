use entente_storage::LogPosition;
use ruma::{OwnedEventId, RoomId};

use super::{ToldState, VerifiedPdu};
use crate::{
    Direction, Event, RoomError, RoomView, Rooms, TimelinePlace,
    rows::{EventHeader, StoredEvent},
    state::EventNumber,
};

/// Events that came before those that a room begins with here, or that stand behind a gap, as another server told of them.
#[derive(Clone, Debug, Default)]
pub struct Chapter {
    /// The events, each behind those before it. Everything in it was verified.
    pub events: Vec<VerifiedPdu>,
    /// The states before those of them of which not everything before them is known.
    pub told: Vec<(OwnedEventId, ToldState)>,
    /// The event behind the gap into which they go; `None`: they come before the room's beginning here.
    pub gap: Option<EventNumber>,
}

impl Rooms {
    /// Puts history before what is known of a room (S-S API, "Backfilling"). Events whose states do not follow from what is
    /// known are left out. Answers how many were added.
    pub async fn add_history(&self, room_id: &RoomId, chapter: &Chapter) -> Result<usize, RoomError> {
        self.change_stored_room(room_id, async |mut composer| {
            let added = composer.add_history(chapter).await?;
            Ok((composer, added))
        })
        .await
    }

    /// Notes that there is nothing more to put into a gap: what is before it is known.
    pub async fn close_gap(&self, room_id: &RoomId, gap: EventNumber) -> Result<(), RoomError> {
        self.change_stored_room(room_id, async |mut composer| {
            composer.close_gap(gap);
            Ok((composer, ()))
        })
        .await
    }
}

impl RoomView {
    /// Whether an event is sticky, and lies before one that begins what is known of the room here: those who sent such events bring them
    /// to servers that come later (MSC4354).
    pub async fn is_sticky_before(&self, pdu: &VerifiedPdu, begins: EventNumber) -> Result<bool, RoomError> {
        let header = EventHeader { event_id: pdu.event_id.to_string(), ..EventHeader::default() };
        let stored = StoredEvent { position: LogPosition::AT_COMMIT, header, json: pdu.json.clone() };
        let event = Event::new(self.room.number, begins.0, stored)?;
        if event.sticky_until(self.now()).is_none() {
            return Ok(false);
        }
        let first = self.stored_timeline(TimelinePlace(begins), None, Direction::Forward, 1).await?;
        Ok(first.first().is_some_and(|first| event.depth < first.depth))
    }
}
