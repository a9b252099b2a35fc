//! What waits for each server, in the store.

use std::collections::BTreeMap;

use entente_storage::{Bytes, Snapshot, Store, Transaction};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedServerName, RoomId, ServerName};

use crate::{
    FederationError,
    rows::{self, EventRow, QueueRow},
};

/// Events of one transaction (S-S API, "Transactions").
const MOST_EVENTS: usize = 50;
/// Other messages of one transaction, beside as many that do not wait (S-S API: at most 100 together).
const MOST_MESSAGES: usize = 50;

/// What is to be put down for servers.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    events: BTreeMap<OwnedServerName, Vec<EventRow>>,
    messages: BTreeMap<OwnedServerName, Vec<Bytes>>,
}

impl Waiting {
    pub(super) fn add_event(&mut self, server: OwnedServerName, room_id: &RoomId, event_id: &OwnedEventId) {
        let row = EventRow { room_id: room_id.to_string(), event_id: event_id.to_string() };
        self.events.entry(server).or_default().push(row);
    }

    pub(super) fn add_message(
        &mut self,
        server: OwnedServerName,
        message: &CanonicalJsonObject,
    ) -> Result<(), FederationError> {
        let json =
            serde_json::to_vec(message).map_err(|error| FederationError::Internal(error.to_string()))?;
        self.messages.entry(server).or_default().push(json.into());
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.messages.is_empty()
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &ServerName> {
        let only_messages = self.messages.keys().filter(|server| !self.events.contains_key(*server));
        self.events.keys().chain(only_messages).map(|server| &**server)
    }

    /// A transaction that puts it behind what waits already.
    pub(super) async fn put(&self, store: &Store) -> Result<Transaction, FederationError> {
        let snapshot = store.snapshot().await?;
        let mut transaction = Transaction::new();
        for server in self.servers() {
            let old = snapshot.get(&rows::QUEUES, server.as_str()).await?;
            let mut queue = old.clone().unwrap_or(QueueRow { next: 1 });
            for row in self.events.get(server).into_iter().flatten() {
                transaction.put(&rows::WAITING_EVENTS, (server.as_str(), queue.next), row);
                queue.next += 1;
            }
            for message in self.messages.get(server).into_iter().flatten() {
                transaction.put(&rows::WAITING_MESSAGES, (server.as_str(), queue.next), message);
                queue.next += 1;
            }
            transaction.check_unchanged(&rows::QUEUES, server.as_str(), old.as_ref());
            transaction.put(&rows::QUEUES, server.as_str(), &queue);
        }
        Ok(transaction)
    }
}

/// The next transaction for a server.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Vec<(u64, EventRow)>,
    pub(super) messages: Vec<(u64, Bytes)>,
}

impl Batch {
    /// The oldest of what waits.
    pub(super) async fn read(snapshot: &Snapshot, server: &ServerName) -> Result<Self, FederationError> {
        let events = rows::WAITING_EVENTS.scan((server.as_str(),)).limit(MOST_EVENTS);
        let messages = rows::WAITING_MESSAGES.scan((server.as_str(),)).limit(MOST_MESSAGES);
        let events = snapshot.scan(&events).await?.rows;
        let messages = snapshot.scan(&messages).await?.rows;
        Ok(Self {
            events: events.into_iter().map(|((_, number), row)| (number, row)).collect(),
            messages: messages.into_iter().map(|((_, number), row)| (number, row)).collect(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.messages.is_empty()
    }

    /// The id of the transaction: the same for the same content, so that it is taken once, however often it is sent.
    pub(super) fn transaction_id(&self) -> String {
        let first_and_last = |numbers: Vec<u64>| match (numbers.first(), numbers.last()) {
            (Some(first), Some(last)) => format!("{first}-{last}"),
            _ => String::from("0"),
        };
        let events = self.events.iter().map(|(number, _)| *number).collect();
        let messages = self.messages.iter().map(|(number, _)| *number).collect();
        format!("{}.{}", first_and_last(events), first_and_last(messages))
    }

    /// Takes it out of what waits. After a crash it is sent again, and recognised.
    pub(super) async fn delete(&self, store: &Store, server: &ServerName) -> Result<(), FederationError> {
        let mut transaction = Transaction::relaxed();
        for (number, _) in &self.events {
            transaction.delete(&rows::WAITING_EVENTS, (server.as_str(), *number));
        }
        for (number, _) in &self.messages {
            transaction.delete(&rows::WAITING_MESSAGES, (server.as_str(), *number));
        }
        store.commit(transaction).await?;
        Ok(())
    }
}

/// The servers for which something ever waited.
pub(super) async fn waiting_servers(store: &Store) -> Result<Vec<OwnedServerName>, FederationError> {
    let rows = store.snapshot().await?.scan_all(rows::QUEUES.scan(())).await?;
    Ok(rows.into_iter().filter_map(|(server, _)| ServerName::parse(server).ok()).collect())
}
