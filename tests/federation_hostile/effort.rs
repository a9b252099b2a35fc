//! What they make this server read, wait for and ask for.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use entente_tests::{Answer, Peer, PeerAnswer, SOON, User, bodies, segment};
use futures_util::{StreamExt, future::join_all, stream};
use reqwest::{Body, Method};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, RoomVersionId};
use serde_json::json;

use super::{Scene, answer, read, room_elsewhere, unknown_id, unknown_ids};

#[tokio::test]
async fn answers_that_come_a_byte_a_second_hold_up_nobody_else() {
    let scene = Scene::new(&[("ENTENTE_FEDERATION__REQUEST_TIMEOUT", "8s")]).await;
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
    let scene = Scene::new(&[("ENTENTE_LIMITS__REQUEST_TIMEOUT", "10s")]).await;
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
        [("ENTENTE_LIMITS__MAX_FEDERATION_BODY", "128 KiB"), ("ENTENTE_LIMITS__REQUEST_TIMEOUT", "15s")];
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
