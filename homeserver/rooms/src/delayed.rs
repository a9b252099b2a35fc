//! Delayed events (MSC4140): put down now, sent later by the server, unless whoever put them down says otherwise. By them a client that
//! vanishes leaves a call.

use std::time::Duration;

use entente_environment::Timestamp;
use entente_storage::{Snapshot, Transaction};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId, events::TimelineEventType,
};

use crate::{
    Draft, RoomError, Rooms,
    rows::{self, DelayedRow},
};

/// The longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Delayed events of one user.
const MOST_DELAYED: usize = 100;
/// A delay id has at most this many bytes.
const MOST_ID_BYTES: usize = 64;
/// Events that are sent in one go.
const MOST_DUE: usize = 100;
/// How long the one who sends them sleeps at the most: another node may have put one down.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// An event that is to be sent later.
#[derive(Clone, Debug)]
pub struct NewDelayed {
    /// Into which room.
    pub room_id: OwnedRoomId,
    /// By whom.
    pub sender: OwnedUserId,
    /// Its type.
    pub event_type: TimelineEventType,
    /// Its state key, if it is a state event.
    pub state_key: Option<String>,
    /// Its content.
    pub content: CanonicalJsonObject,
    /// How much later.
    pub delay: Duration,
}

/// A delayed event that waits.
#[derive(Clone, Debug)]
pub struct Delayed {
    /// Its id.
    pub delay_id: String,
    /// Into which room.
    pub room_id: String,
    /// Its type.
    pub event_type: String,
    /// Its state key, if it is a state event.
    pub state_key: Option<String>,
    /// Its content: a JSON object.
    pub content: String,
    /// How long it waits.
    pub delay: Duration,
    /// Since when.
    pub running_since: Timestamp,
}

/// What is done with a delayed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayedAction {
    /// It waits anew, for as long as at first.
    Restart,
    /// It is sent now.
    Send,
    /// It is not sent.
    Cancel,
}

impl Rooms {
    /// Puts down an event that is sent later. Answers its id.
    pub async fn delay(&self, new: &NewDelayed) -> Result<String, RoomError> {
        if new.delay > LONGEST_DELAY {
            return Err(RoomError::DelayTooLong(LONGEST_DELAY));
        }
        // Whose event a redaction may take away is decided when it is asked for, and not for later.
        if new.event_type == TimelineEventType::RoomRedaction {
            return Err(RoomError::Forbidden("a redaction cannot be delayed"));
        }
        let mut draft = Draft::message(&new.sender, new.event_type.clone(), new.content.clone());
        draft.state_key.clone_from(&new.state_key);
        self.check_draft(&new.room_id, &draft).await?;
        let localpart =
            self.localpart(&new.sender).ok_or(RoomError::Forbidden("you are not of this server"))?;
        self.view(&new.room_id).await?.require_joined(&new.sender).await?;
        let environment = &self.inner.environment;
        let delay_id = environment.randomness().alphanumeric(24);
        let content =
            serde_json::to_string(&new.content).map_err(|error| RoomError::BadEvent(error.to_string()))?;
        let row = DelayedRow {
            localpart: localpart.to_owned(),
            room_id: new.room_id.to_string(),
            event_type: new.event_type.to_string(),
            state_key: new.state_key.clone(),
            content,
            delay: u64::try_from(new.delay.as_millis()).unwrap_or(u64::MAX),
            running_since: environment.now().millis(),
        };
        self.store()
            .run(async |snapshot| {
                let scan = rows::DELAYED_OF_USERS.scan((localpart,)).limit(MOST_DELAYED);
                if snapshot.scan(&scan).await?.rows.len() >= MOST_DELAYED {
                    return Err(RoomError::TooManyDelayed);
                }
                let mut transaction = Transaction::new();
                transaction.put(&rows::DELAYED, delay_id.as_str(), &row);
                transaction.put(&rows::DELAYED_OF_USERS, (localpart, delay_id.as_str()), &());
                transaction.put(&rows::DELAYED_DUE, (row.due(), delay_id.as_str()), &());
                Ok((transaction, ()))
            })
            .await?;
        self.inner.delayed.notify_one();
        Ok(delay_id)
    }

    /// Restarts, sends or cancels a delayed event. Whoever knows its id may. Answers the event that was sent.
    pub async fn manage_delayed(&self, delay_id: &str, action: DelayedAction) -> Result<(), RoomError> {
        match action {
            DelayedAction::Send => self.send_delayed(delay_id, true).await,
            DelayedAction::Cancel => self.change_delayed(delay_id, |_| None).await,
            DelayedAction::Restart => {
                let now = self.inner.environment.now().millis();
                self.change_delayed(delay_id, |row| Some(DelayedRow { running_since: now, ..row.clone() }))
                    .await?;
                self.inner.delayed.notify_one();
                Ok(())
            }
        }
    }

