//! Servers that federate over TLS: two of ours, on loopback addresses, who trust one certificate authority.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use entente_tests::{Answer, Authority, Key, Peer, SOON, Server, User, bodies, fresh_id, segment};
use reqwest::Method;
use serde_json::{Value, json};

fn name_of(user: &User) -> &str {
    user.id.split_once(':').unwrap().1
}

/// Joins a room through the server of another user.
async fn join_via(user: &User, room: &str, through: &User) -> Value {
    let path = format!("/_matrix/client/v3/join/{}?via={}", segment(room), segment(name_of(through)));
    user.post(&path, &json!({})).await.ok()
}

/// What a user sees written in a room, the oldest first.
async fn read(user: &User, room: &str) -> Vec<String> {
    let path = User::in_room(room, "messages?dir=b&limit=100");
    let page = user.get(&path).await.ok();
    bodies(&page["chunk"]).into_iter().rev().map(str::to_owned).collect()
}

/// Waits until something is so. The pauses after which a server that was away is asked again double, and add up to more than [`SOON`].
async fn soon<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(4 * SOON, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what} does not happen"))
}

async fn has_left(user: &User, room: &str) -> bool {
    let sync = user.sync(&[("timeout", "0")]).await;
    sync["rooms"]["join"].get(room).is_none()
}

async fn reads_soon(user: &User, room: &str, expected: &[String]) {
    let what = format!("{} reads {expected:?}", user.id);
    soon(&what, async || (read(user, room).await == expected).then_some(())).await;
}

#[tokio::test]
async fn people_of_two_servers_talk() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "place" })).await;
    let mut said = Vec::new();
    for number in 0..5 {
        alice.say(&room, &format!("before {number}")).await;
        said.push(format!("before {number}"));
    }

    // By the alias, which the other server resolves.
    let alias = format!("#place:{}", name_of(&alice));
    let found = bob.get(&format!("/_matrix/client/v3/directory/room/{}", segment(&alias))).await.ok();
    assert_eq!(found["room_id"], room);
    let joined = bob.post(&format!("/_matrix/client/v3/join/{}", segment(&alias)), &json!({})).await.ok();
    assert_eq!(joined["room_id"], room);
    let members = |user: &User| {
        let path = User::in_room(&room, "joined_members");
        let user = user.clone();
        async move { user.get(&path).await.ok()["joined"].as_object().unwrap().len() }
    };
    assert_eq!(members(&bob).await, 2);
    assert_eq!(members(&alice).await, 2);

    // What was said before is fetched when somebody reads so far.
    assert_eq!(read(&bob, &room).await, said);
    bob.say(&room, "bonjour").await;
    said.push("bonjour".to_owned());
    reads_soon(&alice, &room, &said).await;
    alice.say(&room, "salut").await;
    said.push("salut".to_owned());
    reads_soon(&bob, &room, &said).await;

    // Who types and who has read is told across servers.
    let typing = User::in_room(&room, &format!("typing/{}", segment(&bob.id)));
    bob.put(&typing, &json!({ "typing": true, "timeout": 120_000 })).await.ok();
    let heard = alice.say(&room, "are you writing?").await;
    said.push("are you writing?".to_owned());
    reads_soon(&bob, &room, &said).await;
    let receipt = User::in_room(&room, &format!("receipt/m.read/{}", segment(&heard)));
    bob.post(&receipt, &json!({})).await.ok();
    soon("typing and the receipt", async || {
        let sync = alice.sync(&[("timeout", "0")]).await;
        let events =
            sync["rooms"]["join"][&room]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
        let types = events.iter().any(|event| event["content"]["user_ids"] == json!([bob.id]));
        let read = events.iter().any(|event| event["content"][&heard]["m.read"].get(&bob.id).is_some());
        (types && read).then_some(())
    })
    .await;
    bob.put(&typing, &json!({ "typing": false })).await.ok();
    soon("the end of typing", async || {
        let sync = alice.sync(&[("timeout", "0")]).await;
        let events =
            sync["rooms"]["join"][&room]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
        events.iter().all(|event| event["content"]["user_ids"] != json!([bob.id])).then_some(())
    })
    .await;

    // Edits of state and redactions arrive too, and who is put out is out on both sides.
    alice.set_state(&room, "m.room.name", "", json!({ "name": "Conseil" })).await.ok();
    soon("the name", async || {
        let name = bob.state(&room, "m.room.name", "").await;
        (name.status == 200 && name.body["name"] == "Conseil").then_some(())
    })
    .await;
    let slip = bob.say(&room, "a slip").await;
    said.push("a slip".to_owned());
    reads_soon(&alice, &room, &said).await;
    let redact = User::in_room(&room, &format!("redact/{}/{}", segment(&slip), fresh_id()));
    bob.put(&redact, &json!({})).await.ok();
    said.pop();
    reads_soon(&alice, &room, &said).await;
    alice.post(&User::in_room(&room, "kick"), &json!({ "user_id": bob.id })).await.ok();
    soon("the kick", async || (has_left(&bob, &room).await).then_some(())).await;
    bob.send(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "?" }))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn invites_cross_servers_and_are_declined() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let room = alice.create_room(json!({ "name": "Chez Alice", "invite": [bob.id] })).await;
    let sync = bob.sync(&[("timeout", "0")]).await;
    let told = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
    let names: Vec<&Value> =
        told.as_array().unwrap().iter().filter(|event| event["type"] == "m.room.name").collect();
    assert_eq!(names[0]["content"]["name"], "Chez Alice");
    assert!(names[0].get("event_id").is_none() && names[0].get("signatures").is_none());
    bob.membership(&room, "leave", json!({})).await.ok();
    let member = alice.state(&room, "m.room.member", &bob.id).await.ok();
    assert_eq!(member["membership"], "leave");

    alice.invite(&room, &bob).await.ok();
    bob.join(&room).await.ok();
    bob.say(&room, "me voilà").await;
    reads_soon(&alice, &room, &["me voilà".to_owned()]).await;
    // Somebody who does not exist is not invited.
    let nobody = format!("@nobody:{}", name_of(&bob));
    let refused = alice.membership(&room, "invite", json!({ "user_id": nobody })).await;
    assert_eq!(refused.status, 404, "{:?}", refused.body);
}

