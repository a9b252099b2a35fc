//! Upgrades of rooms: what goes over to the new one, and what stays in the old.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Server, User, segment};
use serde_json::{Value, json};

async fn upgrade(user: &User, room: &str, body: Value) -> String {
    let answer = user.post(&User::in_room(room, "upgrade"), &body).await.ok();
    answer["replacement_room"].as_str().unwrap().to_owned()
}

async fn resolved(user: &User, alias: &str) -> Value {
    let path = format!("/_matrix/client/v3/directory/room/{}", segment(alias));
    user.get(&path).await.ok()["room_id"].clone()
}

#[tokio::test]
async fn an_old_room_becomes_one_of_version_12() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let troll = User::register(&server, "troll").await;
    let old = alice
        .create_room(json!({
            "room_version": "6", "preset": "public_chat", "name": "Place", "topic": "Tout",
            "room_alias_name": "place", "visibility": "public",
            "initial_state": [
                { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
                { "type": "m.room.server_acl", "content": { "allow": ["*"], "deny": ["evil.example"] } },
                { "type": "org.example.private", "content": { "a": 1 } },
            ],
            "power_level_content_override": { "users": { alice.id.clone(): 100, bob.id.clone(): 50 }, "kick": "40" },
        }))
        .await;
    for user in [&bob, &troll] {
        user.join(&old).await.ok();
    }
    let ban = json!({ "user_id": troll.id, "reason": "noise" });
    alice.post(&User::in_room(&old, "ban"), &ban).await.ok();

    let new = upgrade(&alice, &old, json!({ "new_version": "12" })).await;
    assert_ne!(new, old);
    let create = alice.state(&new, "m.room.create", "").await.ok();
    assert_eq!(create, json!({ "room_version": "12", "predecessor": { "room_id": old } }));
    for (event_type, field, expected) in [
        ("m.room.name", "name", json!("Place")),
        ("m.room.topic", "topic", json!("Tout")),
        ("m.room.encryption", "algorithm", json!("m.megolm.v1.aes-sha2")),
        ("m.room.server_acl", "deny", json!(["evil.example"])),
        ("m.room.join_rules", "join_rule", json!("public")),
        ("m.room.canonical_alias", "alias", json!("#place:localhost:8008")),
    ] {
        assert_eq!(alice.state(&new, event_type, "").await.ok()[field], expected, "{event_type}");
    }
    alice.state(&new, "org.example.private", "").await.refused(404, "M_NOT_FOUND");
    let levels = alice.state(&new, "m.room.power_levels", "").await.ok();
    assert_eq!(levels["users"], json!({ bob.id.clone(): 50 }), "creators stand above");
    assert_eq!(levels["kick"], 40, "levels are integers now");
    assert_eq!(
        alice.state(&new, "m.room.member", &troll.id).await.ok(),
        json!({ "membership": "ban", "reason": "noise" })
    );
    troll.join(&new).await.refused(403, "M_FORBIDDEN");
    bob.join(&new).await.ok();
    bob.set_state(&new, "m.room.topic", "", json!({ "topic": "Rien" })).await.ok();

    let tombstone = bob.state(&old, "m.room.tombstone", "").await.ok();
    assert_eq!(tombstone["replacement_room"], new);
    assert_eq!(bob.state(&old, "m.room.canonical_alias", "").await.ok(), json!({}));
    assert_eq!(resolved(&bob, "#place:localhost:8008").await, new);
    let levels = alice.state(&old, "m.room.power_levels", "").await.ok();
    assert_eq!((&levels["events_default"], &levels["invite"]), (&json!(50), &json!(50)));
    let late = User::register(&server, "late").await;
    late.join(&old).await.ok();
    let hello = json!({ "msgtype": "m.text", "body": "hello?" });
    late.send(&old, "m.room.message", hello).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn creators_can_be_named_and_versions_go_up_and_down() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let first = alice.create_room(json!({ "preset": "private_chat", "creation_content": { "type": "m.space" },
        "initial_state": [{ "type": "m.space.child", "state_key": "!a:localhost", "content": { "via": ["localhost"] } },
                          { "type": "m.space.child", "state_key": "!b:localhost", "content": {} }] })).await;
    let body = json!({ "new_version": "12", "additional_creators": [bob.id] });
    let second = upgrade(&alice, &first, body).await;
    let create = alice.state(&second, "m.room.create", "").await.ok();
    assert_eq!(create["additional_creators"], json!([bob.id]));
    assert_eq!(create["type"], "m.space");
    assert_eq!(create["predecessor"], json!({ "room_id": first }));
    alice.state(&second, "m.space.child", "!a:localhost").await.ok();
    alice.state(&second, "m.space.child", "!b:localhost").await.refused(404, "M_NOT_FOUND");

    let newest = alice.set_state(&second, "m.room.name", "", json!({ "name": "Espace" })).await.ok();
    let third = upgrade(&alice, &second, json!({ "new_version": "10" })).await;
    let create = alice.state(&third, "m.room.create", "").await.ok();
    assert_eq!(create["predecessor"], json!({ "room_id": second, "event_id": newest["event_id"] }));
    assert_eq!((&create["creator"], &create["additional_creators"]), (&json!(alice.id), &Value::Null));
}

