//! Application services whose users encrypt: their devices, keys, and what devices are sent.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Caller, Key, Server, Service, User, fresh_id, segment};
use serde_json::{Value, json};

const BASE: &str = "/_matrix/client/v3";
const MESSAGES: &str = "de.sorunome.msc2409.to_device";
const ENCRYPTING: &str = "org.matrix.msc3202: true\ndevice_management: true\n";

/// A server with one service, and the service as a caller.
fn server_with(registration: &str) -> (Server, Caller) {
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("irc.yaml"), registration).unwrap();
    let server = Server::start(
        directory,
        &[
            ("ENTENTE_REGISTRATION__OPEN", "true"),
            ("ENTENTE_RATE_LIMITS__ENABLED", "false"),
            ("ENTENTE_ACCOUNTS__ARGON2__MEMORY_KIB", "64"),
            ("ENTENTE_ACCOUNTS__ARGON2__ITERATIONS", "1"),
            ("ENTENTE_APPLICATION_SERVICES__REGISTRATIONS", "[\"irc.yaml\"]"),
        ],
    );
    let bridge = server.caller("as-irc");
    (server, bridge)
}

fn id_of(name: &str) -> String {
    format!("@{name}:localhost:8008")
}

/// What says that the service acts as a user, and as which device.
fn acting(name: &str) -> String {
    format!("user_id={}&device_id=BRIDGE", segment(&id_of(name)))
}

/// A user of the service with a device.
async fn make_ghost(bridge: &Caller, name: &str) {
    let body = json!({ "type": "m.login.application_service", "username": name, "inhibit_login": true });
    bridge.post(&format!("{BASE}/register"), &body).await.ok();
    let device = format!("{BASE}/devices/BRIDGE?user_id={}", segment(&id_of(name)));
    assert_eq!(bridge.put(&device, &json!({})).await.status, 201);
}

fn signed(key: &Key, name: &str, mut object: Value) -> Value {
    let signature = key.signature(&object);
    object["signatures"] = json!({ id_of(name): { "ed25519:BRIDGE": signature } });
    object
}

fn device_keys(key: &Key, name: &str) -> Value {
    let keys = json!({
        "user_id": id_of(name), "device_id": "BRIDGE",
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": { "curve25519:BRIDGE": "Y3VydmU", "ed25519:BRIDGE": key.public() },
    });
    signed(key, name, keys)
}

async fn send(from: &User, user_id: &str, device: &str, content: Value) {
    let path = format!("{BASE}/sendToDevice/org.example/{}", fresh_id());
    from.put(&path, &json!({ "messages": { user_id: { device: content } } })).await.ok();
}

