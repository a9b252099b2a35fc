//! Servers that mean harm, over TLS: what they send is refused with a line in the log, what they make this server do is bounded, and the
//! room that they attack stays usable. Their events as such are the topic of `homeserver/federation/tests/hostile.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::Write as _,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use entente_tests::{
    Answer, Authority, Peer, PeerAnswer, PeerRoom, SOON, Server, Settings, User, bodies, segment,
};
use futures_util::{StreamExt, future::join_all, stream};
use reqwest::{Body, Method};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, RoomVersionId};
use serde_json::{Value, json};

/// What a server may need more at the most, in bytes, for one that attacks it: a few answers of the greatest size.
const MOST_MEMORY: u64 = 128 * 1024 * 1024;

/// A room of Alice, in which Mallory of another server is.
struct Scene {
    server: Server,
    alice: User,
    room: String,
    evil: Peer,
    mallory: String,
    theirs: PeerRoom,
    memory: u64,
    authority: Authority,
}

impl Scene {
    async fn new(settings: Settings<'_>) -> Self {
        let authority = Authority::new();
        let evil = Peer::start(&authority);
        let mallory = evil.user("mallory");
        Self::with(authority, evil, mallory, settings).await
    }

    async fn with(authority: Authority, evil: Peer, mallory: String, settings: Settings<'_>) -> Self {
        let server = authority.server(settings);
        let alice = User::register(&server, "alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let theirs = evil.join(&server.name(), &room, &mallory).await;
        let memory = server.peak_memory();
        Self { server, alice, room, evil, mallory, theirs, memory, authority }
    }

    /// A message of Mallory that nothing is wrong with.
    fn message(&self, body: &str) -> CanonicalJsonObject {
        self.theirs.message(&self.evil, &self.mallory, body)
    }

    /// A message of Mallory in which some fields are others.
    fn changed(&self, body: &str, fields: Value) -> CanonicalJsonObject {
        let content = json!({ "msgtype": "m.text", "body": body });
        let mut event = self.theirs.unsigned(&self.mallory, "m.room.message", None, content);
        let CanonicalJsonValue::Object(fields) = CanonicalJsonValue::try_from(fields).unwrap() else {
            panic!()
        };
        event.extend(fields);
        self.theirs.sign(&self.evil, event)
    }

    /// Sends events of Mallory, and answers why they were refused, one after the other.
    async fn refused(&self, events: &[CanonicalJsonObject]) -> Vec<String> {
        let refusals = self.evil.send_and_ask(&self.server.name(), events).await;
        events.iter().filter_map(|event| refusals.get(&self.theirs.id_of(event)).cloned()).collect()
    }

    async fn is_logged(&self, line: &str) {
        is_logged(&self.server, line).await;
    }

    /// Everybody can still write and read in the room, and the server has not grown.
    async fn check_usable(&self) {
        self.alice.say(&self.room, "still here").await;
        let event = self.message("so am I");
        assert_eq!(self.refused(&[event]).await, Vec::<String>::new());
        let read = read(&self.alice, &self.room).await;
        assert!(read.contains(&"still here".to_owned()) && read.contains(&"so am I".to_owned()), "{read:?}");
        self.check_memory();
    }

    fn check_memory(&self) {
        let grown = self.server.peak_memory() - self.memory;
        assert!(grown < MOST_MEMORY, "{grown} bytes more than before");
    }
}

async fn read(user: &User, room: &str) -> Vec<String> {
    let page = user.get(&User::in_room(room, "messages?dir=b&limit=100")).await.ok();
    bodies(&page["chunk"]).into_iter().map(str::to_owned).collect()
}

async fn is_logged(server: &Server, line: &str) {
    let logged = tokio::time::timeout(SOON, async {
        while !server.log().contains(line) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(logged.await.is_ok(), "no line says {line:?}\n{}", server.log());
}

/// The id of an event that nobody has.
fn unknown_id(number: usize) -> String {
    format!("${number:043}")
}

fn unknown_ids(first: usize, count: usize) -> Vec<String> {
    (first..first + count).map(unknown_id).collect()
}

/// A room of the other server, with a past, into which Alice goes.
async fn room_elsewhere(scene: &Scene, messages: usize) -> (Arc<Mutex<PeerRoom>>, Vec<CanonicalJsonObject>) {
    let host = scene.evil.user("host");
    let mut room = scene.evil.room(&RoomVersionId::V11);
    let mut past = Vec::new();
    for number in 0..messages {
        let event = room.message(&scene.evil, &host, &number.to_string());
        room.add(&event);
        past.push(event);
    }
    let id = room.id.clone();
    let room = Arc::new(Mutex::new(room));
    scene.evil.host(&room);
    let path = format!("/_matrix/client/v3/join/{}?via={}", segment(&id), segment(&scene.evil.name));
    scene.alice.post(&path, &json!({})).await.ok();
    (room, past)
}

fn answer(body: impl Into<String>) -> PeerAnswer {
    PeerAnswer::Json(200, body.into())
}

#[tokio::test]
async fn what_is_forged_is_refused_over_the_wire_too() {
    let scene = Scene::new(&[]).await;
    let said = scene.alice.say(&scene.room, "the truth").await;
    let other = scene.alice.create_room(json!({})).await;
    let forged = {
        // The signature of another message.
        let mut event = scene.message("forged");
        let mut other = scene.changed("other", json!({ "depth": 77 }));
        event.insert("signatures".to_owned(), other.remove("signatures").unwrap());
        event
    };
    let of_alice = {
        // Signed, but not by the server of whom it is said to be.
        let mut event = scene.message("as alice");
        event.insert("sender".to_owned(), CanonicalJsonValue::String(scene.alice.id.clone()));
        event
    };
    let bad = [
        forged,
        of_alice,
        scene.changed("elsewhere", json!({ "room_id": other })),
        scene.changed("no authority", json!({ "auth_events": unknown_ids(0, 3) })),
        scene.changed("less authority", json!({ "auth_events": [] })),
        scene.changed("authority of another kind", json!({ "auth_events": [said] })),
        scene.changed("before itself", json!({ "prev_events": unknown_ids(0, 1) })),
        scene.changed("depth", json!({ "depth": -1 })),
        scene.changed("no text", json!({ "content": "text" })),
    ];
    for event in &bad {
        let id = scene.theirs.id_of(event);
        let answer = scene.evil.send(&scene.server.name(), std::slice::from_ref(event)).await;
        // An event whose signature is wrong is nobody's: it is not answered for.
        let outcome = &answer.body["pdus"][&id];
        assert!(outcome.is_null() || outcome["error"].is_string(), "{event:?}: {}", answer.body);
    }
    let refusals = |log: String| {
        let is_one = |line: &&str| {
            line.contains("an event is refused") || line.contains("events of a room that nobody here is in")
        };
        log.lines().filter(is_one).count()
    };
    assert!(refusals(scene.server.log()) >= bad.len(), "{}", scene.server.log());
    // Hashed wrongly, it is taken without what it says; with the greatest depth it is an event like others.
    let mut hollow = scene.message("hollow");
    let content = json!({ "msgtype": "m.text", "body": "not hashed" });
    hollow.insert("content".to_owned(), CanonicalJsonValue::try_from(content).unwrap());
    let deep = scene.changed("deep", json!({ "depth": 9_007_199_254_740_991_i64 }));
    assert_eq!(scene.refused(&[hollow, deep]).await, Vec::<String>::new());
    scene.alice.say(&scene.room, "deeper").await;
    let mut read = read(&scene.alice, &scene.room).await;
    read.sort();
    assert_eq!(read, ["deep", "deeper", "the truth"]);
    scene.check_usable().await;
}

#[tokio::test]
async fn answers_that_come_a_byte_a_second_hold_up_nobody_else() {
    let scene = Scene::new(&[("ENTENTE_FEDERATION__REQUEST_TIMEOUT", "3s")]).await;
    let (good, idle) = (Peer::start(&scene.authority), Peer::start(&scene.authority));
    let (bob, name) = (good.user("bob"), scene.server.name());
    let of_good = good.join(&name, &scene.room, &bob).await;

    scene.evil.answer_with("/get_missing_events/", |_| PeerAnswer::Slow(r#"{"events":["#.to_owned()));
    let event = scene.changed("what was before this?", json!({ "prev_events": unknown_ids(0, 1) }));
    let sending = tokio::spawn({
        let (evil, name) = (scene.evil.clone(), name.clone());
        async move { evil.send(&name, &[event]).await }
    });
    let asked = tokio::time::timeout(SOON, async {
        while scene.evil.requests("/get_missing_events/").is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    asked.await.expect("the gap is asked about");
    // Meanwhile the room goes on, also for other servers.
    scene.alice.say(&scene.room, "we go on").await;
    let of_bob = of_good.message(&good, &bob, "so do we");
    assert_eq!(good.send_and_ask(&name, &[of_bob]).await.len(), 0);
    let read_meanwhile = read(&scene.alice, &scene.room).await;
    assert!(!sending.is_finished(), "the answer is still awaited");
    assert_eq!(read_meanwhile, ["so do we", "we go on"]);
    let late = sending.await.unwrap();
    assert_eq!(late.status, 504, "{}", late.body);
    scene.is_logged("an event is left to its server to send again").await;

    // Whoever pages back in a room of such a server gets what is here.
    let mut room = idle.room(&RoomVersionId::V11);
    let host = idle.user("host");
    let before = room.message(&idle, &host, "before");
    room.add(&before);
    let id = room.id.clone();
    idle.host(&Arc::new(Mutex::new(room)));
    idle.answer_with("/backfill/", |_| PeerAnswer::Slow(r#"{"pdus":["#.to_owned()));
    let path = format!("/_matrix/client/v3/join/{}?via={}", segment(&id), segment(&idle.name));
    scene.alice.post(&path, &json!({})).await.ok();
    assert_eq!(read(&scene.alice, &id).await, Vec::<String>::new());
    assert_eq!(idle.requests("/backfill/").len(), 1);
    scene.is_logged("a server does not tell of a room's past").await;
    scene.check_memory();
}

#[tokio::test]
async fn bodies_that_come_a_byte_a_second_are_not_waited_for() {
    let scene = Scene::new(&[("ENTENTE_LIMITS__REQUEST_TIMEOUT", "4s")]).await;
    let name = scene.server.name();
    let slow = |number: usize| {
        let bytes = stream::unfold(0_usize, |sent| async move {
            tokio::time::sleep(Duration::from_millis(if sent == 0 { 0 } else { 1_000 })).await;
            Some((Ok::<_, std::convert::Infallible>(vec![b' ']), sent + 1))
        });
        let target = format!("/_matrix/federation/v1/send/slow{number}");
        let signature = scene.evil.signature(&scene.evil.name, &Method::PUT, &target, &name, None);
        let request = scene.evil.unsigned(&name, Method::PUT, &target).header("Authorization", signature);
        Answer::to(request.body(Body::wrap_stream(bytes.boxed())))
    };
    let attack = join_all((0..50).map(slow));
    let usable = async {
        for _ in 0..5 {
            scene.check_usable().await;
        }
    };
    let (answers, ()) = tokio::join!(attack, usable);
    for answer in answers {
        assert!(matches!(answer.status.as_u16(), 408 | 503 | 504), "{} {}", answer.status, answer.body);
    }
    scene.is_logged("a request took too long").await;
    scene.check_usable().await;
}

/// A body that begins with so many bytes and goes on for ever, a byte in half a minute.
fn stalling(bytes: usize) -> Body {
    let pieces = stream::unfold(bytes, |bytes| async move {
        if bytes == 1 {
            tokio::time::sleep(SOON).await;
        }
        Some((Ok::<_, std::convert::Infallible>(vec![b' '; bytes]), 1))
    });
    Body::wrap_stream(pieces.boxed())
}

#[tokio::test]
async fn what_is_read_at_once_is_bounded() {
    let settings =
        [("ENTENTE_LIMITS__MAX_FEDERATION_BODY", "128 KiB"), ("ENTENTE_LIMITS__REQUEST_TIMEOUT", "5s")];
    let scene = Scene::new(&settings).await;
    let name = scene.server.name();
    let press = |address: u8, number: usize| {
        let target = format!("/_matrix/federation/v1/send/{address}.{number}");
        let signature = scene.evil.signature(&scene.evil.name, &Method::PUT, &target, &name, None);
        let client = scene.authority.client_from(Ipv4Addr::new(127, 0, 0, address));
        let request = client.put(format!("https://{name}{target}")).timeout(4 * SOON);
        Answer::to(request.header("Authorization", signature).body(stalling(100 * 1024)))
    };
    let check = |answers: &[Answer]| {
        for answer in answers {
            let status = answer.status.as_u16();
            assert!(matches!(status, 408 | 429 | 503 | 504), "{status} {}", answer.body);
            let is_to_come_back =
                answer.header("Retry-After").parse::<u64>().is_ok_and(|seconds| seconds > 0);
            assert_eq!(is_to_come_back, matches!(status, 429 | 503), "{status} {}", answer.body);
        }
    };
    let of =
        |answers: &[Answer], status: u16| answers.iter().filter(|answer| answer.status == status).count();

    // Whoever sends from one address takes the place of nobody else.
    let attack = join_all((0..30).map(|number| press(2, number)));
    let usable = async {
        for _ in 0..3 {
            scene.check_usable().await;
        }
    };
    let (answers, ()) = tokio::join!(attack, usable);
    check(&answers);
    assert!(of(&answers, 429) >= 28, "two bodies are read at once: {answers:?}");
    scene.is_logged("the body of another server's request is not read").await;

    // Many addresses are as good as one.
    let answers = join_all((2..42).map(|address| press(address, 0))).await;
    check(&answers);
    assert!(of(&answers, 503) >= 30, "ten bodies are read at once: {answers:?}");
    scene.check_usable().await;
}

#[tokio::test]
async fn whom_nothing_can_prove_need_not_be_read() {
    let denied = [("ENTENTE_FEDERATION__DENY", r#"["evil.example"]"#)];
    let scene = Scene::new(&denied).await;
    let name = scene.server.name();
    for (origin, to, status, errcode) in [
        ("evil.example", name.as_str(), 403, "M_FORBIDDEN"),
        (scene.evil.name.as_str(), "other.example", 401, "M_UNAUTHORIZED"),
        ("nobody.invalid", name.as_str(), 401, "M_UNAUTHORIZED"),
    ] {
        let target = scene.evil.transaction();
        let signature = scene.evil.signature(origin, &Method::PUT, &target, to, None);
        let request = scene.evil.unsigned(&name, Method::PUT, &target).header("Authorization", signature);
        // The rest of the body does not come in time.
        let answer = tokio::time::timeout(SOON, Answer::to(request.body(stalling(1_000))));
        answer.await.expect("an answer before the body").refused(status, errcode);
    }
    for (target, bytes) in [
        (scene.evil.transaction(), 17 * 1024 * 1024),
        ("/_matrix/federation/v1/user/keys/query".to_owned(), 2 * 1024 * 1024),
    ] {
        let signature = scene.evil.signature(&scene.evil.name, &Method::PUT, &target, &name, None);
        let method = if target.ends_with("query") { Method::POST } else { Method::PUT };
        let request = scene.evil.unsigned(&name, method, &target).header("Authorization", signature);
        Answer::to(request.body(stalling(bytes))).await.refused(413, "M_TOO_LARGE");
    }
    scene.check_usable().await;
}

/// So many bytes that compress to next to nothing.
fn bomb() -> Vec<u8> {
    let piece = vec![b' '; 1024 * 1024];
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    bomb.write_all(br#"{"events":[],"pdus":[],"#).unwrap();
    for _ in 0..512 {
        bomb.write_all(&piece).unwrap();
    }
    bomb.write_all(br#""more":[]}"#).unwrap();
    bomb.finish().unwrap()
}

#[tokio::test]
async fn what_swells_when_it_is_unpacked_is_not_unpacked() {
    let scene = Scene::new(&[]).await;
    let name = scene.server.name();
    let bomb = bomb();
    assert!(bomb.len() < 8 * 1024 * 1024);
    let target = scene.evil.transaction();
    let empty = CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let signature = scene.evil.signature(&scene.evil.name, &Method::PUT, &target, &name, Some(empty));
    let request = scene
        .evil
        .unsigned(&name, Method::PUT, &target)
        .header("Authorization", signature)
        .header("Content-Encoding", "gzip")
        .body(bomb.clone());
    Answer::to(request).await.refused(400, "M_NOT_JSON");
    scene.is_logged("the body is not canonical JSON").await;

    let packed = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    scene.evil.answer_with("/get_missing_events/", move |_| PeerAnswer::Bytes(packed, bomb.clone()));
    let event = scene.changed("packed", json!({ "prev_events": unknown_ids(0, 1) }));
    let refusals = scene.refused(&[event]).await;
    assert!(refusals[0].contains("compressed"), "{refusals:?}");
    // Neither is what is large as it comes.
    let large = format!(r#"{{"events":[{}]}}"#, " ".repeat(64 * 1024 * 1024)).into_bytes();
    scene.evil.answer_with("/get_missing_events/", move |_| PeerAnswer::Bytes("", large.clone()));
    let event = scene.changed("large", json!({ "prev_events": unknown_ids(1, 1) }));
    let answer = scene.evil.send(&name, &[event]).await;
    assert!(!answer.status.is_success() || answer.body["pdus"].to_string().contains("error"), "{answer:?}");
    scene.check_usable().await;
}

#[tokio::test]
async fn json_that_readers_take_differently_is_refused() {
    let scene = Scene::new(&[]).await;
    let name = scene.server.name();
    let event = serde_json::to_value(scene.message("two faces")).unwrap();
    let body = json!({ "origin": scene.evil.name, "origin_server_ts": 1, "pdus": [event], "edus": [] });
    let signed = CanonicalJsonValue::try_from(body.clone()).unwrap();
    let text = body.to_string();
    for bad in [
        text.replacen(r#""content":{"#, r#""content":{"body":"another face","#, 1),
        text.replacen(r#""pdus":"#, r#""pdus":[],"pdus":"#, 1),
        text.replacen(r#""origin_server_ts":1"#, r#""origin_server_ts":9007199254740993"#, 1),
        text.replacen(r#""origin_server_ts":1"#, r#""origin_server_ts":1e400"#, 1),
        text.replacen(r#""origin_server_ts":1"#, r#""origin_server_ts":1.0"#, 1),
        format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000)),
    ] {
        assert_ne!(bad, text);
        let target = scene.evil.transaction();
        // What is signed is what one of the readers makes of it.
        let signature =
            scene.evil.signature(&scene.evil.name, &Method::PUT, &target, &name, Some(signed.clone()));
        let request = scene.evil.unsigned(&name, Method::PUT, &target).header("Authorization", signature);
        Answer::to(request.body(bad)).await.refused(400, "M_NOT_JSON");
    }
    scene.is_logged("an object says one thing twice").await;
    scene.is_logged("a number has more than 53 bits").await;
    assert_eq!(read(&scene.alice, &scene.room).await, Vec::<String>::new());

    // In an answer the other events are read.
    let (room, past) = room_elsewhere(&scene, 3).await;
    let texts: Vec<String> = past.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    let twice = texts[1].replacen('{', r#"{"depth":1,"#, 1);
    let depth = format!(r#""depth":{}"#, i64::from(past[0]["depth"].as_integer().unwrap()));
    let large = texts[0].replacen(&depth, r#""depth":9007199254740993"#, 1);
    assert_ne!(large, texts[0]);
    let pdus = format!(r#"{{"pdus":[{},{twice},{large}]}}"#, texts[2]);
    scene.evil.answer_with("/backfill/", move |_| answer(pdus.clone()));
    let state: Vec<String> = room.lock().unwrap().state.values().cloned().collect();
    let ids = json!({ "pdu_ids": state, "auth_chain_ids": state }).to_string();
    scene.evil.answer_with("/state_ids/", move |_| answer(ids.clone()));
    let id = room.lock().unwrap().id.clone();
    assert_eq!(read(&scene.alice, &id).await, ["2"]);

    // A state with such an event in it.
    let unknown = {
        let content = json!({ "displayname": "M", "membership": "join" });
        let joined = scene.theirs.unsigned(&scene.mallory, "m.room.member", Some(&scene.mallory), content);
        scene.theirs.sign(&scene.evil, joined)
    };
    let mut state: Vec<String> = scene.theirs.state.values().cloned().collect();
    state.push(scene.theirs.id_of(&unknown));
    let ids = json!({ "pdu_ids": state, "auth_chain_ids": [] }).to_string();
    scene.evil.answer_with("/state_ids/", move |_| answer(ids.clone()));
    let twice = serde_json::to_string(&unknown).unwrap().replacen('{', r#"{"depth":1,"#, 1);
    scene.evil.answer_with("/event/", move |_| answer(format!(r#"{{"pdus":[{twice}]}}"#)));
    scene.evil.answer_with("/get_missing_events/", |_| answer(r#"{"events":[]}"#));
    let event = scene.changed("upon two faces", json!({ "prev_events": unknown_ids(0, 1) }));
    assert_eq!(scene.refused(&[event]).await.len(), 1);
    scene.check_usable().await;
}

#[tokio::test]
async fn numbers_that_canonical_json_does_not_have_spoil_only_what_they_are_in() {
    let scene = Scene::new(&[]).await;
    let alice = &scene.alice;
    let body = json!({ "preset": "public_chat", "room_version": "5" });
    let old_room = alice.create_room(body).await;
    let mut old = scene.evil.join(&scene.server.name(), &old_room, &scene.mallory).await;
    let with_number = |event: &CanonicalJsonObject| {
        let text = serde_json::to_string(event).unwrap();
        let changed = text.replacen(r#""body":"heavy""#, r#""body":"heavy","mass":1.50"#, 1);
        assert_ne!(changed, text);
        changed
    };
    let strict = (scene.message("heavy"), scene.message("light"));
    let lenient = old.message(&scene.evil, &scene.mallory, "heavy");
    old.add(&lenient);
    let upon = old.message(&scene.evil, &scene.mallory, "upon it");
    let message = |id: &str, mass: &str| {
        let sender = &scene.mallory;
        format!(
            r#"{{"content":{{"message_id":"{id}","messages":{{"{}":{{"*":{{"mass":{mass}}}}}}},"sender":"{sender}","type":"m.mass"}},"edu_type":"m.direct_to_device"}}"#,
            alice.id
        )
    };
    let text = |event: &CanonicalJsonObject| serde_json::to_string(event).unwrap();
    let content = format!(
        r#"{{"edus":[{},{},{},7],"origin":"{}","origin_server_ts":1,"pdus":[{},{},{},{},true]}}"#,
        message("a", "1.50"),
        message("b", "1e400"),
        message("c", "15"),
        scene.evil.name,
        with_number(&strict.0),
        text(&strict.1),
        with_number(&lenient),
        text(&upon),
    );
    let (name, target) = (scene.server.name(), scene.evil.transaction());
    let signature = scene.evil.signature_of_text(&Method::PUT, &target, &name, &content);
    let send = |content: String| {
        let request = scene.evil.unsigned(&name, Method::PUT, &target).header("Authorization", &signature);
        Answer::to(request.body(content))
    };
    // The number is a part of what is signed.
    send(content.replacen("1.50", "1.5", 1)).await.refused(401, "M_UNAUTHORIZED");
    let answer = send(content).await.ok();
    for event in [scene.theirs.id_of(&strict.1), old.id_of(&lenient), old.id_of(&upon)] {
        assert_eq!(answer["pdus"][&event], json!({}), "{answer}");
    }
    assert_eq!(answer["pdus"].as_object().unwrap().len(), 3, "{answer}");
    scene.is_logged("the event is not canonical JSON").await;
    scene.is_logged("messages of another server that are not canonical JSON are left out").await;

    let heard = alice.sync(&[]).await;
    let heard: Vec<&Value> = heard["to_device"]["events"].as_array().unwrap().iter().collect();
    assert_eq!(heard, [&json!({ "type": "m.mass", "sender": scene.mallory, "content": { "mass": 15 } })]);
    assert_eq!(read(alice, &scene.room).await, ["light"]);
    // In the old room it is an event that is not what was hashed. Nobody asks what is before those upon it.
    assert_eq!(read(alice, &old_room).await, ["upon it"]);
    let hollow = alice.event(&old_room, &old.id_of(&lenient)).await.ok();
    assert_eq!(hollow["content"], json!({}));
    assert_eq!(scene.evil.requests("_missing_events/").len(), 0);
    scene.check_usable().await;
}

#[tokio::test]
async fn gaps_without_end_are_not_filled() {
    let scene = Scene::new(&[]).await;
    let name = scene.server.name();
    // One event that names ten thousand: too large to be signed, so with an old signature.
    let mut wide = scene.message("wide");
    let prev_events = CanonicalJsonValue::try_from(json!(unknown_ids(0, 10_000))).unwrap();
    wide.insert("prev_events".to_owned(), prev_events);
    scene.evil.send(&name, &[wide]).await.ok();
    assert_eq!(scene.evil.requests("_events/").len(), 0, "nobody asks what such an event names");
    scene.is_logged("an event is refused").await;

    // Twenty that name twenty each, and before each there is always more.
    let template = scene.theirs.unsigned(&scene.mallory, "m.room.message", None, json!({ "body": "more" }));
    let signing = scene.evil.clone();
    let room = scene.evil.room(&RoomVersionId::V12);
    let made = Mutex::new(1_000_000);
    scene.evil.answer_with("/get_missing_events/", move |_| {
        let mut made = made.lock().unwrap();
        let mut events = Vec::new();
        for _ in 0..50 {
            *made += 1;
            let mut event = template.clone();
            let before = CanonicalJsonValue::try_from(json!([unknown_id(*made)])).unwrap();
            event.insert("prev_events".to_owned(), before);
            events.push(room.sign(&signing, event));
        }
        answer(json!({ "events": events }).to_string())
    });
    scene.evil.forget_requests();
    let event = |number: usize| {
        scene.changed(&number.to_string(), json!({ "prev_events": unknown_ids(20 * number, 20) }))
    };
    let events: Vec<CanonicalJsonObject> = (0..20).map(event).collect();
    assert_eq!(scene.refused(&events).await.len(), 20);
    let asked = scene.evil.requests("/_matrix/federation/").len();
    assert!(asked <= 20 * 10, "{asked} questions for twenty events");
    scene.check_usable().await;
}

#[tokio::test]
async fn a_past_without_end_is_fetched_as_far_as_it_is_read() {
    let scene = Scene::new(&[]).await;
    let (room, past) = room_elsewhere(&scene, 3_000).await;
    let (id, state) = {
        let room = room.lock().unwrap();
        let is_host = |key: &(String, String)| !key.1.ends_with(&scene.server.name());
        let state: Vec<String> =
            room.state.iter().filter(|(key, _)| is_host(key)).map(|(_, id)| id.clone()).collect();
        (room.id.clone(), state)
    };
    let ids: Vec<String> = past.iter().map(|event| room.lock().unwrap().id_of(event)).collect();
    let served = ids.clone();
    scene.evil.answer_with("/backfill/", move |request| {
        // A hundred before what was asked for, however many were.
        let at = served.iter().position(|id| request.line.contains(&segment(id)));
        // The first question is about Alice's join, which is behind all of them.
        let at = at.map_or(served.len(), |at| at + 1);
        let chapter = &past[at.saturating_sub(100)..at];
        answer(json!({ "pdus": chapter }).to_string())
    });
    let told = json!({ "pdu_ids": state, "auth_chain_ids": state }).to_string();
    scene.evil.answer_with("/state_ids/", move |_| answer(told.clone()));
    let first = ids[0].clone();
    scene.evil.answer_with("/timestamp_to_event/", move |_| {
        answer(json!({ "event_id": first, "origin_server_ts": 0 }).to_string())
    });
    let page = scene.alice.get(&User::in_room(&id, "messages?dir=b&limit=10")).await.ok();
    let asked = scene.evil.requests("/_matrix/federation/");
    assert_eq!(bodies(&page["chunk"]).first(), Some(&"2999"), "{asked:?}: {page}");
    let asked = asked.iter().filter(|request| request.line.contains("/backfill/")).count();
    assert!((1..=2).contains(&asked), "{asked} questions for a page of ten");
    // Who wants to go to the first day gets as far as some chapters lead.
    scene.evil.forget_requests();
    let day = format!("/_matrix/client/v1/rooms/{}/timestamp_to_event?ts=1&dir=f", segment(&id));
    let day = scene.alice.get(&day).await;
    assert!(day.status == 404 || day.status == 200, "{day:?}");
    let asked = scene.evil.requests("/backfill/").len();
    assert!((1..=10).contains(&asked), "{asked} questions for a day");
    // Made up, it leads nowhere.
    scene.evil.answer_with("/backfill/", |_| answer(r#"{"pdus":[]}"#));
    scene.evil.forget_requests();
    let page = scene.alice.get(&User::in_room(&id, "messages?dir=b&limit=100")).await.ok();
    let end = page["end"].as_str().unwrap().to_owned();
    for _ in 0..20 {
        let path = User::in_room(&id, &format!("messages?dir=b&limit=100&from={}", segment(&end)));
        scene.alice.get(&path).await.ok();
    }
    assert!(scene.evil.requests("/backfill/").len() <= 21);
    scene.check_usable().await;
}

#[tokio::test]
async fn who_signs_with_two_keys_or_says_two_things_is_held_to_the_first() {
    let scene = Scene::new(&[]).await;
    let named = |name: &str| {
        let content = json!({ "membership": "join", "displayname": name });
        let event = scene.theirs.unsigned(&scene.mallory, "m.room.member", Some(&scene.mallory), content);
        scene.theirs.sign(&scene.evil, event)
    };
    // Two names at the same place: both are events, one of them is the state.
    let (one, other) = (named("one"), named("other"));
    assert_eq!(scene.refused(&[one, other]).await, Vec::<String>::new());
    let first = scene.alice.state(&scene.room, "m.room.member", &scene.mallory).await.ok();
    assert!(first["displayname"] == "one" || first["displayname"] == "other", "{first}");
    scene.check_usable().await;
    let said = scene.message("with the first key");
    // The same place and the same key id with another key.
    scene.evil.take_another_key();
    let name = scene.server.name();
    for _ in 0..2 {
        scene.evil.send(&name, std::slice::from_ref(&said)).await.refused(401, "M_UNAUTHORIZED");
    }
    scene.is_logged("the request is not signed well").await;
    let asked = scene.evil.requests("/_matrix/key/v2/server").len();
    assert!(asked <= 2, "{asked} questions for keys");
    scene.alice.say(&scene.room, "alone again").await;
    let read = read(&scene.alice, &scene.room).await;
    assert!(read.contains(&"alone again".to_owned()) && !read.contains(&"with the first key".to_owned()));
    let still = scene.alice.state(&scene.room, "m.room.member", &scene.mallory).await.ok();
    assert_eq!(still, first);
}

#[tokio::test]
async fn who_is_shut_out_comes_in_under_no_other_name() {
    let authority = Authority::new();
    let evil = Peer::start(&authority);
    // It need not be found under these names: its key is known.
    let peers = format!(r#"[{{ server = "*", signing_keys = ["ed25519:one {}"] }}]"#, evil.public_key());
    let mallory = "@mallory:evil.example".to_owned();
    let settings = [("ENTENTE_FEDERATION__PEERS", peers.as_str())];
    let scene = Scene::with(authority, evil, mallory, &settings).await;
    let name = scene.server.name();
    let greeting = scene.message("let in");
    scene.evil.send_as("evil.example", &name, &[greeting]).await.ok();
    assert_eq!(read(&scene.alice, &scene.room).await, ["let in"]);
    let types = async |writes: bool| {
        let content = json!({ "room_id": scene.room, "user_id": scene.mallory, "typing": writes });
        let edus = [json!({ "edu_type": "m.typing", "content": content })];
        let body = json!({ "origin": "evil.example", "origin_server_ts": 1, "pdus": [], "edus": edus });
        let target = scene.evil.transaction();
        let sent = scene.evil.request_as("evil.example", &name, Method::PUT, &target, Some(&body));
        Answer::to(sent).await.ok();
        let seen = scene.alice.sync(&[]).await;
        seen["rooms"]["join"][&scene.room]["ephemeral"].to_string().contains(&scene.mallory)
    };
    assert!(types(true).await);
    assert!(!types(false).await);
    let list = json!({ "allow": ["*"], "deny": ["evil.example"], "allow_ip_literals": false });
    scene.alice.set_state(&scene.room, "m.room.server_acl", "", list).await.ok();
    for (number, origin) in [
        "evil.example",
        "evil.example:8448",
        "EVIL.example",
        "evil.example.",
        "Evil.Example.:443",
        "127.0.0.1:8448",
        "[::1]",
        "[0:0:0:0:0:0:0:1]:8448",
        "[::ffff:7f00:1]:443",
    ]
    .into_iter()
    .enumerate()
    {
        let event = scene.message(&format!("let me in {number}"));
        let id = scene.theirs.id_of(&event);
        let answer = scene.evil.send_as(origin, &name, &[event]).await.ok();
        assert!(answer["pdus"][&id]["error"].is_string(), "{origin}: {answer}");
        scene.is_logged(&id).await;
        let (room, user) = (segment(&scene.room), segment(&format!("@other:{origin}")));
        for what in ["make_join", "make_knock", "make_leave"] {
            let target = format!("/_matrix/federation/v1/{what}/{room}/{user}?ver=12");
            let request = scene.evil.request_as(origin, &name, Method::GET, &target, None);
            Answer::to(request).await.refused(403, "M_FORBIDDEN");
        }
    }
    let refusals = || scene.server.log().matches("a membership of another server is refused").count();
    let logged = tokio::time::timeout(SOON, async {
        while refusals() < 3 * 9 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(logged.await.is_ok(), "{} lines\n{}", refusals(), scene.server.log());
    assert!(!types(true).await, "nor is it heard that they type");
    assert_eq!(read(&scene.alice, &scene.room).await, ["let in"]);
    scene.alice.say(&scene.room, "among ourselves").await;
    assert_eq!(read(&scene.alice, &scene.room).await, ["among ourselves", "let in"]);
    scene.check_memory();
}

#[tokio::test]
async fn keys_are_good_for_as_long_as_their_server_says() {
    let authority = Authority::new();
    let evil = Peer::start(&authority);
    evil.keys_end_in(Duration::from_secs(15));
    let mallory = evil.user("mallory");
    let scene = Scene::with(authority, evil, mallory, &[]).await;
    let late = Peer::start(&scene.authority);
    late.keys_end_in(Duration::ZERO);
    let name = scene.server.name();
    let target = "/_matrix/federation/v1/query/profile?user_id=@alice:a";
    let expired = Answer::to(late.request(&name, Method::GET, target, None)).await;
    expired.refused(401, "M_UNAUTHORIZED");
    // Good until they end. Meanwhile nobody asks for them again.
    scene.check_usable().await;
    let event = scene.message("too late");
    tokio::time::sleep(Duration::from_secs(16)).await;
    scene.evil.send(&name, &[event]).await.refused(401, "M_UNAUTHORIZED");
    scene.is_logged("has no valid key ed25519:one").await;
    assert!(!read(&scene.alice, &scene.room).await.contains(&"too late".to_owned()));
    scene.alice.say(&scene.room, "in time").await;
    assert!(read(&scene.alice, &scene.room).await.contains(&"in time".to_owned()));
}
