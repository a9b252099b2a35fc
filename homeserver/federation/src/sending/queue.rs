//! What waits for each server, in the store.

use std::collections::{BTreeMap, HashMap};

use entente_environment::Timestamp;
use entente_rooms::{Event, RoomView};
use entente_storage::{Bytes, Snapshot, Store, Transaction};
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};

use super::sticky::sticky_until;
use crate::{
    Destinations, FederationError,
    rows::{self, EventRow, QueueRow},
};

/// Events of one transaction (S-S API, "Transactions").
const MOST_EVENTS: usize = 50;
/// Other messages of one transaction, beside as many that do not wait (S-S API: at most 100 together).
const MOST_MESSAGES: usize = 50;

/// When so many events wait for a server that does not answer, only the newest of each room is kept: when it is back it learns from
/// that one that there are others, and asks for them.
const MOST_WHILE_AWAY: u64 = 1_000;
/// The same for one that answers, and does not keep up.
const MOST_WAITING: u64 = 50_000;
/// Servers for which that is done at once.
const MOST_SHORTENED: usize = 20;

/// What is to be put down for servers.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    events: BTreeMap<OwnedServerName, Vec<EventRow>>,
    messages: BTreeMap<OwnedServerName, Vec<Bytes>>,
}

impl Waiting {
    pub(super) fn add_event(&mut self, server: OwnedServerName, view: &RoomView, event: &Event) {
        self.add_row(
            server,
            EventRow {
                room_id: view.room.room_id.to_string(),
                event_id: event.event_id.to_string(),
                sticky_until: sticky_until(view, event),
            },
        );
    }

    fn add_row(&mut self, server: OwnedServerName, row: EventRow) {
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
    pub(super) async fn put(
        &self,
        store: &Store,
        destinations: &Destinations,
        now: Timestamp,
    ) -> Result<Transaction, FederationError> {
        let snapshot = store.snapshot().await?;
        let mut transaction = Transaction::new();
        let mut shortened = 0;
        for server in self.servers() {
            let old = snapshot.get(&rows::QUEUES, server.as_str()).await?;
            let mut queue = old.clone().unwrap_or(QueueRow { next: 1 });
            let most =
                if destinations.failing_since(server).is_some() { MOST_WHILE_AWAY } else { MOST_WAITING };
            if shortened < MOST_SHORTENED && events_waiting(&snapshot, server, &queue).await? > most {
                shorten(&snapshot, &mut transaction, server, &mut queue, now).await?;
                shortened += 1;
            }
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

/// At the most so many events wait for a server.
async fn events_waiting(
    snapshot: &Snapshot,
    server: &ServerName,
    queue: &QueueRow,
) -> Result<u64, FederationError> {
    let oldest = snapshot.scan(&rows::WAITING_EVENTS.scan((server.as_str(),)).limit(1)).await?;
    let first = oldest.rows.first().map_or(queue.next, |((_, number), _)| *number);
    Ok(queue.next.saturating_sub(first))
}

/// Leaves of the events that wait for a server the newest of each room, and those that stick, at the end of the queue.
async fn shorten(
    snapshot: &Snapshot,
    transaction: &mut Transaction,
    server: &ServerName,
    queue: &mut QueueRow,
    now: Timestamp,
) -> Result<(), FederationError> {
    let waiting = snapshot.scan_all(rows::WAITING_EVENTS.scan((server.as_str(),))).await?;
    let mut newest: HashMap<&str, u64> = HashMap::new();
    for ((_, number), row) in &waiting {
        newest.insert(&row.room_id, *number);
    }
    let (before, mut kept) = (waiting.len(), 0);
    for ((_, number), row) in &waiting {
        transaction.delete(&rows::WAITING_EVENTS, (server.as_str(), *number));
        if newest.get(row.room_id.as_str()) == Some(number) || row.sticky_until > now.millis() {
            transaction.put(&rows::WAITING_EVENTS, (server.as_str(), queue.next), row);
            queue.next += 1;
            kept += 1;
        }
    }
    tracing::info!(%server, before, kept, "of the events that wait for a server the newest of each room are kept");
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use entente_environment::{Environment, ManualClock, Randomness, Timestamp};
    use ruma::{RoomId, room_id, server_name};

    use super::*;
    use crate::testing::memory_store;

    async fn put(store: &Store, destinations: &Destinations, waiting: &Waiting, now: Timestamp) {
        let transaction = waiting.put(store, destinations, now).await.unwrap();
        store.commit(transaction).await.unwrap();
    }

    async fn events(store: &Store, server: &ServerName) -> Vec<EventRow> {
        let rows = store.snapshot().await.unwrap();
        let rows = rows.scan_all(rows::WAITING_EVENTS.scan((server.as_str(),))).await.unwrap();
        rows.into_iter().map(|(_, row)| row).collect()
    }

    #[tokio::test]
    async fn a_dead_server_costs_an_event_for_each_room_and_no_message_is_dropped() {
        let store = memory_store().await;
        let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
        let environment = Environment::new(clock, Randomness::from_seed(1));
        let destinations = Destinations::open(store.clone(), environment.clone()).await.unwrap();
        let (dead, alive) = (server_name!("dead.example"), server_name!("alive.example"));
        destinations.failed(dead, environment.now()).await;
        let rooms = [room_id!("!a:b"), room_id!("!b:b"), room_id!("!c:b")];
        let message = CanonicalJsonObject::new();
        let (mut longest, mut now) = (0, environment.now());
        for round in 0..300_u32 {
            let mut waiting = Waiting::default();
            // The last room is quiet from the second round on.
            for number in 0..10_usize {
                let room = if round == 0 { rooms[number % 3] } else { rooms[number % 2] };
                // One of the first sticks for some time, and one for good.
                let sticky_until = match (round, number) {
                    (0, 3) => now.millis() + 200,
                    (0, 4) => u64::MAX,
                    _ => 0,
                };
                let event_id = format!("${round}_{number}");
                let row = EventRow { room_id: room.to_string(), event_id, sticky_until };
                for server in [dead, alive] {
                    waiting.add_row(server.to_owned(), row.clone());
                }
            }
            waiting.add_message(dead.to_owned(), &message).unwrap();
            now.0 += 1;
            put(&store, &destinations, &waiting, now).await;
            longest = longest.max(events(&store, dead).await.len());
        }
        assert!(longest <= 1_020, "{longest}");
        assert_eq!(events(&store, alive).await.len(), 3_000);
        let waiting = events(&store, dead).await;
        let newest = |room: &RoomId| {
            let of_room = waiting.iter().rev().find(|row| row.room_id == room.as_str());
            of_room.map(|row| row.event_id.clone())
        };
        assert_eq!(newest(rooms[0]).as_deref(), Some("$299_8"));
        assert_eq!(newest(rooms[1]).as_deref(), Some("$299_9"));
        assert_eq!(newest(rooms[2]).as_deref(), Some("$0_8"));
        let is_there = |event_id: &str| waiting.iter().any(|row| row.event_id == event_id);
        assert!(is_there("$0_4") && !is_there("$0_3"), "what sticks stays for as long as it does");
        let messages = store.snapshot().await.unwrap();
        let messages = messages.scan_all(rows::WAITING_MESSAGES.scan((dead.as_str(),))).await.unwrap();
        assert_eq!(messages.len(), 300);
    }
}
