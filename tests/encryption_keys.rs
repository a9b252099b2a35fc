//! The keys of devices and users, and messages to devices: what is handed out once, what is refused, and what a crash may not touch.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use entente_tests::{Key, Server, User, bodies, fresh_id, segment};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const BASE: &str = "/_matrix/client/v3";
const PASSWORD: &str = "correct horse battery staple";

/// A user with a device that has an identity.
struct Person {
    user: User,
    device: Key,
}

impl Person {
    async fn new(server: &Server, name: &str) -> Self {
        Self { user: User::register(server, name).await, device: Key::generate() }
    }

    fn key_id(&self) -> String {
        format!("ed25519:{}", self.user.device_id)
    }

    fn signed(&self, mut object: Value) -> Value {
        self.device.sign(&mut object, &self.user, &self.key_id());
        object
    }

    fn device_keys(&self) -> Value {
        let device_id = &self.user.device_id;
        self.signed(json!({
            "user_id": self.user.id, "device_id": device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": { format!("curve25519:{device_id}"): "Y3VydmU", self.key_id(): self.device.public() },
        }))
    }

    fn one_time_keys(&self, numbers: std::ops::Range<usize>) -> Value {
        let key = |number| {
            (format!("signed_curve25519:{number}"), self.signed(json!({ "key": format!("key {number}") })))
        };
        numbers.map(key).collect::<serde_json::Map<_, _>>().into()
    }

    async fn upload(&self, keys: Value) -> entente_tests::Answer {
        self.user.post(&format!("{BASE}/keys/upload"), &keys).await
    }

    async fn upload_identity(&self) {
        self.upload(json!({ "device_keys": self.device_keys() })).await.ok();
    }

    /// How many one-time keys the server says are left, and of which algorithms there is an unused fallback key.
    async fn left(&self) -> (u64, Value) {
        let synced = self.user.sync(&[]).await;
        let count = synced["device_one_time_keys_count"]["signed_curve25519"].as_u64().unwrap();
        (count, synced["device_unused_fallback_key_types"].clone())
    }
}

async fn keys_of(reader: &User, user: &User) -> Value {
    let query = json!({ "device_keys": { user.id.clone(): [] } });
    reader.post(&format!("{BASE}/keys/query"), &query).await.ok()
}

/// The id of a claimed key, if the server is there and has one.
async fn claim(reader: &User, of: &User) -> Option<String> {
    let body = json!({ "one_time_keys": { of.id.clone(): { of.device_id.clone(): "signed_curve25519" } } });
    let request = reader.request(Method::POST, &format!("{BASE}/keys/claim")).json(&body);
    let answer: Value = request.send().await.ok()?.json().await.ok()?;
    let claimed = answer["one_time_keys"][&of.id][&of.device_id].as_object()?;
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    claimed.keys().next().cloned()
}

async fn encrypted_room(alice: &User, others: &[&User]) -> String {
    let encryption =
        json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": [encryption] })).await;
    for other in others {
        other.join(&room).await.ok();
    }
    room
}

