//! Delayed events (MSC4140): put down now, sent later by the server, unless whoever put them down says otherwise. By them a client that
//! vanishes leaves a call.

mod delegated;
mod finalised;
mod sending;

use std::time::Duration;

use entente_environment::Timestamp;
use entente_storage::{Snapshot, Transaction};
use ruma::{RoomId, UserId, events::TimelineEventType};

pub use self::delegated::Delegation;
use self::finalised::Outcome;
use crate::{
    Draft, RoomError, Rooms,
    rows::{self, DelayedRow, FinalisedRow, SentAs},
};

/// The longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Delayed events that a user can have waiting.
pub const MOST_DELAYED: usize = 100;
/// A delay id has at most this many bytes.
const MOST_ID_BYTES: usize = 64;
/// The content of an event has at most this many bytes.
const MOST_CONTENT_BYTES: usize = 65_536;
/// Its type and its state key have at most this many bytes.
const MOST_NAME_BYTES: usize = 255;

/// A delayed event.
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
    /// What became of it; `None`: it waits.
    pub finalised: Option<Finalised>,
}

/// What became of a delayed event. One without an event and without an error was cancelled.
#[derive(Clone, Debug)]
pub struct Finalised {
    /// When.
    pub at: Timestamp,
    /// The event that it became.
    pub event_id: Option<String>,
    /// Why it could not be sent.
    pub error: Option<String>,
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
    /// Puts down an event that is sent later. Answers its id; a retry by the same device with the same transaction id answers the
    /// id of the first.
    pub async fn delay(&self, room_id: &RoomId, draft: &Draft, delay: Duration) -> Result<String, RoomError> {
        if delay > LONGEST_DELAY {
            return Err(RoomError::DelayTooLong(LONGEST_DELAY));
        }
        if delay.is_zero() {
            return Err(RoomError::InvalidParameter(String::from("a delay is at least one millisecond")));
        }
        let localpart =
            self.localpart(&draft.sender).ok_or(RoomError::Forbidden("you are not of this server"))?;
        let content =
            serde_json::to_string(&draft.content).map_err(|error| RoomError::BadEvent(error.to_string()))?;
        if content.len() > MOST_CONTENT_BYTES {
            return Err(RoomError::TooLarge("an event has at most 65536 bytes"));
        }
        let event_type = draft.event_type.to_string();
        let is_long = |name: &str| name.len() > MOST_NAME_BYTES;
        if is_long(&event_type) || draft.state_key.as_deref().is_some_and(is_long) {
            return Err(RoomError::TooLarge("the type and the state key of an event have at most 255 bytes"));
        }
        self.check_delayed(room_id, draft).await?;
        let environment = &self.inner.environment;
        let new_id = environment.randomness().alphanumeric(24);
        let row = DelayedRow {
            localpart: localpart.to_owned(),
            room_id: room_id.to_string(),
            event_type,
            state_key: draft.state_key.clone(),
            content,
            delay: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            running_since: environment.now().millis(),
            transaction: draft.device.as_ref().map(|device| SentAs {
                device_id: device.device_id.clone(),
                transaction_id: device.transaction_id.clone(),
            }),
            sticky: draft.sticky,
            delegated: None,
        };
        let (delay_id, _) = self
            .store()
            .run(async |snapshot| {
                if let Some(sent) = &row.transaction {
                    let known = snapshot.get(&rows::DELAY_TRANSACTIONS, transaction_key(&row, sent));
                    if let Some(delay_id) = known.await? {
                        return Ok((Transaction::new(), delay_id));
                    }
                }
                self.require_few(&snapshot, localpart).await?;
                let mut transaction = Transaction::new();
                let last = snapshot.get(&rows::LAST_DELAYS, localpart).await?;
                transaction.check_unchanged(&rows::LAST_DELAYS, localpart, last.as_ref());
                transaction.put(&rows::LAST_DELAYS, localpart, &new_id);
                if let Some(sent) = &row.transaction {
                    let key = transaction_key(&row, sent);
                    transaction.put(&rows::DELAY_TRANSACTIONS, key, &new_id);
                }
                put(&mut transaction, &new_id, &row);
                Ok::<_, RoomError>((transaction, new_id.clone()))
            })
            .await?;
        self.inner.delayed.notify_one();
        Ok(delay_id)
    }

    /// What can be said against an event before its time has come. Whether it may be sent is decided then.
    async fn check_delayed(&self, room_id: &RoomId, draft: &Draft) -> Result<(), RoomError> {
        self.check_draft(room_id, draft).await?;
        // Invites across servers are signed by both, and who is invited may want none by then.
        let is_invite = draft.event_type == TimelineEventType::RoomMember
            && draft.content.get("membership").and_then(|membership| membership.as_str()) == Some("invite");
        if is_invite {
            return Err(RoomError::Forbidden("an invite cannot be delayed"));
        }
        self.view(room_id).await?.require_joined(&draft.sender).await
    }

    /// Refuses a user who has as many delayed events as one can have.
    async fn require_few(&self, snapshot: &Snapshot, localpart: &str) -> Result<(), RoomError> {
        let scan = rows::DELAYED_OF_USERS.scan((localpart,)).limit(MOST_DELAYED);
        let page = snapshot.scan(&scan).await?;
        if page.rows.len() < MOST_DELAYED {
            return Ok(());
        }
        let next = page.rows.into_iter().map(|(_, due)| due).min().unwrap_or_default();
        Err(RoomError::TooManyDelayed(Timestamp(next).since(self.inner.environment.now())))
    }

