//! From what waits for a service to a transaction. It is stored before it is sent, so that the same id has the same content for ever,
//! whatever crashes (A-S API, "Transactions").

use std::collections::{BTreeMap, BTreeSet};

use entente_encryption::KeyCounts;
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
/// Once the events of a transaction have as many bytes, it is full.
const MOST_EVENT_BYTES: usize = 1024 * 1024;
/// Devices whose messages go into one transaction.
const MOST_MAILBOXES: usize = 50;
/// Messages to devices of one transaction.
const MOST_MESSAGES: usize = 100;
/// Devices of one user whose keys are counted.
const MOST_DEVICES: usize = 50;

/// What a transaction tells.
#[derive(Debug, Default)]
struct Body {
    events: Vec<Vec<u8>>,
    passing: Vec<Value>,
    messages: Vec<Value>,
    changed: BTreeSet<String>,
    key_counts: BTreeMap<String, BTreeMap<String, KeyCounts>>,
}

impl AppServices {
    /// What a service is to have next: what was made for it and not taken, or what waits. `None`: nothing.
    pub(super) async fn next_transaction(
        &self,
        service: &Registration,
        desk: &Desk,
    ) -> Result<Option<InFlightRow>, AppServiceError> {
        let snapshot = self.store().snapshot().await?;
        let old = snapshot.get(&rows::IN_FLIGHT, service.id.as_str()).await?;
        if let Some(row) = old.as_ref().filter(|row| !row.is_taken()) {
            return Ok(Some(row.clone()));
        }
        let mut transaction = Transaction::new();
        let mut body = Body::default();
        self.take_waiting(&snapshot, service, &mut transaction, &mut body).await?;
        let delivered = self.take_messages(&snapshot, service, &mut transaction, &mut body).await?;
        body.passing = std::mem::take(&mut *desk.passing.lock());
        if body.is_empty() {
            if !transaction.is_empty() {
                self.store().commit(transaction).await?;
            }
            return Ok(None);
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
        self.store().commit(transaction).await?;
        Ok(Some(row))
    }

    async fn take_waiting(
        &self,
        snapshot: &Snapshot,
        service: &Registration,
        transaction: &mut Transaction,
        body: &mut Body,
    ) -> Result<(), AppServiceError> {
        let scan = rows::WAITING.scan((service.id.as_str(),)).limit(MOST_ROWS);
        let mut bytes = 0;
        for (key, row) in snapshot.scan(&scan).await?.rows {
            if bytes >= MOST_EVENT_BYTES {
                break;
            }
            transaction.delete(&rows::WAITING, &key);
            match row {
                WaitingRow::Event { room, number } => {
                    // One that is gone was purged with its room.
                    if let Some((view, event)) = self.rooms().event_by_number(room, number).await? {
                        let json = view.service_event(&event).await?;
                        bytes += json.len();
                        body.events.push(json);
                    }
                }
                WaitingRow::Devices { user_id } => {
                    body.changed.insert(user_id);
                }
            }
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
        let now = snapshot.position().await?;
        for (key, stamp) in snapshot.scan(&scan).await?.rows {
            let left = MOST_MESSAGES.saturating_sub(body.messages.len());
            if left == 0 {
                break;
            }
            let (_, localpart, device_id) = &key;
            let start = Position::start();
            let (messages, up_to) =
                self.encryption().to_device_page(snapshot, localpart, device_id, &start, &now, left).await?;
            if messages.is_empty() {
                transaction.check_unchanged(&rows::MAILBOXES, &key, Some(&stamp));
                transaction.delete(&rows::MAILBOXES, &key);
                continue;
            }
            for message in &messages {
                let Ok(mut message) = serde_json::from_slice::<Map<String, Value>>(message) else { continue };
                let user_id = format!("@{localpart}:{}", self.rooms().server_name());
                message.insert(String::from("to_user_id"), Value::String(user_id));
                message.insert(String::from("to_device_id"), Value::String(device_id.clone()));
                body.messages.push(Value::Object(message));
            }
            let (localpart, device_id) = (localpart.clone(), device_id.clone());
            delivered.push(DeliveredRow { localpart, device_id, up_to });
        }
        Ok(delivered)
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
        for localpart in users {
            let user_id = format!("@{localpart}:{}", self.rooms().server_name());
            for device_id in
                self.encryption().devices_with_keys(localpart).await?.into_iter().take(MOST_DEVICES)
            {
                let left = self.encryption().one_time_key_counts(snapshot, localpart, &device_id).await?;
                counts.entry(user_id.clone()).or_default().insert(device_id, left);
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
        for DeliveredRow { localpart, device_id, up_to } in &row.delivered {
            self.encryption().acknowledge_to_device(localpart, device_id, up_to).await?;
        }
        let mut transaction = Transaction::relaxed();
        transaction.check_unchanged(&rows::IN_FLIGHT, service.id.as_str(), Some(&row));
        let taken = InFlightRow { body: Vec::new(), delivered: Vec::new(), ..row };
        transaction.put(&rows::IN_FLIGHT, service.id.as_str(), &taken);
        self.store().commit(transaction).await?;
        Ok(())
    }
}

impl Body {
    fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.passing.is_empty()
            && self.messages.is_empty()
            && self.changed.is_empty()
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
            let none: [&str; 0] = [];
            let lists = serde_json::json!({ "changed": self.changed, "left": none });
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
