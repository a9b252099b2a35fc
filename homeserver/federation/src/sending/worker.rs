//! The worker of one server.

use std::{sync::Arc, time::Duration};

use ruma::{CanonicalJsonObject, CanonicalJsonValue, EventId, Int, OwnedServerName, ServerName};
use serde_json::Value;
use tokio::sync::broadcast;

use super::{Desk, Outbox, queue::Batch};
use crate::FederationError;

/// How long a worker without work stays.
const STAYS: Duration = Duration::from_secs(60);
/// Before the store is asked again that did not answer.
const PAUSE: Duration = Duration::from_secs(1);

impl Outbox {
    /// Sends what waits for a server, until nothing does for a while.
    pub(super) async fn work(self, server: OwnedServerName, desk: Arc<Desk>) {
        let mut back = self.inner.client.destinations().watch();
        loop {
            match self.send_next(&server, &desk).await {
                Ok(true) => {}
                Ok(false) => {
                    if tokio::time::timeout(STAYS, desk.notify.notified()).await.is_err()
                        && self.end(&server, &desk)
                    {
                        return;
                    }
                }
                Err(FederationError::Storage(error)) => {
                    tracing::warn!(%server, %error, "what waits for a server cannot be read");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_) => self.wait_for(&server, &mut back).await,
            }
        }
    }

    /// Ends a worker, unless something came for it meanwhile.
    fn end(&self, server: &ServerName, desk: &Desk) -> bool {
        let mut workers = self.inner.workers.lock();
        // Who wakes holds the lock: what it left is seen here.
        let was_woken = futures_util::FutureExt::now_or_never(desk.notify.notified()).is_some();
        if was_woken {
            desk.notify.notify_one();
            return false;
        }
        workers.remove(server);
        true
    }

    /// Waits until a server that did not take something may be asked again, or speaks.
    async fn wait_for(&self, server: &ServerName, back: &mut broadcast::Receiver<OwnedServerName>) {
        let now = self.inner.environment.now();
        let until = self.inner.client.destinations().retry_at(server);
        let pause = until.map_or(PAUSE, |until| until.since(now)).max(Duration::from_millis(100));
        let spoke = async {
            loop {
                match back.recv().await {
                    Ok(name) if name == server => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = spoke => {}
        }
    }

    /// Sends the oldest of what waits. Answers whether there was anything.
    async fn send_next(&self, server: &ServerName, desk: &Desk) -> Result<bool, FederationError> {
        let batch = Batch::read(&self.inner.store.snapshot().await?, server).await?;
        let passing = std::mem::take(&mut *desk.passing.lock());
        if batch.is_empty() && passing.is_empty() {
            return Ok(false);
        }
        let sent = self.send(server, &batch, passing.clone()).await;
        // What a server refuses may be refused for these: with the next they would hold up all that waits.
        if sent.as_ref().is_err_and(|error| !is_verdict(error)) {
            desk.take_back(passing);
        }
        sent.map(|()| true)
    }

    async fn send(
        &self,
        server: &ServerName,
        batch: &Batch,
        passing: Vec<CanonicalJsonObject>,
    ) -> Result<(), FederationError> {
        self.inner.client.destinations().check(server)?;
        let mut transaction_id = batch.transaction_id();
        if !passing.is_empty() {
            // What is told only now may be other things the next time: it is another transaction than without it.
            let tag = self.inner.environment.randomness().alphanumeric(12);
            transaction_id = format!("{transaction_id}.{tag}");
        }
        let body = self.body(batch, passing).await?;
        let answer = {
            let _place = self.inner.places.acquire().await;
            self.inner.client.send_transaction(server, &transaction_id, &body).await
        };
        match answer {
            Ok(answer) => {
                log_refusals(server, &answer);
                batch.delete(&self.inner.store, server).await?;
                Ok(())
            }
            Err(error) => {
                tracing::debug!(%server, %error, "a transaction was not taken");
                if matches!(error, FederationError::Status { .. }) {
                    // It is there, but does not want it now.
                    self.inner.client.destinations().failed(server, self.inner.environment.now()).await;
                }
                Err(error)
            }
        }
    }

    async fn body(
        &self,
        batch: &Batch,
        passing: Vec<CanonicalJsonObject>,
    ) -> Result<CanonicalJsonObject, FederationError> {
        let mut pdus = Vec::with_capacity(batch.events.len());
        for (_, row) in &batch.events {
            let Ok(event_id) = EventId::parse(&row.event_id) else { continue };
            if let Some((_, event)) = self.inner.rooms.event_anywhere(&event_id).await? {
                pdus.push(parsed(event.json())?);
            }
        }
        let edus = batch.messages.iter().map(|(_, json)| parsed(json)).collect::<Result<Vec<_>, _>>()?;
        let edus = passing.into_iter().map(CanonicalJsonValue::Object).chain(edus).collect();
        let now = self.inner.environment.now().millis();
        let origin = self.inner.rooms.server_name().to_string();
        Ok(CanonicalJsonObject::from([
            (String::from("origin"), CanonicalJsonValue::String(origin)),
            (
                String::from("origin_server_ts"),
                CanonicalJsonValue::Integer(Int::try_from(now).unwrap_or(Int::MAX)),
            ),
            (String::from("pdus"), CanonicalJsonValue::Array(pdus)),
            (String::from("edus"), CanonicalJsonValue::Array(edus)),
        ]))
    }
}

/// Whether a server saw what it was sent and did not take it: others answer in its place that it cannot be asked now.
fn is_verdict(error: &FederationError) -> bool {
    matches!(error, FederationError::Status { status, .. } if !matches!(status, 429 | 502..=504))
}

fn parsed(json: &[u8]) -> Result<CanonicalJsonValue, FederationError> {
    serde_json::from_slice(json).map_err(|error| FederationError::Internal(format!("stored JSON: {error}")))
}

fn log_refusals(server: &ServerName, answer: &Value) {
    for (event_id, outcome) in answer.get("pdus").and_then(Value::as_object).into_iter().flatten() {
        if let Some(error) = outcome.get("error").and_then(Value::as_str) {
            tracing::info!(%server, event_id, error, "a server refuses an event");
        }
    }
}
