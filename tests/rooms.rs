//! Rooms: making them, who is in them, what is sent and read, who may see what.

use std::collections::BTreeSet;

use entente_tests::{Server, User, bodies, fresh_id, segment};
use serde_json::{Value, json};

const VERSIONS: [&str; 12] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

async fn two(server: &Server) -> (User, User) {
    (User::register(server, "alice").await, User::register(server, "bob").await)
}

async fn messages(user: &User, room: &str, query: &str) -> Value {
    user.get(&User::in_room(room, &format!("messages?{query}"))).await.ok()
}

#[tokio::test]
async fn people_talk_in_rooms_of_every_version() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    for version in VERSIONS {
        let room = alice
            .create_room(
                json!({ "room_version": version, "preset": "trusted_private_chat", "invite": [bob.id],
                "is_direct": true, "name": "Bureau", "topic": "Travail" }),
            )
            .await;
        bob.join(&room).await.ok();
        let sent = bob.say(&room, "bonjour").await;
        let event = alice.event(&room, &sent).await.ok();
        assert_eq!((&event["content"]["body"], &event["sender"]), (&json!("bonjour"), &json!(bob.id)));
        assert_eq!(event["room_id"], room);
        assert_eq!(sent.contains(':'), ["1", "2"].contains(&version), "ids of version {version}");
        assert_eq!(room.contains(':'), version != "12", "the room id of version {version}");
        // Who was trusted from the start has the creator's power.
        bob.set_state(&room, "m.room.name", "", json!({ "name": "Salon" })).await.ok();
        let redaction = User::in_room(&room, &format!("redact/{}/{}", segment(&sent), fresh_id()));
        alice.put(&redaction, &json!({ "reason": "test" })).await.ok();
        let redacted = bob.event(&room, &sent).await.ok();
        assert_eq!(redacted["content"], json!({}), "version {version}");
        assert_eq!(redacted["unsigned"]["redacted_because"]["content"]["reason"], "test");
        let create = alice.state(&room, "m.room.create", "").await.ok();
        assert_eq!(create["room_version"], version);
    }
    alice
        .post("/_matrix/client/v3/createRoom", &json!({ "room_version": "13" }))
        .await
        .refused(400, "M_UNSUPPORTED_ROOM_VERSION");
}

#[tokio::test]
async fn an_operator_says_of_which_version_rooms_are() {
    let version = ("ENTENTE_ROOMS__DEFAULT_ROOM_VERSION", "10");
    let server = Server::with(&[("ENTENTE_REGISTRATION__OPEN", "true"), version]);
    let alice = User::register(&server, "alice").await;
    let capabilities = alice.get("/_matrix/client/v3/capabilities").await.ok();
    assert_eq!(capabilities["capabilities"]["m.room_versions"]["default"], "10");
    for (asked, expected) in [(json!({}), "10"), (json!({ "room_version": "11" }), "11")] {
        let room = alice.create_room(asked).await;
        let create = alice.state(&room, "m.room.create", "").await.ok();
        assert_eq!(create["room_version"], expected);
    }
}

