//! Who has read what (C-S API, "Receipts").

use std::collections::HashMap;

use entente_storage::{LogPosition, Position, Transaction, value::Stamped};
use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    Change, Event, Membership, RoomError, RoomView, Rooms, rows,
    rows::{MemberRow, ReceiptRow},
    state::EventNumber,
};

/// The thread of a receipt for what is in no thread.
const MAIN: &str = "main";
/// In the key of a receipt that knows nothing of threads.
const UNTHREADED: &str = "";
/// Above every user id.
const ABOVE_USERS: &str = "\u{10ffff}";

/// Who else learns of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReceiptType {
    /// `m.read`: everybody in the room.
    Read,
    /// `m.read.private`: nobody.
    ReadPrivate,
}

impl ReceiptType {
    /// The spec's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "m.read",
            Self::ReadPrivate => "m.read.private",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "m.read" => Some(Self::Read),
            "m.read.private" => Some(Self::ReadPrivate),
            _ => None,
        }
    }
}

/// What somebody says that they have read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewReceipt {
    /// Who else learns of it.
    pub receipt_type: ReceiptType,
    /// `main` or the id of a thread's root: what is read there; `None`: in the whole room.
    pub thread: Option<String>,
    /// The newest event that was read.
    pub event_id: OwnedEventId,
}

/// A receipt as its readers get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Who has read.
    pub user_id: String,
    /// Who else learns of it.
    pub receipt_type: ReceiptType,
    /// `main` or the id of a thread's root; `None`: the whole room.
    pub thread: Option<String>,
    /// The newest event that was read.
    pub event_id: String,
    /// When, in ms since 1970.
    pub ts: u64,
}

/// Up to where somebody has read a room, by public and private receipts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadMarkers {
    /// In the whole room.
    pub unthreaded: Option<EventNumber>,
    /// In what is in no thread.
    pub main: Option<EventNumber>,
    /// In threads, by the ids of their roots.
    pub threads: HashMap<String, EventNumber>,
}

impl ReadMarkers {
    /// The newest event that was read in a thread, given by the id of its root, or in what is in no thread.
    pub fn in_thread(&self, root: Option<&str>) -> Option<EventNumber> {
        let own = match root {
            None => self.main,
            Some(root) => self.threads.get(root).copied(),
        };
        own.max(self.unthreaded)
    }
}

impl Rooms {
    /// Stores receipts of somebody who is in the room, all or none of them. One for an event that is not newer than that of
    /// an earlier one changes nothing.
    pub async fn acknowledge(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        receipts: &[NewReceipt],
    ) -> Result<(), RoomError> {
        let redactions = self.redactions();
        self.store()
            .run(async |snapshot| {
                let room = self.room(&snapshot, room_id).await?;
                let view = RoomView::new(self.clone(), snapshot, room, redactions);
                let mut transaction = Transaction::new();
                let member = view.joined_row(user_id).await?;
                let member_key = (view.room.number.0, user_id.as_str());
                transaction.check_unchanged(&rows::MEMBERS, member_key, Some(&member));
                for receipt in receipts {
                    view.put_receipt(&mut transaction, user_id, receipt).await?;
                }
                Ok::<_, RoomError>((transaction, ()))
            })
            .await?;
        Ok(())
    }
}

impl RoomView {
    pub(crate) async fn joined_row(&self, user_id: &UserId) -> Result<MemberRow, RoomError> {
        let joined = self.member_row(user_id).await?.filter(|row| row.membership == Membership::Join);
        joined.ok_or(RoomError::Forbidden("you are not in this room"))
    }

