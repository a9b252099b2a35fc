//! The endpoints from before `/sync`, which web clients use for previews and old bots for everything.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Server, User, bodies, segment};
use serde_json::{Value, json};

const BASE: &str = "/_matrix/client/v3";

fn room<'a>(first: &'a Value, room_id: &str) -> Option<&'a Value> {
    first["rooms"].as_array().unwrap().iter().find(|room| room["room_id"] == room_id)
}

async fn events(user: &User, from: &str, timeout: u32) -> (Vec<String>, String) {
    let answer = user.get(&format!("{BASE}/events?from={}&timeout={timeout}", segment(from))).await.ok();
    let texts = bodies(&answer["chunk"]).into_iter().map(str::to_owned).collect();
    (texts, answer["end"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn everything_comes_at_once_and_then_one_after_the_other() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let mut rooms = Vec::new();
    for name in ["one", "two", "left"] {
        let room = alice.create_room(json!({ "preset": "public_chat", "name": name })).await;
        bob.join(&room).await.ok();
        for number in 0..3 {
            alice.say(&room, &format!("{name} {number}")).await;
        }
        rooms.push(room);
    }
    bob.membership(&rooms[2], "leave", json!({})).await.ok();
    alice.say(&rooms[2], "behind their back").await;
    let invited = alice.create_room(json!({ "invite": [bob.id] })).await;
    let data = format!("{BASE}/user/{}/account_data/org.example.a", segment(&bob.id));
    bob.put(&data, &json!({ "a": 1 })).await.ok();

    let first = bob.get(&format!("{BASE}/initialSync?limit=2")).await.ok();
    let one = room(&first, &rooms[0]).unwrap();
    assert_eq!(
        (&one["membership"], bodies(&one["messages"]["chunk"])),
        (&json!("join"), vec!["one 1", "one 2"])
    );
    assert!(one["state"].as_array().unwrap().iter().any(|event| event["content"]["name"] == "one"));
    assert_eq!(one["messages"]["chunk"][0]["room_id"], rooms[0].as_str());
    let earlier = User::in_room(
        &rooms[0],
        &format!("messages?dir=b&from={}", one["messages"]["start"].as_str().unwrap()),
    );
    assert_eq!(bodies(&bob.get(&earlier).await.ok()["chunk"]), ["one 0"]);
    let invite = room(&first, &invited).unwrap();
    assert_eq!((&invite["membership"], &invite["invite"]["sender"]), (&json!("invite"), &json!(alice.id)));
    assert_eq!(room(&first, &rooms[2]), None);
    let global = first["account_data"].as_array().unwrap();
    assert!(global.contains(&json!({ "type": "org.example.a", "content": { "a": 1 } })), "{global:?}");
    assert!(first["presence"].is_array());
    let archived = bob.get(&format!("{BASE}/initialSync?archived=true")).await.ok();
    let left = room(&archived, &rooms[2]).unwrap();
    assert_eq!(
        (&left["membership"], bodies(&left["messages"]["chunk"])),
        (&json!("leave"), vec!["left 0", "left 1", "left 2"])
    );

    // From there on, over all rooms in the order in which it happened.
    let from = first["end"].as_str().unwrap();
    assert_eq!(events(&bob, from, 0).await.0, Vec::<String>::new());
    for (place, text) in [(0, "a"), (1, "b"), (0, "c"), (2, "unseen")] {
        alice.say(&rooms[place], text).await;
    }
    let mut texts = Vec::new();
    let mut from = from.to_owned();
    while texts.len() < 3 {
        let (more, end) = events(&bob, &from, 10_000).await;
        assert!(!more.is_empty(), "{texts:?}");
        texts.extend(more);
        from = end;
    }
    assert_eq!(texts, ["a", "b", "c"]);
    let waiting = tokio::spawn({
        let (bob, from) = (bob.clone(), from.clone());
        async move { events(&bob, &from, 30_000).await.0 }
    });
    alice.say(&rooms[1], "d").await;
    assert_eq!(waiting.await.unwrap(), ["d"]);
    bob.get(&format!("{BASE}/events?from=nonsense")).await.refused(400, "M_INVALID_PARAM");
    bob.get(&format!("{BASE}/initialSync?limit=many")).await.refused(400, "M_INVALID_PARAM");
    server.anonymous().get(&format!("{BASE}/initialSync")).await.refused(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn all_rooms_are_told_in_the_order_of_what_happened() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let mut rooms = Vec::new();
    for _ in 0..3 {
        rooms.push(alice.create_room(json!({})).await);
    }
    let mut from = alice.sync(&[]).await["next_batch"].as_str().unwrap().to_owned();
    let mut sent = Vec::new();
    for number in 0..250 {
        let text = number.to_string();
        alice.say(&rooms[number % 3], &text).await;
        sent.push(text);
    }
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        let (more, end) = events(&alice, &from, 10_000).await;
        assert!(!more.is_empty());
        seen.extend(more);
        from = end;
    }
    assert_eq!(seen, sent, "nothing is lost, nothing comes twice");
}

#[tokio::test]
async fn an_event_is_found_by_its_id_by_those_who_may_see_it() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({})).await;
    let event_id = alice.say(&room, "secret").await;
    let path = format!("{BASE}/events/{}", segment(&event_id));
    let event = alice.get(&path).await.ok();
    assert_eq!((&event["room_id"], &event["content"]["body"]), (&json!(room), &json!("secret")));
    bob.get(&path).await.refused(404, "M_NOT_FOUND");
    alice.get(&format!("{BASE}/events/%24nothing")).await.refused(404, "M_NOT_FOUND");
    alice.get(&format!("{BASE}/events/nonsense")).await.refused(400, "M_INVALID_PARAM");
}
