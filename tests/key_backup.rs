//! Server-side key backups: versions, which of two backups of a key is kept, counts and etags.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Caller, Server};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";
const VERSION_PATH: &str = "/_matrix/client/v3/room_keys/version";
const KEYS_PATH: &str = "/_matrix/client/v3/room_keys/keys";
const ROOM: &str = "!room:localhost:8008";

fn description(public_key: &str) -> Value {
    json!({
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": { "public_key": public_key, "signatures": {} },
    })
}

fn key(first_message_index: u64, forwarded_count: u64, is_verified: bool) -> Value {
    json!({
        "first_message_index": first_message_index,
        "forwarded_count": forwarded_count,
        "is_verified": is_verified,
        "session_data": { "ephemeral": "ZXBo", "ciphertext": "Y2lw", "mac": "bWFj" },
    })
}

async fn create(caller: &Caller) -> String {
    let created = caller.post(VERSION_PATH, &description("YWJj")).await.ok();
    created["version"].as_str().unwrap().to_owned()
}

fn keys(version: &str, rest: &str) -> String {
    format!("{KEYS_PATH}{rest}?version={version}")
}

#[tokio::test]
async fn a_backup_is_made_filled_read_and_deleted() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    alice.get(VERSION_PATH).await.refused(404, "M_NOT_FOUND");
    let version = create(&alice).await;
    let info = alice.get(VERSION_PATH).await.ok();
    assert_eq!((&info["version"], &info["count"]), (&json!(version), &json!(0)));
    assert_eq!(info["auth_data"], description("YWJj")["auth_data"]);

    let rooms = json!({ "rooms": {
        ROOM: { "sessions": { "one": key(0, 0, true), "two": key(5, 1, false) } },
        "!other:localhost:8008": { "sessions": { "one": key(1, 0, false) } },
    } });
    let state = alice.put(&keys(&version, ""), &rooms).await.ok();
    assert_eq!(state["count"], 3);
    assert_ne!(state["etag"], info["etag"], "the keys have changed");
    let again = alice.put(&keys(&version, ""), &rooms).await.ok();
    assert_eq!(again, state, "nothing new");
    assert_eq!(alice.get(&keys(&version, "")).await.ok(), rooms);
    let room = alice.get(&keys(&version, &format!("/{ROOM}"))).await.ok();
    assert_eq!(room, rooms["rooms"][ROOM]);
    let one = alice.get(&keys(&version, &format!("/{ROOM}/two"))).await.ok();
    assert_eq!(one, key(5, 1, false));
    let empty = alice.get(&keys(&version, "/!empty:localhost:8008")).await.ok();
    assert_eq!(empty, json!({ "sessions": {} }));
    alice.get(&keys(&version, &format!("/{ROOM}/none"))).await.refused(404, "M_NOT_FOUND");

    let state = alice.delete(&keys(&version, &format!("/{ROOM}/one")), &json!({})).await.ok();
    assert_eq!(state["count"], 2);
    let state = alice.delete(&keys(&version, &format!("/{ROOM}")), &json!({})).await.ok();
    assert_eq!(state["count"], 1);
    let server = server.crash_and_restart();
    let alice = server.caller(alice.access_token.as_deref().unwrap());
    assert_eq!(alice.get(VERSION_PATH).await.ok()["count"], 1);
    let state = alice.delete(&keys(&version, ""), &json!({})).await.ok();
    assert_eq!(state["count"], 0);
    assert_eq!(alice.get(&keys(&version, "")).await.ok(), json!({ "rooms": {} }));
}

#[tokio::test]
async fn the_better_backup_of_a_key_is_kept() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let version = create(&alice).await;
    let path = keys(&version, &format!("/{ROOM}/session"));
    // What is there, what is offered, and whether it takes the place.
    let cases = [
        (key(5, 5, false), key(9, 9, true), true),
        (key(5, 5, true), key(0, 0, false), false),
        (key(5, 5, true), key(4, 9, true), true),
        (key(5, 5, true), key(6, 0, true), false),
        (key(5, 5, false), key(5, 4, false), true),
        (key(5, 5, false), key(5, 5, false), false),
        (key(5, 5, false), key(5, 6, false), false),
    ];
    for (stored, offered, replaces) in cases {
        alice.delete(&path, &json!({})).await.ok();
        let before = alice.put(&path, &stored).await.ok();
        let after = alice.put(&path, &offered).await.ok();
        let expected = if replaces { &offered } else { &stored };
        assert_eq!(&alice.get(&path).await.ok(), expected, "{stored} then {offered}");
        assert_eq!(before["etag"] != after["etag"], replaces, "the etag changes with the keys");
        assert_eq!(after["count"], 1);
    }
}

