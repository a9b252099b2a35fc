//! From a transaction of the homeserver to the handlers.
//!
//! A transaction is acknowledged when all of it was handled, and noted as handled before that; each event is noted as soon as its own
//! handlers are through. So whatever dies on the way, nothing is skipped, and what runs again sends under the same ids
//! (`transaction_ids`).

use std::{sync::atomic::Ordering, time::Duration};

use matrix_sdk::ruma::UserId;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Bridge, Context, Error, StoreError,
    encryption::Decryption,
    handlers::{HandlerError, HandlerResult, Incoming},
    store::Waiting,
    transaction::{Envelope, EphemeralEnvelope, Transaction},
    transaction_ids,
};

/// How long something is tried again whose handlers fail for reasons that may pass.
const LONGEST_FAILING: Duration = Duration::from_secs(60 * 60);
/// How often an invite is tried: a room of a server that is gone fails as if it might pass, and everything waits meanwhile.
const MOST_INVITE_FAILURES: u32 = 5;
/// How long an event waits for its key.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a transaction cannot be acknowledged now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotNow {
    #[error(transparent)]
    Failed(#[from] Error),
    #[error("a handler failed and will be tried again")]
    Handler,
}

impl From<StoreError> for NotNow {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

/// Why the handlers of an event did not come to their end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Failed(HandlerError),
    #[error("it took too long")]
    TookTooLong,
    #[error("it broke off: {0}")]
    BrokeOff(tokio::task::JoinError),
}

impl Failure {
    fn error(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) => error.downcast_ref(),
            Self::TookTooLong | Self::BrokeOff(_) => None,
        }
    }

    fn is_temporary(&self) -> bool {
        match self {
            Self::Failed(error) => {
                error.downcast_ref().is_some_and(StoreError::is_temporary)
                    || self.error().is_some_and(Error::is_temporary)
            }
            Self::TookTooLong => true,
            Self::BrokeOff(_) => false,
        }
    }

    fn is_end(&self) -> bool {
        matches!(self.error(), Some(Error::ShuttingDown))
    }
}

/// Whether a transaction was new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    Now,
    Before,
}

#[derive(Deserialize)]
struct Membership {
    membership: String,
}

impl Bridge {
    /// Handles a transaction, one after the other.
    pub(crate) async fn receive(&self, id: &str, mut transaction: Transaction) -> Result<Handled, NotNow> {
        let _turn = self.turn().lock().await;
        // Event ids begin with `$`, so these are never one.
        let id = format!("transaction {id}");
        if self.store().is_handled(&id).await? {
            return Ok(Handled::Before);
        }
        if let Some(encryption) = self.encryption() {
            let changes = transaction.take_device_changes();
            // A key is taken in once. If something fails behind that, what waits for it is found by looking at everything that waits.
            let try_all = self.retries_waiting().swap(true, Ordering::Relaxed);
            let mut sessions = encryption.receive(self, changes).await?;
            if try_all {
                sessions = self.store().awaited_sessions().await?;
            }
            self.try_again(&sessions).await?;
        }
        for event in &transaction.events {
            self.receive_event(event).await?;
        }
        for event in transaction.ephemeral() {
            self.receive_ephemeral(event).await;
        }
        self.store().mark_handled(&id).await?;
        Ok(Handled::Now)
    }

    async fn receive_event(&self, raw: &RawValue) -> Result<(), NotNow> {
        let Ok(envelope) = serde_json::from_str::<Envelope>(raw.get()) else {
            self.metrics().event("malformed");
            return Ok(());
        };
        if self.store().is_handled(envelope.event_id.as_str()).await? {
            return Ok(());
        }
        self.rooms().learn(self, &envelope).await?;
        self.answer_invite(&envelope).await?;
        // What the service's own users said is known already.
        if self.owns(&envelope.sender) {
            return Ok(self.store().mark_handled(envelope.event_id.as_str()).await?);
        }
        let is_encrypted = envelope.event_type == "m.room.encrypted" && envelope.state_key.is_none();
        match self.encryption().filter(|_| is_encrypted) {
            None => self.dispatch(Incoming { envelope, encryption: None }).await,
            Some(encryption) => match encryption.decrypt(self, &envelope, raw).await {
                Decryption::Done(incoming) => self.dispatch(*incoming).await,
                Decryption::KeyMissing { session_id } => self.wait_for_key(envelope, session_id, raw).await,
                Decryption::Impossible => {
                    self.metrics().event("undecryptable");
                    Ok(self.store().mark_handled(envelope.event_id.as_str()).await?)
                }
            },
        }
    }

    async fn wait_for_key(
        &self,
        envelope: Envelope,
        session_id: String,
        raw: &RawValue,
    ) -> Result<(), NotNow> {
        tracing::debug!(event.id = %envelope.event_id, "the key has not come yet");
        let (event_id, event) = (envelope.event_id.to_string(), raw.get().to_owned());
        let since = self.environment().now().millis();
        self.store().keep_waiting(Waiting { event_id, session_id, since, event }).await?;
        self.metrics().event("waiting");
        self.count_waiting().await
    }

    /// Gives up on what has waited too long, and counts what still waits.
    async fn count_waiting(&self) -> Result<(), NotNow> {
        let longest = u64::try_from(LONGEST_WAIT.as_millis()).unwrap_or(u64::MAX);
        let since = self.environment().now().millis().saturating_sub(longest);
        let still = self.store().give_up_waiting(since).await?;
        self.metrics().waiting_for_keys.set(still);
        Ok(())
    }

