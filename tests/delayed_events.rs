//! Delayed events: sent when they are due, restarted, cancelled, and sent after a crash.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "tests read the time")]

use std::time::{Duration, Instant};

use entente_tests::{Caller, SOON, Server, User, fresh_id, segment};
use serde_json::{Value, json};

const MEMBER: &str = "org.matrix.msc3401.call.member";
const EVENTS: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";

async fn delay_state(user: &User, room: &str, ms: u64, content: Value) -> String {
    let path = format!("state/{MEMBER}/{}?org.matrix.msc4140.delay={ms}", segment(&user.id));
    let answer = user.put(&User::in_room(room, &path), &content).await.ok();
    assert!(answer.get("event_id").is_none());
    answer["delay_id"].as_str().unwrap().to_owned()
}

async fn member(user: &User, room: &str) -> Value {
    user.state(room, MEMBER, &user.id).await.body
}

async fn becomes(user: &User, room: &str, content: &Value) {
    let change = tokio::time::timeout(SOON, async {
        while member(user, room).await != *content {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    change.await.expect("the delayed event is not sent");
}

fn action(delay_id: &str, action: &str) -> String {
    format!("{EVENTS}/{delay_id}/{action}")
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_its_call() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({})).await;
    let (here, gone) = (json!({ "here": true }), json!({}));
    alice.set_state(&room, MEMBER, &alice.id, here.clone()).await.ok();
    let began = Instant::now();
    let delay_id = delay_state(&alice, &room, 2_000, gone.clone()).await;
    let listed = alice.get(EVENTS).await.ok();
    let listed = &listed["delayed_events"][0];
    assert_eq!((&listed["delay_id"], &listed["room_id"]), (&json!(delay_id), &json!(room)));
    assert_eq!(
        (&listed["type"], &listed["state_key"], &listed["delay"]),
        (&json!(MEMBER), &json!(alice.id), &json!(2_000))
    );

    // Whoever has the id restarts it, without a token; it waits anew.
    let anybody = Caller::new(&server.base_url, None);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    anybody.post(&action(&delay_id, "restart"), &json!({})).await.ok();
    becomes(&alice, &room, &gone).await;
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(3_200), "{waited:?}");
    assert_eq!(alice.get(EVENTS).await.ok()["delayed_events"], json!([]));
    anybody.post(&action(&delay_id, "restart"), &json!({})).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn delayed_events_are_sent_at_once_or_not_at_all() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({})).await;
    let first = delay_state(&alice, &room, 60_000, json!({ "n": 1 })).await;
    let body = json!({ "action": "send" });
    alice.post(&format!("{EVENTS}/{first}"), &body).await.ok();
    assert_eq!(member(&alice, &room).await, json!({ "n": 1 }));
    let second = delay_state(&alice, &room, 60_000, json!({ "n": 2 })).await;
    bob.get(&format!("{EVENTS}/{second}")).await.refused(404, "M_NOT_FOUND");
    alice.get(&format!("{EVENTS}/{second}")).await.ok();
    alice.post(&action(&second, "cancel"), &json!({})).await.ok();
    // What is done is done, and a retry is told so.
    for (id, done, too_late) in [(&first, "send", "cancel"), (&second, "cancel", "send")] {
        alice.post(&action(id, done), &json!({})).await.ok();
        alice.post(&action(id, too_late), &json!({})).await.refused(409, "M_UNKNOWN");
        alice.post(&action(id, "restart"), &json!({})).await.refused(404, "M_NOT_FOUND");
    }
    let (sent, cancelled) = (
        alice.get(&format!("{EVENTS}/{first}")).await.ok(),
        alice.get(&format!("{EVENTS}/{second}")).await.ok(),
    );
    assert!(sent["event_id"].is_string() && sent["finalised_ts"].is_u64(), "{sent}");
    assert!(cancelled.get("event_id").is_none() && cancelled["finalised_ts"].is_u64(), "{cancelled}");
    assert_eq!(member(&alice, &room).await, json!({ "n": 1 }));

    let message = |query: &str| User::in_room(&room, &format!("send/m.room.message/{}?{query}", fresh_id()));
    let content = json!({ "msgtype": "m.text", "body": "later" });
    let too_long = alice
        .put(&message("org.matrix.msc4140.delay=999999999999"), &content)
        .await
        .refused(400, "M_UNKNOWN");
    assert_eq!(too_long["org.matrix.msc4140.errcode"], "M_MAX_DELAY_EXCEEDED");
    alice.put(&message("org.matrix.msc4140.delay=soon"), &content).await.refused(400, "M_INVALID_PARAM");
    alice.put(&message("org.matrix.msc4140.delay=0"), &content).await.refused(400, "M_INVALID_PARAM");
    bob.put(&message("org.matrix.msc4140.delay=100"), &content).await.refused(403, "M_FORBIDDEN");
    alice.post(&action("nothing", "explode"), &json!({})).await.refused(400, "M_INVALID_PARAM");
    let invite = format!("state/m.room.member/{}?org.matrix.msc4140.delay=10", segment(&bob.id));
    alice
        .put(&User::in_room(&room, &invite), &json!({ "membership": "invite" }))
        .await
        .refused(403, "M_FORBIDDEN");
    for bad in [
        json!({ "allow": "*" }),
        json!({ "allow": [1] }),
        json!({ "allow": ["*"], "allow_ip_literals": "no" }),
    ] {
        alice.set_state(&room, "m.room.server_acl", "", bad).await.refused(400, "M_BAD_JSON");
    }
    // Not one more, however many are asked for at once.
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..110 {
        let (alice, path, content) =
            (alice.clone(), message("org.matrix.msc4140.delay=3600000"), content.clone());
        requests.spawn(async move { alice.put(&path, &content).await.status == 200 });
    }
    let accepted = requests.join_all().await.into_iter().filter(|accepted| *accepted).count();
    assert_eq!(accepted, 100);
    let refused = alice
        .put(&message("org.matrix.msc4140.delay=3600000"), &content)
        .await
        .refused(429, "M_LIMIT_EXCEEDED");
    let retry_after = refused["retry_after_ms"].as_u64().unwrap();
    assert!((3_500_000..=3_600_000).contains(&retry_after), "{retry_after}");
}

