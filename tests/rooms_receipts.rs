//! What belongs to the events of a room: receipts, read markers, typing, relations, threads.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "tests measure time")]

use std::time::{Duration, Instant};

use entente_tests::{Answer, SOON, Server, User, bodies, fresh_id, segment};
use serde_json::{Value, json};

struct Home {
    server: Server,
    alice: User,
    bob: User,
    room: String,
}

impl Home {
    async fn new() -> Self {
        let server = Server::open();
        let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await.ok();
        Self { server, alice, bob, room }
    }

    async fn read(&self, user: &User, what: &str, event_id: &str, body: Value) -> Answer {
        user.post(&User::in_room(&self.room, &format!("receipt/{what}/{}", segment(event_id))), &body).await
    }

    async fn fully_read(&self, user: &User) -> Answer {
        let (user_id, room) = (segment(&user.id), segment(&self.room));
        user.get(&format!("/_matrix/client/v3/user/{user_id}/rooms/{room}/account_data/m.fully_read")).await
    }

    async fn types(&self, user: &User, who: &User, body: Value) -> Answer {
        user.put(&User::in_room(&self.room, &format!("typing/{}", segment(&who.id))), &body).await
    }

    /// Sends a text that relates to an event.
    async fn relate(&self, user: &User, rel_type: &str, event_id: &str, body: &str) -> String {
        let relates_to = json!({ "rel_type": rel_type, "event_id": event_id });
        let content = json!({ "msgtype": "m.text", "body": body, "m.relates_to": relates_to });
        let sent = user.send(&self.room, "m.room.message", content).await.ok();
        sent["event_id"].as_str().unwrap().to_owned()
    }

    async fn react(&self, user: &User, event_id: &str, key: &str) -> String {
        let relates_to = json!({ "rel_type": "m.annotation", "event_id": event_id, "key": key });
        let sent = user.send(&self.room, "m.reaction", json!({ "m.relates_to": relates_to })).await.ok();
        sent["event_id"].as_str().unwrap().to_owned()
    }

    async fn relations(&self, user: &User, rest: &str) -> Answer {
        let room = segment(&self.room);
        user.get(&format!("/_matrix/client/v1/rooms/{room}/relations/{rest}")).await
    }

    async fn threads(&self, user: &User, query: &str) -> Answer {
        user.get(&format!("/_matrix/client/v1/rooms/{}/threads?{query}", segment(&self.room))).await
    }

    /// Asks what is new until something ephemeral of this type is.
    async fn ephemeral(&self, user: &User, event_type: &str, since: &mut String) -> Value {
        let give_up_at = Instant::now() + SOON;
        loop {
            let synced = user.sync(&[("since", since), ("timeout", "5000")]).await;
            synced["next_batch"].as_str().unwrap().clone_into(since);
            let events = &synced["rooms"]["join"][&self.room]["ephemeral"]["events"];
            let mut events = events.as_array().into_iter().flatten();
            if let Some(event) = events.find(|event| event["type"] == event_type) {
                return event["content"].clone();
            }
            assert!(Instant::now() < give_up_at, "no {event_type} comes");
        }
    }
}

