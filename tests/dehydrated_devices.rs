//! Dehydrated devices (MSC3814): a device that no client runs takes messages, and another client reads them.

use entente_tests::{Key, Server, User, bodies, fresh_id, segment};
use serde_json::{Value, json};

const PATH: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// Messages of one page.
const PAGE: usize = 200;

/// A dehydrated device as clients make it.
struct Device {
    id: String,
    pair: Key,
}

impl Device {
    fn new() -> Self {
        // Curve25519 keys look the same, and name such devices.
        Self { id: Key::generate().public(), pair: Key::generate() }
    }

    fn signed(&self, user: &User, mut object: Value) -> Value {
        self.pair.sign(&mut object, user, &format!("ed25519:{}", self.id));
        object
    }

    fn keys(&self, user: &User) -> Value {
        self.signed(
            user,
            json!({
                "user_id": user.id, "device_id": self.id, "dehydrated": true,
                "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
                "keys": { format!("curve25519:{}", self.id): self.id, format!("ed25519:{}", self.id): self.pair.public() },
            }),
        )
    }

    fn body(&self, user: &User) -> Value {
        json!({
            "device_id": self.id,
            "initial_device_display_name": "Dehydrated device",
            "device_data": { "algorithm": "org.matrix.msc3814.v2", "device_pickle": "c2VjcmV0", "nonce": "bm9uY2U" },
            "device_keys": self.keys(user),
            "one_time_keys": { "signed_curve25519:AAAAAA": self.signed(user, json!({ "key": "b25l" })) },
            "fallback_keys": { "signed_curve25519:AAAAAB": self.signed(user, json!({ "key": "c3BhcmU", "fallback": true })) },
        })
    }

    fn events(&self) -> String {
        format!("{PATH}/{}/events", segment(&self.id))
    }
}

async fn keys_of(reader: &User, user: &User) -> Value {
    let query = json!({ "device_keys": { user.id.clone(): [] } });
    reader.post("/_matrix/client/v3/keys/query", &query).await.ok()
}

async fn claim(reader: &User, user: &User, device_id: &str) -> Value {
    let claim = json!({ "one_time_keys": { user.id.clone(): { device_id: "signed_curve25519" } } });
    let claimed = reader.post("/_matrix/client/v3/keys/claim", &claim).await.ok();
    claimed["one_time_keys"][&user.id][device_id].clone()
}

async fn send(sender: &User, user: &User, device_id: &str, body: &str) {
    let path = format!("/_matrix/client/v3/sendToDevice/m.room.encrypted/{}", fresh_id());
    let messages = json!({ "messages": { user.id.clone(): { device_id: { "body": body } } } });
    sender.put(&path, &messages).await.ok();
}