#[tokio::test]
async fn a_room_begins_as_its_creator_asked_or_not_at_all() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let room = alice
        .create_room(json!({
            "visibility": "public",
            "room_alias_name": "place",
            "creation_content": { "type": "m.space", "m.federate": false },
            "initial_state": [
                { "type": "m.room.join_rules", "content": { "join_rule": "knock" } },
                { "type": "org.example", "state_key": "key", "content": { "a": 1 } },
            ],
            "power_level_content_override": { "users": { alice.id.clone(): 100 }, "events_default": 25 },
        }))
        .await;
    assert_eq!(alice.state(&room, "m.room.join_rules", "").await.ok()["join_rule"], "knock");
    assert_eq!(alice.state(&room, "org.example", "key").await.ok(), json!({ "a": 1 }));
    let create = alice.state(&room, "m.room.create", "").await.ok();
    assert_eq!(create, json!({ "type": "m.space", "m.federate": false, "room_version": "12" }));
    let levels = alice.state(&room, "m.room.power_levels", "").await.ok();
    assert_eq!(
        (&levels["events_default"], &levels["users"]),
        (&json!(25), &json!({})),
        "creators stand above"
    );
    let alias = "/_matrix/client/v3/directory/room/%23place%3Alocalhost%3A8008";
    assert_eq!(server.anonymous().get(alias).await.ok()["room_id"], room);

    for (body, status, errcode) in [
        (json!({ "room_alias_name": "place" }), 409, "M_ROOM_IN_USE"),
        (json!({ "initial_state": [{ "type": "m.room.name" }] }), 400, "M_BAD_JSON"),
        (json!({ "initial_state": [{ "type": "a", "content": { "b": 1.5 } }] }), 400, "M_BAD_JSON"),
        (json!({ "power_level_content_override": { "users_default": "much" } }), 400, "M_INVALID_ROOM_STATE"),
        (json!({ "invite": "bob" }), 400, "M_BAD_JSON"),
        (
            json!({ "invite_3pid": [{ "id_server": "a", "id_access_token": "b", "medium": "email", "address": "c" }] }),
            403,
            "M_SERVER_NOT_TRUSTED",
        ),
        (json!({ "topic": "x".repeat(70_000) }), 413, "M_TOO_LARGE"),
    ] {
        alice.post("/_matrix/client/v3/createRoom", &body).await.refused(status, errcode);
    }
    let joined = alice.get("/_matrix/client/v3/joined_rooms").await.ok();
    assert_eq!(joined["joined_rooms"], json!([room]), "nothing is left of a room that could not be made");
    assert_eq!(bob.get("/_matrix/client/v3/joined_rooms").await.ok()["joined_rooms"], json!([]));
}

#[tokio::test]
async fn memberships_follow_the_rules() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let carol = User::register(&server, "carol").await;
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let whom = |user: &User| json!({ "user_id": user.id });

    bob.join(&room).await.refused(403, "M_FORBIDDEN");
    bob.invite(&room, &carol).await.refused(403, "M_FORBIDDEN");
    alice.invite(&room, &bob).await.ok();
    assert_eq!(bob.join(&room).await.ok()["room_id"], room);
    bob.join(&room).await.ok();
    alice.invite(&room, &bob).await.refused(403, "M_FORBIDDEN");
    bob.membership(&room, "kick", whom(&alice)).await.refused(403, "M_FORBIDDEN");
    alice.membership(&room, "kick", whom(&carol)).await.refused(403, "M_FORBIDDEN");
    bob.membership(&room, "forget", json!({})).await.refused(400, "M_UNKNOWN");
    alice.membership(&room, "kick", json!({ "user_id": bob.id, "reason": "bye" })).await.ok();
    let member = alice.state(&room, "m.room.member", &bob.id).await.ok();
    assert_eq!((&member["membership"], &member["reason"]), (&json!("leave"), &json!("bye")));
    bob.send(&room, "m.room.message", json!({})).await.refused(403, "M_FORBIDDEN");
    bob.join(&room).await.refused(403, "M_FORBIDDEN");

    alice.membership(&room, "ban", whom(&carol)).await.ok();
    alice.invite(&room, &carol).await.refused(403, "M_FORBIDDEN");
    alice.membership(&room, "unban", whom(&bob)).await.refused(403, "M_FORBIDDEN");
    alice.membership(&room, "unban", whom(&carol)).await.ok();
    alice.invite(&room, &carol).await.ok();
    carol.membership(&room, "leave", json!({ "reason": "no" })).await.ok();
    assert_eq!(alice.state(&room, "m.room.member", &carol.id).await.ok()["reason"], "no");
    carol.membership(&room, "forget", json!({})).await.ok();

    let members = alice.get(&User::in_room(&room, "members?not_membership=leave")).await.ok();
    assert_eq!(members["chunk"].as_array().unwrap().len(), 1);
    let joined = alice.get(&User::in_room(&room, "joined_members")).await.ok();
    assert_eq!(joined["joined"].as_object().unwrap().keys().collect::<Vec<_>>(), [&alice.id]);
    for path in ["joined_members", "state", "messages?dir=b", "members"] {
        carol.get(&User::in_room(&room, path)).await.refused(403, "M_FORBIDDEN");
    }
    alice.post("/_matrix/client/v3/join/%21nowhere", &json!({})).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn knocks_and_restricted_rooms_let_in_whom_they_should() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let rules = |content: Value| json!([{ "type": "m.room.join_rules", "content": content }]);
    let knocked = alice.create_room(json!({ "initial_state": rules(json!({ "join_rule": "knock" })) })).await;
    let knock = format!("/_matrix/client/v3/knock/{}", segment(&knocked));
    bob.join(&knocked).await.refused(403, "M_FORBIDDEN");
    bob.post(&knock, &json!({ "reason": "please" })).await.ok();
    let synced = bob.sync(&[]).await;
    assert!(synced["rooms"]["knock"][&knocked]["knock_state"]["events"].is_array(), "{synced}");
    alice.invite(&knocked, &bob).await.ok();
    bob.join(&knocked).await.ok();

    let club = alice.create_room(json!({ "preset": "public_chat" })).await;
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    for (version, join_rule) in [("8", "restricted"), ("10", "knock_restricted"), ("12", "restricted")] {
        let content = json!({ "join_rule": join_rule, "allow": allow });
        let room =
            alice.create_room(json!({ "room_version": version, "initial_state": rules(content) })).await;
        bob.join(&room).await.refused(403, "M_FORBIDDEN");
        bob.join(&club).await.ok();
        bob.join(&room).await.ok();
        let member = alice.state(&room, "m.room.member", &bob.id).await.ok();
        assert_eq!(member["join_authorised_via_users_server"], alice.id);
        bob.membership(&club, "leave", json!({})).await.ok();
    }
}

