//! Who is here of this server's users, told to the servers that share rooms with them (S-S API, "Presence").
//!
//! What the log tells is collected, and told every few seconds together: whoever comes and goes meanwhile is told of once, and a server
//! with a thousand users of ours in its rooms gets some twenty messages, not a thousand. It is told again now and then of those who are
//! here, so that a server which hears nothing knows that it hears nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use entente_accounts::{AccountError, Presence, PresenceState};
use entente_rooms::RoomNumber;
use entente_storage::LogEntry;
use parking_lot::Mutex;
use ruma::{CanonicalJsonValue, OwnedServerName, ServerName, UserId};

use super::{
    Outbox,
    passing::{object, text, whole},
};
use crate::FederationError;

/// How long what is to be told is collected.
const TICK: Duration = Duration::from_secs(3);
/// After so long those who are here are told of again.
const REPEAT: Duration = Duration::from_secs(25 * 60);
/// Users who are told of at once; the others wait for the next time.
const MOST_USERS: usize = 500;
/// Newcomers that are told at once who is in the room they came into.
const MOST_NEWCOMERS: usize = 50;
/// Users of one message.
const MOST_IN_MESSAGE: usize = 50;

/// What is to be told of presence.
#[derive(Debug, Default)]
pub(super) struct Heralds {
    due: Mutex<Due>,
}

#[derive(Debug, Default)]
struct Due {
    /// The localparts of users who came, went, or came into a room.
    users: BTreeSet<String>,
    /// Servers of which the first user came into a room just now. They are told the next time: before they have taken in the room, it
    /// would mean nothing to them.
    newcomers: BTreeSet<(u64, OwnedServerName)>,
    /// Those of the last time.
    settled: BTreeSet<(u64, OwnedServerName)>,
}

impl Due {
    /// What is told now; the rest stays.
    fn take(&mut self) -> Self {
        let users = take_first(&mut self.users, MOST_USERS);
        let settled = take_first(&mut self.settled, MOST_NEWCOMERS);
        self.settled.append(&mut self.newcomers);
        Self { users, newcomers: BTreeSet::new(), settled }
    }
}

fn take_first<T: Ord>(from: &mut BTreeSet<T>, most: usize) -> BTreeSet<T> {
    let mut taken = BTreeSet::new();
    while taken.len() < most
        && let Some(first) = from.pop_first()
    {
        taken.insert(first);
    }
    taken
}

impl Outbox {
    /// Notes what a log entry about accounts tells of presence.
    pub(super) fn note_accounts(&self, entry: &LogEntry) {
        match entente_accounts::Change::from_payload(&entry.payload) {
            Ok(entente_accounts::Change::Presence { localparts }) => {
                self.inner.heralds.due.lock().users.extend(localparts);
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "a log entry about an account cannot be read"),
        }
    }

    /// Notes that somebody came into a room: a user of this server whom others see there from now on, or the first one of a server that
    /// sees those who are there.
    pub(super) async fn note_arrival(&self, room: u64, user_id: &str) -> Result<(), FederationError> {
        if !self.inner.accounts.settings().presence {
            return Ok(());
        }
        if let Some(localpart) = self.inner.rooms.local(user_id) {
            self.inner.heralds.due.lock().users.insert(localpart.to_owned());
            return Ok(());
        }
        let Ok(user_id) = <&UserId>::try_from(user_id) else { return Ok(()) };
        let server = user_id.server_name();
        if self.inner.rooms.view_of(room).await?.users_of(server).await? == 1 {
            self.inner.heralds.due.lock().newcomers.insert((room, server.to_owned()));
        }
        Ok(())
    }

    /// Tells other servers every few seconds who came and went, for as long as it is polled.
    pub(super) async fn tell_presences(&self) {
        if !self.inner.accounts.settings().presence {
            return;
        }
        let mut told_all_at = self.inner.environment.now();
        loop {
            tokio::time::sleep(TICK).await;
            let now = self.inner.environment.now();
            if now.since(told_all_at) >= REPEAT {
                told_all_at = now;
                if let Err(error) = self.repeat_presences().await {
                    tracing::warn!(%error, "it is not told again who is here");
                }
            }
            let due = self.inner.heralds.due.lock().take();
            if let Err(error) = self.tell_due(&due).await {
                tracing::warn!(%error, "it could not be told who came and went; it will be tried again");
                let mut later = self.inner.heralds.due.lock();
                later.users.extend(due.users);
                later.settled.extend(due.settled);
            }
        }
    }

