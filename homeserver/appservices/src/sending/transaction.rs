//! From what waits for a service to a transaction. It is stored before it is sent, so that the same id has the same content for ever,
//! whatever crashes (A-S API, "Transactions").

use std::collections::{BTreeMap, BTreeSet};

use entente_encryption::{KeyCounts, MessageLimit};
use entente_rooms::ObjectWriter;
use entente_storage::{Position, Snapshot, Transaction};
use serde_json::{Map, Value};

use super::Desk;
use crate::{
    AppServiceError, AppServices, Registration,
    rows::{self, DeliveredRow, InFlightRow, WaitingRow},
};

/// Things of one transaction.
const MOST_ROWS: usize = 100;
/// A transaction has about as many bytes at the most: bridges, and proxies before them, take no more than 1 MiB.
const MOST_BYTES: usize = 512 * 1024;
/// Messages to devices are of that as many bytes at the most, so that there is room for an event, however many messages come.
const MOST_MESSAGE_BYTES: usize = MOST_BYTES / 2;
/// What belongs to an event, a message or a user id in the body beside their own text.
const FRAME_BYTES: usize = 128;
/// Devices whose messages go into one transaction.
const MOST_MAILBOXES: usize = 50;
/// Messages to devices of one transaction.
const MOST_MESSAGES: usize = 100;
/// Devices of which keys are counted in one transaction.
const MOST_DEVICES: usize = 200;
/// Times that a transaction is begun again because something came while it was made.
const MOST_TRIES: usize = 20;

/// What a transaction tells.
#[derive(Debug, Default)]
struct Body {
    events: Vec<Vec<u8>>,
    passing: Vec<Value>,
    messages: Vec<Value>,
    changed: BTreeSet<String>,
    left: BTreeSet<String>,
    key_counts: BTreeMap<String, BTreeMap<String, KeyCounts>>,
    /// How large all of it is so far.
    bytes: usize,
}

