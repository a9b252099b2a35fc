//! The events of a transaction of another server are written together: a bad one among them spoils no other, and a crash in the
//! middle loses nothing that was answered and doubles nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use entente_tests::{Authority, Peer, PeerRoom, Server, User, bodies, segment};
use reqwest::Method;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::{Value, json};

/// Events of one transaction (S-S API, "Transactions").
const AT_ONCE: usize = 50;

/// A room of Alice, in which somebody of another server is.
struct Scene {
    server: Server,
    alice: User,
    room: String,
    peer: Peer,
    member: String,
    theirs: PeerRoom,
    /// Its certificate is read at every start.
    authority: Authority,
}

impl Scene {
    async fn new() -> Self {
        let authority = Authority::new();
        let server = authority.server(&[]);
        let alice = User::register(&server, "alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let peer = Peer::start(&authority);
        let member = peer.user("member");
        let theirs = peer.join(&server.name(), &room, &member).await;
        Self { server, alice, room, peer, member, theirs, authority }
    }

    /// A message of the member upon the one before.
    fn next(&mut self, body: &str) -> CanonicalJsonObject {
        let event = self.theirs.message(&self.peer, &self.member, body);
        self.theirs.add(&event);
        event
    }

    /// A message of the member with other fields, upon which nothing will be built.
    fn changed(&self, body: &str, fields: Value) -> CanonicalJsonObject {
        let content = json!({ "msgtype": "m.text", "body": body });
        let mut event = self.theirs.unsigned(&self.member, "m.room.message", None, content);
        let CanonicalJsonValue::Object(fields) = CanonicalJsonValue::try_from(fields).unwrap() else {
            panic!()
        };
        event.extend(fields);
        self.theirs.sign(&self.peer, event)
    }

    /// Everything that is written in the room, in the order of its timeline.
    async fn written(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut from = String::new();
        loop {
            let path = User::in_room(&self.room, &format!("messages?dir=b&limit=500{from}"));
            let page = self.alice.get(&path).await.ok();
            all.extend(bodies(&page["chunk"]).into_iter().map(str::to_owned));
            let Some(end) = page["end"].as_str() else { break };
            from = format!("&from={}", segment(end));
        }
        all.reverse();
        all
    }
}

#[tokio::test]
async fn a_bad_event_among_others_spoils_none_of_them() {
    let mut scene = Scene::new().await;
    let (mut events, mut good, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..40 {
        let body = number.to_string();
        match number {
            10 => {
                let stranger = scene.peer.user("stranger");
                let event = scene.changed(&body, json!({ "sender": stranger }));
                refused.push(scene.theirs.id_of(&event));
                events.push(event);
            }
            20 => {
                let mut event = scene.changed(&body, json!({}));
                let another = scene.changed("another", json!({ "depth": 77 }));
                event.insert("signatures".to_owned(), another["signatures"].clone());
                events.push(event);
            }
            30 => {
                let event = scene.changed(&body, json!({ "prev_events": [format!("${:043}", 1)] }));
                refused.push(scene.theirs.id_of(&event));
                events.push(event);
            }
            _ => {
                events.push(scene.next(&body));
                good.push(body);
            }
        }
    }
    let answer = scene.peer.send(&scene.server.name(), &events).await.ok();
    let answers = answer["pdus"].as_object().unwrap();
    let mut errors: Vec<&String> =
        answers.iter().filter(|(_, outcome)| outcome["error"].is_string()).map(|(id, _)| id).collect();
    errors.sort();
    refused.sort();
    assert_eq!(errors, refused.iter().collect::<Vec<_>>(), "{answer:#}");
    assert_eq!(
        answers.len(),
        good.len() + refused.len(),
        "of the one with a wrong signature nothing is said"
    );
    assert_eq!(scene.written().await, good);
    // Users here and there go on.
    scene.alice.say(&scene.room, "of alice").await;
    let event = scene.next("of the member");
    assert_eq!(scene.peer.send_and_ask(&scene.server.name(), &[event]).await.len(), 0);
    good.extend(["of alice".to_owned(), "of the member".to_owned()]);
    assert_eq!(scene.written().await, good);
}

/// Sends transactions one after the other, until one is not answered. Counts those that were.
async fn send_all(peer: Peer, to: String, transactions: Vec<(String, Value)>, answered: Arc<AtomicUsize>) {
    for (target, body) in &transactions {
        match peer.request(&to, Method::PUT, target, Some(body)).send().await {
            Ok(answer) if answer.status().is_success() => answered.fetch_add(1, Ordering::SeqCst),
            _ => break,
        };
    }
}

#[tokio::test]
async fn a_crash_within_a_transaction_loses_and_doubles_nothing() {
    const TRANSACTIONS: usize = 12;
    let mut scene = Scene::new().await;
    let mut expected = Vec::new();
    let mut was_in_the_middle = false;
    // Behind how many answers the server is killed, and how many milliseconds later.
    for (round, (answers, delay)) in
        [(0, 5), (1, 1), (2, 3), (4, 6), (6, 10), (8, 15)].into_iter().enumerate()
    {
        let mut transactions = Vec::new();
        for number in 0..TRANSACTIONS {
            let mut pdus = Vec::with_capacity(AT_ONCE);
            for event in 0..AT_ONCE {
                let body = format!("{round} {number} {event}");
                pdus.push(scene.next(&body));
                expected.push(body);
            }
            let body = json!({ "origin": scene.peer.name, "origin_server_ts": 1, "pdus": pdus, "edus": [] });
            transactions.push((scene.peer.transaction(), body));
        }
        let before = expected.len() - TRANSACTIONS * AT_ONCE;
        let to = scene.server.name();
        let answered = Arc::new(AtomicUsize::new(0));
        let sending = send_all(scene.peer.clone(), to.clone(), transactions.clone(), Arc::clone(&answered));
        let sending = tokio::spawn(sending);
        while answered.load(Ordering::SeqCst) < answers {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let Scene { server, alice, room, peer, member, theirs, authority } = scene;
        let server = server.crash_and_restart();
        scene = Scene { alice: alice.at(&server), server, room, peer, member, theirs, authority };
        sending.await.unwrap();
        let answered = answered.load(Ordering::SeqCst);
        was_in_the_middle |= (1..TRANSACTIONS).contains(&answered);
        let there = scene.written().await;
        let least = before + answered * AT_ONCE;
        assert!(
            there.len() >= least,
            "{answered} transactions were answered, {} events are there",
            there.len()
        );
        assert_eq!(there, expected[..there.len()], "in their order, each once");
        assert_eq!(there.len() % AT_ONCE, 0, "a transaction is there or not");

        // What was not answered is sent again, under the same ids.
        let rest = transactions.split_off(answered);
        let (left, again) = (rest.len(), Arc::new(AtomicUsize::new(0)));
        send_all(scene.peer.clone(), to, rest, Arc::clone(&again)).await;
        assert_eq!(again.load(Ordering::SeqCst), left, "all are answered now");
        assert_eq!(scene.written().await, expected);
    }
    assert!(was_in_the_middle, "every crash came before the first transaction or behind the last");
}
