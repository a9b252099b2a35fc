//! What rooms tell other programs.
//!
//! A message is put down before its event is done, and posted until it is taken or a day has passed. So a receiver gets each at least
//! once; `X-Entente-Delivery` is the same for the same message.

use std::{sync::Arc, time::Duration};

use entente_appservice::{
    Bridge, Context, Event, HandlerResult, Store, StoreError,
    message::{MessageType, RoomMessageEventContent},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;

use super::{LEAST_SECRET, OptionsError, OutgoingOptions, signature::sign};

/// Where what waits is kept.
const WAITING: &str = "webhook.outgoing";
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How often is looked for what could not be delivered before.
const AGAIN: Duration = Duration::from_secs(30);
/// How long something is tried, in milliseconds.
const LONGEST: u64 = 24 * 60 * 60 * 1000;

/// All rooms that are listened to.
#[derive(Debug)]
pub(super) struct Outgoing {
    targets: Vec<OutgoingOptions>,
    client: reqwest::Client,
    news: Notify,
}

/// A message that waits to be delivered.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    delivery: String,
    url: String,
    since: u64,
    body: String,
}

impl Outgoing {
    pub(super) fn new(targets: Vec<OutgoingOptions>) -> Result<Self, OptionsError> {
        for target in &targets {
            if target.secret.len() < LEAST_SECRET {
                return Err(OptionsError::WeakSecret(target.room.to_string()));
            }
            if !matches!(target.url.scheme(), "http" | "https") {
                return Err(OptionsError::BadUrl(target.url.clone()));
            }
        }
        let client = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let client = client.build().map_err(OptionsError::Client)?;
        Ok(Self { targets, client, news: Notify::new() })
    }

    /// Puts down what is to be posted of a message.
    pub(super) async fn take(
        &self,
        event: Event<RoomMessageEventContent>,
        context: &Context,
    ) -> HandlerResult {
        // Notices are what bots say: two hooks would talk to each other for ever.
        if matches!(event.content.msgtype, MessageType::Notice(_)) {
            return Ok(());
        }
        let body = json!({
            "type": "m.room.message", "event_id": event.event_id, "room_id": event.room_id,
            "sender": event.sender, "origin_server_ts": event.origin_server_ts, "content": event.content,
        })
        .to_string();
        let meant = |target: &&OutgoingOptions| {
            target.room == event.room_id && event.content.body().starts_with(target.prefix.as_str())
        };
        for target in self.targets.iter().filter(meant) {
            let delivery = sign(target.url.as_str(), &[event.event_id.as_bytes()]);
            let since = context.bridge().environment().now().millis();
            let url = target.url.to_string();
            let waiting = Waiting { delivery: delivery.clone(), url, since, body: body.clone() };
            let key = format!("{:020} {delivery}", event.origin_server_ts);
            context
                .bridge()
                .store()
                .put(WAITING, &key, &waiting)
                .await
                .map_err(entente_appservice::Error::from)?;
            self.news.notify_one();
        }
        Ok(())
    }

    /// Begins to post what waits.
    pub(super) fn start(self: &Arc<Self>, bridge: &Bridge) {
        if self.targets.is_empty() {
            return;
        }
        let (outgoing, worker) = (Arc::clone(self), bridge.clone());
        bridge.spawn(async move {
            loop {
                if let Err(error) = outgoing.post_all(&worker).await {
                    tracing::error!(%error, "what waits to be posted cannot be read");
                }
                tokio::select! {
                    () = outgoing.news.notified() => {}
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        });
    }

    async fn post_all(&self, bridge: &Bridge) -> Result<(), StoreError> {
        let store: &Store = bridge.store();
        // A receiver that is away is not asked for each message that waits for it.
        let mut away = Vec::new();
        for (key, waiting) in store.list::<Waiting>(WAITING).await? {
            let now = bridge.environment().now().millis();
            let is_old = now.saturating_sub(waiting.since) > LONGEST;
            if !is_old && away.contains(&waiting.url) {
                continue;
            }
            if is_old {
                tracing::warn!(
                    delivery = waiting.delivery,
                    "a message was not taken for a day and is given up"
                );
            } else if !self.post(&waiting, now).await {
                away.push(waiting.url);
                continue;
            }
            store.delete(WAITING, &key).await?;
        }
        Ok(())
    }

    /// Whether the message is settled: taken, or not to be posted any more.
    async fn post(&self, waiting: &Waiting, now: u64) -> bool {
        let Some(target) = self.targets.iter().find(|target| target.url.as_str() == waiting.url) else {
            return true;
        };
        let timestamp = (now / 1000).to_string();
        let signed = [timestamp.as_bytes(), b".", waiting.delivery.as_bytes(), b".", waiting.body.as_bytes()];
        let request = self
            .client
            .post(target.url.clone())
            .header("content-type", "application/json")
            .header("x-entente-delivery", &waiting.delivery)
            .header("x-entente-timestamp", &timestamp)
            .header("x-entente-signature", format!("v1={}", sign(&target.secret, &signed)))
            .body(waiting.body.clone());
        match request.send().await {
            Ok(response) if response.status().is_success() => true,
            Ok(response) => {
                let status = response.status();
                tracing::warn!(
                    delivery = waiting.delivery,
                    status = status.as_u16(),
                    "a message is not taken"
                );
                // The receiver will not think otherwise of these.
                matches!(status.as_u16(), 400 | 410 | 413 | 415 | 422)
            }
            Err(error) => {
                tracing::warn!(delivery = waiting.delivery, error = %error.without_url(), "nobody takes a message");
                false
            }
        }
    }
}
