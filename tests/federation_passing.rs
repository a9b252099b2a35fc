//! What is worth telling other servers only now: a request that failed does not lose it, and a server that does not want it loses nothing
//! else by it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use entente_tests::{Authority, Peer, PeerAnswer, PeerRequest, SOON, Server, User, segment};
use serde_json::{Value, json};

const TRANSACTIONS: &str = "/federation/v1/send/";

/// Alice's room, in which somebody of another server is.
struct Scene {
    _server: Server,
    alice: User,
    room: String,
    peer: Peer,
}

impl Scene {
    async fn new() -> Self {
        let authority = Authority::new();
        let server = authority.server(&[]);
        let alice = User::register(&server, "alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let peer = Peer::start(&authority);
        peer.join(&server.name(), &room, &peer.user("member")).await;
        Self { _server: server, alice, room, peer }
    }

    /// Lets the other server answer some transactions with this, until what this answers is set to false.
    fn refuse(
        &self,
        status: u16,
        body: &'static str,
        is_refused: impl Fn(&PeerRequest) -> bool + Send + Sync + 'static,
    ) -> Arc<AtomicBool> {
        let refuses = Arc::new(AtomicBool::new(true));
        let still = Arc::clone(&refuses);
        self.peer.answer_with(TRANSACTIONS, move |request| {
            if still.load(Ordering::SeqCst) && is_refused(request) {
                PeerAnswer::Json(status, body.to_owned())
            } else {
                PeerAnswer::Json(200, json!({ "pdus": {} }).to_string())
            }
        });
        refuses
    }

    async fn read(&self, event_id: &str) {
        let path = User::in_room(&self.room, &format!("receipt/m.read/{}", segment(event_id)));
        self.alice.post(&path, &json!({})).await.ok();
    }

    async fn until(&self, what: &str, is_there: impl Fn(&Value) -> bool) {
        let come = async {
            while !self.peer.requests(TRANSACTIONS).iter().any(|request| is_there(&request.body)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(SOON, come).await.is_ok(), "{what} does not come");
    }
}

fn has_message(body: &Value, kind: &str) -> bool {
    body["edus"].as_array().into_iter().flatten().any(|message| message["edu_type"] == kind)
}

#[tokio::test]
async fn what_a_failed_request_carried_is_told_again() {
    let scene = Scene::new().await;
    let away = scene.refuse(503, "", |_| true);
    let said = scene.alice.say(&scene.room, "hello").await;
    scene.read(&said).await;
    let typing = User::in_room(&scene.room, &format!("typing/{}", segment(&scene.alice.id)));
    scene.alice.put(&typing, &json!({ "typing": true, "timeout": 120_000 })).await.ok();
    scene.until("what was read", |body| has_message(body, "m.receipt")).await;

    scene.peer.forget_requests();
    away.store(false, Ordering::SeqCst);
    scene.until("what was read", |body| has_message(body, "m.receipt")).await;
    scene.until("who types", |body| has_message(body, "m.typing")).await;
}

#[tokio::test]
async fn a_server_that_refuses_what_was_read_misses_nothing_else() {
    let scene = Scene::new().await;
    let refusal = r#"{ "errcode": "M_BAD_JSON", "error": "what is this?" }"#;
    scene.refuse(400, refusal, |request| has_message(&request.body, "m.receipt"));
    let first = scene.alice.say(&scene.room, "first").await;
    scene.until("the first message", |body| body["pdus"][0]["content"]["body"] == "first").await;
    scene.read(&first).await;
    scene.until("what was read", |body| has_message(body, "m.receipt")).await;
    scene.alice.say(&scene.room, "second").await;
    let is_second = |body: &Value| {
        let events = body["pdus"].as_array().into_iter().flatten();
        !has_message(body, "m.receipt")
            && events.into_iter().any(|event| event["content"]["body"] == "second")
    };
    scene.until("the second message", is_second).await;
}