impl AppServices {
    /// What a service is to have next: what was made for it and not taken, or what waits. `None`: nothing.
    pub(super) async fn next_transaction(
        &self,
        service: &Registration,
        desk: &Desk,
    ) -> Result<Option<InFlightRow>, AppServiceError> {
        let mut tries = 0;
        loop {
            match self.make_transaction(service, desk).await {
                Ok(Made::Transaction(row)) => return Ok(Some(row)),
                Ok(Made::Nothing) => return Ok(None),
                // What waited was of no use to anybody any more; there may be more behind it.
                Ok(Made::Room) => {}
                // Something was put down meanwhile.
                Err(error) if error.is_conflict() && tries < MOST_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn make_transaction(&self, service: &Registration, desk: &Desk) -> Result<Made, AppServiceError> {
        let snapshot = self.store().snapshot().await?;
        let old = snapshot.get(&rows::IN_FLIGHT, service.id.as_str()).await?;
        if let Some(row) = old.as_ref().filter(|row| !row.is_taken()) {
            return Ok(Made::Transaction(row.clone()));
        }
        let mut transaction = Transaction::new();
        let mut body = Body::default();
        // First, since events need the keys that are in them.
        let delivered = self.take_messages(&snapshot, service, &mut transaction, &mut body).await?;
        self.take_waiting(&snapshot, service, &mut transaction, &mut body).await?;
        body.take_passing(desk);
        if body.is_empty() {
            if transaction.is_empty() {
                return Ok(Made::Nothing);
            }
            self.store().commit(transaction).await?;
            return Ok(Made::Room);
        }
        if service.encryption {
            body.key_counts = self.key_counts(&snapshot, service, &delivered).await?;
        }
        let count = old.as_ref().map_or(0, |row| row.count) + 1;
        // Numbers come again in a store that was restored from a backup; what is behind them does not.
        let transaction_id = format!("{count}.{}", self.environment().randomness().alphanumeric(8));
        let row = InFlightRow { count, transaction_id, body: body.write(service), delivered };
        transaction.check_unchanged(&rows::IN_FLIGHT, service.id.as_str(), old.as_ref());
        transaction.put(&rows::IN_FLIGHT, service.id.as_str(), &row);
        if let Err(error) = self.store().commit(transaction).await {
            desk.passing.lock().splice(0..0, body.passing);
            return Err(error.into());
        }
        Ok(Made::Transaction(row))
    }

    async fn take_waiting(
        &self,
        snapshot: &Snapshot,
        service: &Registration,
        transaction: &mut Transaction,
        body: &mut Body,
    ) -> Result<(), AppServiceError> {
        let scan = rows::WAITING.scan((service.id.as_str(),)).limit(MOST_ROWS);
        for (key, row) in snapshot.scan(&scan).await?.rows {
            match row {
                WaitingRow::Event { room, number } => {
                    // One that is gone was purged, alone or with its room.
                    if let Some((view, event)) = self.rooms().event_by_number(room, number).await? {
                        let json = view.service_event(&event).await?;
                        if !body.has_room_for(json.len()) {
                            return Ok(());
                        }
                        body.bytes += json.len() + FRAME_BYTES;
                        body.events.push(json);
                    }
                }
                WaitingRow::Devices { user_id } => {
                    body.bytes += user_id.len() + FRAME_BYTES;
                    body.left.remove(&user_id);
                    body.changed.insert(user_id);
                }
                WaitingRow::DevicesLeft { user_id } => {
                    body.bytes += user_id.len() + FRAME_BYTES;
                    body.changed.remove(&user_id);
                    body.left.insert(user_id);
                }
            }
            transaction.delete(&rows::WAITING, &key);
        }
        Ok(())
    }

    /// Messages for the devices of a service's users. They stay where they are until the transaction was taken.
    async fn take_messages(
        &self,
        snapshot: &Snapshot,
        service: &Registration,
        transaction: &mut Transaction,
        body: &mut Body,
    ) -> Result<Vec<DeliveredRow>, AppServiceError> {
        let mut delivered = Vec::new();
        let scan = rows::MAILBOXES.scan((service.id.as_str(),)).limit(MOST_MAILBOXES);
        for (key, stamp) in snapshot.scan(&scan).await?.rows {
            let taken = self.take_mail(snapshot, service, &key, body).await?;
            if taken.is_all {
                // Whoever puts more into it puts it down again.
                transaction.check_unchanged(&rows::MAILBOXES, &key, Some(&stamp));
                transaction.delete(&rows::MAILBOXES, &key);
            }
            if let Some(up_to) = taken.up_to {
                let (_, localpart, device_id) = key;
                delivered.push(DeliveredRow { localpart, device_id, up_to });
            }
            if !taken.is_all {
                break;
            }
        }
        Ok(delivered)
    }

    /// The messages of one device, as many as there is room for.
    async fn take_mail(
        &self,
        snapshot: &Snapshot,
        service: &Registration,
        mailbox: &(String, String, String),
        body: &mut Body,
    ) -> Result<Taken, AppServiceError> {
        let (_, localpart, device_id) = mailbox;
        let user_id = format!("@{localpart}:{}", self.rooms().server_name());
        let now = snapshot.position().await?;
        let after = if service.receives_for(&user_id) {
            Position::start()
        } else {
            snapshot.get(&rows::COPIED, mailbox).await?.unwrap_or_default()
        };
        let limit = MessageLimit {
            messages: MOST_MESSAGES.saturating_sub(body.messages.len()),
            bytes: MOST_MESSAGE_BYTES.saturating_sub(body.bytes),
        };
        if limit.messages == 0 {
            return Ok(Taken::default());
        }
        let (messages, up_to) =
            self.encryption().to_device_page(snapshot, localpart, device_id, &after, &now, limit).await?;
        if messages.is_empty() {
            return Ok(Taken { up_to: None, is_all: true });
        }
        let bytes: usize = messages.iter().map(|message| message.len() + user_id.len() + FRAME_BYTES).sum();
        if !body.messages.is_empty() && bytes > limit.bytes {
            return Ok(Taken::default());
        }
        body.bytes += bytes;
        for message in &messages {
            let Ok(mut message) = serde_json::from_slice::<Map<String, Value>>(message) else { continue };
            message.insert(String::from("to_user_id"), Value::String(user_id.clone()));
            message.insert(String::from("to_device_id"), Value::String(device_id.clone()));
            body.messages.push(Value::Object(message));
        }
        Ok(Taken { is_all: up_to == now, up_to: Some(up_to) })
    }

    /// How many keys the devices have left that are concerned: those that get messages, and the service's own.
    async fn key_counts(
        &self,
        snapshot: &Snapshot,
        service: &Registration,
        delivered: &[DeliveredRow],
    ) -> Result<BTreeMap<String, BTreeMap<String, KeyCounts>>, AppServiceError> {
        let mut counts: BTreeMap<String, BTreeMap<String, KeyCounts>> = BTreeMap::new();
        let mut users: BTreeSet<&str> = delivered.iter().map(|row| row.localpart.as_str()).collect();
        users.insert(service.sender.localpart());
        let mut counted = 0;
        for localpart in users {
            let user_id = format!("@{localpart}:{}", self.rooms().server_name());
            for device_id in self.encryption().devices_with_keys(localpart).await? {
                if counted == MOST_DEVICES {
                    return Ok(counts);
                }
                let left = self.encryption().one_time_key_counts(snapshot, localpart, &device_id).await?;
                counts.entry(user_id.clone()).or_default().insert(device_id, left);
                counted += 1;
            }
        }
        Ok(counts)
    }

    /// Notes that a transaction was taken, and forgets what was in it. After a crash it is sent again, and recognised.
    pub(super) async fn note_taken(
        &self,
        service: &Registration,
        row: InFlightRow,
    ) -> Result<(), AppServiceError> {
        let mut transaction = Transaction::relaxed();
        for DeliveredRow { localpart, device_id, up_to } in &row.delivered {
            let user_id = format!("@{localpart}:{}", self.rooms().server_name());
            if service.receives_for(&user_id) {
                self.encryption().acknowledge_to_device(localpart, device_id, up_to).await?;
            } else {
                let key = (service.id.as_str(), localpart.as_str(), device_id.as_str());
                transaction.put(&rows::COPIED, key, up_to);
            }
        }
        transaction.check_unchanged(&rows::IN_FLIGHT, service.id.as_str(), Some(&row));
        let taken = InFlightRow { body: Vec::new(), delivered: Vec::new(), ..row };
        transaction.put(&rows::IN_FLIGHT, service.id.as_str(), &taken);
        self.store().commit(transaction).await?;
        Ok(())
    }
}

/// What came of making a transaction.
enum Made {
    Transaction(InFlightRow),
    /// What was in front is gone, and nothing came of it.
    Room,
    Nothing,
}

/// What was taken of the messages of one device.
#[derive(Default)]
struct Taken {
    /// Up to where; `None`: none.
    up_to: Option<Position>,
    /// Whether there are no more.
    is_all: bool,
}

impl Body {
    fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.passing.is_empty()
            && self.messages.is_empty()
            && self.changed.is_empty()
            && self.left.is_empty()
    }

    /// Whether something of so many bytes still goes in. The first thing always does: it would never go otherwise.
    fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes + FRAME_BYTES <= MOST_BYTES
    }

    /// Takes what is worth telling only now from a desk, the oldest first, as much as there is room for.
    fn take_passing(&mut self, desk: &Desk) {
        let mut waiting = desk.passing.lock();
        let mut taken = 0;
        for message in waiting.iter() {
            // It is in the body under two names.
            let bytes = 2 * (message.to_string().len() + FRAME_BYTES);
            if !self.has_room_for(bytes) {
                break;
            }
            self.bytes += bytes;
            taken += 1;
        }
        self.passing = waiting.drain(..taken).collect();
    }

    /// The JSON, under the names that the service knows.
    fn write(&self, service: &Registration) -> Vec<u8> {
        let mut json = Vec::new();
        let mut writer = ObjectWriter::begin(&mut json);
        writer.list("events", &self.events, |json, event| json.extend_from_slice(event));
        if !self.passing.is_empty() {
            writer.value("ephemeral", &self.passing);
            writer.value("de.sorunome.msc2409.ephemeral", &self.passing);
        }
        if !self.messages.is_empty() {
            // Not under both names: a service that reads both would decrypt everything twice.
            let name = if service.unstable_names { "de.sorunome.msc2409.to_device" } else { "to_device" };
            writer.value(name, &self.messages);
        }
        if service.encryption {
            let lists = serde_json::json!({ "changed": self.changed, "left": self.left });
            writer.value("org.matrix.msc3202.device_lists", lists);
            let each = |read: fn(&KeyCounts) -> Value| -> Value {
                let devices = |devices: &BTreeMap<String, KeyCounts>| -> Value {
                    devices.iter().map(|(device_id, counts)| (device_id.clone(), read(counts))).collect()
                };
                self.key_counts.iter().map(|(user_id, counts)| (user_id.clone(), devices(counts))).collect()
            };
            let one_time = each(|counts| serde_json::json!(counts.one_time_keys));
            writer.value("org.matrix.msc3202.device_one_time_keys_count", &one_time);
            // Under this name it was first, and some look only for that.
            writer.value("org.matrix.msc3202.device_one_time_key_counts", &one_time);
            let unused = each(|counts| serde_json::json!(counts.unused_fallback));
            writer.value("org.matrix.msc3202.device_unused_fallback_key_types", unused);
        }
        writer.end();
        json
    }
}