async fn next(user: &User) -> String {
    user.sync(&[]).await["next_batch"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn device_keys_are_shown_as_their_device_signed_them() {
    let server = Server::open();
    let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
    encrypted_room(&alice.user, &[&bob.user]).await;
    let since = next(&bob.user).await;

    let forged = |change: fn(&mut Value)| {
        let mut keys = alice.device_keys();
        change(&mut keys);
        json!({ "device_keys": keys })
    };
    for wrong in [
        forged(|keys| keys["algorithms"] = json!(["none"])),
        forged(|keys| keys["device_id"] = json!("OTHER")),
        forged(|keys| keys["user_id"] = json!("@bob:localhost:8008")),
        forged(|keys| keys["signatures"] = json!({})),
        forged(|keys| keys["keys"] = json!({})),
        json!({ "device_keys": bob.device_keys() }),
        json!({ "device_keys": "none" }),
    ] {
        let answer = alice.upload(wrong.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong} {}", answer.body);
    }
    assert_eq!(keys_of(&bob.user, &alice.user).await["device_keys"][&alice.user.id], json!({}));

    // Signatures of others that come with it are not kept, as nobody checked them.
    let mut keys = alice.device_keys();
    bob.device.sign(&mut keys, &bob.user, &bob.key_id());
    alice.upload(json!({ "device_keys": keys })).await.ok();
    let told = bob.user.sync(&[("since", &since), ("timeout", "10000")]).await;
    assert_eq!(told["device_lists"]["changed"], json!([alice.user.id]));
    let name = format!("{BASE}/devices/{}", alice.user.device_id);
    alice.user.put(&name, &json!({ "display_name": "Téléphone" })).await.ok();
    let mut shown =
        keys_of(&bob.user, &alice.user).await["device_keys"][&alice.user.id][&alice.user.device_id].clone();
    assert_eq!(shown["unsigned"]["device_display_name"], "Téléphone");
    shown.as_object_mut().unwrap().remove("unsigned");
    assert_eq!(shown, alice.device_keys());

    // The same keys again are no news, and a crash takes nothing.
    let since = next(&bob.user).await;
    alice.upload_identity().await;
    let server = server.crash_and_restart();
    let (alice_user, bob_user) = (alice.user.at(&server), bob.user.at(&server));
    assert_eq!(bob_user.sync(&[("since", &since)]).await["device_lists"], Value::Null);
    let shown = &keys_of(&bob_user, &alice_user).await["device_keys"][&alice.user.id][&alice.user.device_id];
    assert_eq!(shown["signatures"], alice.device_keys()["signatures"]);
    let unknown = json!({ "device_keys": { alice.user.id.clone(): ["NONE"], "@nobody:localhost:8008": [] } });
    let found = bob_user.post(&format!("{BASE}/keys/query"), &unknown).await.ok();
    assert_eq!(found["device_keys"][&alice.user.id], json!({}));
}

#[tokio::test]
async fn a_one_time_key_is_given_to_one_only_and_the_fallback_key_to_the_rest() {
    let server = Server::open();
    let (alice, bob) = (Person::new(&server, "alice").await, User::register(&server, "bob").await);
    alice.upload_identity().await;
    let fallback =
        json!({ "signed_curve25519:spare": alice.signed(json!({ "key": "spare", "fallback": true })) });
    let upload = json!({ "one_time_keys": alice.one_time_keys(0..40), "fallback_keys": fallback });
    let counted = alice.upload(upload.clone()).await.ok();
    assert_eq!(counted, json!({ "one_time_key_counts": { "signed_curve25519": 40 } }));
    assert_eq!(alice.left().await, (40, json!(["signed_curve25519"])));

    // Not signed, signed in another device's name, or another key under a name that is taken: nothing of such an upload is kept.
    let stranger = Key::generate();
    let mut foreign = json!({ "key": "x" });
    stranger.sign(&mut foreign, &alice.user, "ed25519:STRANGER");
    for (name, key) in [
        ("signed_curve25519:new", json!({ "key": "x" })),
        ("signed_curve25519:new", foreign),
        ("signed_curve25519:7", alice.signed(json!({ "key": "another" }))),
        ("nonsense", alice.signed(json!({ "key": "x" }))),
    ] {
        let mut keys = alice.one_time_keys(90..92);
        keys[name] = key;
        let answer = alice.upload(json!({ "one_time_keys": keys })).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name} {}", answer.body);
    }
    alice.upload(upload).await.ok();
    assert_eq!(alice.left().await.0, 40, "the same keys again are the same keys");

    let claims: Vec<_> = (0..60)
        .map(|_| {
            let (bob, alice) = (bob.clone(), alice.user.clone());
            tokio::spawn(async move { claim(&bob, &alice).await.unwrap() })
        })
        .collect();
    let mut claimed = Vec::new();
    for one in claims {
        claimed.push(one.await.unwrap());
    }
    let spare = claimed.iter().filter(|key_id| *key_id == "signed_curve25519:spare").count();
    let different: BTreeSet<&String> = claimed.iter().collect();
    assert_eq!((spare, different.len()), (20, 41));
    assert_eq!(alice.left().await, (0, json!([])));

    // A client that never heard of its upload sends the same keys again: those that somebody has stay gone.
    let again = alice.upload(json!({ "one_time_keys": alice.one_time_keys(38..42) })).await.ok();
    assert_eq!(again["one_time_key_counts"]["signed_curve25519"], 2);
    let late = [claim(&bob, &alice.user).await.unwrap(), claim(&bob, &alice.user).await.unwrap()];
    assert_eq!(
        BTreeSet::from(late),
        BTreeSet::from(["signed_curve25519:40", "signed_curve25519:41"].map(String::from))
    );
}

#[tokio::test]
async fn no_key_is_given_twice_over_a_crash() {
    const KEYS: usize = 400;
    let server = Server::open();
    let (alice, bob) = (Person::new(&server, "alice").await, User::register(&server, "bob").await);
    alice.upload_identity().await;
    alice.upload(json!({ "one_time_keys": alice.one_time_keys(0..KEYS) })).await.ok();
    let answered = Arc::new(AtomicUsize::new(0));
    let claimers: Vec<_> = (0..8)
        .map(|_| {
            let (bob, alice, answered) = (bob.clone(), alice.user.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                while let Some(key_id) = claim(&bob, &alice).await {
                    claimed.push(key_id);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                claimed
            })
        })
        .collect();
    while answered.load(Ordering::SeqCst) < 60 {
        tokio::task::yield_now().await;
    }
    let server = server.crash_and_restart();
    let mut claimed = Vec::new();
    for claimer in claimers {
        claimed.extend(claimer.await.unwrap());
    }
    let before = claimed.len();
    assert!((60..KEYS).contains(&before), "{before} claimed before the crash");
    let (bob, alice_user) = (bob.at(&server), alice.user.at(&server));
    while let Some(key_id) = claim(&bob, &alice_user).await {
        claimed.push(key_id);
    }
    let different: BTreeSet<&String> = claimed.iter().collect();
    assert_eq!(different.len(), claimed.len(), "a key was given twice");
    // Each claimer may have missed one answer.
    assert!(claimed.len() >= KEYS - 8, "{} of {KEYS}", claimed.len());
}

/// The cross-signing keys of a user.
struct CrossSigning {
    master: Key,
    self_signing: Key,
    user_signing: Key,
}

fn id(key: &Key) -> String {
    format!("ed25519:{}", key.public())
}

impl CrossSigning {
    fn new() -> Self {
        Self { master: Key::generate(), self_signing: Key::generate(), user_signing: Key::generate() }
    }

    fn key(user: &User, usage: &str, key: &Key) -> Value {
        json!({ "user_id": user.id, "usage": [usage], "keys": { id(key): key.public() } })
    }

    fn body(&self, user: &User) -> Value {
        let below = |usage: &str, key: &Key| {
            let mut object = Self::key(user, usage, key);
            self.master.sign(&mut object, user, &id(&self.master));
            object
        };
        json!({
            "master_key": Self::key(user, "master", &self.master),
            "self_signing_key": below("self_signing", &self.self_signing),
            "user_signing_key": below("user_signing", &self.user_signing),
        })
    }
}

#[tokio::test]
async fn cross_signing_keys_are_replaced_by_whom_they_belong_to() {
    let server = Server::open();
    let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
    alice.upload_identity().await;
    encrypted_room(&alice.user, &[&bob.user]).await;
    let path = format!("{BASE}/keys/device_signing/upload");
    let (own, foreign) = (CrossSigning::new(), CrossSigning::new());

    // What does not hold together is refused.
    let mut unsigned = own.body(&alice.user);
    unsigned["self_signing_key"]["signatures"] = json!({});
    alice.user.post(&path, &unsigned).await.refused(400, "M_INVALID_SIGNATURE");
    let mut of_another = own.body(&alice.user);
    of_another["user_signing_key"] = foreign.body(&alice.user)["user_signing_key"].clone();
    alice.user.post(&path, &of_another).await.refused(400, "M_INVALID_SIGNATURE");
    alice.user.post(&path, &own.body(&bob.user)).await.refused(400, "M_INVALID_PARAM");
    let mut alone = own.body(&alice.user);
    alone.as_object_mut().unwrap().remove("master_key");
    alice.user.post(&path, &alone).await.refused(400, "M_INVALID_PARAM");
    let mut misused = own.body(&alice.user);
    misused["master_key"]["usage"] = json!(["self_signing"]);
    alice.user.post(&path, &misused).await.refused(400, "M_INVALID_PARAM");
    assert_eq!(
        keys_of(&alice.user, &alice.user).await["master_keys"],
        json!({}),
        "nothing of all that is kept"
    );

    // The first need no proof, the same again neither; others do.
    let since = next(&bob.user).await;
    alice.user.post(&path, &own.body(&alice.user)).await.ok();
    let told = bob.user.sync(&[("since", &since), ("timeout", "10000")]).await;
    assert_eq!(told["device_lists"]["changed"], json!([alice.user.id]));
    alice.user.post(&path, &own.body(&alice.user)).await.ok();
    let asked = alice.user.post(&path, &foreign.body(&alice.user)).await;
    assert_eq!(asked.status, StatusCode::UNAUTHORIZED, "{}", asked.body);
    let wrong =
        alice.user.prove_and(Method::POST, &path, foreign.body(&alice.user), "alice", "a wrong one").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED, "{}", wrong.body);
    let seen = keys_of(&bob.user, &alice.user).await;
    assert_eq!(seen["master_keys"][&alice.user.id]["keys"], own.body(&alice.user)["master_key"]["keys"]);
    assert_eq!(seen["user_signing_keys"], json!({}), "whom a user signed is their own affair");
    assert!(keys_of(&alice.user, &alice.user).await["user_signing_keys"][&alice.user.id].is_object());

    alice.user.prove_and(Method::POST, &path, foreign.body(&alice.user), "alice", PASSWORD).await.ok();
    let seen = keys_of(&bob.user, &alice.user).await;
    assert_eq!(seen["master_keys"][&alice.user.id]["keys"], foreign.body(&alice.user)["master_key"]["keys"]);
    assert_eq!(seen["self_signing_keys"][&alice.user.id], foreign.body(&alice.user)["self_signing_key"]);
}