#[tokio::test]
async fn an_upgrade_is_refused_as_a_whole() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let path = User::in_room(&room, "upgrade");
    bob.post(&path, &json!({ "new_version": "12" })).await.refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
    bob.post(&path, &json!({ "new_version": "12" })).await.refused(403, "M_FORBIDDEN");
    for (body, status, errcode) in [
        (json!({ "new_version": "99" }), 400, "M_UNSUPPORTED_ROOM_VERSION"),
        (json!({}), 400, "M_BAD_JSON"),
        (json!({ "new_version": "11", "additional_creators": [bob.id] }), 400, "M_INVALID_PARAM"),
        (json!({ "new_version": "12", "additional_creators": ["bob"] }), 400, "M_BAD_JSON"),
    ] {
        alice.post(&path, &body).await.refused(status, errcode);
    }
    alice.state(&room, "m.room.tombstone", "").await.refused(404, "M_NOT_FOUND");
    let unknown = User::in_room("!unknown:localhost:8008", "upgrade");
    alice.post(&unknown, &json!({ "new_version": "12" })).await.refused(404, "M_NOT_FOUND");
}

fn account_data(user: &User, rest: &str) -> String {
    format!("/_matrix/client/v3/user/{}/{rest}", segment(&user.id))
}

/// Account data of a room once it is there.
async fn tags_in(user: &User, room: &str) -> Value {
    let mut synced = json!({ "next_batch": "" });
    let path = account_data(user, &format!("rooms/{}/account_data/m.tag", segment(room)));
    for _ in 0..20 {
        let found = user.get(&path).await;
        if found.status.is_success() {
            return found.body;
        }
        let since = synced["next_batch"].as_str().unwrap().to_owned();
        synced = user.sync(&[("since", &since), ("timeout", "10000")]).await;
    }
    panic!("no tags come over");
}

#[tokio::test]
async fn who_follows_finds_the_room_as_the_old_one_was() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let old = alice.create_room(json!({ "preset": "public_chat", "is_direct": true })).await;
    bob.join(&old).await.ok();
    let tags = json!({ "tags": { "m.favourite": { "order": 0.5 } } });
    for user in [&alice, &bob] {
        let path = account_data(user, &format!("rooms/{}/account_data/m.tag", segment(&old)));
        user.put(&path, &tags).await.ok();
        let direct = json!({ "@friend:example.org": [old] });
        user.put(&account_data(user, "account_data/m.direct"), &direct).await.ok();
        let rule = format!("/_matrix/client/v3/pushrules/global/room/{}", segment(&old));
        user.put(&rule, &json!({ "actions": [] })).await.ok();
    }
    // A room that only calls itself the successor gets nothing.
    let creation = json!({ "predecessor": { "room_id": old, "event_id": "$any" } });
    let forged = alice.create_room(json!({ "preset": "public_chat", "creation_content": creation })).await;
    bob.join(&forged).await.ok();

    let new = upgrade(&alice, &old, json!({ "new_version": "12" })).await;
    bob.join(&new).await.ok();
    for user in [&alice, &bob] {
        assert_eq!(tags_in(user, &new).await, tags);
        let direct = user.get(&account_data(user, "account_data/m.direct")).await.ok();
        assert_eq!(direct, json!({ "@friend:example.org": [old, new] }));
        let rules = user.get("/_matrix/client/v3/pushrules/").await.ok();
        let rooms = rules["global"]["room"].as_array().unwrap();
        let mut ids: Vec<&Value> = rooms.iter().map(|rule| &rule["rule_id"]).collect();
        ids.sort_by_key(|id| **id != json!(old));
        assert_eq!(ids, [&json!(old), &json!(new)]);
        let path = account_data(user, &format!("rooms/{}/account_data/m.tag", segment(&forged)));
        user.get(&path).await.refused(404, "M_NOT_FOUND");
    }
}