#[tokio::test]
async fn a_retry_is_recognised_and_concurrent_senders_lose_nothing() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({})).await;
    let path = User::in_room(&room, "send/m.room.message/same");
    let content = json!({ "msgtype": "m.text", "body": "once" });
    let (first, second) = tokio::join!(alice.put(&path, &content), alice.put(&path, &content));
    let first = first.ok();
    assert_eq!(first, second.ok());
    assert_eq!(alice.put(&path, &content).await.ok(), first);
    let event = alice.event(&room, first["event_id"].as_str().unwrap()).await.ok();
    assert_eq!(event["unsigned"]["transaction_id"], "same");
    let other_type = User::in_room(&room, "send/m.room.notice/same");
    assert_ne!(alice.put(&other_type, &content).await.ok(), first, "ids belong to their path");

    let senders = (0..12_usize).map(|sender| {
        let (alice, room) = (alice.clone(), room.clone());
        tokio::spawn(async move {
            for number in 0..10_usize {
                if number == 5 {
                    let key = format!("{sender}");
                    alice.set_state(&room, "org.example", &key, json!({ "body": "state" })).await.ok();
                }
                alice.say(&room, &format!("{sender}/{number}")).await;
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    let page = messages(&alice, &room, "dir=b&limit=1000").await;
    let texts: Vec<&str> = bodies(&page["chunk"]).into_iter().filter(|body| body.contains('/')).collect();
    assert_eq!(texts.len(), 120);
    assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), 120);
    for sender in 0..12 {
        let own: Vec<&&str> = texts.iter().filter(|text| text.starts_with(&format!("{sender}/"))).collect();
        let expected: Vec<String> = (0..10).rev().map(|number| format!("{sender}/{number}")).collect();
        assert!(own.iter().zip(&expected).all(|(own, expected)| ***own == **expected), "{own:?}");
    }
    let state = alice.get(&User::in_room(&room, "state")).await.ok();
    let own = state.as_array().unwrap().iter().filter(|event| event["type"] == "org.example").count();
    assert_eq!(own, 12);
}

#[tokio::test]
async fn history_is_seen_by_whom_it_is_meant_for() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let carol = User::register(&server, "carol").await;
    for (visibility, bob_sees) in [
        ("world_readable", vec!["after", "joined", "invited", "before"]),
        ("shared", vec!["after", "joined", "invited", "before"]),
        ("invited", vec!["after", "joined", "invited"]),
        ("joined", vec!["after", "joined"]),
    ] {
        let state =
            json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } }]);
        let room = alice.create_room(json!({ "initial_state": state })).await;
        let before = alice.say(&room, "before").await;
        alice.invite(&room, &bob).await.ok();
        alice.say(&room, "invited").await;
        bob.join(&room).await.ok();
        alice.say(&room, "joined").await;
        alice.say(&room, "after").await;
        let page = messages(&bob, &room, "dir=b&limit=100").await;
        assert_eq!(bodies(&page["chunk"]), bob_sees, "{visibility}");
        let may_read_first = ["world_readable", "shared"].contains(&visibility);
        assert_eq!(bob.event(&room, &before).await.status == 200, may_read_first, "{visibility}");
        assert_eq!(carol.event(&room, &before).await.status == 200, visibility == "world_readable");
        bob.membership(&room, "leave", json!({})).await.ok();
        let late = alice.say(&room, "late").await;
        assert_eq!(
            bob.event(&room, &late).await.status == 200,
            visibility == "world_readable",
            "{visibility}"
        );
        let page = messages(&bob, &room, "dir=b&limit=100").await;
        let mut expected = bob_sees.clone();
        if visibility == "world_readable" {
            expected.insert(0, "late");
        }
        assert_eq!(bodies(&page["chunk"]), expected, "{visibility} after leaving");
    }
}