    async fn repeat_presences(&self) -> Result<(), FederationError> {
        let snapshot = self.inner.store.snapshot().await?;
        let all = self.inner.accounts.all_presences(&snapshot).await.map_err(of_accounts)?;
        let here = all.into_iter().filter(|(_, presence, _)| presence.state != PresenceState::Offline);
        self.inner.heralds.due.lock().users.extend(here.map(|(localpart, ..)| localpart));
        Ok(())
    }

    async fn tell_due(&self, due: &Due) -> Result<(), FederationError> {
        if due.users.is_empty() && due.settled.is_empty() {
            return Ok(());
        }
        let rooms = &self.inner.rooms;
        let mut by_server: BTreeMap<String, BTreeMap<String, CanonicalJsonValue>> = BTreeMap::new();
        let users: Vec<String> = due.users.iter().cloned().collect();
        for (localpart, presence) in self.presences_of(&users).await? {
            for server in rooms.servers_sharing_rooms(&localpart).await? {
                let told = self.push(&localpart, &presence);
                by_server.entry(server).or_default().insert(localpart.clone(), told);
            }
        }
        for (room, server) in &due.settled {
            let snapshot = self.inner.store.snapshot().await?;
            let mut members = rooms.local_members(&snapshot, RoomNumber(*room)).await?;
            members.truncate(MOST_USERS);
            for (localpart, presence) in self.presences_of(&members).await? {
                if presence.state != PresenceState::Offline {
                    let told = self.push(&localpart, &presence);
                    by_server.entry(server.to_string()).or_default().insert(localpart, told);
                }
            }
        }
        for (server, users) in by_server {
            let Ok(server) = ServerName::parse(server) else { continue };
            let users: Vec<CanonicalJsonValue> = users.into_values().collect();
            for some in users.chunks(MOST_IN_MESSAGE) {
                let content = object([("push", CanonicalJsonValue::Array(some.to_vec()))]);
                self.tell_now(&[server.to_string()], "m.presence", &content);
            }
        }
        Ok(())
    }

    /// The presence of local users; of whom nothing is known is not here.
    async fn presences_of(&self, localparts: &[String]) -> Result<Vec<(String, Presence)>, FederationError> {
        let accounts = &self.inner.accounts;
        let snapshot = self.inner.store.snapshot().await?;
        let found = accounts.presences(&snapshot, localparts).await.map_err(of_accounts)?;
        let known = localparts.iter().zip(found);
        let known = known.map(|(localpart, presence)| {
            (localpart.clone(), accounts.refreshed(localpart, presence.unwrap_or_default()))
        });
        Ok(known.collect())
    }

    /// What is told of one user.
    fn push(&self, localpart: &str, presence: &Presence) -> CanonicalJsonValue {
        let user_id = format!("@{localpart}:{}", self.inner.rooms.server_name());
        let mut told = object([
            ("user_id", text(&user_id)),
            ("presence", text(presence.state.as_str())),
            ("currently_active", CanonicalJsonValue::Bool(presence.state == PresenceState::Online)),
        ]);
        let ago = self.inner.accounts.last_active_ago(presence);
        told.insert(String::from("last_active_ago"), whole(ago.unwrap_or_default()));
        if let Some(status_msg) = &presence.status_msg {
            told.insert(String::from("status_msg"), text(status_msg));
        }
        CanonicalJsonValue::Object(told)
    }
}

fn of_accounts(error: AccountError) -> FederationError {
    match error {
        AccountError::Storage(error) => error.into(),
        error => FederationError::Internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn what_is_due_is_told_in_parts() {
        let users = (0..MOST_USERS + 20).map(|number| format!("user{number:04}")).collect();
        let newcomer = (1, server_name!("new.example").to_owned());
        let newcomers = BTreeSet::from([newcomer]);
        let mut due = Due { users, newcomers, settled: BTreeSet::new() };
        let first = due.take();
        assert_eq!((first.users.len(), due.users.len()), (MOST_USERS, 20));
        assert!(first.users.is_disjoint(&due.users));
        assert_eq!(first.settled.len(), 0, "who came just now is told the next time");
        let second = due.take();
        assert_eq!((second.users.len(), second.settled.len()), (20, 1));
        let third = due.take();
        assert!(third.users.is_empty() && third.settled.is_empty());
    }
}
