//! From a transaction of the homeserver to the handlers.
//!
//! A transaction is acknowledged when all of it was handled, and noted as handled before that; each event is noted as soon as its own
//! handlers are through. So whatever dies on the way, nothing is skipped, and what runs again sends under the same ids
//! (`transaction_ids`).

use std::time::Duration;

use matrix_sdk::ruma::UserId;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Bridge, Context, Error,
    encryption::Decryption,
    handlers::{HandlerError, HandlerResult, Incoming},
    store::Waiting,
    transaction::{Envelope, EphemeralEnvelope, Transaction},
    transaction_ids,
};

/// How often an event is tried whose handlers fail for reasons that may pass.
const MOST_FAILURES: u32 = 5;
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

impl From<crate::StoreError> for NotNow {
    fn from(error: crate::StoreError) -> Self {
        Self::Failed(error.into())
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
            for session_id in encryption.receive(self, changes).await? {
                self.try_again(&session_id).await?;
            }
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
            Some(encryption) => match encryption.decrypt(self, &envelope.room_id, raw).await? {
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
        let longest = u64::try_from(LONGEST_WAIT.as_millis()).unwrap_or(u64::MAX);
        let still = self.store().give_up_waiting(since.saturating_sub(longest)).await?;
        self.metrics().waiting_for_keys.set(still);
        self.metrics().event("waiting");
        Ok(())
    }

    /// Tries the events again that waited for the key of this session.
    async fn try_again(&self, session_id: &str) -> Result<(), NotNow> {
        let Some(encryption) = self.encryption() else { return Ok(()) };
        for waiting in self.store().waiting_for(session_id).await? {
            let Ok(raw) = RawValue::from_string(waiting.event) else { continue };
            let Ok(envelope) = serde_json::from_str::<Envelope>(raw.get()) else { continue };
            if let Decryption::Done(incoming) = encryption.decrypt(self, &envelope.room_id, &raw).await? {
                self.dispatch(*incoming).await?;
            }
        }
        Ok(())
    }

    /// Tries everything again that waits for a key: one may have come just before the process ended.
    pub(crate) async fn try_all_again(&self) -> Result<(), NotNow> {
        let _turn = self.turn().lock().await;
        for session_id in self.store().awaited_sessions().await? {
            self.try_again(&session_id).await?;
        }
        Ok(())
    }

    /// Accepts an invite for one of the service's users, if it is from somebody who may invite them.
    async fn answer_invite(&self, envelope: &Envelope) -> Result<(), NotNow> {
        let Some(user_id) = invited(envelope) else { return Ok(()) };
        if !self.owns(&user_id) || self.owns(&envelope.sender) {
            return Ok(());
        }
        if !self.settings().invites.allow(&envelope.sender, &self.settings().server_name) {
            tracing::info!(user.id = %envelope.sender, "not one of those who may invite");
            return Ok(());
        }
        let room = self.user_by_id(&user_id).in_room(&envelope.room_id);
        match room.ensure_joined().await {
            Err(error) if error.is_temporary() => Err(error.into()),
            Err(error) => {
                tracing::warn!(room.id = %envelope.room_id, %error, "an invite cannot be accepted");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn dispatch(&self, incoming: Incoming) -> Result<(), NotNow> {
        let event_id = incoming.envelope.event_id.clone();
        let context = Context::new(self, &incoming.envelope.room_id, Some(&event_id));
        let bridge = self.clone();
        let id = event_id.to_string();
        // A task of its own, so that a panic ends the handler and nothing else.
        let run = tokio::spawn(async move {
            let handlers = bridge.handlers().of_event(&incoming.envelope.event_type).to_vec();
            transaction_ids::handling(&id, async move {
                for handler in handlers {
                    handler(incoming.clone(), context.clone()).await?;
                }
                Ok(())
            })
            .await
        });
        let Err(error) = self.outcome(run).await else {
            self.metrics().event("handled");
            return Ok(self.store().mark_handled(event_id.as_str()).await?);
        };
        let failures = self.store().mark_failed(event_id.as_str()).await?;
        if is_temporary(&error) && failures < MOST_FAILURES {
            tracing::warn!(event.id = %event_id, %error, failures, "a handler failed and will be tried again");
            return Err(NotNow::Handler);
        }
        tracing::error!(event.id = %event_id, %error, "a handler failed");
        self.metrics().event("failed");
        Ok(self.store().mark_handled(event_id.as_str()).await?)
    }

    async fn outcome(&self, mut run: tokio::task::JoinHandle<HandlerResult>) -> HandlerResult {
        match tokio::time::timeout(self.settings().handler_timeout(), &mut run).await {
            Ok(Ok(result)) => result,
            Ok(Err(panicked)) => Err(format!("it broke off: {panicked}").into()),
            Err(_) => {
                run.abort();
                Err("it took too long".into())
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

fn is_temporary(error: &HandlerError) -> bool {
    error.downcast_ref::<Error>().is_some_and(Error::is_temporary)
}
