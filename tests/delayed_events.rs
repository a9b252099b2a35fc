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

/// Waits until a user has no delayed event any more.
async fn nothing_waits(user: &User) {
    let done = tokio::time::timeout(SOON, async {
        while user.get(EVENTS).await.ok()["delayed_events"] != json!([]) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    done.await.expect("a delayed event is neither sent nor dropped");
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
    let delay_id = delay_state(&alice, &room, 5_000, gone.clone()).await;
    let listed = alice.get(EVENTS).await.ok();
    let listed = &listed["delayed_events"][0];
    assert_eq!((&listed["delay_id"], &listed["room_id"]), (&json!(delay_id), &json!(room)));
    assert_eq!(
        (&listed["type"], &listed["state_key"], &listed["delay"]),
        (&json!(MEMBER), &json!(alice.id), &json!(5_000))
    );

    // Whoever has the id restarts it, without a token; it waits anew.
    let anybody = Caller::new(&server.base_url, None);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    anybody.post(&action(&delay_id, "restart"), &json!({})).await.ok();
    becomes(&alice, &room, &gone).await;
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(6_200), "{waited:?}");
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
        alice.post(&action(id, too_late), &json!({})).await.refused(409, "M_NOT_FOUND");
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
    let new = json!({ "delay": 5_000, "content": { "msgtype": "m.text", "body": "once" } });
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
    alice.put(&redact("alice", 5_000), &content).await.ok();
    let path = User::in_room(&room, &format!("event/{}", segment(&event_id)));
    nothing_waits(&bob).await;
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
        User::in_room(&room, &format!("send/m.room.message/{}?org.matrix.msc4140.delay=3000", fresh_id()));
    bob.put(&path, &json!({ "msgtype": "m.text", "body": "a last word" })).await.ok();
    alice.post(&User::in_room(&room, "ban"), &json!({ "user_id": bob.id })).await.ok();
    nothing_waits(&bob).await;
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

#[tokio::test]
async fn what_is_too_large_is_refused_at_once() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({})).await;
    let put = async |rest: &str, content: &Value| {
        alice.put(&User::in_room(&room, &format!("{rest}?org.matrix.msc4140.delay=60000")), content).await
    };
    let large = json!({ "body": "x".repeat(65_536) });
    put("send/m.room.message/1", &large).await.refused(413, "M_TOO_LARGE");
    let long = "k".repeat(256);
    put(&format!("send/{long}/2"), &json!({})).await.refused(413, "M_TOO_LARGE");
    put(&format!("state/{MEMBER}/{long}"), &json!({})).await.refused(413, "M_TOO_LARGE");
    put(&format!("send/m.room.message/{long}"), &json!({})).await.refused(413, "M_TOO_LARGE");
    assert_eq!(alice.get(EVENTS).await.ok()["delayed_events"], json!([]));
}

#[tokio::test]
async fn a_transaction_id_is_of_one_room_and_one_type() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let (one, two) = (alice.create_room(json!({})).await, alice.create_room(json!({})).await);
    let mut ids = Vec::new();
    for (room, event_type) in [(&one, "m.room.message"), (&two, "m.room.message"), (&one, "org.example")] {
        let path = User::in_room(room, &format!("send/{event_type}/same?org.matrix.msc4140.delay=60000"));
        let first = alice.put(&path, &json!({ "body": "later" })).await.ok();
        assert_eq!(alice.put(&path, &json!({ "body": "later" })).await.ok(), first);
        ids.push(first["delay_id"].as_str().unwrap().to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert_eq!(alice.get(EVENTS).await.ok()["delayed_events"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn who_was_suspended_says_nothing_later_and_leaves_calls() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let password = "correct horse battery staple";
    entente_tests::run_well(&mut server.command(&["admin", "create-user", "root1", "--admin"]), password);
    let identifier = json!({ "type": "m.id.user", "user": "root1" });
    let login = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
    let logged_in = server.anonymous().post("/_matrix/client/v3/login", &login).await.ok();
    let admin = server.caller(logged_in["access_token"].as_str().unwrap());
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    bob.set_state(&room, MEMBER, &bob.id, json!({ "here": true })).await.ok();
    let path = User::in_room(&room, "send/m.room.message/1?org.matrix.msc4140.delay=5000");
    let message = bob.put(&path, &json!({ "msgtype": "m.text", "body": "a last word" })).await.ok();
    delay_state(&bob, &room, 6_000, json!({})).await;
    let suspend = format!("/_matrix/client/v1/admin/suspend/{}", segment(&bob.id));
    admin.put(&suspend, &json!({ "suspended": true })).await.ok();
    becomes(&bob, &room, &json!({})).await;
    let page = alice.get(&User::in_room(&room, "messages?dir=b")).await.ok();
    assert!(entente_tests::bodies(&page["chunk"]).is_empty(), "{page}");
    let delay_id = message["delay_id"].as_str().unwrap();
    let cancelled = bob.get(&format!("{EVENTS}/{delay_id}")).await.ok();
    assert!(cancelled["finalised_ts"].is_u64() && cancelled.get("event_id").is_none(), "{cancelled}");
}

#[tokio::test]
async fn a_whole_office_restarts_its_events_unhindered() {
    let server = Server::open();
    let host = User::register(&server, "host").await;
    let room = host.create_room(json!({ "preset": "public_chat" })).await;
    let mut restarts = Vec::new();
    for number in 0..100 {
        let user = User::register(&server, &format!("user{number}")).await;
        user.join(&room).await.ok();
        restarts.push(action(&delay_state(&user, &room, 3_600_000, json!({})).await, "restart"));
    }
    // Behind one address, from which hardly anything may come, with the usual limits.
    let settings = [
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_RATE_LIMITS__REQUESTS_BY_ADDRESS", "{ per_second = 0.01, burst = 3 }"),
    ];
    let server = Server::start(server.stop(), &settings);
    let anybody = server.anonymous();
    for _ in 0..4 {
        let mut requests = tokio::task::JoinSet::new();
        for restart in restarts.clone() {
            let anybody = anybody.clone();
            requests.spawn(async move { anybody.post(&restart, &json!({})).await.status });
        }
        for status in requests.join_all().await {
            assert_eq!(status, 200);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Guessing is another matter.
    for _ in 0..3 {
        anybody.post(&action("guessed", "restart"), &json!({})).await.refused(404, "M_NOT_FOUND");
    }
    anybody.post(&action("guessed", "restart"), &json!({})).await.refused(429, "M_LIMIT_EXCEEDED");
    anybody.post(&restarts[0], &json!({})).await.ok();
}
