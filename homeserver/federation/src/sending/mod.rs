//! What this server's users do, brought to the other servers in their rooms (S-S API, "Transactions"). What waits for a server is in
//! the store until that server has acknowledged it; each server has a worker of its own, so that none delays another.

mod passing;
mod presence;
mod queue;
mod sticky;
mod worker;

use std::{collections::HashMap, sync::Arc};

use entente_accounts::Accounts;
use entente_environment::Environment;
use entente_rooms::{Change, Event, Membership, RoomView, Rooms};
use entente_storage::{Follower, LogEntry, StartFrom, Store, Transaction, keep_following};
use parking_lot::Mutex;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int, OwnedServerName, ServerName, UserId};
use tokio::sync::{Notify, Semaphore};

use self::{passing::Typists, presence::Heralds, queue::Waiting};
use crate::{Client, FederationError};

/// Records that are read at once.
const MOST_RECORDS: usize = 256;
/// Records that may pass unnoticed before the cursor is stored.
const MOST_PASSED: usize = 4_096;
/// The follower that puts down what is to be sent.
const NAME: &str = "federation.outgoing";
/// Messages worth telling only now that a worker is handed at once.
const MOST_PASSING: usize = 50;
/// Servers to which is sent at the same time.
const AT_ONCE: usize = 100;

/// Sends to other servers. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    environment: Environment,
    accounts: Accounts,
    rooms: Rooms,
    client: Client,
    /// The servers that have a worker.
    workers: Mutex<HashMap<OwnedServerName, Arc<Desk>>>,
    typists: Typists,
    heralds: Heralds,
    places: Semaphore,
}

/// Where the worker of a server finds its work.
#[derive(Debug, Default)]
struct Desk {
    /// Something waits in the store.
    notify: Notify,
    /// What is worth telling only now, the oldest first.
    passing: Mutex<Vec<CanonicalJsonObject>>,
}

impl Desk {
    /// Takes a message that is worth telling only now. The oldest give way to the newest.
    fn pass(&self, message: CanonicalJsonObject) {
        let mut passing = self.passing.lock();
        if passing.len() >= MOST_PASSING {
            passing.remove(0);
        }
        passing.push(message);
    }

    /// Takes back what could not be told and is still so later: what was read.
    fn take_back(&self, unsent: Vec<CanonicalJsonObject>) {
        let mut passing = self.passing.lock();
        let newer = std::mem::take(&mut *passing);
        passing.extend(unsent.into_iter().filter(passing::is_receipt).chain(newer));
        let surplus = passing.len().saturating_sub(MOST_PASSING);
        passing.drain(..surplus);
    }
}