#[tokio::test]
async fn a_server_that_was_down_hears_everything_once() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join_via(&bob, &room, &alice).await;
    let mut said = Vec::new();
    let other = other.crash();
    for number in 0..70 {
        said.push(format!("while you were away {number}"));
        alice.say(&room, said.last().unwrap()).await;
    }
    // The sender is killed as well: what waits is in its store.
    let one = one.crash_and_restart();
    let other = other.restart();
    let (alice, bob) = (alice.at(&one), bob.at(&other));
    alice.say(&room, "back again").await;
    said.push("back again".to_owned());
    reads_soon(&bob, &room, &said).await;
}

#[tokio::test]
async fn messages_to_devices_and_keys_cross_servers() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let encryption =
        json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": [encryption] })).await;
    join_via(&bob, &room, &alice).await;
    let since = alice.sync(&[("timeout", "0")]).await["next_batch"].as_str().unwrap().to_owned();

    let key = Key::generate();
    let key_id = format!("ed25519:{}", bob.device_id);
    let mut keys = json!({
        "user_id": bob.id, "device_id": bob.device_id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { key_id.clone(): key.public() },
    });
    key.sign(&mut keys, &bob, &key_id);
    let mut one_time = json!({});
    for name in ["signed_curve25519:a", "signed_curve25519:b"] {
        let mut one = json!({ "key": Key::generate().public() });
        key.sign(&mut one, &bob, &key_id);
        one_time[name] = one;
    }
    let upload = json!({ "device_keys": keys, "one_time_keys": one_time });
    bob.post("/_matrix/client/v3/keys/upload", &upload).await.ok();
    // Whoever shares a room with Bob hears that he has keys now.
    soon("the change of Bob's devices", async || {
        let sync = alice.sync(&[("timeout", "0"), ("since", &since)]).await;
        let changed = sync["device_lists"]["changed"].as_array().cloned().unwrap_or_default();
        changed.iter().any(|user| *user == bob.id.as_str()).then_some(())
    })
    .await;
    let query = json!({ "device_keys": { bob.id.clone(): [] } });
    let found = alice.post("/_matrix/client/v3/keys/query", &query).await.ok();
    assert_eq!(found["failures"], json!({}));
    assert_eq!(found["device_keys"][&bob.id][&bob.device_id]["keys"], keys["keys"]);
    let claim =
        json!({ "one_time_keys": { bob.id.clone(): { bob.device_id.clone(): "signed_curve25519" } } });
    let mut claimed = Vec::new();
    for _ in 0..3 {
        let answer = alice.post("/_matrix/client/v3/keys/claim", &claim).await.ok();
        let of_device =
            answer["one_time_keys"][&bob.id][&bob.device_id].as_object().cloned().unwrap_or_default();
        claimed.extend(of_device.keys().cloned());
    }
    claimed.sort();
    claimed.dedup();
    assert_eq!(claimed.len(), 2, "each key is given once: {claimed:?}");

    let transaction = fresh_id();
    let path = format!("/_matrix/client/v3/sendToDevice/m.dummy/{transaction}");
    let messages = json!({ "messages": { bob.id.clone(): { "*": { "n": 1 } } } });
    for _ in 0..2 {
        alice.put(&path, &messages).await.ok();
    }
    let arrived = soon("the message", async || {
        let sync = bob.sync(&[("timeout", "0")]).await;
        let events = sync["to_device"]["events"].as_array().cloned().unwrap_or_default();
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert_eq!(arrived, [json!({ "type": "m.dummy", "sender": alice.id, "content": { "n": 1 } })]);
}

#[tokio::test]
async fn who_has_the_same_name_elsewhere_may_use_the_same_id() {
    let authority = Authority::new();
    let server = authority.server(&[]);
    let alice = User::register(&server, "alice").await;
    let peers = [Peer::start(&authority), Peer::start(&authority)];
    for peer in &peers {
        let content = json!({
            "sender": peer.user("bob"), "type": "org.example.test", "message_id": "1",
            "messages": { &alice.id: { "*": { "from": peer.name } } },
        });
        let edus = [json!({ "edu_type": "m.direct_to_device", "content": content })];
        let body = json!({ "origin": peer.name, "origin_server_ts": 1, "pdus": [], "edus": edus });
        // A second transaction with the same message says nothing new.
        for _ in 0..2 {
            let target = peer.transaction();
            Answer::to(peer.request(&server.name(), Method::PUT, &target, Some(&body))).await.ok();
        }
    }
    let heard = alice.sync(&[]).await["to_device"]["events"].clone();
    let heard: Vec<&Value> =
        heard.as_array().unwrap().iter().map(|event| &event["content"]["from"]).collect();
    assert_eq!(heard, [&peers[0].name, &peers[1].name]);
}

/// The names of the rooms on a page of a walk through a space.
fn names(page: &Value) -> Vec<&str> {
    page["rooms"].as_array().unwrap().iter().filter_map(|room| room["name"].as_str()).collect()
}

#[tokio::test]
async fn rooms_elsewhere_are_shown_to_those_who_may_see_them() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let made = |name: &str, preset: &str, more: Value| {
        let mut body = json!({ "name": name, "preset": preset });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let space = json!({ "creation_content": { "type": "m.space" } });
    let plaza = alice.create_room(made("plaza", "public_chat", json!({}))).await;
    let cellar = alice.create_room(made("cellar", "private_chat", json!({}))).await;
    let quarter = alice.create_room(made("quarter", "public_chat", space.clone())).await;
    let town = alice.create_room(made("town", "public_chat", space.clone())).await;
    let country = bob.create_room(made("country", "private_chat", space)).await;
    let via = json!({ "via": [name_of(&alice)] });
    for (parent, child) in [(&town, &quarter), (&town, &cellar), (&quarter, &plaza)] {
        alice.set_state(parent, "m.space.child", child, via.clone()).await.ok();
    }
    bob.set_state(&country, "m.space.child", &town, via).await.ok();

    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", segment(&country));
    let page = bob.get(&path).await.ok();
    assert_eq!(names(&page), ["country", "town", "quarter", "plaza"]);
    // By pages it is the same walk.
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = bob.get(&format!("{path}?limit=1{token}")).await.ok();
        found.extend(names(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next_batch"].as_str() else { break };
        token = format!("&from={next}");
    }
    assert_eq!(found, ["country", "town", "quarter", "plaza"]);

    let summary = |room: &str| {
        format!("/_matrix/client/v1/room_summary/{}?via={}", segment(room), segment(name_of(&alice)))
    };
    let shown = bob.get(&summary(&plaza)).await.ok();
    assert_eq!((&shown["name"], &shown["membership"]), (&json!("plaza"), &json!("leave")));
    assert_eq!(shown["room_version"], "12");
    bob.get(&summary(&cellar)).await.refused(404, "M_NOT_FOUND");
    let stranger = entente_tests::Caller::new(&other.base_url, None);
    stranger.get(&summary(&plaza)).await.refused(404, "M_NOT_FOUND");
    // Who is invited may look.
    alice.invite(&cellar, &bob).await.ok();
    let invited = bob.get(&summary(&cellar)).await;
    assert!(invited.status == 404 || invited.body["name"] == "cellar", "{}", invited.body);
}

#[tokio::test]
async fn a_day_before_this_server_came_in_is_found() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let mut first = String::new();
    for number in 0..150 {
        let said = alice.say(&room, &number.to_string()).await;
        if number == 10 {
            first = said;
        }
    }
    join_via(&bob, &room, &alice).await;
    let at = alice.event(&room, &first).await.ok()["origin_server_ts"].as_u64().unwrap();
    for direction in ["f", "b"] {
        let path =
            format!("/_matrix/client/v1/rooms/{}/timestamp_to_event?ts={at}&dir={direction}", segment(&room));
        let (known, found) = (alice.get(&path).await.ok(), bob.get(&path).await.ok());
        assert_eq!(known, found, "dir={direction}");
        bob.event(&room, found["event_id"].as_str().unwrap()).await.ok();
    }
}

#[tokio::test]
async fn who_sends_hears_what_the_policy_server_says() {
    let authority = Authority::new();
    let (one, other) = (authority.server(&[]), authority.server(&[]));
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    // A server that does not know of it: it is not asked before one of its users is in the room.
    let policy = json!({ "via": name_of(&bob), "public_keys": { "ed25519": "A".repeat(43) } });
    alice.set_state(&room, "m.room.policy", "", policy).await.ok();
    alice.say(&room, "nobody watches").await;
    join_via(&bob, &room, &alice).await;
    let message = json!({ "msgtype": "m.text", "body": "hello?" });
    alice.send(&room, "m.room.message", message.clone()).await.refused(403, "M_FORBIDDEN");
    alice.set_state(&room, "m.room.name", "", json!({ "name": "x" })).await.refused(403, "M_FORBIDDEN");
    // What comes from others without a signature is not shown.
    bob.set_state(&room, "m.room.policy", "", json!({})).await.refused(403, "M_FORBIDDEN");
    alice.set_state(&room, "m.room.policy", "", json!({})).await.ok();
    alice.say(&room, "free again").await;
    reads_soon(&bob, &room, &["nobody watches".to_owned(), "free again".to_owned()]).await;
}

#[tokio::test]
async fn a_pinned_key_is_the_only_one_that_counts() {
    let authority = Authority::new();
    let one = authority.server(&[]);
    let alice = User::register(&one, "alice").await;
    let room = alice.create_room(json!({})).await;
    let keys = federation_caller(&authority, &one)("/_matrix/key/v2/server", None).await.ok();
    let (key_id, key) = keys["verify_keys"].as_object().unwrap().iter().next().unwrap();
    let own = key["key"].as_str().unwrap();
    for (key, is_let_in) in [(own, true), ("XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI", false)] {
        let pinned = format!(r#"[{{ server = "{}", signing_keys = ["{key_id} {key}"] }}]"#, one.name());
        let other = authority.server(&[("ENTENTE_FEDERATION__PEERS", &pinned)]);
        let bob = User::register(&other, "bob").await;
        let invited = alice.invite(&room, &bob).await;
        assert_eq!(invited.status.is_success(), is_let_in, "{}", invited.body);
    }
}

#[tokio::test]
async fn who_is_not_let_in_hears_nothing() {
    let authority = Authority::new();
    let closed = authority.server(&[
        ("ENTENTE_FEDERATION__POLICY", "closed"),
        ("ENTENTE_FEDERATION__ALLOW", "[\"friend.example\"]"),
    ]);
    let other = authority.server(&[]);
    let (alice, bob) = (User::register(&closed, "alice").await, User::register(&other, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let path = format!("/_matrix/client/v3/join/{}?via={}", segment(&room), segment(name_of(&alice)));
    bob.post(&path, &json!({})).await.refused(403, "M_FORBIDDEN");
    alice.membership(&room, "invite", json!({ "user_id": bob.id })).await.refused(403, "M_FORBIDDEN");
    let profile = format!("/_matrix/client/v3/profile/{}", segment(&bob.id));
    alice.get(&profile).await.refused(403, "M_FORBIDDEN");
    alice.get(&format!("/_matrix/client/v3/profile/{}", segment(&alice.id))).await.ok();
}

#[tokio::test]
async fn nothing_goes_to_whom_this_server_does_not_speak_to() {
    let authority = Authority::new();
    let settings =
        [("ENTENTE_FEDERATION__POLICY", "closed"), ("ENTENTE_FEDERATION__ALLOW", "[\"friend.example\"]")];
    let closed = authority.server(&settings);
    let other = Peer::start(&authority);
    let alice = User::register(&closed, "alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let (name, bob, theirs) = (closed.name(), other.user("bob"), format!("!theirs:{}", other.name));

    // Nothing that they ask is answered.
    for (method, target) in [
        (Method::PUT, "/_matrix/federation/v1/send/1".to_owned()),
        (
            Method::GET,
            format!("/_matrix/federation/v1/make_join/{}/{}?ver=12", segment(&room), segment(&bob)),
        ),
        (
            Method::GET,
            format!("/_matrix/federation/v1/make_knock/{}/{}?ver=12", segment(&room), segment(&bob)),
        ),
        (Method::PUT, format!("/_matrix/federation/v2/send_join/{}/$a", segment(&room))),
        (Method::PUT, format!("/_matrix/federation/v2/invite/{}/$a", segment(&theirs))),
        (Method::GET, format!("/_matrix/federation/v1/backfill/{}?v=$a&limit=1", segment(&room))),
        (Method::GET, format!("/_matrix/federation/v1/state/{}?event_id=$a", segment(&room))),
        (Method::GET, format!("/_matrix/federation/v1/hierarchy/{}", segment(&room))),
        (Method::GET, "/_matrix/federation/v1/event/$a".to_owned()),
        (Method::GET, format!("/_matrix/federation/v1/query/profile?user_id={}", segment(&alice.id))),
        (Method::GET, "/_matrix/federation/v1/query/directory?room_alias=%23a%3Ab".to_owned()),
        (Method::GET, "/_matrix/federation/v1/publicRooms".to_owned()),
        (Method::GET, format!("/_matrix/federation/v1/user/devices/{}", segment(&alice.id))),
        (Method::POST, "/_matrix/federation/v1/user/keys/query".to_owned()),
        (Method::POST, "/_matrix/federation/v1/user/keys/claim".to_owned()),
        (Method::GET, "/_matrix/federation/v1/media/download/abc".to_owned()),
        (Method::GET, "/_matrix/federation/v1/media/thumbnail/abc?width=1&height=1".to_owned()),
        (Method::POST, "/_matrix/federation/v1/rtc/livekit/get_token".to_owned()),
        (Method::POST, "/_matrix/policy/v1/sign".to_owned()),
    ] {
        let body = json!({});
        let asked = other.request(&name, method.clone(), &target, (method != Method::GET).then_some(&body));
        let refused = Answer::to(asked).await.refused(403, "M_FORBIDDEN");
        assert!(refused["error"].as_str().unwrap().contains(&other.name), "{target}: {refused}");
    }

    // Nothing that users here want of them is asked for.
    let via = segment(&other.name);
    for (method, path, body) in [
        (Method::GET, format!("v3/profile/{}", segment(&bob)), json!({})),
        (Method::POST, format!("v3/join/{}?via={via}", segment(&theirs)), json!({})),
        (Method::POST, format!("v3/knock/{}?via={via}", segment(&theirs)), json!({})),
        (Method::POST, format!("v3/rooms/{}/invite", segment(&room)), json!({ "user_id": bob })),
        (Method::GET, format!("v3/directory/room/{}", segment(&format!("#a:{}", other.name))), json!({})),
        (Method::POST, format!("v3/publicRooms?server={via}"), json!({})),
        (Method::GET, format!("v1/room_summary/{}?via={via}", segment(&theirs)), json!({})),
        (Method::GET, format!("v1/media/download/{via}/abc"), json!({})),
        (Method::GET, format!("v1/media/thumbnail/{via}/abc?width=32&height=32"), json!({})),
    ] {
        let path = format!("/_matrix/client/{path}");
        let request = alice.request(method.clone(), &path);
        let request = if method == Method::GET { request } else { request.json(&body) };
        let answer = Answer::to(request).await;
        assert!(
            answer.status.is_client_error() || answer.status.is_server_error(),
            "{path}: {}",
            answer.body
        );
    }
    let keys =
        alice.post("/_matrix/client/v3/keys/query", &json!({ "device_keys": { &bob: [] } })).await.ok();
    assert!(keys["failures"][&other.name].is_object(), "{keys}");
    let claim = json!({ "one_time_keys": { &bob: { "A": "signed_curve25519" } } });
    let keys = alice.post("/_matrix/client/v3/keys/claim", &claim).await.ok();
    assert!(keys["failures"][&other.name].is_object(), "{keys}");
    let messages = json!({ "messages": { &bob: { "*": {} } } });
    alice.put("/_matrix/client/v3/sendToDevice/m.test/1", &messages).await.ok();
    let notarise = authority.client().post(format!("https://{name}/_matrix/key/v2/query"));
    let notarise = notarise.json(&json!({ "server_keys": { other.name.clone(): {} } }));
    Answer::to(notarise).await;
    // What is sent by and by is not sent either.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(other.connections(), 0, "{:?}", other.requests(""));
}

#[tokio::test]
async fn one_server_asks_as_often_as_the_operator_lets_it() {
    let authority = Authority::new();
    let (slow, other) = (Peer::start(&authority), Peer::start(&authority));
    let peers = format!(r#"[{{ server = "{}", requests = {{ per_second = 0.01, burst = 3 }} }}]"#, slow.name);
    let settings = [("ENTENTE_RATE_LIMITS__ENABLED", "true"), ("ENTENTE_FEDERATION__PEERS", peers.as_str())];
    let server = authority.server(&settings);
    let alice = User::register(&server, "alice").await;
    let target = format!("/_matrix/federation/v1/query/profile?user_id={}", segment(&alice.id));
    let ask = async |peer: &Peer| {
        let request = peer.request(&server.name(), Method::GET, &target, None);
        Answer::to(request).await
    };
    for _ in 0..3 {
        ask(&slow).await.ok();
        ask(&other).await.ok();
    }
    let late = ask(&slow).await;
    assert!(late.header("Retry-After").parse::<u64>().is_ok_and(|seconds| seconds > 1), "{late:?}");
    late.refused(429, "M_LIMIT_EXCEEDED");
    ask(&other).await.ok();
}

#[tokio::test]
async fn requests_without_proof_are_refused() {
    let authority = Authority::new();
    let server = authority.server(&[]);
    let stranger = federation_caller(&authority, &server);
    for path in ["/_matrix/federation/v1/query/profile?user_id=@a:b", "/_matrix/federation/v1/event/$a"] {
        stranger(path, None).await.refused(401, "M_UNAUTHORIZED");
        stranger(path, Some("X-Matrix origin=a.example")).await.refused(401, "M_UNAUTHORIZED");
        let own = format!("X-Matrix origin={},key=ed25519:a,sig=AAAA", server.name());
        stranger(path, Some(&own)).await.refused(403, "M_FORBIDDEN");
        let unknown = "X-Matrix origin=\"nobody.invalid\",key=\"ed25519:a\",sig=\"AAAA\"";
        stranger(path, Some(unknown)).await.refused(401, "M_UNAUTHORIZED");
    }
    let keys = stranger("/_matrix/key/v2/server", None).await.ok();
    assert_eq!(keys["server_name"], server.name());
    assert_eq!(keys["signatures"][server.name()].as_object().unwrap().len(), 1);
    let version = stranger("/_matrix/federation/v1/version", None).await.ok();
    assert_eq!(version["server"]["name"], "Entente");
}

/// Asks a server where other servers do.
fn federation_caller<'a>(
    authority: &'a Authority,
    server: &'a Server,
) -> impl AsyncFn(&str, Option<&str>) -> Answer + 'a {
    let client = authority.client();
    let base = format!("https://{}", server.name());
    async move |path: &str, authorization: Option<&str>| {
        let mut request = client.get(format!("{base}{path}"));
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        Answer::to(request).await
    }
}