    /// Tries the events again that waited for the keys of these sessions.
    async fn try_again(&self, sessions: &[String]) -> Result<(), NotNow> {
        let Some(encryption) = self.encryption() else { return Ok(()) };
        for session_id in sessions {
            for waiting in self.store().waiting_for(session_id).await? {
                let Ok(raw) = RawValue::from_string(waiting.event) else { continue };
                let Ok(envelope) = serde_json::from_str::<Envelope>(raw.get()) else { continue };
                if let Decryption::Done(incoming) = encryption.decrypt(self, &envelope, &raw).await {
                    self.dispatch(*incoming).await?;
                }
            }
        }
        if !sessions.is_empty() {
            self.count_waiting().await?;
        }
        self.retries_waiting().store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Tries everything again that waits for a key: one may have come just before the process ended.
    pub(crate) async fn try_all_again(&self) -> Result<(), NotNow> {
        let _turn = self.turn().lock().await;
        self.count_waiting().await?;
        let sessions = self.store().awaited_sessions().await?;
        self.try_again(&sessions).await
    }

    /// Accepts an invite for one of the service's users, if it is from somebody who may invite them.
    async fn answer_invite(&self, envelope: &Envelope) -> Result<(), NotNow> {
        let Some(user_id) = invited(envelope) else { return Ok(()) };
        if !self.owns(&user_id) {
            return Ok(());
        }
        if self.owns(&envelope.sender) {
            return Ok(self.rooms().come_in(self, &user_id, &envelope.room_id).await?);
        }
        if !self.settings().invites.allow(&envelope.sender, &self.settings().server_name) {
            tracing::info!(user.id = %envelope.sender, "not one of those who may invite");
            return Ok(self.rooms().stay_away(self, &user_id, &envelope.room_id).await?);
        }
        // Event ids begin with `$`, so this is none.
        let id = format!("invite {}", envelope.event_id);
        if self.store().is_handled(&id).await? {
            return Ok(());
        }
        let room = self.user_by_id(&user_id).in_room(&envelope.room_id);
        if let Err(error) = room.join().await {
            if matches!(error, Error::ShuttingDown) {
                return Err(error.into());
            }
            let failures = self.store().mark_failed(&id, self.environment().now().millis()).await?;
            if error.is_temporary() && failures.count < MOST_INVITE_FAILURES {
                return Err(error.into());
            }
            tracing::warn!(room.id = %envelope.room_id, %error, "an invite cannot be accepted");
        }
        Ok(self.store().mark_handled(&id).await?)
    }

    async fn dispatch(&self, incoming: Incoming) -> Result<(), NotNow> {
        let event_id = incoming.envelope.event_id.clone();
        let context = Context::new(self, &incoming.envelope.room_id, Some(&event_id));
        let bridge = self.clone();
        let id = event_id.to_string();
        // A task of its own, so that a panic ends the handler and nothing else.
        let run = tokio::spawn(async move {
            let handlers = bridge.handlers().of_event(&incoming.envelope).to_vec();
            transaction_ids::handling(&id, async move {
                for handler in handlers {
                    handler(incoming.clone(), context.clone()).await?;
                }
                Ok(())
            })
            .await
        });
        let Err(failure) = self.outcome(run).await else {
            self.metrics().event("handled");
            return Ok(self.store().mark_handled(event_id.as_str()).await?);
        };
        if failure.is_end() {
            return Err(NotNow::Failed(Error::ShuttingDown));
        }
        let now = self.environment().now().millis();
        let failures = self.store().mark_failed(event_id.as_str(), now).await?;
        let failing_for = Duration::from_millis(now.saturating_sub(failures.since));
        if failure.is_temporary() && failing_for < LONGEST_FAILING {
            let failures = failures.count;
            tracing::warn!(event.id = %event_id, error = %failure, failures, "a handler failed and will be tried again");
            return Err(NotNow::Handler);
        }
        tracing::error!(event.id = %event_id, error = %failure, "a handler failed");
        self.metrics().event("failed");
        Ok(self.store().mark_handled(event_id.as_str()).await?)
    }

    async fn outcome(&self, mut run: tokio::task::JoinHandle<HandlerResult>) -> Result<(), Failure> {
        match tokio::time::timeout(self.settings().handler_timeout(), &mut run).await {
            Ok(Ok(result)) => result.map_err(Failure::Failed),
            Ok(Err(panicked)) => Err(Failure::BrokeOff(panicked)),
            Err(_) => {
                run.abort();
                Err(Failure::TookTooLong)
            }
        }
    }

    /// What is not kept is not tried again either.
    async fn receive_ephemeral(&self, raw: &RawValue) {
        let Ok(envelope) = serde_json::from_str::<EphemeralEnvelope>(raw.get()) else { return };
        for handler in self.handlers().of_ephemeral(&envelope.event_type).to_vec() {
            let context = Context::new(self, &envelope.room_id, None);
            let run = tokio::spawn(handler(envelope.clone(), context));
            if let Err(error) = self.outcome(run).await {
                tracing::warn!(room.id = %envelope.room_id, %error, "a handler of something fleeting failed");
            }
        }
    }
}

/// Who is invited by this event.
fn invited(envelope: &Envelope) -> Option<matrix_sdk::ruma::OwnedUserId> {
    if envelope.event_type != "m.room.member" {
        return None;
    }
    let content: Membership = serde_json::from_str(envelope.content.get()).ok()?;
    if content.membership != "invite" {
        return None;
    }
    UserId::parse(envelope.state_key.as_deref()?).ok()
}

#[cfg(test)]
mod tests;
