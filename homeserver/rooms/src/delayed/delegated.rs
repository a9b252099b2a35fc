//! Delayed leaves that the server looks after for its clients while they are in a call (MSC4195).

use std::time::Duration;

use entente_storage::Transaction;
use ruma::{RoomId, UserId};

use super::{UNKNOWN, delayed_row};
use crate::{
    RoomError, Rooms,
    rows::{self, DelayedRow, DelegatedRow},
};

/// For whom a delayed event is looked after, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// The node that forwards the media of the call: it alone knows who is there.
    pub keeper: String,
    /// The call, as its SFU knows it.
    pub call: String,
    /// The participant, as its SFU knows it.
    pub identity: String,
    /// How long the participant may take to come, or to come back.
    pub patience: Duration,
}

impl Rooms {
    /// Remembers that a delayed event which waits is looked after. Answers its delay.
    ///
    /// [`RoomError::NotFound`] unless it is one of this user in this room.
    pub async fn delegate_delayed(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        delay_id: &str,
        delegation: &Delegation,
    ) -> Result<Duration, RoomError> {
        let localpart = self.localpart(user_id).ok_or(UNKNOWN)?;
        self.store()
            .run(async |snapshot| {
                let row = delayed_row(&snapshot, delay_id).await?;
                if row.localpart != localpart || row.room_id != room_id.as_str() {
                    return Err(UNKNOWN);
                }
                let delay = Duration::from_millis(row.delay);
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::DELAYED, delay_id, Some(&row));
                let delegated = DelegatedRow {
                    keeper: delegation.keeper.clone(),
                    call: delegation.call.clone(),
                    identity: delegation.identity.clone(),
                    patience: u64::try_from(delegation.patience.as_millis()).unwrap_or(u64::MAX),
                };
                let row = DelayedRow { delegated: Some(delegated), ..row };
                transaction.put(&rows::DELAYED, delay_id, &row);
                Ok::<_, RoomError>((transaction, delay))
            })
            .await
            .map(|(delay, _)| delay)
    }

    /// The delayed events that a node looks after, with their delays; those that have waited longest first.
    pub async fn delegated(&self, keeper: &str) -> Result<Vec<(String, Duration, Delegation)>, RoomError> {
        let waiting = self.store().snapshot().await?.scan_all(rows::DELAYED.scan(())).await?;
        let mut found: Vec<(u64, String, Duration, Delegation)> = waiting
            .into_iter()
            .filter_map(|(delay_id, row)| {
                let DelegatedRow { keeper, call, identity, patience } = row.delegated?;
                let patience = Duration::from_millis(patience);
                let delegation = Delegation { keeper, call, identity, patience };
                Some((row.running_since, delay_id, Duration::from_millis(row.delay), delegation))
            })
            .filter(|(.., delegation)| delegation.keeper == keeper)
            .collect();
        found.sort_by_key(|(running_since, ..)| *running_since);
        Ok(found.into_iter().map(|(_, delay_id, delay, delegation)| (delay_id, delay, delegation)).collect())
    }
}
