//! Who is here of other servers' users, as those servers tell it (S-S API, "Presence").
//!
//! A server that falls silent says nothing of its users any more: whoever nothing was heard of for a while is not here.

use std::time::Duration;

use entente_storage::{LogPosition, Snapshot, Transaction, value::Stamped};
use ruma::{OwnedUserId, UserId};

use crate::{
    AccountError, Accounts, Change, Presence, PresenceState,
    presence::MOST_STATUS_BYTES,
    rows::{self, PresenceElsewhereRow},
};

/// Whoever nothing was heard of for so long is not here. Servers tell it again every 25 minutes of those who are.
const SILENCE: Duration = Duration::from_secs(30 * 60);
/// It is noted again that nothing changed when what is noted is so old.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// Users of one transaction.
const MOST_AT_ONCE: usize = 500;

impl PresenceElsewhereRow {
    /// The row that follows from what a server tells of a user.
    fn of(presence: &Presence, heard_at: u64) -> Self {
        let mut status_msg = presence.status_msg.clone();
        status_msg = status_msg.filter(|text| text.len() <= MOST_STATUS_BYTES);
        Self { state: presence.state, status_msg, last_active_at: presence.last_active_at, heard_at }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.state == other.state && self.status_msg == other.status_msg
    }
}

impl From<PresenceElsewhereRow> for Presence {
    fn from(row: PresenceElsewhereRow) -> Self {
        Self { state: row.state, status_msg: row.status_msg, last_active_at: row.last_active_at }
    }
}

impl Accounts {
    /// Notes what another server tells of its users, which whoever calls made sure are its own and of interest here.
    pub async fn hear_presences_elsewhere(
        &self,
        presences: &[(OwnedUserId, Presence)],
    ) -> Result<(), AccountError> {
        if !self.settings().presence {
            return Ok(());
        }
        for some in presences.chunks(MOST_AT_ONCE) {
            self.write_presences_elsewhere(some).await?;
        }
        Ok(())
    }

    async fn write_presences_elsewhere(
        &self,
        presences: &[(OwnedUserId, Presence)],
    ) -> Result<(), AccountError> {
        let now = self.inner.environment.now().millis();
        let fresh = u64::try_from(REFRESH.as_millis()).unwrap_or(u64::MAX);
        self.store()
            .run(async |snapshot| {
                let user_ids = presences.iter().map(|(user_id, _)| user_id.as_str());
                let stored = snapshot.get_many(&rows::PRESENCE_ELSEWHERE, user_ids).await?;
                let mut transaction = Transaction::new();
                let mut changed = Vec::new();
                for ((user_id, presence), stored) in presences.iter().zip(stored) {
                    let row = PresenceElsewhereRow::of(presence, now);
                    let is_known = stored.as_ref().is_some_and(|stored| stored.value.says_the_same(&row));
                    let is_fresh = stored
                        .as_ref()
                        .is_some_and(|stored| now.saturating_sub(stored.value.heard_at) < fresh);
                    let is_nothing = stored.is_none() && row.state == PresenceState::Offline;
                    if is_nothing || is_known && is_fresh {
                        continue;
                    }
                    transaction.check_unchanged(&rows::PRESENCE_ELSEWHERE, user_id.as_str(), stored.as_ref());
                    let position = match stored.filter(|_| is_known) {
                        Some(stored) => stored.position,
                        None => LogPosition::AT_COMMIT,
                    };
                    let row = Stamped { position, value: row };
                    transaction.put(&rows::PRESENCE_ELSEWHERE, user_id.as_str(), &row);
                    if !is_known {
                        changed.push(user_id.to_string());
                    }
                }
                if !changed.is_empty() {
                    Change::PresenceElsewhere { user_ids: changed }.log_in(&mut transaction);
                }
                Ok::<_, AccountError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// The presence of these users of other servers as a snapshot has it; `None` of those of whom nothing is known.
    pub async fn presences_elsewhere(
        &self,
        snapshot: &Snapshot,
        user_ids: &[String],
    ) -> Result<Vec<Option<Presence>>, AccountError> {
        let names = user_ids.iter().map(String::as_str);
        let found = snapshot.get_many(&rows::PRESENCE_ELSEWHERE, names).await?;
        Ok(found.into_iter().map(|row| row.map(|row| row.value.into())).collect())
    }

    /// The presence of all users of other servers of whom something is known, and when it was told last.
    pub async fn all_presences_elsewhere(
        &self,
        snapshot: &Snapshot,
    ) -> Result<Vec<(String, Presence, LogPosition)>, AccountError> {
        let rows = snapshot.scan_all(rows::PRESENCE_ELSEWHERE.scan(())).await?;
        Ok(rows.into_iter().map(|(user_id, row)| (user_id, row.value.into(), row.position)).collect())
    }

    /// What is known of the presence of a user of another server.
    pub(crate) async fn presence_elsewhere(&self, user_id: &UserId) -> Result<Presence, AccountError> {
        let row = self.snapshot().await?.get(&rows::PRESENCE_ELSEWHERE, user_id.as_str()).await?;
        row.map(|row| row.value.into()).ok_or(AccountError::UserNotFound)
    }

    /// Forgets those of whom nothing was heard for half an hour. Answers how many.
    pub async fn forget_silent_presences(&self) -> Result<usize, AccountError> {
        let now = self.inner.environment.now().millis();
        let silence = u64::try_from(SILENCE.as_millis()).unwrap_or(u64::MAX);
        let (forgotten, _) = self
            .store()
            .run(async |snapshot| {
                let rows = snapshot.scan_all(rows::PRESENCE_ELSEWHERE.scan(())).await?;
                let silent = rows.iter().filter(|(_, row)| now.saturating_sub(row.value.heard_at) >= silence);
                let mut transaction = Transaction::new();
                let mut user_ids = Vec::new();
                for (user_id, row) in silent.take(MOST_AT_ONCE) {
                    transaction.check_unchanged(&rows::PRESENCE_ELSEWHERE, user_id.as_str(), Some(row));
                    transaction.delete(&rows::PRESENCE_ELSEWHERE, user_id.as_str());
                    user_ids.push(user_id.clone());
                }
                let count = user_ids.len();
                if !user_ids.is_empty() {
                    Change::PresenceElsewhere { user_ids }.log_in(&mut transaction);
                }
                Ok::<_, AccountError>((transaction, count))
            })
            .await?;
        Ok(forgotten)
    }
}
