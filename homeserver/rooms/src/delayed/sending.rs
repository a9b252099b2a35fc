//! Delayed events whose time has come.

use std::{collections::HashMap, time::Duration};

use entente_environment::Timestamp;
use futures_util::{StreamExt, TryStreamExt, stream};
use ruma::{CanonicalJsonObject, EventId, OwnedEventId, RoomId, UserId, events::TimelineEventType};

use super::{delayed_row, finalised::Outcome};
use crate::{Draft, RoomError, RoomView, Rooms, rows};

/// Events that are sent in one go.
const MOST_DUE: usize = 1_000;
/// Rooms into which events are sent at once: one that is slow does not hold up the others.
const ROOMS_AT_ONCE: usize = 32;
/// How long the one who sends them sleeps at the most: another node may have put one down.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

impl Rooms {
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
        let page = snapshot.scan(&rows::DELAYED_DUE.scan(()).limit(MOST_DUE)).await?.rows;
        let now = self.inner.environment.now();
        let waiting = page.iter().find(|((due, _), ())| *due > now.millis());
        let pause = match waiting {
            Some(((due, _), ())) => Timestamp(*due).since(now).min(LONGEST_SLEEP),
            None if page.len() < MOST_DUE => LONGEST_SLEEP,
            None => Duration::ZERO,
        };
        let due: Vec<String> = page
            .into_iter()
            .take_while(|((due, _), ())| *due <= now.millis())
            .map(|((_, delay_id), ())| delay_id)
            .collect();
        // Those of one room in their order.
        let found = snapshot.get_many(&rows::DELAYED, due.iter().map(String::as_str)).await?;
        let mut by_room: HashMap<String, Vec<String>> = HashMap::new();
        for (delay_id, row) in due.into_iter().zip(found) {
            let Some(row) = row else { continue };
            by_room.entry(row.room_id).or_default().push(delay_id);
        }
        stream::iter(by_room.into_values().map(|due| self.send_in_order(due)))
            .buffer_unordered(ROOMS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(pause)
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