#[tokio::test]
async fn signatures_are_kept_if_they_are_some_and_shown_to_whom_they_concern() {
    let server = Server::open();
    let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
    let carol = User::register(&server, "carol").await;
    encrypted_room(&alice.user, &[&bob.user, &carol]).await;
    let (of_alice, of_bob) = (CrossSigning::new(), CrossSigning::new());
    for (person, keys) in [(&alice, &of_alice), (&bob, &of_bob)] {
        person.upload_identity().await;
        person.user.post(&format!("{BASE}/keys/device_signing/upload"), &keys.body(&person.user)).await.ok();
    }
    let path = format!("{BASE}/keys/signatures/upload");
    let device_id = &alice.user.device_id;
    let failure =
        |answer: &Value, owner: &User, key_id: &str| answer["failures"][&owner.id][key_id]["errcode"].clone();

    // A device is signed by its user's self-signing key, and by nothing else.
    for (signer, expected) in [
        (&of_alice.user_signing, Some("M_INVALID_SIGNATURE")),
        (&of_bob.self_signing, Some("M_INVALID_SIGNATURE")),
        (&of_alice.self_signing, None),
    ] {
        let mut device = alice.device_keys();
        signer.sign(&mut device, &alice.user, &id(signer));
        let answer =
            alice.user.post(&path, &json!({ alice.user.id.clone(): { device_id: device } })).await.ok();
        assert_eq!(
            failure(&answer, &alice.user, device_id),
            expected.map_or(Value::Null, |code| json!(code))
        );
    }
    let signed = |seen: &Value, key: &Key| {
        seen["device_keys"][&alice.user.id][device_id]["signatures"][&alice.user.id][id(key)].clone()
    };
    let seen = keys_of(&carol, &alice.user).await;
    assert_eq!(signed(&seen, &of_alice.self_signing), of_alice.self_signing.signature(&alice.device_keys()));
    assert_eq!(signed(&seen, &of_alice.user_signing), Value::Null);

    // One forged, one of a key that is not there, one of an altered key, one right: each is told for itself.
    let bobs_master = of_bob.master.public();
    let mut master = of_bob.body(&bob.user)["master_key"].clone();
    let mut forged = alice.device_keys();
    forged["signatures"][&alice.user.id][id(&of_alice.self_signing)] = json!("AAAA");
    let mut altered = alice.device_keys();
    altered["algorithms"] = json!([]);
    of_alice.self_signing.sign(&mut altered, &alice.user, &id(&of_alice.self_signing));
    of_alice.user_signing.sign(&mut master, &alice.user, &id(&of_alice.user_signing));
    for wrong in [forged, altered] {
        let answer =
            alice.user.post(&path, &json!({ alice.user.id.clone(): { device_id: wrong } })).await.ok();
        assert_eq!(failure(&answer, &alice.user, device_id), "M_INVALID_SIGNATURE");
    }
    let (since, carols) = (next(&alice.user).await, next(&carol).await);
    let body = json!({
        alice.user.id.clone(): { "NONE": alice.device_keys() },
        bob.user.id.clone(): { bobs_master.clone(): master },
    });
    let answer = alice.user.post(&path, &body).await.ok();
    assert_eq!(failure(&answer, &alice.user, "NONE"), "M_NOT_FOUND");
    assert_eq!(failure(&answer, &bob.user, &bobs_master), Value::Null);

    // That alice trusts bob is for her own devices.
    let of = |seen: &Value| seen["master_keys"][&bob.user.id]["signatures"][&alice.user.id].clone();
    assert_eq!(
        of(&keys_of(&alice.user, &bob.user).await),
        json!({ id(&of_alice.user_signing): of_alice.user_signing.signature(&of_bob.body(&bob.user)["master_key"]) })
    );
    for other in [&carol, &bob.user] {
        assert_eq!(of(&keys_of(other, &bob.user).await), Value::Null);
    }
    let told = alice.user.sync(&[("since", &since), ("timeout", "10000")]).await;
    assert_eq!(told["device_lists"]["changed"], json!([bob.user.id]));
    assert_eq!(carol.sync(&[("since", &carols)]).await["device_lists"], Value::Null);
}

