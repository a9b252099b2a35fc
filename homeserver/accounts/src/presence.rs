//! Who is here (C-S API, "Presence").
//!
//! Which devices are here is known in memory, where it costs nothing to hear that again. The store has what others were told last, and is
//! written when that is not true any more. Several nodes need not agree at once: each tells what it sees come and go, and tells
//! again what another one called gone.

use std::time::Duration;

use entente_storage::{LogPosition, Snapshot, Transaction, value::Stamped};
use minicbor::{Decode, Encode};
use ruma::UserId;

use crate::{
    AccountError, Accounts, Change,
    attendance::{Due, Moment},
    rows::{self, PresenceRow},
};

/// A status message has at most this many bytes.
pub(crate) const MOST_STATUS_BYTES: usize = 1_024;
/// Users of one transaction.
const MOST_AT_ONCE: usize = 500;
/// How late it may be noticed that somebody came or went.
const TICK: Duration = Duration::from_secs(1);
/// After so many ticks it is looked for servers that fell silent about their users.
const TICKS_OF_SILENCE: u32 = 60;

/// Whether somebody is here. The order is that in which the states of a user's devices prevail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum PresenceState {
    /// Not here.
    #[default]
    #[n(0)]
    Offline,
    /// Connected, but not looking.
    #[n(1)]
    Unavailable,
    /// Here.
    #[n(2)]
    Online,
}

impl PresenceState {
    /// The spec's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Unavailable => "unavailable",
            Self::Online => "online",
        }
    }

    /// By the spec's name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Offline, Self::Unavailable, Self::Online].into_iter().find(|state| state.as_str() == name)
    }
}

/// What others see of somebody's presence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Whether they are here.
    pub state: PresenceState,
    /// What they say about it.
    pub status_msg: Option<String>,
    /// When they did something last, in ms since 1970, if that was ever noticed.
    pub last_active_at: Option<u64>,
}

impl From<PresenceRow> for Presence {
    fn from(row: PresenceRow) -> Self {
        Self { state: row.state, status_msg: row.status_msg, last_active_at: row.last_active_at }
    }
}

/// As long as it lives, a device is here.
#[derive(Debug)]
pub struct Attendance {
    accounts: Accounts,
    localpart: String,
    device_id: String,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        let moment = self.accounts.moment();
        self.accounts.inner.attendances.leave(&self.localpart, &self.device_id, moment);
    }
}

/// What a user's row becomes.
struct NewPresence<'a> {
    due: &'a Due,
    status: Status<'a>,
}

/// What a user says about their presence.
enum Status<'a> {
    /// What they said before.
    Kept,
    /// This, or nothing any more.
    Set(Option<&'a str>),
}

impl NewPresence<'_> {
    /// The row that is to be written, if it is another than the one that is there.
    fn row(&self, stored: Option<&PresenceRow>) -> Option<PresenceRow> {
        let old = stored.cloned().unwrap_or_default();
        let status_msg = match self.status {
            Status::Set(status_msg) => status_msg.map(str::to_owned),
            Status::Kept => old.status_msg.clone(),
        };
        if old.state == self.due.state && old.status_msg == status_msg {
            return None;
        }
        let last_active_at = old.last_active_at.max(self.due.last_active_at);
        Some(PresenceRow { state: self.due.state, status_msg, last_active_at })
    }
}

impl Accounts {
    fn moment(&self) -> Moment {
        let environment = &self.inner.environment;
        Moment { at: environment.clock().monotonic(), time: environment.now() }
    }

    /// Notes that a device of a local user waits for news, and so is here until the answer is dropped, and 30 seconds more. That
    /// it says `online` again costs nothing and tells nobody. `None` for `offline`, and where presence is switched off.
    pub fn attend(&self, user_id: &UserId, device_id: &str, state: PresenceState) -> Option<Attendance> {
        let localpart = self.local(user_id).ok()?;
        if !self.settings().presence || state == PresenceState::Offline {
            return None;
        }
        self.inner.attendances.arrive(localpart, device_id, state, self.moment());
        Some(Attendance {
            accounts: self.clone(),
            localpart: localpart.to_owned(),
            device_id: device_id.to_owned(),
        })
    }

    /// Notes that a local user did something: sent a message, for instance.
    pub fn note_activity(&self, user_id: &UserId) {
        if let Ok(localpart) = self.local(user_id) {
            self.inner.attendances.act(localpart, self.moment());
        }
    }

    /// What a local user says about their presence (C-S API, `PUT /presence/{userId}/status`). It holds for the device that says it.
    pub async fn set_presence(
        &self,
        user_id: &UserId,
        device_id: &str,
        state: PresenceState,
        status_msg: Option<&str>,
    ) -> Result<(), AccountError> {
        let localpart = self.local(user_id)?;
        self.require_presence()?;
        if status_msg.is_some_and(|text| text.len() > MOST_STATUS_BYTES) {
            return Err(AccountError::TooLarge("a status message has at most 1024 bytes"));
        }
        let moment = self.moment();
        self.inner.attendances.declare(localpart, device_id, state, moment);
        let due = &self.inner.attendances.of(localpart, moment);
        self.write_presences(&[NewPresence { due, status: Status::Set(status_msg) }]).await
    }

    /// What is known of a user's presence, of this server or another.
    pub async fn presence(&self, user_id: &UserId) -> Result<Presence, AccountError> {
        self.require_presence()?;
        if user_id.server_name() != self.server_name() {
            return self.presence_elsewhere(user_id).await;
        }
        let localpart = self.local(user_id)?;
        let row = self.snapshot().await?.get(&rows::PRESENCE, localpart).await?;
        Ok(self.refreshed(localpart, row.map(|row| row.value.into()).unwrap_or_default()))
    }