fn numbers(messages: &[Value]) -> Vec<u64> {
    messages.iter().map(|message| message["content"]["number"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn what_its_devices_are_sent_comes_to_the_service_once() {
    let service = Service::start();
    let (server, bridge) = server_with(&service.registration("irc", ENCRYPTING));
    let login = json!({
        "type": "m.login.application_service", "identifier": { "type": "m.id.user", "user": "irc_ann" },
    });
    make_ghost(&bridge, "irc_ann").await;
    bridge.post(&format!("{BASE}/login"), &login).await.refused(400, "M_APPSERVICE_LOGIN_UNSUPPORTED");
    let register = json!({ "type": "m.login.application_service", "username": "irc_bob" });
    bridge.post(&format!("{BASE}/register"), &register).await.refused(400, "M_APPSERVICE_LOGIN_UNSUPPORTED");

    let key = Key::generate();
    let one_time: serde_json::Map<String, Value> = (0..3)
        .map(|number| {
            let id = format!("signed_curve25519:{number}");
            (id, signed(&key, "irc_ann", json!({ "key": format!("key {number}") })))
        })
        .collect();
    let upload = json!({ "device_keys": device_keys(&key, "irc_ann"), "one_time_keys": one_time });
    bridge.post(&format!("{BASE}/keys/upload?{}", acting("irc_ann")), &upload).await.ok();
    let alice = User::register(&server, "alice").await;
    send(&alice, &id_of("irc_ann"), "BRIDGE", json!({ "number": 0 })).await;
    service.until("the message", |service| service.listed(MESSAGES).len() == 1).await;
    send(&alice, &id_of("irc_ann"), "*", json!({ "number": 1 })).await;
    service.until("the next message", |service| service.listed(MESSAGES).len() >= 2).await;
    let messages = service.listed(MESSAGES);
    assert_eq!(numbers(&messages), [0, 1], "what it has is not sent again");
    assert_eq!(messages[0]["to_user_id"], id_of("irc_ann"));
    assert_eq!((&messages[0]["to_device_id"], &messages[0]["sender"]), (&json!("BRIDGE"), &json!(alice.id)));
    let told = service.transactions().last().unwrap().body.clone();
    for name in ["device_one_time_keys_count", "device_one_time_key_counts"] {
        let counts = &told[format!("org.matrix.msc3202.{name}")][id_of("irc_ann")]["BRIDGE"];
        assert_eq!(counts["signed_curve25519"], 3, "{told}");
    }
    let fallback = &told["org.matrix.msc3202.device_unused_fallback_key_types"][id_of("irc_ann")]["BRIDGE"];
    assert_eq!(*fallback, json!([]));
}

#[tokio::test]
async fn who_shares_a_name_with_a_service_loses_no_messages() {
    let service = Service::start();
    let registration = service.registration("irc", ENCRYPTING);
    let shared =
        registration.replace("exclusive: true\n    regex: '@irc_.*'", "exclusive: false\n    regex: '@al.*'");
    assert_ne!(shared, registration);
    let (server, _bridge) = server_with(&shared);
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    for number in 0..3 {
        send(&bob, &alice.id, &alice.device_id, json!({ "number": number })).await;
        service.until("a copy", |service| service.listed(MESSAGES).len() > number).await;
    }
    let copies = service.listed(MESSAGES);
    assert_eq!(numbers(&copies), [0, 1, 2], "each once");
    let synced = alice.sync(&[]).await;
    assert_eq!(numbers(synced["to_device"]["events"].as_array().unwrap()), [0, 1, 2]);
}

#[tokio::test]
async fn what_comes_at_once_is_brought_in_parts_that_a_bridge_can_take() {
    let service = Service::start();
    service.refuse(true);
    let (server, bridge) = server_with(&service.registration("irc", ENCRYPTING));
    make_ghost(&bridge, "irc_ann").await;
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let join = format!("{}?{}", User::in_room(&room, "join"), acting("irc_ann"));
    bridge.post(&join, &json!({})).await.ok();
    let filling = "x".repeat(50_000);
    for number in 0..20 {
        send(&alice, &id_of("irc_ann"), "BRIDGE", json!({ "number": number, "filling": filling })).await;
        alice.say(&room, &format!("{number} {filling}")).await;
    }
    service.refuse(false);
    // The pause of a service that was away ends when it asks for something.
    bridge.get(&format!("{BASE}/account/whoami")).await.ok();
    let texts = |service: &Service| {
        let events = service.events();
        let bodies = events.iter().filter_map(|event| event["content"]["body"].as_str());
        bodies.filter_map(|body| body.split(' ').next()?.parse().ok()).collect::<Vec<u64>>()
    };
    service.until("all of it", |service| service.listed(MESSAGES).len() + texts(service).len() >= 40).await;
    let all: Vec<u64> = (0..20).collect();
    assert_eq!(numbers(&service.listed(MESSAGES)), all);
    assert_eq!(texts(&service), all);
    let sizes: Vec<usize> =
        service.transactions().iter().map(|transaction| transaction.body.to_string().len()).collect();
    assert!(sizes.iter().all(|size| *size < 600 * 1024), "{sizes:?}");
}

#[tokio::test]
async fn a_service_hears_with_whom_its_users_share_rooms() {
    let service = Service::start();
    let (server, bridge) = server_with(&service.registration("irc", ENCRYPTING));
    make_ghost(&bridge, "irc_ann").await;
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bridge.post(&format!("{}?{}", User::in_room(&room, "join"), acting("irc_ann")), &json!({})).await.ok();
    let lists = |service: &Service, name: &str, user: &User| {
        let transactions = service.transactions();
        let told = transactions.iter().filter_map(|transaction| {
            transaction.body["org.matrix.msc3202.device_lists"][name].as_array().cloned()
        });
        told.flatten().filter(|user_id| *user_id == user.id.as_str()).count()
    };
    bob.join(&room).await.ok();
    service.until("bob's coming", |service| lists(service, "changed", &bob) == 1).await;
    bob.membership(&room, "leave", json!({})).await.ok();
    service.until("bob's going", |service| lists(service, "left", &bob) == 1).await;
    assert_eq!(lists(&service, "left", &alice), 0);
    bridge.post(&format!("{}?{}", User::in_room(&room, "leave"), acting("irc_ann")), &json!({})).await.ok();
    service.until("the parting from alice", |service| lists(service, "left", &alice) == 1).await;
}

#[tokio::test]
async fn a_service_may_keep_the_keys_of_its_users() {
    let service = Service::start();
    let (server, bridge) = server_with(&service.registration("irc", ENCRYPTING));
    make_ghost(&bridge, "irc_ann").await;
    let alice = User::register(&server, "alice").await;
    let query = json!({ "device_keys": { id_of("irc_ann"): [] } });
    let claim = json!({ "one_time_keys": { id_of("irc_ann"): { "BRIDGE": "signed_curve25519" } } });

    let key = Key::generate();
    let kept = device_keys(&key, "irc_ann");
    let answer = kept.clone();
    service.answer_with("org.matrix.msc3984/keys/query", move |request| {
        assert_eq!(request.body, json!({ id_of("irc_ann"): [] }));
        let foreign = json!({ "user_id": "@alice:localhost:8008", "device_id": "X" });
        let devices = json!({ "BRIDGE": answer, "X": foreign });
        (200, json!({ "device_keys": { id_of("irc_ann"): devices, "@alice:localhost:8008": { "X": foreign } } }))
    });
    let found = alice.post(&format!("{BASE}/keys/query"), &query).await.ok();
    assert_eq!(found["device_keys"], json!({ id_of("irc_ann"): { "BRIDGE": kept } }));

    service.answer_with("org.matrix.msc3983/keys/claim", |request| {
        assert_eq!(request.body, json!({ id_of("irc_ann"): { "BRIDGE": ["signed_curve25519"] } }));
        (200, json!({ id_of("irc_ann"): { "BRIDGE": { "signed_curve25519:theirs": { "key": "k" } } } }))
    });
    let claimed = alice.post(&format!("{BASE}/keys/claim"), &claim).await.ok();
    let of_device = &claimed["one_time_keys"][id_of("irc_ann")]["BRIDGE"];
    assert_eq!(*of_device, json!({ "signed_curve25519:theirs": { "key": "k" } }));

    // What the server keeps goes first.
    let one_time = json!({ "signed_curve25519:ours": signed(&key, "irc_ann", json!({ "key": "o" })) });
    let upload = json!({ "device_keys": kept, "one_time_keys": one_time });
    bridge.post(&format!("{BASE}/keys/upload?{}", acting("irc_ann")), &upload).await.ok();
    for expected in ["signed_curve25519:ours", "signed_curve25519:theirs"] {
        let claimed = alice.post(&format!("{BASE}/keys/claim"), &claim).await.ok();
        assert!(claimed["one_time_keys"][id_of("irc_ann")]["BRIDGE"].get(expected).is_some(), "{claimed}");
    }
}
