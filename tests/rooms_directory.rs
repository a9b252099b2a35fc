//! Finding rooms and people: the directory, summaries, spaces, events by time, reports, rooms in common.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Caller, Server, User, segment};
use serde_json::{Value, json};

async fn directory(user: &User, body: Value) -> Value {
    user.post("/_matrix/client/v3/publicRooms", &body).await.ok()
}

fn names(page: &Value) -> Vec<&str> {
    page["chunk"].as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap_or("")).collect()
}

fn ids<'a>(rooms: &'a Value, field: &str) -> Vec<&'a str> {
    rooms[field].as_array().unwrap().iter().map(|room| room["room_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_directory_shows_what_was_published() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let mut rooms = Vec::new();
    for (name, topic) in [("Place", "Tout"), ("Jardin", "Les fleurs"), ("Cuisine", "Les PLATS")] {
        let body = json!({ "visibility": "public", "name": name, "topic": topic, "room_alias_name": name.to_lowercase() });
        rooms.push(alice.create_room(body).await);
    }
    alice.create_room(json!({ "preset": "public_chat", "name": "Not told" })).await;
    let space = alice
        .create_room(
            json!({ "visibility": "public", "name": "Mairie", "creation_content": { "type": "m.space" } }),
        )
        .await;
    bob.join(&rooms[1]).await.ok();

    let page = directory(&bob, json!({})).await;
    assert_eq!(page["total_room_count_estimate"], 4);
    assert_eq!(names(&page)[0], "Jardin", "rooms with most members come first");
    let jardin = &page["chunk"][0];
    assert_eq!(jardin["num_joined_members"], 2);
    assert_eq!((&jardin["topic"], &jardin["join_rule"]), (&json!("Les fleurs"), &json!("public")));
    assert_eq!((&jardin["world_readable"], &jardin["guest_can_join"]), (&json!(false), &json!(false)));

    // By words, by kind, by pages.
    let found = directory(&bob, json!({ "filter": { "generic_search_term": "plats" } })).await;
    assert_eq!(names(&found), ["Cuisine"]);
    let found = directory(&bob, json!({ "filter": { "generic_search_term": "#place:" } })).await;
    assert_eq!(names(&found), ["Place"]);
    let found = directory(&bob, json!({ "filter": { "room_types": ["m.space"] } })).await;
    assert_eq!(ids(&found, "chunk"), [space.as_str()]);
    let found = directory(&bob, json!({ "filter": { "room_types": [null] } })).await;
    assert_eq!(found["chunk"].as_array().unwrap().len(), 3);
    let mut seen = Vec::new();
    let mut page = directory(&bob, json!({ "limit": 3 })).await;
    assert!(page["prev_batch"].is_null());
    seen.extend(names(&page).into_iter().map(str::to_owned));
    let next = page["next_batch"].clone();
    page = directory(&bob, json!({ "limit": 3, "since": next })).await;
    seen.extend(names(&page).into_iter().map(str::to_owned));
    assert!(page["next_batch"].is_null() && page["prev_batch"].is_string());
    seen.sort();
    assert_eq!(seen, ["Cuisine", "Jardin", "Mairie", "Place"]);
    bob.post("/_matrix/client/v3/publicRooms", &json!({ "since": "x" }))
        .await
        .refused(400, "M_INVALID_PARAM");
    // Without a token the list can be read as well.
    let anybody = Caller::new(&server.base_url, None);
    assert_eq!(
        anybody.get("/_matrix/client/v3/publicRooms?limit=1").await.ok()["chunk"].as_array().unwrap().len(),
        1
    );

    // Who may say so takes a room out of it again.
    let path = format!("/_matrix/client/v3/directory/list/room/{}", segment(&rooms[1]));
    assert_eq!(anybody.get(&path).await.ok()["visibility"], "public");
    bob.put(&path, &json!({ "visibility": "private" })).await.refused(403, "M_FORBIDDEN");
    alice.put(&path, &json!({ "visibility": "hidden" })).await.refused(400, "M_INVALID_PARAM");
    alice.put(&path, &json!({ "visibility": "private" })).await.ok();
    assert_eq!(anybody.get(&path).await.ok()["visibility"], "private");
    assert_eq!(directory(&bob, json!({})).await["total_room_count_estimate"], 3);
    anybody
        .get("/_matrix/client/v3/directory/list/room/!nowhere:localhost")
        .await
        .refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn summaries_are_for_those_who_could_come_in() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let anybody = Caller::new(&server.base_url, None);
    let summary = |room: &str| format!("/_matrix/client/v1/room_summary/{}", segment(room));
    let public = alice
        .create_room(json!({ "preset": "public_chat", "name": "Place", "room_alias_name": "place" }))
        .await;
    let seen = anybody.get(&summary("#place:localhost:8008")).await.ok();
    assert_eq!((&seen["room_id"], &seen["name"]), (&json!(public), &json!("Place")));
    assert!(seen["membership"].is_null());
    assert_eq!(bob.get(&summary(&public)).await.ok()["membership"], "leave");
    assert_eq!(alice.get(&summary(&public)).await.ok()["membership"], "join");
    let old = format!("/_matrix/client/unstable/im.nheko.summary/rooms/{}/summary", segment(&public));
    assert_eq!(bob.get(&old).await.ok()["room_version"], "12");

    let private = alice.create_room(json!({})).await;
    bob.get(&summary(&private)).await.refused(404, "M_NOT_FOUND");
    anybody.get(&summary(&private)).await.refused(404, "M_NOT_FOUND");
    let rules =
        json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": public }] });
    alice.set_state(&private, "m.room.join_rules", "", rules).await.ok();
    bob.get(&summary(&private)).await.refused(404, "M_NOT_FOUND");
    bob.join(&public).await.ok();
    assert_eq!(bob.get(&summary(&private)).await.ok()["allowed_room_ids"], json!([public]));
    let closed = alice.create_room(json!({})).await;
    alice.invite(&closed, &bob).await.ok();
    assert_eq!(bob.get(&summary(&closed)).await.ok()["membership"], "invite");
}

#[tokio::test]
async fn spaces_are_walked_through() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let mut spaces = Vec::new();
    for name in ["Mairie", "Services"] {
        let body =
            json!({ "preset": "public_chat", "name": name, "creation_content": { "type": "m.space" } });
        spaces.push(alice.create_room(body).await);
    }
    let mut rooms = Vec::new();
    for name in ["A", "B", "C"] {
        rooms.push(alice.create_room(json!({ "preset": "public_chat", "name": name })).await);
    }
    let hidden = alice.create_room(json!({ "name": "hidden" })).await;
    let child = |order: Option<&str>, suggested: bool| {
        let mut content = json!({ "via": ["localhost:8008"], "suggested": suggested });
        if let Some(order) = order {
            content["order"] = json!(order);
        }
        content
    };
    let (top, below) = (&spaces[0], &spaces[1]);
    alice.set_state(top, "m.space.child", &rooms[0], child(None, false)).await.ok();
    alice.set_state(top, "m.space.child", &rooms[1], child(Some("a"), true)).await.ok();
    alice.set_state(top, "m.space.child", below, child(Some("b"), false)).await.ok();
    alice.set_state(top, "m.space.child", &hidden, child(Some("c"), false)).await.ok();
    alice.set_state(top, "m.space.child", "!unknown:elsewhere.example", child(Some("d"), false)).await.ok();
    alice.set_state(below, "m.space.child", &rooms[2], child(None, false)).await.ok();
    // A circle ends, and what has no way in is no child.
    alice.set_state(below, "m.space.child", top, child(None, false)).await.ok();
    alice.set_state(below, "m.space.child", &rooms[0], json!({ "via": [] })).await.ok();

    let path = |query: &str| format!("/_matrix/client/v1/rooms/{}/hierarchy{query}", segment(top));
    let walk = bob.get(&path("")).await.ok();
    assert_eq!(ids(&walk, "rooms"), [top, &rooms[1], below, &rooms[2], &rooms[0]].map(String::as_str));
    let children = walk["rooms"][0]["children_state"].as_array().unwrap();
    assert_eq!(children.len(), 5);
    assert_eq!(children[0]["state_key"], json!(rooms[1]));
    assert!(children[0]["origin_server_ts"].is_u64() && children[0]["event_id"].is_null());
    assert_eq!(ids(&alice.get(&path("")).await.ok(), "rooms").len(), 6, "Alice is in the hidden room");
    let suggested = bob.get(&path("?suggested_only=true")).await.ok();
    assert_eq!(ids(&suggested, "rooms"), [top, &rooms[1]].map(String::as_str));
    let flat = bob.get(&path("?max_depth=1")).await.ok();
    assert_eq!(ids(&flat, "rooms"), [top, &rooms[1], below, &rooms[0]].map(String::as_str));

    let first = bob.get(&path("?limit=2")).await.ok();
    let token = first["next_batch"].as_str().unwrap();
    let second = bob.get(&path(&format!("?limit=10&from={token}"))).await.ok();
    assert_eq!(ids(&second, "rooms"), [below, &rooms[2], &rooms[0]].map(String::as_str));
    assert!(second["next_batch"].is_null());
    bob.get(&path(&format!("?from={token}&max_depth=1"))).await.refused(400, "M_INVALID_PARAM");
    let of_hidden = format!("/_matrix/client/v1/rooms/{}/hierarchy", segment(&hidden));
    bob.get(&of_hidden).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn events_are_found_by_their_time() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let first = alice.say(&room, "un").await;
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let second = alice.say(&room, "deux").await;
    let at = async |event: &str| alice.event(&room, event).await.ok()["origin_server_ts"].as_u64().unwrap();
    let (before, after) = (at(&first).await, at(&second).await);
    let path = |at: u64, dir: &str| {
        format!("/_matrix/client/v1/rooms/{}/timestamp_to_event?ts={at}&dir={dir}", segment(&room))
    };
    let found = async |at, dir| alice.get(&path(at, dir)).await.ok()["event_id"].as_str().unwrap().to_owned();
    assert_eq!(found(before, "f").await, first);
    assert_eq!(found(before + 1, "f").await, second);
    assert_eq!(found(after - 1, "b").await, first);
    assert_eq!(found(after + 60_000, "b").await, second);
    alice.get(&path(after + 60_000, "f")).await.refused(404, "M_NOT_FOUND");
    alice.get(&path(1, "b")).await.refused(404, "M_NOT_FOUND");
    bob.get(&path(before, "f")).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn people_are_found_by_those_who_may_meet_them() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let carol = User::register(&server, "carol").await;
    let name = format!("/_matrix/client/v3/profile/{}/displayname", segment(&bob.id));
    bob.put(&name, &json!({ "displayname": "Robert Dupont" })).await.ok();
    let search = async |user: &User, term: &str| -> Vec<String> {
        let answer =
            user.post("/_matrix/client/v3/user_directory/search", &json!({ "search_term": term })).await.ok();
        answer["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|found| found["user_id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(search(&alice, "robert").await.is_empty(), "they have nothing to do with each other");
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    alice.invite(&room, &bob).await.ok();
    bob.join(&room).await.ok();
    for term in ["robert", "DUPONT", "bob", &bob.id, "bert"] {
        assert_eq!(search(&alice, term).await, std::slice::from_ref(&bob.id), "{term}");
    }
    assert!(search(&carol, "robert").await.is_empty());
    assert!(search(&alice, "  ").await.is_empty());
    let public = bob.create_room(json!({ "visibility": "public" })).await;
    assert_eq!(search(&carol, "dupont").await, std::slice::from_ref(&bob.id), "he is where all may find him");

    let mutual = |user: &User| format!("/_matrix/client/v1/mutual_rooms?user_id={}", segment(&user.id));
    assert_eq!(alice.get(&mutual(&bob)).await.ok()["joined"], json!([room]));
    assert_eq!(carol.get(&mutual(&bob)).await.ok()["joined"], json!([]));
    carol.join(&public).await.ok();
    assert_eq!(carol.get(&mutual(&bob)).await.ok()["joined"], json!([public]));
    alice.get(&mutual(&alice)).await.refused(400, "M_INVALID_PARAM");
    alice.get("/_matrix/client/v1/mutual_rooms?user_id=bob").await.refused(400, "M_INVALID_PARAM");
    alice.get("/_matrix/client/v1/mutual_rooms").await.refused(400, "M_MISSING_PARAM");
}

#[tokio::test]
async fn reports_are_taken_of_what_is_there() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let event = alice.say(&room, "rude").await;
    let of_event = format!("/_matrix/client/v3/rooms/{}/report/{}", segment(&room), segment(&event));
    bob.post(&of_event, &json!({ "reason": "rude" })).await.refused(404, "M_NOT_FOUND");
    alice.post(&of_event, &json!({ "reason": "rude", "score": -50 })).await.ok();
    alice.post(&of_event, &json!({ "score": 1 })).await.refused(400, "M_INVALID_PARAM");
    alice.post(&of_event, &json!({ "reason": "x".repeat(5_000) })).await.refused(413, "M_TOO_LARGE");
    let nothing = format!("/_matrix/client/v3/rooms/{}/report/$nothing", segment(&room));
    alice.post(&nothing, &json!({})).await.refused(404, "M_NOT_FOUND");
    let of_room = format!("/_matrix/client/v3/rooms/{}/report", segment(&room));
    bob.post(&of_room, &json!({ "reason": "a trap" })).await.ok();
    bob.post("/_matrix/client/v3/rooms/!nowhere:localhost/report", &json!({ "reason": "x" }))
        .await
        .refused(404, "M_NOT_FOUND");
    let of_user = format!("/_matrix/client/v3/users/{}/report", segment(&alice.id));
    bob.post(&of_user, &json!({ "reason": "rude" })).await.ok();
    bob.post("/_matrix/client/v3/users/@nobody:localhost:8008/report", &json!({ "reason": "x" }))
        .await
        .refused(404, "M_NOT_FOUND");
}