    /// Restarts, sends or cancels a delayed event. Whoever knows its id may. What was done already is done.
    ///
    /// [`RoomError::NotFound`] if there is no such event, or it is to be restarted and waits no longer (MSC4140 asks for a conflict
    /// here, but clients put down a new one on the former only); [`RoomError::Finalised`] if it came out otherwise.
    pub async fn manage_delayed(&self, delay_id: &str, action: DelayedAction) -> Result<(), RoomError> {
        let outcome = match action {
            DelayedAction::Send => self.send_delayed(delay_id, true).await,
            DelayedAction::Cancel => self.finalise(delay_id, &Outcome::Cancelled).await,
            DelayedAction::Restart => return self.restart_delayed(delay_id).await,
        };
        match outcome {
            Err(RoomError::NotFound(message)) => {
                let snapshot = self.store().snapshot().await?;
                let row = snapshot.get(&rows::FINALISED, delay_id).await?;
                let was_sent = row.ok_or(RoomError::NotFound(message))?.event_id.is_some();
                match (was_sent, action == DelayedAction::Send) {
                    (true, false) => Err(RoomError::Finalised("it was sent")),
                    (false, true) => Err(RoomError::Finalised("it was cancelled, or could not be sent")),
                    _ => Ok(()),
                }
            }
            outcome => outcome,
        }
    }

    async fn restart_delayed(&self, delay_id: &str) -> Result<(), RoomError> {
        let now = self.inner.environment.now().millis();
        self.store()
            .run(async |snapshot| {
                let row = delayed_row(&snapshot, delay_id).await?;
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::DELAYED, delay_id, Some(&row));
                transaction.delete(&rows::DELAYED_DUE, (row.due(), delay_id));
                put(&mut transaction, delay_id, &DelayedRow { running_since: now, ..row });
                Ok::<_, RoomError>((transaction, ()))
            })
            .await?;
        self.inner.delayed.notify_one();
        Ok(())
    }

    /// Whether a delayed event waits, or what became of it is known.
    pub async fn has_delayed(&self, delay_id: &str) -> Result<bool, RoomError> {
        // Nothing longer is ever an id.
        if delay_id.len() > MOST_ID_BYTES {
            return Ok(false);
        }
        let snapshot = self.store().snapshot().await?;
        Ok(snapshot.get(&rows::DELAYED, delay_id).await?.is_some()
            || snapshot.get(&rows::FINALISED, delay_id).await?.is_some())
    }

    /// The delayed events of a user that wait, those that are due first in front.
    pub async fn delayed_events(&self, user_id: &UserId) -> Result<Vec<Delayed>, RoomError> {
        let localpart = self.localpart(user_id).ok_or(RoomError::Forbidden("you are not of this server"))?;
        let snapshot = self.store().snapshot().await?;
        let ids = snapshot.scan_all(rows::DELAYED_OF_USERS.scan((localpart,))).await?;
        let ids: Vec<String> = ids.into_iter().map(|((_, delay_id), _)| delay_id).collect();
        let found = snapshot.get_many(&rows::DELAYED, ids.iter().map(String::as_str)).await?;
        let mut waiting: Vec<(String, DelayedRow)> =
            ids.into_iter().zip(found).filter_map(|(delay_id, row)| Some((delay_id, row?))).collect();
        waiting.sort_by_key(|(_, row)| row.due());
        Ok(waiting.into_iter().map(|(delay_id, row)| shown(delay_id, row, None)).collect())
    }

    /// One delayed event of a user, also one that waits no longer.
    pub async fn delayed_event(&self, user_id: &UserId, delay_id: &str) -> Result<Delayed, RoomError> {
        let snapshot = self.store().snapshot().await?;
        let (row, finalised) = if let Some(row) = snapshot.get(&rows::DELAYED, delay_id).await? {
            (row, None)
        } else {
            let row = snapshot.get(&rows::FINALISED, delay_id).await?.ok_or(UNKNOWN)?;
            let FinalisedRow { delayed, at, event_id, error } = row;
            (delayed, Some(Finalised { at: Timestamp(at), event_id, error }))
        };
        if Some(row.localpart.as_str()) != self.localpart(user_id) {
            return Err(UNKNOWN);
        }
        Ok(shown(delay_id.to_owned(), row, finalised))
    }
}

const UNKNOWN: RoomError = RoomError::NotFound("there is no such delayed event; it was sent or cancelled");

async fn delayed_row(snapshot: &Snapshot, delay_id: &str) -> Result<DelayedRow, RoomError> {
    snapshot.get(&rows::DELAYED, delay_id).await?.ok_or(UNKNOWN)
}

/// What a device says again of the same room and type is a retry; of another it is something else.
fn transaction_key<'a>(
    row: &'a DelayedRow,
    sent: &'a SentAs,
) -> (&'a str, &'a str, &'a str, &'a str, &'a str) {
    let DelayedRow { localpart, room_id, event_type, .. } = row;
    (localpart, &sent.device_id, room_id, event_type, &sent.transaction_id)
}

fn put(transaction: &mut Transaction, delay_id: &str, row: &DelayedRow) {
    transaction.put(&rows::DELAYED, delay_id, row);
    transaction.put(&rows::DELAYED_OF_USERS, (row.localpart.as_str(), delay_id), &row.due());
    transaction.put(&rows::DELAYED_DUE, (row.due(), delay_id), &());
}

fn shown(delay_id: String, row: DelayedRow, finalised: Option<Finalised>) -> Delayed {
    Delayed {
        delay_id,
        room_id: row.room_id,
        event_type: row.event_type,
        state_key: row.state_key,
        content: row.content,
        delay: Duration::from_millis(row.delay),
        running_since: Timestamp(row.running_since),
        finalised,
    }
}
