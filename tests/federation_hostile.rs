//! Servers that mean harm, over TLS: what they send is refused with a line in the log, what they make this server do is bounded, and the
//! room that they attack stays usable. Their events as such are the topic of `homeserver/federation/tests/hostile.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod effort;
mod sent;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use entente_tests::{Authority, Peer, PeerAnswer, PeerRoom, SOON, Server, Settings, User, bodies, segment};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, RoomVersionId};
use serde_json::{Value, json};

/// What a server may need more at the most, in bytes, for one that attacks it: a few answers of the greatest size.
const MOST_MEMORY: u64 = 128 * 1024 * 1024;

/// A room of Alice, in which Mallory of another server is.
struct Scene {
    server: Server,
    alice: User,
    room: String,
    evil: Peer,
    mallory: String,
    theirs: PeerRoom,
    memory: u64,
    authority: Authority,
}

impl Scene {
    async fn new(settings: Settings<'_>) -> Self {
        let authority = Authority::new();
        let evil = Peer::start(&authority);
        let mallory = evil.user("mallory");
        Self::with(authority, evil, mallory, settings).await
    }

    async fn with(authority: Authority, evil: Peer, mallory: String, settings: Settings<'_>) -> Self {
        let server = authority.server(settings);
        let alice = User::register(&server, "alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let theirs = evil.join(&server.name(), &room, &mallory).await;
        let memory = server.peak_memory();
        Self { server, alice, room, evil, mallory, theirs, memory, authority }
    }

    /// A message of Mallory that nothing is wrong with.
    fn message(&self, body: &str) -> CanonicalJsonObject {
        self.theirs.message(&self.evil, &self.mallory, body)
    }

    /// A message of Mallory in which some fields are others.
    fn changed(&self, body: &str, fields: Value) -> CanonicalJsonObject {
        let content = json!({ "msgtype": "m.text", "body": body });
        let mut event = self.theirs.unsigned(&self.mallory, "m.room.message", None, content);
        let CanonicalJsonValue::Object(fields) = CanonicalJsonValue::try_from(fields).unwrap() else {
            panic!()
        };
        event.extend(fields);
        self.theirs.sign(&self.evil, event)
    }

    /// Sends events of Mallory, and answers why they were refused, one after the other.
    async fn refused(&self, events: &[CanonicalJsonObject]) -> Vec<String> {
        let refusals = self.evil.send_and_ask(&self.server.name(), events).await;
        events.iter().filter_map(|event| refusals.get(&self.theirs.id_of(event)).cloned()).collect()
    }

    async fn is_logged(&self, line: &str) {
        is_logged(&self.server, line).await;
    }

    /// Everybody can still write and read in the room, and the server has not grown.
    async fn check_usable(&self) {
        self.alice.say(&self.room, "still here").await;
        let event = self.message("so am I");
        assert_eq!(self.refused(&[event]).await, Vec::<String>::new());
        let read = read(&self.alice, &self.room).await;
        assert!(read.contains(&"still here".to_owned()) && read.contains(&"so am I".to_owned()), "{read:?}");
        self.check_memory();
    }

    fn check_memory(&self) {
        let grown = self.server.peak_memory() - self.memory;
        assert!(grown < MOST_MEMORY, "{grown} bytes more than before");
    }
}

async fn read(user: &User, room: &str) -> Vec<String> {
    let page = user.get(&User::in_room(room, "messages?dir=b&limit=100")).await.ok();
    bodies(&page["chunk"]).into_iter().map(str::to_owned).collect()
}

async fn is_logged(server: &Server, line: &str) {
    let logged = tokio::time::timeout(SOON, async {
        while !server.log().contains(line) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(logged.await.is_ok(), "no line says {line:?}\n{}", server.log());
}

/// The id of an event that nobody has.
fn unknown_id(number: usize) -> String {
    format!("${number:043}")
}

fn unknown_ids(first: usize, count: usize) -> Vec<String> {
    (first..first + count).map(unknown_id).collect()
}

/// A room of the other server, with a past, into which Alice goes.
async fn room_elsewhere(scene: &Scene, messages: usize) -> (Arc<Mutex<PeerRoom>>, Vec<CanonicalJsonObject>) {
    let host = scene.evil.user("host");
    let mut room = scene.evil.room(&RoomVersionId::V11);
    let mut past = Vec::new();
    for number in 0..messages {
        let event = room.message(&scene.evil, &host, &number.to_string());
        room.add(&event);
        past.push(event);
    }
    let id = room.id.clone();
    let room = Arc::new(Mutex::new(room));
    scene.evil.host(&room);
    let path = format!("/_matrix/client/v3/join/{}?via={}", segment(&id), segment(&scene.evil.name));
    scene.alice.post(&path, &json!({})).await.ok();
    (room, past)
}

fn answer(body: impl Into<String>) -> PeerAnswer {
    PeerAnswer::Json(200, body.into())
}
