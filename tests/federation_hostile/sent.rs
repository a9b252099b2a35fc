//! What they send and say of themselves.

use std::time::Duration;

use entente_tests::{Answer, Authority, Peer, SOON, segment};
use reqwest::Method;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::{Value, json};

use super::{Scene, answer, read, room_elsewhere, unknown_ids};

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