#[tokio::test]
async fn events_are_read_only_in_their_own_room() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let secret = alice.create_room(json!({})).await;
    let event = alice.say(&secret, "secret").await;
    let open = bob.create_room(json!({ "preset": "public_chat" })).await;
    bob.event(&open, &event).await.refused(404, "M_NOT_FOUND");
    bob.event(&secret, &event).await.refused(404, "M_NOT_FOUND");
    let context = User::in_room(&open, &format!("context/{}", segment(&event)));
    bob.get(&context).await.refused(404, "M_NOT_FOUND");
    let redact = User::in_room(&open, &format!("redact/{}/x", segment(&event)));
    bob.put(&redact, &json!({})).await.refused(404, "M_NOT_FOUND");
    let mine = bob.say(&open, "mine").await;
    alice.join(&open).await.ok();
    let redact = User::in_room(&open, &format!("redact/{}/y", segment(&mine)));
    alice.put(&redact, &json!({})).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn pages_cover_a_timeline_both_ways() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({})).await;
    let mut ids = Vec::new();
    for number in 0..25 {
        ids.push(alice.say(&room, &number.to_string()).await);
    }
    let filter = segment(r#"{"types":["m.room.mess*"]}"#);
    let mut seen = Vec::new();
    let mut from = String::new();
    loop {
        let page = messages(&alice, &room, &format!("dir=b&limit=4&filter={filter}{from}")).await;
        seen.extend(bodies(&page["chunk"]).into_iter().map(str::to_owned));
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => break,
        }
    }
    assert_eq!(seen, (0..25).rev().map(|number| number.to_string()).collect::<Vec<_>>());
    let context = format!("context/{}?limit=4&filter={filter}", segment(&ids[10]));
    let context = alice.get(&User::in_room(&room, &context)).await.ok();
    assert_eq!(context["event"]["content"]["body"], "10");
    assert_eq!(bodies(&context["events_before"]), ["9", "8"]);
    assert_eq!(bodies(&context["events_after"]), ["11", "12"]);
    let end = context["end"].as_str().unwrap();
    let forward = messages(&alice, &room, &format!("dir=f&limit=3&filter={filter}&from={end}")).await;
    assert_eq!(bodies(&forward["chunk"]), ["13", "14", "15"]);
    let start = context["start"].as_str().unwrap();
    let back = messages(&alice, &room, &format!("dir=b&limit=2&filter={filter}&from={start}")).await;
    assert_eq!(bodies(&back["chunk"]), ["7", "6"]);
    for query in ["dir=x", "from=t1", "dir=b&from=nonsense", "dir=b&filter=%7B"] {
        let answer = alice.get(&User::in_room(&room, &format!("messages?{query}"))).await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
    }
}