    async fn put_receipt(
        &self,
        transaction: &mut Transaction,
        user_id: &UserId,
        receipt: &NewReceipt,
    ) -> Result<(), RoomError> {
        let event = self.visible_event(user_id, &receipt.event_id).await?.event;
        let thread = receipt.thread.as_deref();
        self.check_thread(&event, thread).await?;
        let thread = thread.unwrap_or(UNTHREADED);
        let (room, receipt_type) = (self.room.number.0, receipt.receipt_type.as_str());
        let key = (room, user_id.as_str(), receipt_type, thread);
        let old = self.snapshot.get(&rows::RECEIPTS, key).await?;
        if old.as_ref().is_some_and(|old| old.value.number >= event.number.0) {
            return Ok(());
        }
        transaction.check_unchanged(&rows::RECEIPTS, key, old.as_ref());
        if let Some(old) = &old {
            let place = (room, old.position, user_id.as_str(), receipt_type, thread);
            transaction.delete(&rows::RECEIPT_POSITIONS, place);
        }
        let row = ReceiptRow {
            event_id: event.event_id.to_string(),
            number: event.number.0,
            at: self.rooms.inner.environment.now().millis(),
        };
        transaction.put(&rows::RECEIPTS, key, &Stamped { position: LogPosition::AT_COMMIT, value: row });
        let place = (room, LogPosition::AT_COMMIT, user_id.as_str(), receipt_type, thread);
        transaction.put(&rows::RECEIPT_POSITIONS, place, &());
        let private = receipt.receipt_type == ReceiptType::ReadPrivate;
        Change::Receipt { room, user_id: user_id.to_string(), private }.log_in(transaction);
        Ok(())
    }

    /// Refuses a receipt for an event that is not in its thread (C-S API, "Threaded read receipts"). The root of a thread
    /// counts as in the thread and as in no thread.
    async fn check_thread(&self, event: &Event, thread: Option<&str>) -> Result<(), RoomError> {
        let Some(thread) = thread else { return Ok(()) };
        let is_root = event.event_id == thread;
        if !is_root && self.thread_of(event).await?.as_ref().map_or(MAIN, |root| root.as_str()) != thread {
            let message = format!("{} is not in the thread {thread:?}", event.event_id);
            return Err(RoomError::InvalidParameter(message));
        }
        Ok(())
    }

    /// The receipts that a user may know of: all that stand, or those that came after a position.
    pub async fn receipts(
        &self,
        reader: &UserId,
        since: Option<&Position>,
    ) -> Result<Vec<Receipt>, RoomError> {
        let rows = match since {
            None => self.snapshot.scan_all(rows::RECEIPTS.scan((self.room.number.0,))).await?,
            Some(since) => self.receipts_since(since).await?,
        };
        let receipt = |((_, user_id, receipt_type, thread), row): (ReceiptKey, Stamped<ReceiptRow>)| {
            let receipt_type = ReceiptType::parse(&receipt_type)?;
            if receipt_type == ReceiptType::ReadPrivate && user_id != reader.as_str() {
                return None;
            }
            let thread = (thread != UNTHREADED).then_some(thread);
            let ReceiptRow { event_id, at, .. } = row.value;
            Some(Receipt { user_id, receipt_type, thread, event_id, ts: at })
        };
        Ok(rows.into_iter().filter_map(receipt).collect())
    }

    /// The newest receipt of a user that everybody may know of.
    pub async fn newest_receipt_of(&self, user_id: &UserId) -> Result<Option<Receipt>, RoomError> {
        self.newest_receipt(user_id, ReceiptType::Read).await
    }

    /// The newest receipt of a user of one type. A private one is for that user alone.
    pub async fn newest_receipt(
        &self,
        user_id: &UserId,
        receipt_type: ReceiptType,
    ) -> Result<Option<Receipt>, RoomError> {
        let scan = rows::RECEIPTS.scan((self.room.number.0, user_id.as_str(), receipt_type.as_str()));
        let rows = self.snapshot.scan_all(scan).await?;
        let newest = rows.into_iter().max_by_key(|(_, row)| row.value.number);
        Ok(newest.map(|((_, user_id, _, thread), row)| {
            let thread = (thread != UNTHREADED).then_some(thread);
            let ReceiptRow { event_id, at, .. } = row.value;
            Receipt { user_id, receipt_type, thread, event_id, ts: at }
        }))
    }

    async fn receipts_since(
        &self,
        since: &Position,
    ) -> Result<Vec<(ReceiptKey, Stamped<ReceiptRow>)>, RoomError> {
        let room = self.room.number.0;
        let mut keys = Vec::new();
        for (first, last) in since.ranges_to(&self.position().await?) {
            let scan = rows::RECEIPT_POSITIONS.scan((room,)).from((room, first, "", "", ""));
            let scan = scan.to((room, last, ABOVE_USERS, "", ""));
            let found = self.snapshot.scan_all(scan).await?;
            keys.extend(
                found.into_iter().map(|((room, _, user_id, receipt_type, thread), ())| {
                    (room, user_id, receipt_type, thread)
                }),
            );
        }
        let found = self.snapshot.get_many(&rows::RECEIPTS, &keys).await?;
        Ok(keys.into_iter().zip(found).filter_map(|(key, row)| Some((key, row?))).collect())
    }

