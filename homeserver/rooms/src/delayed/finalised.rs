//! What becomes of delayed events, and how long that is remembered.

use std::time::Duration;

use entente_storage::{Snapshot, Transaction};
use ruma::EventId;

use super::{delayed_row, transaction_key};
use crate::{
    RoomError, Rooms,
    rows::{self, DelayedRow, FinalisedRow},
};

/// Of a user, what became of so many delayed events is remembered,
const MOST_FINALISED: usize = 100;
/// for so long.
const REMEMBERED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Rows that are forgotten at once.
const PAGE: usize = 1_000;
/// The events by which clients are in calls, and leave them.
const OF_CALLS: [&str; 3] =
    ["org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member", "m.rtc.member"];

/// What becomes of a delayed event.
pub(super) enum Outcome<'a> {
    /// It was sent as this event.
    Sent(&'a EventId),
    /// It could not be sent.
    Failed(String),
    /// Somebody did not want it any more.
    Cancelled,
}

impl Rooms {
    /// Ends the waiting of a delayed event that is not sent.
    pub(super) async fn finalise(&self, delay_id: &str, outcome: &Outcome<'_>) -> Result<(), RoomError> {
        self.store()
            .run(async |snapshot| {
                let row = delayed_row(&snapshot, delay_id).await?;
                let mut transaction = Transaction::new();
                self.put_finalised(&snapshot, &mut transaction, delay_id, row, outcome).await?;
                Ok::<_, RoomError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// Adds what ends the waiting of a delayed event to a transaction.
    pub(super) async fn put_finalised(
        &self,
        snapshot: &Snapshot,
        transaction: &mut Transaction,
        delay_id: &str,
        row: DelayedRow,
        outcome: &Outcome<'_>,
    ) -> Result<(), RoomError> {
        let at = self.inner.environment.now().millis();
        let localpart = row.localpart.clone();
        self.forget_finalised(snapshot, transaction, &localpart, MOST_FINALISED - 1).await?;
        transaction.check_unchanged(&rows::DELAYED, delay_id, Some(&row));
        transaction.delete(&rows::DELAYED, delay_id);
        transaction.delete(&rows::DELAYED_OF_USERS, (localpart.as_str(), delay_id));
        transaction.delete(&rows::DELAYED_DUE, (row.due(), delay_id));
        let (event_id, error) = match outcome {
            Outcome::Sent(event_id) => (Some(event_id.to_string()), None),
            Outcome::Failed(error) => (None, Some(error.clone())),
            Outcome::Cancelled => (None, None),
        };
        let finalised = FinalisedRow { delayed: row, at, event_id, error };
        transaction.put(&rows::FINALISED, delay_id, &finalised);
        transaction.put(&rows::FINALISED_OF_USERS, (localpart.as_str(), at, delay_id), &());
        Ok(())
    }

    /// Forgets what is old, and what is more than so many.
    async fn forget_finalised(
        &self,
        snapshot: &Snapshot,
        transaction: &mut Transaction,
        localpart: &str,
        keep: usize,
    ) -> Result<(), RoomError> {
        let known = snapshot.scan(&rows::FINALISED_OF_USERS.scan((localpart,)).limit(PAGE)).await?.rows;
        let now = self.inner.environment.now().millis();
        let oldest = now.saturating_sub(u64::try_from(REMEMBERED_FOR.as_millis()).unwrap_or(u64::MAX));
        let surplus = known.len().saturating_sub(keep);
        for (index, ((_, at, delay_id), ())) in known.into_iter().enumerate() {
            if index >= surplus && at >= oldest {
                break;
            }
            if let Some(row) = snapshot.get(&rows::FINALISED, delay_id.as_str()).await?
                && let Some(sent) = &row.delayed.transaction
            {
                transaction.delete(&rows::DELAY_TRANSACTIONS, transaction_key(&row.delayed, sent));
            }
            transaction.delete(&rows::FINALISED, delay_id.as_str());
            transaction.delete(&rows::FINALISED_OF_USERS, (localpart, at, delay_id.as_str()));
        }
        Ok(())
    }

    /// Cancels the delayed events of a user who may not speak any more, all but those by which a client leaves its calls.
    pub async fn silence_delayed(&self, localpart: &str) -> Result<(), RoomError> {
        self.cancel_delayed(localpart, |row| !OF_CALLS.contains(&row.event_type.as_str())).await
    }

    async fn cancel_delayed(
        &self,
        localpart: &str,
        which: impl Fn(&DelayedRow) -> bool,
    ) -> Result<(), RoomError> {
        let snapshot = self.store().snapshot().await?;
        let ids = snapshot.scan_all(rows::DELAYED_OF_USERS.scan((localpart,))).await?;
        let ids: Vec<String> = ids.into_iter().map(|((_, delay_id), _)| delay_id).collect();
        let found = snapshot.get_many(&rows::DELAYED, ids.iter().map(String::as_str)).await?;
        drop(snapshot);
        for (delay_id, row) in ids.into_iter().zip(found) {
            if !row.as_ref().is_some_and(&which) {
                continue;
            }
            match self.finalise(&delay_id, &Outcome::Cancelled).await {
                Ok(()) | Err(RoomError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Forgets the delayed events of a user who is no more: none of them is sent.
    pub async fn forget_delayed(&self, localpart: &str) -> Result<(), RoomError> {
        self.cancel_delayed(localpart, |_| true).await?;
        self.store()
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                self.forget_finalised(&snapshot, &mut transaction, localpart, 0).await?;
                transaction.delete(&rows::LAST_DELAYS, localpart);
                Ok::<_, RoomError>((transaction, ()))
            })
            .await?;
        Ok(())
    }
}