#[tokio::test]
async fn relations_are_aggregated_until_they_are_redacted() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let root = alice.say(&room, "root").await;
    let relate = |rel_type: &str, body: &str| {
        json!({ "msgtype": "m.text", "body": body, "m.new_content": { "msgtype": "m.text", "body": body },
            "m.relates_to": { "rel_type": rel_type, "event_id": root } })
    };
    let relations =
        async |user: &User| user.event(&room, &root).await.ok()["unsigned"]["m.relations"].clone();
    bob.send(&room, "m.room.message", relate("m.replace", "not mine")).await.ok();
    assert_eq!(relations(&alice).await, Value::Null, "only the sender edits");
    alice.send(&room, "m.room.message", relate("m.replace", "first")).await.ok();
    let second = alice.send(&room, "m.room.message", relate("m.replace", "second")).await.ok();
    assert_eq!(relations(&bob).await["m.replace"]["content"]["body"], "second");
    let redact = User::in_room(&room, &format!("redact/{}/1", segment(second["event_id"].as_str().unwrap())));
    alice.put(&redact, &json!({})).await.ok();
    assert_eq!(relations(&bob).await["m.replace"]["content"]["body"], "first");
    bob.send(&room, "m.room.message", relate("m.thread", "one")).await.ok();
    let last = bob.send(&room, "m.room.message", relate("m.thread", "two")).await.ok();
    let thread = relations(&bob).await["m.thread"].clone();
    assert_eq!((&thread["count"], &thread["latest_event"]["content"]["body"]), (&json!(2), &json!("two")));
    assert_eq!(thread["current_user_participated"], true);
    let redact = User::in_room(&room, &format!("redact/{}/2", segment(last["event_id"].as_str().unwrap())));
    bob.put(&redact, &json!({})).await.ok();
    let thread = relations(&bob).await["m.thread"].clone();
    assert_eq!((&thread["count"], &thread["latest_event"]["content"]["body"]), (&json!(1), &json!("one")));
}

/// MSC3440: how clients found threads before there was a list of them.
#[tokio::test]
async fn filters_ask_what_relates_to_an_event() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(alice.say(&room, &number.to_string()).await);
    }
    for (user, rel_type, target) in
        [(&alice, "m.thread", 0), (&bob, "m.thread", 1), (&bob, "m.reference", 2), (&alice, "m.reference", 1)]
    {
        let content = json!({ "msgtype": "m.text", "body": "related",
            "m.relates_to": { "rel_type": rel_type, "event_id": ids[target] } });
        user.send(&room, "m.room.message", content).await.ok();
    }
    for (filter, expected) in [
        (json!({ "related_by_rel_types": ["m.thread"] }), vec!["1", "0"]),
        (json!({ "related_by_senders": [bob.id] }), vec!["2", "1"]),
        (json!({ "related_by_senders": [bob.id], "related_by_rel_types": ["m.thread"] }), vec!["1"]),
        // One event has to meet both.
        (json!({ "related_by_senders": [alice.id], "related_by_rel_types": ["m.thread"] }), vec!["0"]),
        (json!({ "related_by_senders": [alice.id, bob.id], "not_senders": [alice.id] }), vec![]),
        (json!({ "related_by_rel_types": [] }), vec![]),
    ] {
        let filter = segment(&filter.to_string());
        let back = messages(&alice, &room, &format!("dir=b&limit=100&filter={filter}")).await;
        assert_eq!(bodies(&back["chunk"]), expected, "{filter}");
        let mut forward = messages(&alice, &room, &format!("dir=f&limit=100&filter={filter}")).await;
        forward["chunk"].as_array_mut().unwrap().reverse();
        assert_eq!(bodies(&forward["chunk"]), expected, "{filter}");
        let context = format!("context/{}?limit=100&filter={filter}", segment(&ids[1]));
        let context = alice.get(&User::in_room(&room, &context)).await.ok();
        let around: Vec<&str> =
            [bodies(&context["events_after"]), bodies(&context["events_before"])].concat();
        let expected: Vec<&str> = expected.into_iter().filter(|body| *body != "1").collect();
        assert_eq!(around, expected, "{filter}");
    }
    let wrong = segment(r#"{"related_by_senders":"@a:b"}"#);
    let wrong = User::in_room(&room, &format!("messages?dir=b&filter={wrong}"));
    alice.get(&wrong).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn what_came_after_somebody_left_is_not_bundled_for_them() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let root = alice.say(&room, "root").await;
    bob.membership(&room, "leave", json!({})).await.ok();
    for rel_type in ["m.replace", "m.thread", "m.reference"] {
        let content = json!({ "msgtype": "m.text", "body": "late", "m.new_content": { "msgtype": "m.text", "body": "late" },
            "m.relates_to": { "rel_type": rel_type, "event_id": root } });
        alice.send(&room, "m.room.message", content).await.ok();
    }
    let seen = bob.event(&room, &root).await.ok();
    assert!(!seen.to_string().contains("late"), "{seen}");
    assert!(alice.event(&room, &root).await.ok().to_string().contains("late"));
}