    /// Up to where a user has read the room.
    pub async fn read_up_to(&self, user_id: &UserId) -> Result<ReadMarkers, RoomError> {
        let scan = rows::RECEIPTS.scan((self.room.number.0, user_id.as_str()));
        let mut markers = ReadMarkers::default();
        for ((_, _, _, thread), row) in self.snapshot.scan_all(scan).await? {
            let number = EventNumber(row.value.number);
            match thread.as_str() {
                UNTHREADED => markers.unthreaded = markers.unthreaded.max(Some(number)),
                MAIN => markers.main = markers.main.max(Some(number)),
                _ => {
                    let newest = markers.threads.entry(thread).or_insert(number);
                    *newest = number.max(*newest);
                }
            }
        }
        Ok(markers)
    }

    /// The number of an event that somebody who is in the room may set their fully-read marker to (C-S API, "Fully read
    /// markers").
    pub async fn fully_readable(
        &self,
        user_id: &UserId,
        event_id: &EventId,
    ) -> Result<EventNumber, RoomError> {
        self.joined_row(user_id).await?;
        Ok(self.visible_event(user_id, event_id).await?.event.number)
    }
}

/// Room, user id, receipt type, thread.
type ReceiptKey = (u64, String, String, String);

/// The content of an `m.receipt` event.
///
/// It has place for one receipt of each type of a user for an event. Where a user sent several, for the room and for
/// threads, it tells the one that says most: that for the whole room, or else the newest.
pub fn receipt_content(receipts: impl IntoIterator<Item = Receipt>) -> Value {
    let mut receipts: Vec<Receipt> = receipts.into_iter().collect();
    receipts.sort_by_key(|receipt| (receipt.thread.is_none(), receipt.ts));
    let mut content = Map::new();
    for Receipt { user_id, receipt_type, thread, event_id, ts } in receipts {
        let mut told = json!({ "ts": ts });
        if let Some(thread) = thread {
            told["thread_id"] = Value::String(thread);
        }
        let by_type = content.entry(event_id).or_insert_with(|| json!({}));
        by_type[receipt_type.as_str()][user_id] = told;
    }
    Value::Object(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(user_id: &str, receipt_type: ReceiptType, thread: Option<&str>, ts: u64) -> Receipt {
        let (user_id, event_id) = (user_id.to_owned(), String::from("$event"));
        Receipt { user_id, receipt_type, thread: thread.map(str::to_owned), event_id, ts }
    }

    #[test]
    fn one_receipt_of_each_user_and_type_stands_for_an_event() {
        let content = receipt_content([
            receipt("@a:x", ReceiptType::Read, None, 1),
            receipt("@a:x", ReceiptType::Read, Some("main"), 2),
            receipt("@a:x", ReceiptType::ReadPrivate, Some("$root"), 3),
            receipt("@b:x", ReceiptType::Read, Some("$root"), 5),
            receipt("@b:x", ReceiptType::Read, Some("main"), 4),
        ]);
        let expected = json!({ "$event": {
            "m.read": { "@a:x": { "ts": 1 }, "@b:x": { "ts": 5, "thread_id": "$root" } },
            "m.read.private": { "@a:x": { "ts": 3, "thread_id": "$root" } },
        } });
        assert_eq!(content, expected);
    }

    #[test]
    fn a_receipt_for_the_whole_room_counts_in_every_thread() {
        let threads =
            HashMap::from([(String::from("$old"), EventNumber(3)), (String::from("$new"), EventNumber(9))]);
        let markers = ReadMarkers { unthreaded: Some(EventNumber(5)), main: None, threads };
        assert_eq!(markers.in_thread(None), Some(EventNumber(5)));
        assert_eq!(markers.in_thread(Some("$old")), Some(EventNumber(5)));
        assert_eq!(markers.in_thread(Some("$new")), Some(EventNumber(9)));
        assert_eq!(ReadMarkers::default().in_thread(Some("$new")), None);
    }
}