#[tokio::test]
async fn changes_between_two_tokens_are_told() {
    let server = Server::open();
    let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
    let carol = User::register(&server, "carol").await;
    let room = encrypted_room(&alice.user, &[&carol]).await;
    let changes = async |from: &str, to: &str| {
        let path = format!("{BASE}/keys/changes?from={}&to={}", segment(from), segment(to));
        alice.user.get(&path).await.ok()
    };
    let start = next(&alice.user).await;
    bob.upload_identity().await;
    let apart = next(&alice.user).await;
    assert_eq!(changes(&start, &apart).await, json!({ "changed": [], "left": [] }), "they share no room");
    bob.user.join(&room).await.ok();
    let together = next(&alice.user).await;
    assert_eq!(changes(&apart, &together).await, json!({ "changed": [bob.user.id], "left": [] }));
    carol.membership(&room, "leave", json!({})).await.ok();
    let later = next(&alice.user).await;
    assert_eq!(changes(&together, &later).await, json!({ "changed": [], "left": [carol.id] }));
    bob.user.post(&format!("{BASE}/logout"), &json!({})).await.ok();
    let told = alice.user.sync(&[("since", &later), ("timeout", "10000")]).await;
    assert_eq!(told["device_lists"]["changed"], json!([bob.user.id]), "a device that is gone is a change");
    alice.user.get(&format!("{BASE}/keys/changes?from=x&to={later}")).await.refused(400, "M_INVALID_PARAM");
}