#[tokio::test]
async fn aliases_lead_to_rooms() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let alias = "#salle:localhost:8008";
    let path = format!("/_matrix/client/v3/directory/room/{}", segment(alias));
    bob.put(&path, &json!({ "room_id": room })).await.refused(403, "M_FORBIDDEN");
    alice.get(&path).await.refused(404, "M_NOT_FOUND");
    alice.put(&path, &json!({ "room_id": room })).await.ok();
    alice.put(&path, &json!({ "room_id": room })).await.refused(409, "M_ROOM_IN_USE");
    let joined = bob.post(&format!("/_matrix/client/v3/join/{}", segment(alias)), &json!({})).await.ok();
    assert_eq!(joined["room_id"], room);
    let elsewhere = "/_matrix/client/v3/directory/room/%23a%3Aelsewhere.example";
    alice.put(elsewhere, &json!({ "room_id": room })).await.refused(400, "M_INVALID_PARAM");
    let canonical = |alias: &str| json!({ "alias": alias });
    alice
        .set_state(&room, "m.room.canonical_alias", "", canonical("#none:localhost:8008"))
        .await
        .refused(400, "M_BAD_ALIAS");
    alice.set_state(&room, "m.room.canonical_alias", "", canonical(alias)).await.ok();
    let listed = alice.get(&User::in_room(&room, "aliases")).await.ok();
    assert_eq!(listed["aliases"], json!([alias]));
    bob.delete(&path, &json!({})).await.refused(403, "M_FORBIDDEN");
    alice.delete(&path, &json!({})).await.ok();
    alice.get(&path).await.refused(404, "M_NOT_FOUND");
    assert_eq!(alice.state(&room, "m.room.canonical_alias", "").await.ok(), json!({}), "it goes there too");
}

#[tokio::test]
async fn what_was_sent_survives_a_crash() {
    let mut server = Server::open();
    let (alice, bob) = two(&server).await;
    let room = alice.create_room(json!({ "invite": [bob.id], "name": "Bureau" })).await;
    bob.join(&room).await.ok();
    let mut sent = Vec::new();
    for round in 0..3 {
        for number in 0..10 {
            sent.push(alice.at(&server).say(&room, &format!("{round}/{number}")).await);
        }
        server = server.crash_and_restart();
        let bob = bob.at(&server);
        let page = messages(&bob, &room, "dir=b&limit=1000").await;
        let found: Vec<&str> =
            page["chunk"].as_array().unwrap().iter().map(|e| e["event_id"].as_str().unwrap()).collect();
        assert!(sent.iter().all(|id| found.contains(&id.as_str())));
        assert_eq!(bob.state(&room, "m.room.name", "").await.ok()["name"], "Bureau");
    }
}

#[tokio::test]
async fn odd_events_are_refused_clearly() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({})).await;
    let long = "x".repeat(256);
    alice.send(&room, &long, json!({})).await.refused(413, "M_TOO_LARGE");
    alice.set_state(&room, "a", &long, json!({})).await.refused(413, "M_TOO_LARGE");
    alice
        .send(&room, "m.room.message", json!({ "body": "x".repeat(65_000) }))
        .await
        .refused(413, "M_TOO_LARGE");
    alice.send(&room, "m.room.message", json!({ "a": 1.5 })).await.refused(400, "M_BAD_JSON");
    alice
        .send(&room, "m.room.message", json!({ "a": 9_007_199_254_740_993_i64 }))
        .await
        .refused(400, "M_BAD_JSON");
    alice.send(&room, "m.room.message", json!([1])).await.refused(400, "M_BAD_JSON");
    alice.send(&room, "m.room.create", json!({})).await.refused(403, "M_FORBIDDEN");
    alice
        .set_state(&room, "m.room.member", "nobody", json!({ "membership": "join" }))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .set_state(&room, "m.room.member", &alice.id, json!({ "membership": 1 }))
        .await
        .refused(400, "M_BAD_JSON");
    alice
        .set_state(&room, "m.room.power_levels", "", json!({ "users": { "@a:b": "x" } }))
        .await
        .refused(403, "M_FORBIDDEN");
    alice.send("!none:localhost:8008", "a", json!({})).await.refused(404, "M_NOT_FOUND");
    alice.state(&room, "org.example", "none").await.refused(404, "M_NOT_FOUND");
    alice.event(&room, "$none").await.refused(404, "M_NOT_FOUND");
}
