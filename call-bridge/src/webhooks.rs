//! Webhooks: what happens in calls is told to other programs over HTTP, as LiveKit's servers do it. Who is told can see by the token in
//! the request, which carries the digest of the body, that it comes from who has the key.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use entente_environment::Environment;
use prost::Message as _;
use reqwest::{Client, StatusCode, header, redirect};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        broadcast::{self, error::RecvError},
        mpsc,
    },
    task::JoinSet,
};

use crate::{
    ApiKey, CallEvent, Claims,
    proto::{WebhookEvent, to_short_json},
};

/// Events that wait for one address; more are dropped, and it is told how many.
const WAITING: usize = 1_000;
/// What they may hold together, in bytes: participants choose what is told of them.
const WAITING_BYTES: usize = 8 * 1_024 * 1_024;
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

/// An event for one address, and its part of what may wait.
#[derive(Debug)]
struct Waiting {
    event: WebhookEvent,
    bytes: OwnedSemaphorePermit,
}

/// Events on their way to one address.
struct Queue {
    sender: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
    /// How many were dropped since the last.
    dropped: i32,
}

impl Queue {
    fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (sender, waiting) = mpsc::channel(WAITING);
        (Self { sender, bytes: Arc::new(Semaphore::new(WAITING_BYTES)), dropped: 0 }, waiting)
    }

    fn push(&mut self, event: &WebhookEvent) {
        let size = u32::try_from(event.encoded_len()).unwrap_or(u32::MAX);
        let event = WebhookEvent { num_dropped: self.dropped, ..event.clone() };
        let bytes = self.bytes.clone().try_acquire_many_owned(size);
        let is_waiting = bytes.is_ok_and(|bytes| self.sender.try_send(Waiting { event, bytes }).is_ok());
        self.dropped = if is_waiting { 0 } else { self.dropped.saturating_add(1) };
    }
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
            let (queue, waiting) = Queue::new();
            queues.push(queue);
            let (client, key, environment) =
                (self.client.clone(), self.key.clone(), self.environment.clone());
            posts.spawn(Post { url: url.clone(), client, key, environment }.all(waiting));
        }
        loop {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(missed)) => {
                    let missed = i32::try_from(missed).unwrap_or(i32::MAX);
                    for queue in &mut queues {
                        queue.dropped = queue.dropped.saturating_add(missed);
                    }
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            let event = WebhookEvent {
                id: format!("EV_{}", self.environment.randomness().alphanumeric(12)),
                created_at: i64::try_from(self.environment.now().millis() / 1_000).unwrap_or(i64::MAX),
                ..described(&event)
            };
            for queue in &mut queues {
                queue.push(&event);
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
    async fn all(self, mut waiting: mpsc::Receiver<Waiting>) {
        // Of those that nobody took.
        let mut dropped = 0_i32;
        while let Some(Waiting { mut event, bytes }) = waiting.recv().await {
            dropped = dropped.saturating_add(event.num_dropped);
            event.num_dropped = dropped;
            let taken = match to_short_json("livekit.WebhookEvent", &event) {
                Ok(body) => self.persist(&body).await,
                Err(error) => Err(error.to_string()),
            };
            match taken {
                Ok(()) => dropped = 0,
                Err(reason) => {
                    tracing::warn!(url = self.url, reason, "a webhook was not taken and is dropped");
                    dropped = dropped.saturating_add(1);
                }
            }
            drop(bytes);
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

/// An event as LiveKit's servers tell it.
fn described(event: &CallEvent) -> WebhookEvent {
    let told = event.told();
    WebhookEvent {
        event: told.name.to_owned(),
        room: Some(told.room.clone()),
        participant: told.participant.cloned(),
        track: told.track.cloned(),
        ..WebhookEvent::default()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicU32, Ordering},
    };

    use axum::{Router, extract::State, routing::post};
    use http::HeaderMap;
    use serde_json::{Value, json};
    use tokio::{net::TcpListener, time::timeout};

    use super::*;
    use crate::{
        VideoGrant,
        proto::{ParticipantInfo, Room, TrackInfo, TrackSource, TrackType, participant_info},
    };

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

    fn room() -> Box<Room> {
        Box::new(Room { name: "room".to_owned(), sid: "RM_1".to_owned(), ..Room::default() })
    }

    fn participant(sid: &str) -> Box<ParticipantInfo> {
        let permission = VideoGrant::default().permission();
        Box::new(ParticipantInfo {
            sid: sid.to_owned(),
            identity: "alice".to_owned(),
            state: participant_info::State::Active.into(),
            name: "Alice".to_owned(),
            metadata: "m".to_owned(),
            permission: Some(permission),
            joined_at: 7,
            ..ParticipantInfo::default()
        })
    }

    fn joined(sid: &str) -> CallEvent {
        CallEvent::ParticipantJoined { room: room(), participant: participant(sid) }
    }

    fn left(sid: &str, was_reached: bool) -> CallEvent {
        let participant = participant(sid);
        CallEvent::ParticipantLeft { room: room(), participant, was_reached, reason: "CLIENT_INITIATED" }
    }

    /// That somebody joined may have been among the events that were lost.
    #[test]
    fn who_was_there_left_although_nothing_else_was_told_of_it() {
        assert_eq!(described(&left("PA_1", true)).event, "participant_left");
        assert_eq!(described(&left("PA_1", false)).event, "participant_connection_aborted");
    }

    #[test]
    fn events_say_of_whom_and_what_they_are() {
        let told = |event: &CallEvent| {
            let text = to_short_json("livekit.WebhookEvent", &described(event)).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let event = told(&joined("PA_1"));
        assert_eq!(event["room"], json!({ "sid": "RM_1", "name": "room" }));
        let who = &event["participant"];
        assert_eq!((&who["name"], &who["metadata"]), (&json!("Alice"), &json!("m")));
        assert_eq!((&who["state"], &who["joinedAt"]), (&json!("ACTIVE"), &json!("7")));
        assert_eq!(who["permission"]["canPublish"], json!(true));
        let track = Box::new(TrackInfo {
            sid: "TR_1".to_owned(),
            r#type: TrackType::Video.into(),
            source: TrackSource::Camera.into(),
            mime_type: "video/VP8".to_owned(),
            ..TrackInfo::default()
        });
        let (room, participant) = (room(), participant("PA_1"));
        let event = told(&CallEvent::TrackPublished { room, participant, track });
        let expected = json!({ "sid": "TR_1", "type": "VIDEO", "source": "CAMERA", "mimeType": "video/VP8" });
        assert_eq!((&event["track"], &event["participant"]["sid"]), (&expected, &json!("PA_1")));
    }

    /// Participants choose how long it is what is told of them.
    #[test]
    fn what_waits_for_an_address_has_bounds() {
        let (mut queue, mut waiting) = Queue::new();
        let large = WebhookEvent { event: "x".repeat(WAITING_BYTES / 4), ..WebhookEvent::default() };
        for _ in 0..5 {
            queue.push(&large);
        }
        assert_eq!((waiting.len(), queue.dropped), (3, 2));
        drop(waiting.try_recv().unwrap());
        queue.push(&large);
        let dropped = std::iter::from_fn(|| waiting.try_recv().ok().map(|told| told.event.num_dropped));
        assert_eq!(dropped.collect::<Vec<_>>(), [0, 0, 2]);
        for _ in 0..=WAITING {
            queue.push(&WebhookEvent::default());
        }
        assert_eq!((waiting.len(), queue.dropped), (WAITING, 1));
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
        for event in [joined("PA_1"), left("PA_1", true), left("PA_2", false)] {
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
            assert_eq!((&event["room"]["name"], &event["numDropped"]), (&json!("room"), &Value::Null));
            assert!(event["id"].as_str().unwrap().starts_with("EV_") && event["createdAt"].is_string());
        }
        following.abort();
    }
}
