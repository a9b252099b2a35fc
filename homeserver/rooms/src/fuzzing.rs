//! What is private here and reads what others wrote, for the fuzz targets in `tests/fuzz`. Only with the feature `fuzzing`.

use entente_environment::Timestamp;
use entente_storage::{Bytes, LogPosition, value::Value as _};

use crate::{
    Event, Relation, RoomNumber,
    rows::{EventHeader, StoredEvent},
};

/// Reads the row of a stored event.
///
/// # Panics
///
/// If a row that can be read is not read again as it was written.
pub fn stored_event(row: &[u8]) {
    if let Ok(event) = StoredEvent::decode(&Bytes::copy_from_slice(row)) {
        assert_eq!(StoredEvent::decode(&event.encode()), Ok(event));
    }
}

/// The event of this JSON, as it would be read from the store; `None` if it is none.
pub fn event(json: &[u8]) -> Option<Event> {
    let header = EventHeader { event_id: String::from("$event:example.org"), ..EventHeader::default() };
    let stored = StoredEvent { position: LogPosition::AT_COMMIT, header, json: Bytes::copy_from_slice(json) };
    Event::new(RoomNumber(1), 2, stored).ok()
}

/// Asks an event everything that depends on what its sender wrote.
///
/// # Panics
///
/// If what it says of itself does not fit together.
pub fn ask_everything(event: &Event) {
    assert_eq!(event.content().get().as_bytes(), event.content_bytes());
    let now = Timestamp(1_700_000_000_000);
    if let Some(until) = event.sticky_until(now) {
        assert!(until <= now.millis() + crate::LONGEST_STICKY);
    }
    let _ = (event.prev_events(), event.auth_events(), event.redacts(), event.membership());
    let _ = (event.lets_guests_in(), Relation::of(event), Relation::thread_root(event));
}
