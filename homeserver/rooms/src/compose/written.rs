//! What a composer wrote and may have to read again, which the snapshot that it reads from does not show; and what it read.

use std::collections::{BTreeMap, HashMap};

use entente_storage::{LogPosition, value::Stamped};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId};

use super::Composer;
use crate::{
    RoomError,
    rows::{self, RelationRow, UserRoomRow},
    state::EventNumber,
};

/// Relations to events that have not come are read together if there are at most this many in the room.
const MOST_EARLY: usize = 20;

/// The events in the store that relate to one that has not come.
#[derive(Debug, Default)]
enum StoredEarly {
    #[default]
    Unread,
    /// All of them, by the id of that one.
    All(HashMap<String, Vec<i64>>),
    TooMany,
}

/// Rows that were written here, and some that were read, by what they are looked for.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// What local users have to do with the room, by localpart.
    user_rooms: HashMap<String, UserRoomRow>,
    /// Relations, by the number of the event that is related to and by their own; `None` is deleted.
    relations: BTreeMap<(i64, i64), Option<RelationRow>>,
    /// Events that relate to one that has not come, by its id.
    early_relations: HashMap<OwnedEventId, Vec<i64>>,
    stored_early_relations: StoredEarly,
    /// Redactions of events that have not come, by the ids of these.
    early_redactions: HashMap<OwnedEventId, i64>,
    /// Sticky events that were refused.
    pub(super) refused: Vec<i64>,
    /// The numbers of stored events that were looked for: those that authorise one mostly authorise the next.
    pub(super) numbers: Mutex<HashMap<OwnedEventId, EventNumber>>,
}

impl Composer {
    /// What a local user has to do with the room.
    pub(super) async fn user_room(&self, localpart: &str) -> Result<Option<UserRoomRow>, RoomError> {
        if let Some(written) = self.written.user_rooms.get(localpart) {
            return Ok(Some(written.clone()));
        }
        let stored = self.view.snapshot.get(&rows::USER_ROOMS, (localpart, self.view.room.number.0)).await?;
        Ok(stored.map(|stored| stored.value))
    }

    pub(super) fn put_user_room(&mut self, localpart: &str, row: UserRoomRow) {
        let stamped = Stamped { position: LogPosition::AT_COMMIT, value: row.clone() };
        self.transaction.put(&rows::USER_ROOMS, (localpart, self.view.room.number.0), &stamped);
        self.written.user_rooms.insert(localpart.to_owned(), row);
    }

    /// The relations to an event: the numbers of the events that have them, and what they are.
    pub(super) async fn relations_to(&self, target: i64) -> Result<Vec<(i64, RelationRow)>, RoomError> {
        let scan = rows::RELATIONS.scan((self.view.room.number.0, target));
        let mut relations: BTreeMap<i64, RelationRow> = BTreeMap::new();
        for ((_, _, number), row) in self.view.snapshot.scan_all(scan).await? {
            relations.insert(number, row);
        }
        for ((_, number), row) in self.written.relations.range((target, i64::MIN)..=(target, i64::MAX)) {
            match row {
                Some(row) => relations.insert(*number, row.clone()),
                None => relations.remove(number),
            };
        }
        Ok(relations.into_iter().collect())
    }

    pub(super) fn put_relation(&mut self, target: i64, number: i64, row: RelationRow) {
        self.transaction.put(&rows::RELATIONS, (self.view.room.number.0, target, number), &row);
        self.written.relations.insert((target, number), Some(row));
    }

    pub(super) fn delete_relation(&mut self, target: i64, number: i64) {
        self.transaction.delete(&rows::RELATIONS, (self.view.room.number.0, target, number));
        self.written.relations.insert((target, number), None);
    }

    /// Takes the events that relate to one from among those that came before what they relate to.
    pub(super) async fn take_early_relations(&mut self, event_id: &EventId) -> Result<Vec<i64>, RoomError> {
        let mut numbers = self.stored_early_relations(event_id).await?;
        numbers.extend(self.written.early_relations.remove(event_id).unwrap_or_default());
        for number in &numbers {
            let key = (self.view.room.number.0, event_id.as_str(), *number);
            self.transaction.delete(&rows::EARLY_RELATIONS, key);
        }
        Ok(numbers)
    }

    async fn stored_early_relations(&mut self, event_id: &EventId) -> Result<Vec<i64>, RoomError> {
        let room = self.view.room.number.0;
        if matches!(self.written.stored_early_relations, StoredEarly::Unread) {
            let scan = rows::EARLY_RELATIONS.scan((room,)).limit(MOST_EARLY);
            let page = self.view.snapshot.scan(&scan).await?;
            let mut all: HashMap<String, Vec<i64>> = HashMap::new();
            for ((_, event_id, number), ()) in page.rows {
                all.entry(event_id).or_default().push(number);
            }
            self.written.stored_early_relations =
                if page.next.is_none() { StoredEarly::All(all) } else { StoredEarly::TooMany };
        }
        if let StoredEarly::All(all) = &self.written.stored_early_relations {
            return Ok(all.get(event_id.as_str()).cloned().unwrap_or_default());
        }
        let of_event = rows::EARLY_RELATIONS.scan((room, event_id.as_str()));
        let found = self.view.snapshot.scan_all(of_event).await?;
        Ok(found.into_iter().map(|((_, _, number), ())| number).collect())
    }

    pub(super) fn put_early_relation(&mut self, event_id: &EventId, number: i64) {
        let key = (self.view.room.number.0, event_id.as_str(), number);
        self.transaction.put(&rows::EARLY_RELATIONS, key, &());
        self.written.early_relations.entry(event_id.to_owned()).or_default().push(number);
    }

    /// Takes the redaction of an event that came before it.
    pub(super) async fn take_early_redaction(
        &mut self,
        event_id: &EventId,
    ) -> Result<Option<i64>, RoomError> {
        let key = (self.view.room.number.0, event_id.as_str());
        let number = match self.written.early_redactions.remove(event_id) {
            Some(number) => Some(number),
            None => self.view.snapshot.get(&rows::EARLY_REDACTIONS, key).await?.map(|number| number.0),
        };
        if number.is_some() {
            self.transaction.delete(&rows::EARLY_REDACTIONS, key);
        }
        Ok(number)
    }

    pub(super) fn put_early_redaction(&mut self, event_id: &EventId, number: i64) {
        let key = (self.view.room.number.0, event_id.as_str());
        self.transaction.put(&rows::EARLY_REDACTIONS, key, &rows::NumberRow(number));
        self.written.early_redactions.insert(event_id.to_owned(), number);
    }
}