#[tokio::test]
async fn only_the_newest_backup_is_written_to() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let first = create(&alice).await;
    alice.put(&keys(&first, &format!("/{ROOM}/one")), &key(0, 0, true)).await.ok();
    let second = create(&alice).await;
    assert_ne!(first, second);
    let refused = alice.put(&keys(&first, &format!("/{ROOM}/two")), &key(0, 0, true)).await;
    let body = refused.refused(403, "M_WRONG_ROOM_KEYS_VERSION");
    assert_eq!(body["current_version"], json!(second));
    assert_eq!(
        alice.get(&keys(&first, &format!("/{ROOM}/one"))).await.ok(),
        key(0, 0, true),
        "the old one is readable"
    );

    alice.delete(&format!("{VERSION_PATH}/{second}"), &json!({})).await.ok();
    assert_eq!(
        alice.get(VERSION_PATH).await.ok()["version"],
        json!(first),
        "the one before is the newest again"
    );
    alice.get(&format!("{VERSION_PATH}/{second}")).await.refused(404, "M_NOT_FOUND");
    alice.put(&keys(&second, &format!("/{ROOM}/two")), &key(0, 0, true)).await.refused(404, "M_NOT_FOUND");
    let third = create(&alice).await;
    assert!(third != first && third != second, "no version is given twice");
}

#[tokio::test]
async fn a_backups_description_changes_but_not_its_algorithm() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let version = create(&alice).await;
    let path = format!("{VERSION_PATH}/{version}");
    alice.put(&path, &description("ZGVm")).await.ok();
    assert_eq!(alice.get(&path).await.ok()["auth_data"]["public_key"], "ZGVm");
    let mut other = description("ZGVm");
    other["algorithm"] = json!("org.example.other");
    alice.put(&path, &other).await.refused(400, "M_INVALID_PARAM");
    alice.put(&format!("{VERSION_PATH}/99"), &description("ZGVm")).await.refused(404, "M_NOT_FOUND");
    alice.get(&format!("{VERSION_PATH}/not-a-number")).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_backup_is_its_owners() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let bob = server.register("bob", PASSWORD).await;
    let version = create(&alice).await;
    alice.put(&keys(&version, &format!("/{ROOM}/one")), &key(0, 0, true)).await.ok();
    bob.get(VERSION_PATH).await.refused(404, "M_NOT_FOUND");
    bob.get(&keys(&version, "")).await.refused(404, "M_NOT_FOUND");
    bob.delete(&format!("{VERSION_PATH}/{version}"), &json!({})).await.refused(404, "M_NOT_FOUND");
    server.anonymous().get(VERSION_PATH).await.refused(401, "M_MISSING_TOKEN");
    assert_eq!(alice.get(VERSION_PATH).await.ok()["count"], 1);
}

#[tokio::test]
async fn malformed_keys_are_refused_and_nothing_of_them_is_kept() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let version = create(&alice).await;
    let mut without_data = key(0, 0, true);
    without_data.as_object_mut().unwrap().remove("session_data");
    let rooms =
        json!({ "rooms": { ROOM: { "sessions": { "good": key(0, 0, true), "bad": without_data } } } });
    alice.put(&keys(&version, ""), &rooms).await.refused(400, "M_INVALID_PARAM");
    assert_eq!(alice.get(VERSION_PATH).await.ok()["count"], 0, "all or nothing");
    let long = "x".repeat(300);
    alice
        .put(&keys(&version, &format!("/{ROOM}/{long}")), &key(0, 0, true))
        .await
        .refused(413, "M_TOO_LARGE");
    let mut large = key(0, 0, true);
    large["session_data"]["ciphertext"] = json!("x".repeat(70_000));
    alice.put(&keys(&version, &format!("/{ROOM}/large")), &large).await.refused(413, "M_TOO_LARGE");
    alice
        .post(VERSION_PATH, &json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2" }))
        .await
        .refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn devices_that_back_up_at_once_are_all_counted() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let version = create(&alice).await;
    let uploads = (0..20).map(|upload| {
        let (alice, path) = (alice.clone(), keys(&version, &format!("/{ROOM}/session{}", upload % 10)));
        tokio::spawn(async move { alice.put(&path, &key(0, 0, true)).await.ok() })
    });
    for upload in uploads.collect::<Vec<_>>() {
        upload.await.unwrap();
    }
    assert_eq!(alice.get(VERSION_PATH).await.ok()["count"], 10);
    let stored = alice.get(&keys(&version, "")).await.ok();
    assert_eq!(stored["rooms"][ROOM]["sessions"].as_object().unwrap().len(), 10);
}
