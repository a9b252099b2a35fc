//! Webhooks: what happens in calls is told to other programs over HTTP, as LiveKit's servers do it. Who is told can see by the token in
//! the request, which carries the digest of the body, that it comes from who has the key.

use std::{collections::HashSet, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use entente_environment::Environment;
use reqwest::{Client, StatusCode, header, redirect};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
    task::JoinSet,
};

use crate::{ApiKey, CallEvent, Claims};

/// Events that wait for one address; more are dropped, and it is told how many.
const WAITING: usize = 1_000;
/// How long one may take to take an event.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Before an event is sent again; after the last it is dropped.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];
/// How long the token of a request is valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);

/// Tells addresses what happens in calls: each of them in order, and none waits for another.
#[derive(Debug)]
pub struct Webhooks {
    urls: Vec<String>,
    key: ApiKey,
    environment: Environment,
    client: Client,
}

/// An event for one address, and how many were dropped before it.
#[derive(Debug)]
struct Told {
    event: Value,
    dropped: u32,
}

impl Webhooks {
    /// For these `http` or `https` addresses, with tokens of this key. The error is about TLS.
    pub fn new(urls: Vec<String>, key: ApiKey, environment: Environment) -> Result<Self, reqwest::Error> {
        let client =
            Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(TIMEOUT).build()?;
        Ok(Self { urls, key, environment, client })
    }

    /// Tells what happens for as long as it is polled.
    pub async fn follow(self, mut events: broadcast::Receiver<CallEvent>) {
        let mut posts = JoinSet::new();
        let mut queues = Vec::new();
        for url in &self.urls {
            let (queue, waiting) = mpsc::channel(WAITING);
            queues.push((queue, 0_u32));
            let (client, key, environment) =
                (self.client.clone(), self.key.clone(), self.environment.clone());
            posts.spawn(Post { url: url.clone(), client, key, environment }.all(waiting));
        }
        let mut joined = HashSet::new();
        loop {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(missed)) => {
                    let missed = u32::try_from(missed).unwrap_or(u32::MAX);
                    for (_, dropped) in &mut queues {
                        *dropped = dropped.saturating_add(missed);
                    }
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            let mut event = described(&event, &mut joined);
            event["id"] = json!(format!("EV_{}", self.environment.randomness().alphanumeric(12)));
            // As JSON has the 64-bit numbers of protobuf.
            event["createdAt"] = json!((self.environment.now().millis() / 1_000).to_string());
            for (queue, dropped) in &mut queues {
                match queue.try_send(Told { event: event.clone(), dropped: *dropped }) {
                    Ok(()) => *dropped = 0,
                    Err(_) => *dropped = dropped.saturating_add(1),
                }
            }
        }
    }
}

/// Who tells one address.
struct Post {
    url: String,
    client: Client,
    key: ApiKey,
    environment: Environment,
}

impl Post {
    async fn all(self, mut waiting: mpsc::Receiver<Told>) {
        // Of those that nobody took.
        let mut dropped = 0_u32;
        while let Some(mut told) = waiting.recv().await {
            dropped = dropped.saturating_add(told.dropped);
            told.event["numDropped"] = json!(dropped);
            match self.persist(&told.event.to_string()).await {
                Ok(()) => dropped = 0,
                Err(reason) => {
                    tracing::warn!(url = self.url, reason, "a webhook was not taken and is dropped");
                    dropped = dropped.saturating_add(1);
                }
            }
        }
    }

    /// Sends it until it is taken; answers why it never was.
    async fn persist(&self, body: &str) -> Result<(), String> {
        for pause in PAUSES {
            if self.send(body).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
        }
        self.send(body).await
    }

    async fn send(&self, body: &str) -> Result<(), String> {
        let sha256 = BASE64_STANDARD.encode(Sha256::digest(body));
        let claims = Claims { sha256, ..Claims::default() };
        let token = self.key.sign(claims, self.environment.now(), TOKEN_LIFETIME);
        let request = self
            .client
            .post(&self.url)
            .header(header::CONTENT_TYPE, "application/webhook+json")
            .header(header::AUTHORIZATION, token)
            .body(body.to_owned());
        let status: StatusCode = request.send().await.map_err(|error| error.to_string())?.status();
        if status.is_success() { Ok(()) } else { Err(format!("status {status}")) }
    }
}