#[tokio::test]
async fn a_device_is_kept_seen_and_woken() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice
        .create_room(json!({ "preset": "public_chat", "initial_state": [
        { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }] }))
        .await;
    bob.join(&room).await.ok();
    alice.get(PATH).await.refused(404, "M_NOT_FOUND");
    alice.delete(PATH, &json!({})).await.refused(404, "M_NOT_FOUND");
    let since = bob.sync(&[]).await["next_batch"].as_str().unwrap().to_owned();

    let device = Device::new();
    assert_eq!(alice.put(PATH, &device.body(&alice)).await.ok(), json!({ "device_id": device.id }));
    let kept = alice.get(PATH).await.ok();
    assert_eq!(kept["device_id"], device.id);
    assert_eq!(kept["device_data"], device.body(&alice)["device_data"]);
    assert_eq!(bob.sync(&[("since", &since)]).await["device_lists"]["changed"], json!([alice.id]));

    let shown = &keys_of(&bob, &alice).await["device_keys"][&alice.id][&device.id];
    assert_eq!(
        (&shown["dehydrated"], &shown["unsigned"]["device_display_name"]),
        (&json!(true), &json!("Dehydrated device"))
    );
    assert_eq!(claim(&bob, &alice, &device.id).await["signed_curve25519:AAAAAA"]["key"], "b25l");
    for _ in 0..2 {
        assert_eq!(claim(&bob, &alice, &device.id).await["signed_curve25519:AAAAAB"]["key"], "c3BhcmU");
    }

    // It is nobody's session, and outlives those there are.
    let devices = alice.get("/_matrix/client/v3/devices").await.ok();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    send(&bob, &alice, &device.id, "for the sleeper").await;
    alice.post("/_matrix/client/v3/logout/all", &json!({})).await.ok();
    let login = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" },
                        "password": "correct horse battery staple" });
    let login = server.anonymous().post("/_matrix/client/v3/login", &login).await.ok();
    let again = server.caller(login["access_token"].as_str().unwrap());
    assert_eq!(again.get(PATH).await.ok()["device_id"], device.id);
    let first = again.post(&device.events(), &json!({})).await.ok();
    assert_eq!(bodies(&first["events"]), ["for the sleeper"]);
    assert_eq!(
        (&first["events"][0]["sender"], &first["events"][0]["type"]),
        (&json!(bob.id), &json!("m.room.encrypted"))
    );
    let second = again.post(&device.events(), &json!({ "next_batch": first["next_batch"] })).await.ok();
    assert_eq!(second["events"], json!([]), "the end is a page without events");
    assert!(second["next_batch"].is_string());
}

#[tokio::test]
async fn messages_are_read_in_pages_and_stay() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let device = Device::new();
    alice.put(PATH, &device.body(&alice)).await.ok();
    let expected: Vec<String> = (0..=PAGE).map(|number| number.to_string()).collect();
    for body in &expected {
        send(&bob, &alice, &device.id, body).await;
    }
    // Twice the same, once in each form: reading deletes nothing.
    let mut path = device.events();
    let mut read = Vec::new();
    loop {
        let page = alice.get(&path).await.ok();
        read.extend(bodies(&page["events"]).into_iter().map(str::to_owned));
        let Some(next) = page["next_batch"].as_str() else { break };
        assert_eq!(read.len(), PAGE);
        path = format!("{}?from={}", device.events(), segment(next));
    }
    assert_eq!(read, expected);
    let (mut read, mut next) = (Vec::new(), json!({}));
    for _ in 0..3 {
        let page = alice.post(&device.events(), &next).await.ok();
        read.extend(bodies(&page["events"]).into_iter().map(str::to_owned));
        next = json!({ "next_batch": page["next_batch"] });
    }
    assert_eq!(read, expected);
    // What comes later is behind the token.
    send(&bob, &alice, "*", "for all").await;
    let page = alice.post(&device.events(), &next).await.ok();
    assert_eq!(bodies(&page["events"]), ["for all"]);
    alice.post(&device.events(), &json!({ "next_batch": "nonsense" })).await.refused(400, "M_INVALID_PARAM");
    alice.get(&format!("{}?from=t9", device.events())).await.refused(400, "M_INVALID_PARAM");
    let foreign = format!("{PATH}/{}/events", alice.device_id);
    alice.post(&foreign, &json!({})).await.refused(403, "M_FORBIDDEN");
    bob.get(&device.events()).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_newer_device_replaces_the_older_with_all_it_had() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let (first, second) = (Device::new(), Device::new());
    alice.put(PATH, &first.body(&alice)).await.ok();
    // Sent again because the answer was lost: nothing comes twice.
    alice.put(PATH, &first.body(&alice)).await.ok();
    send(&bob, &alice, &first.id, "lost").await;
    alice.put(PATH, &second.body(&alice)).await.ok();
    assert_eq!(alice.get(PATH).await.ok()["device_id"], second.id);
    let shown = keys_of(&bob, &alice).await;
    let shown: Vec<&String> = shown["device_keys"][&alice.id].as_object().unwrap().keys().collect();
    assert_eq!(shown, [&second.id]);
    assert_eq!(claim(&bob, &alice, &first.id).await, Value::Null);
    alice.get(&first.events()).await.refused(403, "M_FORBIDDEN");
    assert_eq!(alice.get(&second.events()).await.ok(), json!({ "events": [] }));

    alice.put(PATH, &first.body(&alice)).await.ok();
    assert_eq!(alice.get(&first.events()).await.ok(), json!({ "events": [] }), "what was deleted stays so");
    assert_eq!(alice.delete(PATH, &json!({})).await.ok(), json!({ "device_id": first.id }));
    alice.get(PATH).await.refused(404, "M_NOT_FOUND");
    assert_eq!(keys_of(&bob, &alice).await["device_keys"][&alice.id], json!({}));
    assert_eq!(claim(&bob, &alice, &first.id).await, Value::Null);
}

