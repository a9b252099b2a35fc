//! Delayed events whose time has come.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use entente_environment::Timestamp;
use entente_storage::{Snapshot, StorageError, Transaction};
use ruma::{CanonicalJsonObject, EventId, OwnedEventId, RoomId, UserId, events::TimelineEventType};
use tokio::{
    sync::Semaphore,
    task::{Id, JoinSet},
};

use super::{delayed_row, finalised::Outcome};
use crate::{Draft, RoomError, RoomView, Rooms, rows};

/// Events that are looked at at once.
const MOST_DUE: usize = 1_000;
/// Pages of them that are looked through for rooms into which nothing is being sent.
const MOST_PAGES: usize = 10;
/// Rooms into which events are sent at once.
const ROOMS_AT_ONCE: usize = 32;
/// How long the one who sends them sleeps at the most: another node may have put one down. So long also rests a room in which
/// something failed.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// What is being sent: in each room one after the other, and no room waits for another.
struct Sending {
    tasks: JoinSet<()>,
    /// Which room a task is for.
    rooms: HashMap<Id, String>,
    places: Arc<Semaphore>,
}

impl Rooms {
    /// Sends delayed events when they are due, for as long as it is polled. Those that came due while nobody did it are sent at once.
    pub async fn watch_delayed(self) {
        let mut sending = Sending {
            tasks: JoinSet::new(),
            rooms: HashMap::new(),
            places: Arc::new(Semaphore::new(ROOMS_AT_ONCE)),
        };
        loop {
            let pause = match self.begin_sending(&mut sending).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, "delayed events could not be sent; it will be tried again");
                    LONGEST_SLEEP
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.inner.delayed.notified() => {}
                Some(ended) = sending.tasks.join_next_with_id() => {
                    let id = ended.map_or_else(|failed| failed.id(), |(id, ())| id);
                    sending.rooms.remove(&id);
                }
            }
        }
    }

    /// Begins to send what is due, in rooms where nothing is being sent. Answers when to look again.
    async fn begin_sending(&self, sending: &mut Sending) -> Result<Duration, RoomError> {
        let now = self.inner.environment.now();
        let snapshot = self.store().snapshot().await?;
        let busy: HashSet<&String> = sending.rooms.values().collect();
        let mut by_room: HashMap<String, Vec<String>> = HashMap::new();
        let mut pause = LONGEST_SLEEP;
        let mut next = Some(rows::DELAYED_DUE.scan(()).limit(MOST_DUE));
        for _ in 0..MOST_PAGES {
            let Some(scan) = next else { break };
            let page = snapshot.scan(&scan).await?;
            let waiting = page.rows.iter().find(|((due, _), ())| *due > now.millis());
            next = page.next.filter(|_| waiting.is_none()).map(|at| scan.resume(at));
            if let Some(((due, _), ())) = waiting {
                pause = Timestamp(*due).since(now).min(LONGEST_SLEEP);
            }
            // Those of one room in their order.
            for ((due, delay_id), ()) in
                page.rows.into_iter().take_while(|((due, _), ())| *due <= now.millis())
            {
                if let Some(room_id) = self.room_of_delayed(&snapshot, due, &delay_id).await?
                    && !busy.contains(&room_id)
                {
                    by_room.entry(room_id).or_default().push(delay_id);
                }
            }
            if !by_room.is_empty() {
                break;
            }
        }
        drop(snapshot);
        if next.is_some() && !by_room.is_empty() {
            pause = Duration::ZERO;
        }
        for (room_id, due) in by_room {
            let (rooms, places) = (self.clone(), Arc::clone(&sending.places));
            let task = sending.tasks.spawn(async move {
                let place = places.acquire().await;
                let outcome = rooms.send_in_order(due).await;
                drop(place);
                if let Err(error) = outcome {
                    tracing::warn!(%error, "delayed events of a room could not be sent; it will be tried again");
                    tokio::time::sleep(LONGEST_SLEEP).await;
                }
            });
            sending.rooms.insert(task.id(), room_id);
        }
        Ok(pause)
    }

    /// Into which room a delayed event goes. One that cannot be read is not looked at again.
    async fn room_of_delayed(
        &self,
        snapshot: &Snapshot,
        due: u64,
        delay_id: &str,
    ) -> Result<Option<String>, RoomError> {
        match snapshot.get(&rows::DELAYED, delay_id).await {
            Ok(row) => Ok(row.map(|row| row.room_id)),
            Err(error @ StorageError::Corrupt { .. }) => {
                tracing::error!(%error, "a delayed event cannot be read and is not sent");
                let mut transaction = Transaction::new();
                transaction.delete(&rows::DELAYED_DUE, (due, delay_id));
                self.store().commit(transaction).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn send_in_order(&self, due: Vec<String>) -> Result<(), RoomError> {
        for delay_id in due {
            match self.send_delayed(&delay_id, false).await {
                // Somebody cancelled it, or another node was quicker.
                Ok(()) | Err(RoomError::NotFound(_)) => {}
                Err(error @ RoomError::Storage(_)) => return Err(error),
                Err(error) => {
                    tracing::info!(%error, "a delayed event is not allowed any more and is dropped");
                    match self.finalise(&delay_id, &Outcome::Failed(error.to_string())).await {
                        Ok(()) | Err(RoomError::NotFound(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends a delayed event: it waits no longer in the transaction that adds it to the room. Unless `now`, only if it is due.
    pub(super) async fn send_delayed(&self, delay_id: &str, now: bool) -> Result<(), RoomError> {
        let row = delayed_row(&self.store().snapshot().await?, delay_id).await?;
        let damaged = |_| RoomError::Internal(String::from("a stored delayed event"));
        let room_id = RoomId::parse(row.room_id.as_str()).map_err(damaged)?;
        let sender =
            UserId::parse_with_server_name(row.localpart.as_str(), self.server_name()).map_err(damaged)?;
        let content: CanonicalJsonObject = serde_json::from_str(&row.content)
            .map_err(|error| RoomError::Internal(format!("a stored delayed event: {error}")))?;
        let mut draft = Draft::message(&sender, TimelineEventType::from(row.event_type.as_str()), content);
        draft.state_key.clone_from(&row.state_key);
        draft.sticky = row.sticky;
        draft.delay_id = Some(delay_id.to_owned());
        self.check_draft(&room_id, &draft).await?;
        self.change_room(&room_id, async |mut composer| -> Result<(_, Option<OwnedEventId>), RoomError> {
            let row = delayed_row(&composer.view.snapshot, delay_id).await?;
            if !now && row.due() > self.inner.environment.now().millis() {
                return Ok((composer, None));
            }
            let draft = complete(&composer.view, draft.clone()).await?;
            let event = composer.append(draft).await?;
            let snapshot = composer.view.snapshot.clone();
            let outcome = Outcome::Sent(&event.event_id);
            self.put_finalised(&snapshot, &mut composer.transaction, delay_id, row, &outcome).await?;
            Ok((composer, Some(event.event_id.clone())))
        })
        .await?;
        Ok(())
    }
}

/// A redaction says in its content what it redacts, and is allowed or not by what that is.
async fn complete(view: &RoomView, draft: Draft) -> Result<Draft, RoomError> {
    if draft.event_type != TimelineEventType::RoomRedaction || draft.state_key.is_some() {
        return Ok(draft);
    }
    let text = |field: &str| draft.content.get(field).and_then(|value| value.as_str());
    let target = text("redacts").and_then(|redacts| <&EventId>::try_from(redacts).ok());
    let target =
        target.ok_or_else(|| RoomError::BadEvent(String::from("a redaction names what it redacts")))?;
    let redaction = Draft::redaction(view, &draft.sender, target, text("reason")).await?;
    Ok(Draft { delay_id: draft.delay_id, sticky: draft.sticky, ..redaction })
}