/// An event as LiveKit's servers name it. `joined` are those who are in their calls.
fn described(event: &CallEvent, joined: &mut HashSet<String>) -> Value {
    let of = |name: &str, room: &str| json!({ "event": name, "room": { "name": room } });
    match event {
        CallEvent::RoomStarted { room } => of("room_started", room),
        CallEvent::RoomFinished { room } => of("room_finished", room),
        CallEvent::ParticipantJoined { room, identity, sid } => {
            joined.insert(sid.clone());
            let mut told = of("participant_joined", room);
            told["participant"] = json!({ "identity": identity, "sid": sid, "state": "ACTIVE" });
            told
        }
        CallEvent::ParticipantLeft { room, identity, sid, reason } => {
            // Media may never have reached it.
            let name = if joined.remove(sid) { "participant_left" } else { "participant_connection_aborted" };
            let mut told = of(name, room);
            told["participant"] = json!({
                "identity": identity, "sid": sid, "state": "DISCONNECTED", "disconnectReason": reason,
            });
            told
        }
        CallEvent::TrackPublished { room, identity, track, source } => {
            let mut told = of("track_published", room);
            told["participant"] = json!({ "identity": identity });
            told["track"] = json!({ "sid": track, "source": source });
            told
        }
        CallEvent::TrackUnpublished { room, identity, track } => {
            let mut told = of("track_unpublished", room);
            told["participant"] = json!({ "identity": identity });
            told["track"] = json!({ "sid": track });
            told
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use axum::{Router, extract::State, routing::post};
    use http::HeaderMap;
    use tokio::{net::TcpListener, time::timeout};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    type Taken = mpsc::UnboundedSender<(HeaderMap, String)>;

    /// Takes nothing twice, and then everything.
    async fn take(
        State((tries, taken)): State<(Arc<AtomicU32>, Taken)>,
        headers: HeaderMap,
        body: String,
    ) -> StatusCode {
        if tries.fetch_add(1, Ordering::Relaxed) < 2 {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        taken.send((headers, body)).unwrap();
        StatusCode::OK
    }

    fn joined(sid: &str) -> CallEvent {
        CallEvent::ParticipantJoined {
            room: "room".to_owned(),
            identity: "alice".to_owned(),
            sid: sid.to_owned(),
        }
    }

    fn left(sid: &str) -> CallEvent {
        CallEvent::ParticipantLeft {
            room: "room".to_owned(),
            identity: "alice".to_owned(),
            sid: sid.to_owned(),
            reason: "CLIENT_INITIATED",
        }
    }

    #[tokio::test]
    async fn events_are_told_in_order_until_they_are_taken() {
        let (taken, mut told) = mpsc::unbounded_channel();
        let router = Router::new().route("/", post(take)).with_state((Arc::default(), taken));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let key = ApiKey { name: "key".to_owned(), secret: "secret".to_owned() };
        let environment = Environment::system();
        let nobody = "http://127.0.0.1:9/".to_owned();
        let webhooks = Webhooks::new(vec![nobody, url], key.clone(), environment.clone()).unwrap();
        let (events, followed) = broadcast::channel(16);
        let following = tokio::spawn(webhooks.follow(followed));
        for event in [joined("PA_1"), left("PA_1"), left("PA_2")] {
            events.send(event).unwrap();
        }
        for (name, sid) in [
            ("participant_joined", "PA_1"),
            ("participant_left", "PA_1"),
            ("participant_connection_aborted", "PA_2"),
        ] {
            let (headers, body) = timeout(SOON, told.recv()).await.expect("an event").unwrap();
            assert_eq!(headers["content-type"], "application/webhook+json");
            let claims = key.verify(headers["authorization"].to_str().unwrap(), environment.now()).unwrap();
            assert_eq!(claims.sha256, BASE64_STANDARD.encode(Sha256::digest(&body)));
            let event: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((&event["event"], &event["participant"]["sid"]), (&json!(name), &json!(sid)));
            assert_eq!((&event["room"]["name"], &event["numDropped"]), (&json!("room"), &json!(0)));
        }
        following.abort();
    }
}