fn ids(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

async fn next(user: &User) -> String {
    user.sync(&[]).await["next_batch"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn receipts_are_for_events_that_their_reader_sees() {
    let home = Home::new().await;
    let (alice, bob) = (&home.alice, &home.bob);
    let carol = User::register(&home.server, "carol").await;
    let event = alice.say(&home.room, "read this").await;
    for what in ["m.read", "m.read.private", "m.fully_read"] {
        home.read(bob, what, &event, json!({})).await.ok();
        // Clients acknowledge what they sent themselves.
        home.read(alice, what, &event, json!({})).await.ok();
        home.read(&carol, what, &event, json!({})).await.refused(403, "M_FORBIDDEN");
        home.read(bob, what, "$nowhere", json!({})).await.refused(404, "M_NOT_FOUND");
    }
    let elsewhere = alice.create_room(json!({})).await;
    let secret = alice.say(&elsewhere, "secret").await;
    home.read(bob, "m.read", &secret, json!({})).await.refused(404, "M_NOT_FOUND");
    home.read(alice, "m.read", &secret, json!({})).await.refused(404, "M_NOT_FOUND");
    home.read(bob, "m.seen", &event, json!({})).await.refused(400, "M_INVALID_PARAM");
    let path = format!("receipt/m.read/{}", segment(&event));
    bob.post(&User::in_room("!nowhere", &path), &json!({})).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn threaded_receipts_are_for_events_of_their_thread() {
    let home = Home::new().await;
    let (alice, bob) = (&home.alice, &home.bob);
    let root = alice.say(&home.room, "root").await;
    let reply = home.relate(alice, "m.thread", &root, "reply").await;
    let reaction = home.react(alice, &reply, "👍").await;
    for (event, thread) in [(&root, "main"), (&root, &*root), (&reply, &*root), (&reaction, &*root)] {
        home.read(bob, "m.read", event, json!({ "thread_id": thread })).await.ok();
    }
    for (event, thread) in [
        (&reply, "main"),
        (&reaction, "main"),
        (&root, &*reply),
        (&reply, "$elsewhere"),
        (&reply, ""),
        (&reply, "nonsense"),
    ] {
        let answer = home.read(bob, "m.read", event, json!({ "thread_id": thread })).await;
        answer.refused(400, "M_INVALID_PARAM");
    }
    let of_thread = json!({ "thread_id": root });
    home.read(bob, "m.fully_read", &reply, of_thread).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn of_devices_that_move_the_marker_at_once_the_furthest_prevails() {
    let home = Home::new().await;
    let mut events = Vec::new();
    for number in 0..8 {
        events.push(home.alice.say(&home.room, &number.to_string()).await);
    }
    for round in 0..4 {
        let newest = events.len() - 4 + round;
        let at_once: Vec<_> = events[..=newest]
            .iter()
            .map(|event_id| {
                let (bob, body) = (home.bob.clone(), json!({ "m.fully_read": event_id }));
                let path = User::in_room(&home.room, "read_markers");
                tokio::spawn(async move { bob.post(&path, &body).await.ok() })
            })
            .collect();
        for set in at_once {
            set.await.unwrap();
        }
        assert_eq!(home.fully_read(&home.bob).await.ok(), json!({ "event_id": events[newest] }));
    }
}

#[tokio::test]
async fn the_fully_read_marker_moves_forward_only() {
    let home = Home::new().await;
    let (alice, bob) = (&home.alice, &home.bob);
    let mut events = Vec::new();
    for number in 0..3 {
        events.push(alice.say(&home.room, &number.to_string()).await);
    }
    home.fully_read(bob).await.refused(404, "M_NOT_FOUND");
    let markers = User::in_room(&home.room, "read_markers");
    let since = next(bob).await;
    let body = json!({ "m.fully_read": events[1], "m.read": events[2], "m.read.private": events[2] });
    bob.post(&markers, &body).await.ok();
    assert_eq!(home.fully_read(bob).await.ok(), json!({ "event_id": events[1] }));
    let synced = bob.sync(&[("since", &since)]).await;
    let told = &synced["rooms"]["join"][&home.room]["account_data"]["events"];
    assert_eq!(told, &json!([{ "type": "m.fully_read", "content": { "event_id": events[1] } }]));
    bob.post(&markers, &json!({ "m.fully_read": events[0] })).await.ok();
    assert_eq!(home.fully_read(bob).await.ok(), json!({ "event_id": events[1] }));
    home.read(bob, "m.fully_read", &events[2], json!({})).await.ok();
    assert_eq!(home.fully_read(bob).await.ok(), json!({ "event_id": events[2] }));
    bob.post(&markers, &json!({})).await.ok();
    bob.post(&markers, &json!({ "m.fully_read": "$nowhere" })).await.refused(404, "M_NOT_FOUND");
    bob.membership(&home.room, "leave", json!({})).await.ok();
    bob.post(&markers, &json!({ "m.read": events[2] })).await.refused(403, "M_FORBIDDEN");
    bob.post(&markers, &json!({ "m.fully_read": events[2] })).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn one_types_for_oneself_and_where_one_is() {
    let home = Home::new().await;
    let (alice, bob) = (&home.alice, &home.bob);
    let carol = User::register(&home.server, "carol").await;
    for body in [
        json!({ "typing": true, "timeout": 10_000 }),
        json!({ "typing": true }),
        json!({ "typing": true, "timeout": null }),
        json!({ "typing": false }),
    ] {
        home.types(bob, bob, body.clone()).await.ok();
        home.types(bob, alice, body.clone()).await.refused(403, "M_FORBIDDEN");
        home.types(&carol, &carol, body).await.refused(403, "M_FORBIDDEN");
    }
    for body in [json!({}), json!({ "typing": "yes" }), json!({ "typing": true, "timeout": -1 })] {
        home.types(bob, bob, body).await.refused(400, "M_BAD_JSON");
    }
}

#[tokio::test]
async fn relations_are_found_by_type_and_in_pages() {
    let home = Home::new().await;
    let (alice, bob) = (&home.alice, &home.bob);
    let parent = alice.say(&home.room, "parent").await;
    let mut all = Vec::new();
    for number in 0..3 {
        all.push(home.relate(bob, "m.thread", &parent, &number.to_string()).await);
        all.push(home.react(bob, &parent, &number.to_string()).await);
    }
    let parent_path = segment(&parent);
    let newest_first: Vec<&str> = all.iter().rev().map(String::as_str).collect();
    let found = home.relations(alice, &parent_path).await.ok();
    assert_eq!(ids(&found["chunk"]), newest_first);
    assert_eq!((&found["next_batch"], &found["recursion_depth"]), (&Value::Null, &Value::Null));
    assert_eq!(found["chunk"][0]["room_id"], home.room);
    let threaded = home.relations(alice, &format!("{parent_path}/m.thread?dir=f")).await.ok();
    assert_eq!(bodies(&threaded["chunk"]), ["0", "1", "2"]);
    let reactions = home.relations(alice, &format!("{parent_path}/m.annotation/m.reaction")).await.ok();
    assert_eq!(ids(&reactions["chunk"]), [&*all[5], &*all[3], &*all[1]]);
    let none = home.relations(alice, &format!("{parent_path}/m.annotation/m.room.message")).await.ok();
    assert_eq!(none["chunk"], json!([]));

    for (direction, expected) in
        [("b", newest_first.clone()), ("f", all.iter().map(String::as_str).collect())]
    {
        let mut seen = Vec::new();
        let mut from = String::new();
        for page in 0..3 {
            let path = format!("{parent_path}?limit=2&dir={direction}{from}");
            let answer = home.relations(alice, &path).await.ok();
            seen.extend(ids(&answer["chunk"]).into_iter().map(str::to_owned));
            match answer["next_batch"].as_str() {
                Some(next) => from = format!("&from={next}"),
                None => assert_eq!(page, 2, "the last page says so"),
            }
        }
        assert_eq!(seen, expected, "{direction}");
    }
    // Tokens of /messages and /sync are good here too.
    let page = alice.get(&User::in_room(&home.room, "messages?dir=b&limit=2")).await.ok();
    let before = page["end"].as_str().unwrap();
    let older = home.relations(alice, &format!("{parent_path}?from={before}")).await.ok();
    assert_eq!(ids(&older["chunk"]), newest_first[2..]);
    let newer = home.relations(alice, &format!("{parent_path}?to={before}")).await.ok();
    assert_eq!(ids(&newer["chunk"]), newest_first[..2]);
    let now = next(alice).await;
    let late = home.react(bob, &parent, "late").await;
    let newer = home.relations(alice, &format!("{parent_path}?to={}", segment(&now))).await.ok();
    assert_eq!(ids(&newer["chunk"]), [late]);
    for query in ["from=nonsense", "from=tx", "dir=x", "limit=-1"] {
        let answer = home.relations(alice, &format!("{parent_path}?{query}")).await;
        answer.refused(400, "M_INVALID_PARAM");
    }
    // What was redacted relates to nothing.
    let redaction = User::in_room(&home.room, &format!("redact/{}/{}", segment(&all[0]), fresh_id()));
    bob.put(&redaction, &json!({})).await.ok();
    let threaded = home.relations(alice, &format!("{parent_path}/m.thread")).await.ok();
    assert_eq!(bodies(&threaded["chunk"]), ["2", "1"]);
}

#[tokio::test]
async fn relations_are_followed_over_other_relations() {
    let home = Home::new().await;
    let alice = &home.alice;
    let root = alice.say(&home.room, "root").await;
    let other = alice.say(&home.room, "other").await;
    let reply = home.relate(alice, "m.thread", &root, "reply").await;
    home.react(alice, &other, "elsewhere").await;
    let reaction = home.react(alice, &reply, "a").await;
    let third = home.relate(alice, "m.reference", &reaction, "third").await;
    home.relate(alice, "m.reference", &third, "fourth").await;
    let path = segment(&root);
    let direct = home.relations(alice, &path).await.ok();
    assert_eq!(ids(&direct["chunk"]), [&*reply]);
    let all = home.relations(alice, &format!("{path}?recurse=true")).await.ok();
    assert_eq!(ids(&all["chunk"]), [&*third, &*reaction, &*reply]);
    assert_eq!(all["recursion_depth"], 3);
    let reactions = home.relations(alice, &format!("{path}/m.annotation?recurse=true")).await.ok();
    assert_eq!(ids(&reactions["chunk"]), [&*reaction]);
    let forward = home.relations(alice, &format!("{path}?recurse=true&dir=f&limit=2")).await.ok();
    assert_eq!(ids(&forward["chunk"]), [&*reply, &*reaction]);
    let from = forward["next_batch"].as_str().unwrap();
    let rest = home.relations(alice, &format!("{path}?recurse=true&dir=f&from={from}")).await.ok();
    assert_eq!((ids(&rest["chunk"]), &rest["next_batch"]), (vec![&*third], &Value::Null));
    let back = home.relations(alice, &format!("{path}?recurse=true&from={from}")).await.ok();
    assert_eq!(ids(&back["chunk"]), [&*reaction, &*reply]);
}

#[tokio::test]
async fn threads_are_listed_by_their_newest_events() {
    let home = Home::new().await;
    let (alice, bob) = (&home.alice, &home.bob);
    let mut roots = Vec::new();
    for number in 0..3 {
        let root = alice.say(&home.room, &number.to_string()).await;
        home.relate(alice, "m.thread", &root, "reply").await;
        roots.push(root);
    }
    alice.say(&home.room, "no thread").await;
    let newest = home.relate(bob, "m.thread", &roots[0], "newest").await;
    let listed = home.threads(bob, "").await.ok();
    assert_eq!(bodies(&listed["chunk"]), ["0", "2", "1"]);
    assert_eq!(listed["next_batch"], Value::Null);
    let summary = &listed["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!((&summary["count"], &summary["latest_event"]["event_id"]), (&json!(2), &json!(newest)));
    assert_eq!(summary["current_user_participated"], true);
    let own = home.threads(bob, "include=participated").await.ok();
    assert_eq!(bodies(&own["chunk"]), ["0"]);
    assert_eq!(bodies(&home.threads(alice, "include=participated").await.ok()["chunk"]), ["0", "2", "1"]);
    let first = home.threads(bob, "limit=2").await.ok();
    assert_eq!(bodies(&first["chunk"]), ["0", "2"]);
    let from = first["next_batch"].as_str().unwrap();
    let second = home.threads(bob, &format!("limit=2&from={from}")).await.ok();
    assert_eq!((bodies(&second["chunk"]), &second["next_batch"]), (vec!["1"], &Value::Null));
    home.threads(bob, "include=some").await.refused(400, "M_INVALID_PARAM");
    home.threads(bob, "from=nonsense").await.refused(400, "M_INVALID_PARAM");
    // A thread whose newest event was redacted stands where it stood before.
    let redaction = User::in_room(&home.room, &format!("redact/{}/{}", segment(&newest), fresh_id()));
    bob.put(&redaction, &json!({})).await.ok();
    assert_eq!(bodies(&home.threads(bob, "").await.ok()["chunk"]), ["2", "1", "0"]);
}

#[tokio::test]
async fn relations_and_threads_are_for_those_who_see_the_events() {
    let home = Home::new().await;
    let (alice, bob) = (&home.alice, &home.bob);
    let carol = User::register(&home.server, "carol").await;
    let state =
        json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } }]);
    let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": state })).await;
    let home = Home { server: home.server, alice: alice.clone(), bob: bob.clone(), room };
    let early = home.alice.say(&home.room, "early").await;
    home.relate(&home.alice, "m.thread", &early, "early reply").await;
    home.bob.join(&home.room).await.ok();
    let beginning = home.alice.say(&home.room, "beginning").await;
    home.relate(&home.alice, "m.thread", &beginning, "seen").await;
    home.bob.membership(&home.room, "leave", json!({})).await.ok();
    home.relate(&home.alice, "m.thread", &beginning, "unseen").await;
    let path = segment(&beginning);
    assert_eq!(bodies(&home.relations(&home.bob, &path).await.ok()["chunk"]), ["seen"]);
    home.relations(&home.bob, &segment(&early)).await.refused(404, "M_NOT_FOUND");
    assert_eq!(bodies(&home.threads(&home.bob, "").await.ok()["chunk"]), ["beginning"]);
    home.relations(&carol, &path).await.refused(404, "M_NOT_FOUND");
    home.threads(&carol, "").await.refused(403, "M_FORBIDDEN");
    // An event is related to in its own room only.
    let other = home.alice.create_room(json!({})).await;
    let elsewhere = format!("/_matrix/client/v1/rooms/{}/relations/{path}", segment(&other));
    home.alice.get(&elsewhere).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn receipts_come_to_those_for_whom_they_are() {
    let home = Home::new().await;
    let (alice, bob) = (&home.alice, &home.bob);
    let event = alice.say(&home.room, "read this").await;
    let (mut for_alice, mut for_bob) = (next(alice).await, next(bob).await);
    home.read(bob, "m.read.private", &event, json!({})).await.ok();
    let private = home.ephemeral(bob, "m.receipt", &mut for_bob).await;
    assert!(private[&event]["m.read.private"][&bob.id]["ts"].is_u64(), "{private}");
    home.read(bob, "m.read", &event, json!({ "thread_id": "main" })).await.ok();
    let public = home.ephemeral(alice, "m.receipt", &mut for_alice).await;
    assert_eq!(public[&event]["m.read"][&bob.id]["thread_id"], "main");
    assert_eq!(public[&event]["m.read.private"], Value::Null, "{public}");
    let quiet = alice.sync(&[("since", &for_alice)]).await;
    assert_eq!(quiet["rooms"], Value::Null, "a receipt comes once");
    let anew = alice.sync(&[]).await;
    let told = &anew["rooms"]["join"][&home.room]["ephemeral"]["events"];
    assert_eq!(told, &json!([{ "type": "m.receipt", "content": public }]));
}

#[tokio::test]
async fn typing_comes_and_ends_by_word_by_time_and_by_message() {
    let home = Home::new().await;
    let (alice, bob) = (&home.alice, &home.bob);
    let mut since = next(alice).await;
    let types = async |timeout: u64| {
        home.types(bob, bob, json!({ "typing": true, "timeout": timeout })).await.ok();
    };
    let (typing, nobody) = (json!({ "user_ids": [bob.id] }), json!({ "user_ids": [] }));
    types(30_000).await;
    assert_eq!(home.ephemeral(alice, "m.typing", &mut since).await, typing);
    home.types(bob, bob, json!({ "typing": false })).await.ok();
    assert_eq!(home.ephemeral(alice, "m.typing", &mut since).await, nobody);
    types(30_000).await;
    assert_eq!(home.ephemeral(alice, "m.typing", &mut since).await, typing);
    bob.say(&home.room, "typed").await;
    assert_eq!(home.ephemeral(alice, "m.typing", &mut since).await, nobody);
    let began = Instant::now();
    types(3_000).await;
    assert_eq!(home.ephemeral(alice, "m.typing", &mut since).await, typing);
    assert_eq!(home.ephemeral(alice, "m.typing", &mut since).await, nobody);
    assert!(began.elapsed() >= Duration::from_millis(2_900));
}