#[tokio::test]
async fn the_signature_of_the_user_is_shown_if_it_is_one() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let (master, own) = (Key::generate(), Key::generate());
    let id = |pair: &Key| format!("ed25519:{}", pair.public());
    let key = |usage: &str, pair: &Key| json!({ "user_id": alice.id, "usage": [usage], "keys": { id(pair): pair.public() } });
    let mut self_signing = key("self_signing", &own);
    master.sign(&mut self_signing, &alice, &id(&master));
    let upload = json!({ "master_key": key("master", &master), "self_signing_key": self_signing });
    alice.post("/_matrix/client/v3/keys/device_signing/upload", &upload).await.ok();

    for (signer, is_shown) in [(&own, true), (&Key::generate(), false)] {
        let device = Device::new();
        let mut body = device.body(&alice);
        signer.sign(&mut body["device_keys"], &alice, &id(&own));
        alice.put(PATH, &body).await.ok();
        let shown = keys_of(&alice, &alice).await;
        let signatures = &shown["device_keys"][&alice.id][&device.id]["signatures"][&alice.id];
        assert_eq!(signatures.get(id(&own)).is_some(), is_shown, "{signatures}");
        assert!(signatures.get(format!("ed25519:{}", device.id)).is_some());
    }
}

#[tokio::test]
async fn what_is_no_device_is_refused_as_a_whole() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let device = Device::new();
    let with = |field: &str, value: Value| {
        let mut body = device.body(&alice);
        body[field] = value;
        body
    };
    let stranger = Device::new();
    let unsigned = stranger.signed(&alice, json!({ "key": "b25l" }));
    for (body, status, errcode) in [
        (with("device_id", json!("OTHER")), 400, "M_INVALID_PARAM"),
        (with("device_id", json!(alice.device_id)), 400, "M_INVALID_PARAM"),
        (with("device_keys", json!({})), 400, "M_INVALID_PARAM"),
        (with("device_keys", stranger.keys(&alice)), 400, "M_INVALID_PARAM"),
        (with("one_time_keys", json!({ "signed_curve25519:AAAAAA": unsigned })), 400, "M_INVALID_PARAM"),
        (with("device_data", json!("text")), 400, "M_INVALID_PARAM"),
        (with("device_data", json!({ "device_pickle": "c2VjcmV0" })), 400, "M_INVALID_PARAM"),
        (
            with(
                "device_data",
                json!({ "algorithm": "org.matrix.msc3814.v2", "nonce": "x".repeat(300_000) }),
            ),
            413,
            "M_TOO_LARGE",
        ),
        (with("initial_device_display_name", json!("x".repeat(256))), 413, "M_TOO_LARGE"),
        (json!({ "device_id": "A" }), 400, "M_BAD_JSON"),
    ] {
        alice.put(PATH, &body).await.refused(status, errcode);
    }
    alice.get(PATH).await.refused(404, "M_NOT_FOUND");
    assert_eq!(keys_of(&alice, &alice).await["device_keys"][&alice.id], json!({}));
    server.anonymous().get(PATH).await.refused(401, "M_MISSING_TOKEN");
}