#[tokio::test]
async fn a_retry_delays_nothing_twice() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({})).await;
    let path = format!(
        "/_matrix/client/unstable/org.matrix.msc4140/rooms/{}/delayed_event/m.room.message/once",
        segment(&room)
    );
    let new = json!({ "delay": 500, "content": { "msgtype": "m.text", "body": "once" } });
    let first = alice.put(&path, &new).await.ok();
    assert_eq!(alice.put(&path, &new).await.ok(), first);
    assert_eq!(alice.get(EVENTS).await.ok()["delayed_events"].as_array().unwrap().len(), 1);
    let sent = tokio::time::timeout(SOON, async {
        loop {
            let page = alice.get(&User::in_room(&room, "messages?dir=b&limit=1")).await.ok();
            if page["chunk"][0]["content"]["body"] == "once" {
                return page["chunk"][0].clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let sent = sent.await.expect("the delayed event is not sent");
    assert_eq!(sent["unsigned"]["org.matrix.msc4140.delay_id"], first["delay_id"]);
    // Also when it was sent already.
    assert_eq!(alice.put(&path, &new).await.ok(), first);
    assert_eq!(alice.get(EVENTS).await.ok()["delayed_events"], json!([]));
    alice.put(&path, &json!({ "delay": 0, "content": {} })).await.refused(400, "M_INVALID_PARAM");
    alice.put(&path, &json!({ "content": {} })).await.refused(400, "M_BAD_JSON");
    alice.put(&path, &json!({ "delay": 1, "content": [] })).await.refused(400, "M_BAD_JSON");
}

#[tokio::test]
async fn a_message_destroys_itself() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let event_id = alice.say(&room, "burn after reading").await;
    let redact = |user: &str, ms: u64| {
        User::in_room(&room, &format!("send/m.room.redaction/{user}?org.matrix.msc4140.delay={ms}"))
    };
    let content = json!({ "redacts": event_id });
    // Whose event it is counts when the time has come.
    bob.put(&redact("bob", 1), &content).await.ok();
    alice.put(&redact("alice", 600), &content).await.ok();
    let path = User::in_room(&room, &format!("event/{}", segment(&event_id)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(alice.get(&path).await.ok()["content"]["body"], "burn after reading");
    let gone = tokio::time::timeout(SOON, async {
        while alice.get(&path).await.ok()["content"] != json!({}) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    gone.await.expect("the message is still there");
}

#[tokio::test]
async fn who_may_not_speak_any_more_says_nothing_later() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let path =
        User::in_room(&room, &format!("send/m.room.message/{}?org.matrix.msc4140.delay=300", fresh_id()));
    bob.put(&path, &json!({ "msgtype": "m.text", "body": "a last word" })).await.ok();
    alice.post(&User::in_room(&room, "ban"), &json!({ "user_id": bob.id })).await.ok();
    let dropped = tokio::time::timeout(SOON, async {
        while bob.get(EVENTS).await.ok()["delayed_events"] != json!([]) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    dropped.await.expect("the event is not dropped");
    let page = alice.get(&User::in_room(&room, "messages?dir=b")).await.ok();
    assert!(entente_tests::bodies(&page["chunk"]).is_empty());
}

#[tokio::test]
async fn what_was_delayed_is_sent_after_a_crash_once() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({})).await;
    delay_state(&alice, &room, 500, json!({ "n": 1 })).await;
    let later = delay_state(&alice, &room, 3_600_000, json!({ "n": 2 })).await;
    let crashed = server.crash();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let server = crashed.restart();
    let alice = alice.at(&server);
    becomes(&alice, &room, &json!({ "n": 1 })).await;
    let listed = alice.get(EVENTS).await.ok();
    assert_eq!(listed["delayed_events"].as_array().unwrap().len(), 1);
    assert_eq!(listed["delayed_events"][0]["delay_id"], json!(later));
    let page = alice.get(&User::in_room(&room, "messages?dir=b&limit=100")).await.ok();
    let sent = page["chunk"].as_array().unwrap().iter().filter(|event| event["type"] == MEMBER).count();
    assert_eq!(sent, 1);
}