impl Outbox {
    /// What waits in a store.
    pub fn new(
        store: Store,
        environment: Environment,
        accounts: Accounts,
        rooms: Rooms,
        client: Client,
    ) -> Self {
        let inner = Inner {
            store,
            environment,
            accounts,
            rooms,
            client,
            workers: Mutex::default(),
            typists: Typists::default(),
            heralds: Heralds::default(),
            places: Semaphore::new(AT_ONCE),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Follows the log and sends, for as long as it is polled.
    pub async fn follow(self) {
        tokio::join!(self.follow_log(), self.tell_presences(), self.repeat_typing());
    }

    async fn follow_log(&self) {
        let is_conflict =
            |error: &FederationError| matches!(error, FederationError::Storage(error) if error.is_conflict());
        keep_following(NAME, is_conflict, || self.follow_until_failure()).await;
    }

    async fn follow_until_failure(&self) -> Result<std::convert::Infallible, FederationError> {
        for server in queue::waiting_servers(&self.inner.store).await? {
            self.wake(&server);
        }
        let mut follower = Follower::open(&self.inner.store, NAME, StartFrom::Beginning).await?;
        let mut passed = 0;
        loop {
            let records = follower.next(MOST_RECORDS).await?;
            let mut waiting = Waiting::default();
            for entry in records.iter().flat_map(|record| &record.entries) {
                self.note(entry, &mut waiting).await?;
            }
            passed += records.len();
            if !waiting.is_empty() || passed >= MOST_PASSED {
                let mut transaction = self.put_down(&waiting).await?;
                follower.advance_in(&mut transaction);
                self.inner.store.commit(transaction).await?;
                follower.advanced();
                passed = 0;
            }
            for server in waiting.servers() {
                self.wake(server);
            }
        }
    }

    /// Notes for whom a log entry is.
    async fn note(&self, entry: &LogEntry, waiting: &mut Waiting) -> Result<(), FederationError> {
        if entry.topic == entente_encryption::TOPIC {
            return self.note_devices(entry, waiting).await;
        }
        if entry.topic == entente_accounts::TOPIC {
            self.note_accounts(entry);
            return Ok(());
        }
        if entry.topic != entente_rooms::TOPIC {
            return Ok(());
        }
        match Change::from_payload(&entry.payload) {
            Ok(Change::Event { room, number, member, .. }) => {
                if let Some((user_id, Membership::Join)) = &member {
                    self.note_arrival(room, user_id).await?;
                }
                let Some((view, event)) = self.inner.rooms.event_by_number(room, number).await? else {
                    return Ok(());
                };
                if event.sender.server_name() == self.inner.rooms.server_name() {
                    for server in self.recipients(&view, &event).await? {
                        waiting.add_event(server, &view, &event);
                    }
                }
                if let Some((user_id, Membership::Join)) = &member {
                    self.note_newcomer(&view, user_id, waiting).await?;
                }
            }
            Ok(Change::Typing { room }) => self.tell_typing(room).await?,
            Ok(Change::Receipt { room, user_id, private: false }) => {
                self.tell_receipt(room, &user_id).await?;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "a log entry about a room cannot be read"),
        }
        Ok(())
    }

    /// Notes that a user's devices or keys changed, for all servers that encrypt for them (S-S API, `m.device_list_update`). What they
    /// are now, those servers ask for.
    async fn note_devices(&self, entry: &LogEntry, waiting: &mut Waiting) -> Result<(), FederationError> {
        let user_id = match entente_encryption::Change::from_payload(&entry.payload) {
            Ok(entente_encryption::Change::DeviceList { user_id }) => user_id,
            Ok(_) => return Ok(()),
            Err(error) => {
                tracing::error!(%error, "a log entry about encryption cannot be read");
                return Ok(());
            }
        };
        let Some(localpart) = self.inner.rooms.local(&user_id) else { return Ok(()) };
        let servers = self.inner.rooms.servers_sharing_rooms(localpart).await?;
        let now = self.inner.environment.now().millis();
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let content = CanonicalJsonObject::from([
            (String::from("user_id"), text(&user_id)),
            (String::from("device_id"), text("")),
            (String::from("stream_id"), CanonicalJsonValue::Integer(Int::try_from(now).unwrap_or(Int::MAX))),
            (String::from("prev_id"), CanonicalJsonValue::Array(vec![CanonicalJsonValue::Integer(0.into())])),
        ]);
        let message = CanonicalJsonObject::from([
            (String::from("edu_type"), text("m.device_list_update")),
            (String::from("content"), CanonicalJsonValue::Object(content)),
        ]);
        for server in servers {
            if let Ok(server) = ServerName::parse(server)
                && self.inner.client.policy().check_outbound(&server).is_ok()
            {
                waiting.add_message(server, &message)?;
            }
        }
        Ok(())
    }

    /// The servers that are to have an event: those with users in the room, and that of the user whose membership it is.
    async fn recipients(
        &self,
        view: &RoomView,
        event: &Event,
    ) -> Result<Vec<OwnedServerName>, FederationError> {
        let policy = self.inner.client.policy();
        let mut servers: Vec<OwnedServerName> = Vec::new();
        for server in view.servers().await? {
            servers.extend(ServerName::parse(server).ok());
        }
        if event.membership().is_some() {
            let of_member = event.state_key.as_deref().and_then(|user_id| UserId::parse(user_id).ok());
            let of_member = of_member.map(|user_id| user_id.server_name().to_owned());
            servers.extend(of_member.filter(|server| !servers.contains(server)));
        }
        servers.retain(|server| policy.check_outbound(server).is_ok());
        Ok(servers)
    }

    /// Puts down messages that may not get lost, one for each server. They wait in the store once this returns. Those for servers that are
    /// not spoken to are left out: the others are not to miss theirs.
    pub async fn put_messages(
        &self,
        messages: Vec<(OwnedServerName, CanonicalJsonObject)>,
    ) -> Result<(), FederationError> {
        let mut waiting = Waiting::default();
        for (server, message) in messages {
            match self.inner.client.policy().check_outbound(&server) {
                Ok(()) => waiting.add_message(server, &message)?,
                Err(error) => tracing::info!(%error, "a message to another server is left out"),
            }
        }
        loop {
            let transaction = self.put_down(&waiting).await?;
            match self.inner.store.commit(transaction).await {
                Err(error) if error.is_conflict() => {}
                committed => {
                    committed?;
                    break;
                }
            }
        }
        for server in waiting.servers() {
            self.wake(server);
        }
        Ok(())
    }

    async fn put_down(&self, waiting: &Waiting) -> Result<Transaction, FederationError> {
        let now = self.inner.environment.now();
        waiting.put(&self.inner.store, self.inner.client.destinations(), now).await
    }

    /// Lets the worker of a server look for what waits.
    fn wake(&self, server: &ServerName) {
        self.with_desk(server, |_| ());
    }

    /// Hands a message to the worker of a server that is worth telling only now.
    fn pass(&self, server: &ServerName, message: CanonicalJsonObject) {
        self.with_desk(server, |desk| desk.pass(message));
    }

    fn with_desk(&self, server: &ServerName, put: impl FnOnce(&Desk)) {
        let mut workers = self.inner.workers.lock();
        if let Some(desk) = workers.get(server) {
            put(desk);
            desk.notify.notify_one();
            return;
        }
        let desk = Arc::new(Desk::default());
        put(&desk);
        desk.notify.notify_one();
        workers.insert(server.to_owned(), Arc::clone(&desk));
        tokio::spawn(self.clone().work(server.to_owned(), desk));
    }
}
