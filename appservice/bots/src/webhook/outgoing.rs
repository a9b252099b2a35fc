//! What rooms tell other programs.
//!
//! A message is put down before its event is done, and posted until it is taken or a day has passed. So a receiver gets each at least
//! once; `X-Entente-Delivery` is the same for the same message.

use std::{collections::HashSet, sync::Arc, time::Duration};

use entente_appservice::{
    Batch, Bridge, Context, Error, Event, HandlerResult, StoreError,
    message::{MessageType, RoomMessageEventContent},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;

use super::{LEAST_SECRET, OptionsError, OutgoingOptions, signature::sign};

/// Where is kept which targets ever had something that waits for them.
const TARGETS: &str = "webhook.targets";
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// When is looked again for what could not be delivered before.
const AGAIN: Duration = Duration::from_secs(30);
/// How long something is tried, in milliseconds.
const LONGEST: u64 = 24 * 60 * 60 * 1000;

/// The answers after which a message is not posted again: the receiver will not think otherwise of it.
const FINAL: [u16; 5] = [400, 410, 413, 415, 422];

/// All rooms that are listened to.
#[derive(Debug)]
pub(super) struct Outgoing {
    targets: Vec<Arc<Target>>,
    client: reqwest::Client,
}

/// A room and where its messages go. Each has a queue of its own, so that none waits for another's receiver.
#[derive(Debug)]
struct Target {
    options: OutgoingOptions,
    /// What its queue is kept under.
    name: String,
    news: Notify,
}

/// A message that waits to be delivered.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    delivery: String,
    since: u64,
    body: String,
}

impl Target {
    fn new(options: OutgoingOptions) -> Self {
        // The same while the same messages go to the same place; the secret may change meanwhile.
        let parts = [options.room.as_bytes(), b"\n", options.prefix.as_bytes()];
        let name = sign(options.url.as_str(), &parts);
        Self { options, name, news: Notify::new() }
    }
}

/// Where what waits for a target is kept.
fn queue(target: &str) -> String {
    format!("webhook.outgoing {target}")
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
        Ok(Self {
            targets: targets.into_iter().map(|options| Arc::new(Target::new(options))).collect(),
            client,
        })
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
        let meant = |target: &&Arc<Target>| {
            target.options.room == event.room_id
                && event.content.body().starts_with(target.options.prefix.as_str())
        };
        for target in self.targets.iter().filter(meant) {
            let delivery = sign(&target.name, &[event.event_id.as_bytes()]);
            let since = context.bridge().environment().now().millis();
            let key = format!("{:020} {delivery}", event.origin_server_ts);
            let waiting = Waiting { delivery, since, body: body.clone() };
            let batch =
                Batch::new().put(TARGETS, &target.name, &true).put(&queue(&target.name), &key, &waiting);
            context.bridge().store().apply(batch).await.map_err(Error::from)?;
            target.news.notify_one();
        }
        Ok(())
    }

    /// Begins to post what waits.
    pub(super) fn start(&self, bridge: &Bridge) {
        for target in &self.targets {
            let worker =
                Worker { bridge: bridge.clone(), target: Arc::clone(target), client: self.client.clone() };
            bridge.spawn(async move { worker.run().await });
        }
        let names: HashSet<String> = self.targets.iter().map(|target| target.name.clone()).collect();
        let cleaner = bridge.clone();
        bridge.spawn(async move {
            if let Err(error) = forget_others(&cleaner, &names).await {
                tracing::warn!(%error, "what waits for former targets cannot be deleted");
            }
        });
    }
}

/// Deletes what waits for targets that are no longer there.
async fn forget_others(bridge: &Bridge, names: &HashSet<String>) -> Result<(), StoreError> {
    let store = bridge.store();
    for (name, _) in store.list::<bool>(TARGETS).await? {
        if names.contains(&name) {
            continue;
        }
        let queue = queue(&name);
        loop {
            let waiting = store.list::<Waiting>(&queue).await?;
            if waiting.is_empty() {
                break;
            }
            let batch = waiting.iter().fold(Batch::new(), |batch, (key, _)| batch.delete(&queue, key));
            store.apply(batch).await?;
        }
        store.delete(TARGETS, &name).await?;
    }
    Ok(())
}

/// Posts what waits for one target, oldest first.
struct Worker {
    bridge: Bridge,
    target: Arc<Target>,
    client: reqwest::Client,
}

impl Worker {
    async fn run(self) {
        loop {
            if let Err(error) = self.post_all().await {
                tracing::error!(%error, "what waits to be posted cannot be read");
            }
            tokio::select! {
                () = self.target.news.notified() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Posts until nothing waits any more, or the receiver does not take it now.
    async fn post_all(&self) -> Result<(), StoreError> {
        let (store, queue) = (self.bridge.store(), queue(&self.target.name));
        for (key, waiting) in store.list::<Waiting>(&queue).await? {
            let now = self.bridge.environment().now().millis();
            if now.saturating_sub(waiting.since) > LONGEST {
                tracing::warn!(
                    delivery = waiting.delivery,
                    "a message was not taken for a day and is given up"
                );
            } else if !self.post(&waiting, now).await {
                break;
            }
            store.delete(&queue, &key).await?;
        }
        Ok(())
    }

    /// Whether the message is settled: taken, or not to be posted any more.
    async fn post(&self, waiting: &Waiting, now: u64) -> bool {
        let timestamp = (now / 1000).to_string();
        let signed = [timestamp.as_bytes(), b".", waiting.delivery.as_bytes(), b".", waiting.body.as_bytes()];
        let signature = sign(&self.target.options.secret, &signed);
        let request = self
            .client
            .post(self.target.options.url.clone())
            .header("content-type", "application/json")
            .header("x-entente-delivery", &waiting.delivery)
            .header("x-entente-timestamp", &timestamp)
            .header("x-entente-signature", format!("v1={signature}"))
            .body(waiting.body.clone());
        match request.send().await {
            Ok(response) if response.status().is_success() => true,
            Ok(response) => {
                let status = response.status().as_u16();
                tracing::warn!(delivery = waiting.delivery, status, "a message is not taken");
                FINAL.contains(&status)
            }
            Err(error) => {
                tracing::warn!(delivery = waiting.delivery, error = %error.without_url(), "nobody takes a message");
                false
            }
        }
    }
}