    /// A presence with the newest time at which the user did something.
    #[must_use]
    pub fn refreshed(&self, localpart: &str, presence: Presence) -> Presence {
        let noticed = self.inner.attendances.last_active_at(localpart);
        Presence { last_active_at: presence.last_active_at.max(noticed), ..presence }
    }

    /// How long ago somebody did something, in ms.
    pub fn last_active_ago(&self, presence: &Presence) -> Option<u64> {
        presence.last_active_at.map(|at| self.inner.environment.now().millis().saturating_sub(at))
    }

    /// The presence of these local users as a snapshot has it; `None` of those of whom nothing is known.
    pub async fn presences(
        &self,
        snapshot: &Snapshot,
        localparts: &[String],
    ) -> Result<Vec<Option<Presence>>, AccountError> {
        let found = snapshot.get_many(&rows::PRESENCE, localparts.iter().map(String::as_str)).await?;
        Ok(found.into_iter().map(|row| row.map(|row| row.value.into())).collect())
    }

    /// The presence of all local users of whom something is known, and when it was told last.
    pub async fn all_presences(
        &self,
        snapshot: &Snapshot,
    ) -> Result<Vec<(String, Presence, LogPosition)>, AccountError> {
        let rows = snapshot.scan_all(rows::PRESENCE.scan(())).await?;
        Ok(rows.into_iter().map(|(localpart, row)| (localpart, row.value.into(), row.position)).collect())
    }

    /// Notes what another node may have told about a local user.
    pub fn hear_presence(&self, localpart: &str, state: PresenceState) {
        self.inner.attendances.hear(localpart, state);
    }

    /// Forgets the presence of a user whose account is gone. Done again, it does nothing.
    pub async fn forget_presence(&self, localpart: &str) -> Result<(), AccountError> {
        self.inner.attendances.forget(localpart);
        self.store()
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                if snapshot.get(&rows::PRESENCE, localpart).await?.is_some() {
                    transaction.delete(&rows::PRESENCE, localpart);
                    Change::Presence { localparts: vec![localpart.to_owned()] }.log_in(&mut transaction);
                }
                Ok::<_, AccountError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    fn require_presence(&self) -> Result<(), AccountError> {
        if self.settings().presence { Ok(()) } else { Err(AccountError::PresenceDisabled) }
    }

    /// Tells who came and who went since this was done last, all together.
    pub async fn tell_presences(&self) -> Result<(), AccountError> {
        let due = self.inner.attendances.due(self.moment());
        for some in due.chunks(MOST_AT_ONCE) {
            let rows: Vec<NewPresence<'_>> =
                some.iter().map(|due| NewPresence { due, status: Status::Kept }).collect();
            self.write_presences(&rows).await?;
        }
        Ok(())
    }

    /// Sees to it that everybody's presence is told, for as long as it is polled. Whom an earlier process left here has 30 seconds to
    /// come back.
    pub async fn watch_presence(self) {
        if !self.settings().presence {
            return;
        }
        while let Err(error) = self.expect_back().await {
            tracing::warn!(%error, "who was here could not be read; it will be tried again");
            tokio::time::sleep(TICK).await;
        }
        let mut ticks = 0_u32;
        loop {
            tokio::time::sleep(TICK).await;
            ticks = ticks.wrapping_add(1);
            if let Err(error) = self.tell_presences().await {
                tracing::warn!(%error, "it could not be told who came and went; it will be tried again");
            }
            if ticks.is_multiple_of(TICKS_OF_SILENCE)
                && let Err(error) = self.forget_silent_presences().await
            {
                tracing::warn!(%error, "users of servers that fell silent could not be forgotten");
            }
        }
    }

    /// Expects those back who were here when an earlier process ended.
    pub async fn expect_back(&self) -> Result<(), AccountError> {
        let snapshot = self.snapshot().await?;
        let moment = self.moment();
        for (localpart, presence, _) in self.all_presences(&snapshot).await? {
            if presence.state != PresenceState::Offline {
                self.inner.attendances.expect(&localpart, &presence, moment);
            }
        }
        Ok(())
    }

    /// Writes what is not there yet: one transaction, one log entry.
    async fn write_presences(&self, new: &[NewPresence<'_>]) -> Result<(), AccountError> {
        self.store()
            .run(async |snapshot| {
                let localparts = new.iter().map(|new| new.due.localpart.as_str());
                let stored = snapshot.get_many(&rows::PRESENCE, localparts).await?;
                let mut transaction = Transaction::new();
                let mut localparts = Vec::new();
                for (new, stored) in new.iter().zip(stored) {
                    let Some(row) = new.row(stored.as_ref().map(|row| &row.value)) else { continue };
                    let localpart = &new.due.localpart;
                    transaction.check_unchanged(&rows::PRESENCE, localpart.as_str(), stored.as_ref());
                    let row = Stamped { position: LogPosition::AT_COMMIT, value: row };
                    transaction.put(&rows::PRESENCE, localpart.as_str(), &row);
                    localparts.push(localpart.clone());
                }
                if !localparts.is_empty() {
                    Change::Presence { localparts }.log_in(&mut transaction);
                }
                Ok::<_, AccountError>((transaction, ()))
            })
            .await?;
        for new in new {
            self.inner.attendances.told(&new.due.localpart, new.due.state);
        }
        Ok(())
    }
}