    async fn change_delayed(
        &self,
        delay_id: &str,
        change: impl Fn(&DelayedRow) -> Option<DelayedRow>,
    ) -> Result<(), RoomError> {
        self.store()
            .run(async |snapshot| {
                let row = delayed_row(&snapshot, delay_id).await?;
                let mut transaction = Transaction::new();
                forget(&mut transaction, delay_id, &row);
                if let Some(row) = change(&row) {
                    transaction.put(&rows::DELAYED, delay_id, &row);
                    transaction.put(&rows::DELAYED_OF_USERS, (row.localpart.as_str(), delay_id), &());
                    transaction.put(&rows::DELAYED_DUE, (row.due(), delay_id), &());
                }
                Ok::<_, RoomError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// Whether a delayed event waits.
    pub async fn has_delayed(&self, delay_id: &str) -> Result<bool, RoomError> {
        // Nothing longer is ever an id.
        if delay_id.len() > MOST_ID_BYTES {
            return Ok(false);
        }
        Ok(self.store().snapshot().await?.get(&rows::DELAYED, delay_id).await?.is_some())
    }

    /// The delayed events of a user that wait, the oldest ids first.
    pub async fn delayed_events(&self, user_id: &UserId) -> Result<Vec<Delayed>, RoomError> {
        let localpart = self.localpart(user_id).ok_or(RoomError::Forbidden("you are not of this server"))?;
        let snapshot = self.store().snapshot().await?;
        let ids = snapshot.scan_all(rows::DELAYED_OF_USERS.scan((localpart,))).await?;
        let ids: Vec<String> = ids.into_iter().map(|((_, delay_id), ())| delay_id).collect();
        let found = snapshot.get_many(&rows::DELAYED, ids.iter().map(String::as_str)).await?;
        let mut delayed: Vec<Delayed> =
            ids.into_iter().zip(found).filter_map(|(delay_id, row)| Some(shown(delay_id, row?))).collect();
        delayed.sort_by_key(|delayed| delayed.running_since);
        Ok(delayed)
    }

    /// One delayed event of a user.
    pub async fn delayed_event(&self, user_id: &UserId, delay_id: &str) -> Result<Delayed, RoomError> {
        let row = delayed_row(&self.store().snapshot().await?, delay_id).await?;
        if Some(row.localpart.as_str()) != self.localpart(user_id) {
            return Err(RoomError::NotFound("there is no such delayed event"));
        }
        Ok(shown(delay_id.to_owned(), row))
    }

    /// Sends delayed events when they are due, for as long as it is polled. Those that came due while nobody did it are sent at once.
    pub async fn watch_delayed(self) {
        loop {
            let pause = match self.send_due().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, "delayed events could not be sent; it will be tried again");
                    LONGEST_SLEEP
                }
            };
            let _ = tokio::time::timeout(pause, self.inner.delayed.notified()).await;
        }
    }

    /// Sends what is due. Answers when to look again.
    async fn send_due(&self) -> Result<Duration, RoomError> {
        let snapshot = self.store().snapshot().await?;
        let page = snapshot.scan(&rows::DELAYED_DUE.scan(()).limit(MOST_DUE)).await?;
        let now = self.inner.environment.now();
        for ((due, delay_id), ()) in page.rows {
            if due > now.millis() {
                return Ok(Timestamp(due).since(now).min(LONGEST_SLEEP));
            }
            match self.send_delayed(&delay_id, false).await {
                // Somebody cancelled it, or another node was quicker.
                Ok(()) | Err(RoomError::NotFound(_)) => {}
                Err(error @ RoomError::Storage(_)) => return Err(error),
                Err(error) => {
                    tracing::info!(%error, "a delayed event is not allowed any more and is dropped");
                    self.change_delayed(&delay_id, |_| None).await?;
                }
            }
        }
        Ok(LONGEST_SLEEP)
    }

    /// Sends a delayed event: it is gone in the transaction that adds it to the room. Unless `now`, only if it is due.
    async fn send_delayed(&self, delay_id: &str, now: bool) -> Result<(), RoomError> {
        let row = delayed_row(&self.store().snapshot().await?, delay_id).await?;
        let damaged = |_| RoomError::Internal(String::from("a stored delayed event"));
        let room_id = RoomId::parse(row.room_id.as_str()).map_err(damaged)?;
        let sender =
            UserId::parse_with_server_name(row.localpart.as_str(), self.server_name()).map_err(damaged)?;
        let content: CanonicalJsonObject = serde_json::from_str(&row.content)
            .map_err(|error| RoomError::Internal(format!("a stored delayed event: {error}")))?;
        let mut draft = Draft::message(&sender, TimelineEventType::from(row.event_type.as_str()), content);
        draft.state_key.clone_from(&row.state_key);
        self.change_room(&room_id, async |mut composer| -> Result<(_, Option<OwnedEventId>), RoomError> {
            let row = delayed_row(&composer.view.snapshot, delay_id).await?;
            if !now && row.due() > self.inner.environment.now().millis() {
                return Ok((composer, None));
            }
            let event = composer.append(draft.clone()).await?;
            forget(&mut composer.transaction, delay_id, &row);
            Ok((composer, Some(event.event_id.clone())))
        })
        .await?;
        Ok(())
    }
}

async fn delayed_row(snapshot: &Snapshot, delay_id: &str) -> Result<DelayedRow, RoomError> {
    let row = snapshot.get(&rows::DELAYED, delay_id).await?;
    row.ok_or(RoomError::NotFound("there is no such delayed event; it was sent or cancelled"))
}

fn forget(transaction: &mut Transaction, delay_id: &str, row: &DelayedRow) {
    transaction.check_unchanged(&rows::DELAYED, delay_id, Some(row));
    transaction.delete(&rows::DELAYED, delay_id);
    transaction.delete(&rows::DELAYED_OF_USERS, (row.localpart.as_str(), delay_id));
    transaction.delete(&rows::DELAYED_DUE, (row.due(), delay_id));
}

fn shown(delay_id: String, row: DelayedRow) -> Delayed {
    Delayed {
        delay_id,
        room_id: row.room_id,
        event_type: row.event_type,
        state_key: row.state_key,
        content: row.content,
        delay: Duration::from_millis(row.delay),
        running_since: Timestamp(row.running_since),
    }
}