/// Sends a message to a device under a transaction id.
async fn send(from: &User, to: &User, device: &str, transaction: &str, body: &str) -> entente_tests::Answer {
    let path = format!("{BASE}/sendToDevice/org.example.test/{transaction}");
    from.put(&path, &json!({ "messages": { to.id.clone(): { device: { "body": body } } } })).await
}

#[tokio::test]
async fn messages_come_in_order_once_and_until_they_arrived() {
    const MESSAGES: usize = 700;
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let start = next(&bob).await;
    let mut sent = Vec::new();
    for number in 0..MESSAGES {
        let (body, transaction) = (number.to_string(), fresh_id());
        let device = if number % 2 == 0 { "*" } else { &bob.device_id };
        send(&alice, &bob, device, &transaction, &body).await.ok();
        if number % 50 == 0 {
            // An answer that was lost: the client repeats itself.
            send(&alice, &bob, device, &transaction, &body).await.ok();
        }
        sent.push(body);
    }
    // The answers are lost until the second time, and a crash lies between.
    let first = bob.sync(&[("since", &start)]).await;
    let server = server.crash_and_restart();
    let (alice, bob) = (alice.at(&server), bob.at(&server));
    let again = bob.sync(&[("since", &start)]).await;
    assert_eq!(bodies(&again["to_device"]["events"]), bodies(&first["to_device"]["events"]));
    let mut seen: Vec<String> = Vec::new();
    let mut since = start.clone();
    while seen.len() < MESSAGES {
        let synced = bob.sync(&[("since", &since)]).await;
        let events = &synced["to_device"]["events"];
        let more = bodies(events);
        assert!((1..=500).contains(&more.len()), "{}", more.len());
        assert_eq!(
            (&events[0]["sender"], &events[0]["type"]),
            (&json!(alice.id), &json!("org.example.test"))
        );
        seen.extend(more.into_iter().map(str::to_owned));
        synced["next_batch"].as_str().unwrap().clone_into(&mut since);
    }
    assert_eq!(seen, sent);
    // Coming back with the last token says that all arrived: then they are gone for good.
    assert_eq!(bob.sync(&[("since", &since)]).await["to_device"], Value::Null);
    assert_eq!(bob.sync(&[("since", &start)]).await["to_device"], Value::Null);

    // A request that is repeated after a crash was sent once, and what is no message is refused.
    send(&alice, &bob, "*", "twice", "once").await.ok();
    let server = server.crash_and_restart();
    let (alice, bob) = (alice.at(&server), bob.at(&server));
    send(&alice, &bob, "*", "twice", "once").await.ok();
    assert_eq!(bodies(&bob.sync(&[("since", &since)]).await["to_device"]["events"]), ["once"]);
    send(&alice, &bob, "NONE", &fresh_id(), "nobody").await.ok();
    let path = format!("{BASE}/sendToDevice/org.example.test/{}", fresh_id());
    let body = json!({ "messages": { bob.id.clone(): { "*": "no object" } } });
    let refused = alice.put(&path, &body).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.body);
    let long = send(&alice, &bob, "*", &"x".repeat(256), "long").await;
    assert_eq!(long.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", long.body);
    server.anonymous().put(&path, &body).await.refused(401, "M_MISSING_TOKEN");
}
