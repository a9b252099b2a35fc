//! `/v3/sync`: nothing is missed, nothing comes twice, and what comes is what the client asked for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "tests read the time")]

use std::time::{Duration, Instant};

use entente_tests::{SOON, Server, User, bodies};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

fn joined<'a>(synced: &'a Value, room: &str) -> &'a Value {
    &synced["rooms"]["join"][room]
}

fn timeline<'a>(synced: &'a Value, room: &str) -> &'a Value {
    &joined(synced, room)["timeline"]["events"]
}

fn next(synced: &Value) -> String {
    synced["next_batch"].as_str().unwrap().to_owned()
}

fn types(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().filter_map(|event| event["type"].as_str()).collect()
}

#[tokio::test]
async fn a_long_poll_wakes_for_what_concerns_it_and_for_nothing_else() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let bob = User::register(&server, "bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let other = alice.create_room(json!({})).await;
    let since = next(&bob.sync(&[]).await);
    alice.say(&other, "not for bob").await;
    let began = Instant::now();
    let quiet = bob.sync(&[("since", &since), ("timeout", "400")]).await;
    assert!(began.elapsed() >= Duration::from_millis(390));
    assert_eq!(quiet["rooms"], Value::Null);
    let waiting = tokio::spawn({
        let (bob, since) = (bob.clone(), next(&quiet));
        async move { bob.sync(&[("since", &since), ("timeout", "60000")]).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    alice.say(&room, "for bob").await;
    let woken = waiting.await.unwrap();
    assert!(began.elapsed() < SOON);
    assert_eq!(bodies(timeline(&woken, &room)), ["for bob"]);
    bob.get("/_matrix/client/v3/sync?since=nonsense").await.refused(400, "M_INVALID_PARAM");
    bob.get("/_matrix/client/v3/sync?filter=77").await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn rooms_come_with_the_state_that_their_timeline_needs() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let bob = User::register(&server, "bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "before" })).await;
    for number in 0..5 {
        alice.say(&room, &number.to_string()).await;
    }
    let since = next(&alice.sync(&[]).await);
    let filter = r#"{"room":{"timeline":{"limit":2}}}"#;
    for state_after in ["", "use_state_after", "org.matrix.msc4222.use_state_after"] {
        let mut parameters = vec![("filter", filter)];
        if !state_after.is_empty() {
            parameters.push((state_after, "true"));
        }
        let first = alice.sync(&parameters).await;
        let key = match state_after {
            "" => "state",
            "use_state_after" => "state_after",
            _ => "org.matrix.msc4222.state_after",
        };
        let update = joined(&first, &room);
        assert_eq!(bodies(&update["timeline"]["events"]), ["3", "4"]);
        assert_eq!(update["timeline"]["limited"], true);
        let state = types(&update[key]["events"]);
        for event_type in ["m.room.create", "m.room.member", "m.room.name", "m.room.power_levels"] {
            assert!(state.contains(&event_type), "{key}: {state:?}");
        }
    }
    // Behind a gap: state that changed in it, and not what the timeline shows anyhow.
    alice.set_state(&room, "m.room.name", "", json!({ "name": "in the gap" })).await.ok();
    bob.join(&room).await.ok();
    alice.say(&room, "a").await;
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "shown" })).await.ok();
    alice.say(&room, "b").await;
    let gap = alice.sync(&[("since", &since), ("filter", filter)]).await;
    let update = joined(&gap, &room);
    assert_eq!(types(&update["timeline"]["events"]), ["m.room.topic", "m.room.message"]);
    assert_eq!(update["timeline"]["limited"], true);
    let mut state = types(&update["state"]["events"]);
    state.sort_unstable();
    assert_eq!(state, ["m.room.member", "m.room.name"]);
    assert_eq!(update["summary"]["m.joined_member_count"], 2);
    let after = alice.sync(&[("since", &since), ("filter", filter), ("use_state_after", "true")]).await;
    let mut state = types(&joined(&after, &room)["state_after"]["events"]);
    state.sort_unstable();
    assert_eq!(state, ["m.room.member", "m.room.name", "m.room.topic"]);
    // What is older than the timeline is found behind `prev_batch`.
    let from = update["timeline"]["prev_batch"].as_str().unwrap();
    let page = alice.get(&User::in_room(&room, &format!("messages?dir=b&limit=2&from={from}"))).await.ok();
    assert_eq!(types(&page["chunk"]), ["m.room.message", "m.room.member"]);
    let full = alice.sync(&[("since", &next(&gap)), ("full_state", "true"), ("filter", filter)]).await;
    assert!(types(&joined(&full, &room)["state"]["events"]).contains(&"m.room.create"));
}

#[tokio::test]
async fn invites_departures_and_returns_are_told() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let bob = User::register(&server, "bob").await;
    let room = alice.create_room(json!({ "name": "Bureau" })).await;
    let start = next(&bob.sync(&[]).await);
    alice.invite(&room, &bob).await.ok();
    let invited = bob.sync(&[("since", &start)]).await;
    let state = types(&invited["rooms"]["invite"][&room]["invite_state"]["events"]);
    assert!(state.contains(&"m.room.name") && state.contains(&"m.room.create"), "{state:?}");
    bob.join(&room).await.ok();
    let came = bob.sync(&[("since", &next(&invited))]).await;
    let update = joined(&came, &room);
    assert_eq!(update["summary"]["m.joined_member_count"], 2);
    assert!(!types(&update["timeline"]["events"]).is_empty());
    alice.say(&room, "seen").await;
    bob.membership(&room, "leave", json!({})).await.ok();
    alice.say(&room, "unseen").await;
    let gone = bob.sync(&[("since", &next(&came))]).await;
    assert_eq!(bodies(&gone["rooms"]["leave"][&room]["timeline"]["events"]), ["seen"]);
    assert_eq!(joined(&gone, &room), &Value::Null);
    assert_eq!(bob.sync(&[("since", &next(&gone))]).await["rooms"], Value::Null);
    assert_eq!(bob.sync(&[]).await["rooms"], Value::Null);
    let archived = bob.sync(&[("filter", r#"{"room":{"include_leave":true}}"#)]).await;
    assert!(archived["rooms"]["leave"][&room].is_object());
    alice.invite(&room, &bob).await.ok();
    bob.join(&room).await.ok();
    let back = bob.sync(&[("since", &next(&gone))]).await;
    let update = joined(&back, &room);
    let known = [types(&update["state"]["events"]), types(&update["timeline"]["events"])].concat();
    assert!(known.contains(&"m.room.create"), "who comes back gets the whole state: {update}");
    // An invite that was declined goes away.
    let carol = User::register(&server, "carol").await;
    let since = next(&carol.sync(&[]).await);
    alice.invite(&room, &carol).await.ok();
    carol.membership(&room, "leave", json!({})).await.ok();
    let declined = carol.sync(&[("since", &since)]).await;
    let shown = &declined["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(types(shown), ["m.room.member"], "and nothing of the room is seen: {declined}");
}

#[tokio::test]
async fn lazily_loaded_members_are_those_who_spoke() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let mut others = Vec::new();
    for number in 0..4 {
        let user = User::register(&server, &format!("user{number}")).await;
        user.join(&room).await.ok();
        others.push(user);
    }
    others[2].say(&room, "me").await;
    let filter = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}"#;
    let synced = alice.sync(&[("filter", filter)]).await;
    let update = joined(&synced, &room);
    let members: Vec<&str> = update["state"]["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .map(|event| event["state_key"].as_str().unwrap())
        .collect();
    assert_eq!(members.len(), 2, "the speaker and oneself: {members:?}");
    assert!(members.contains(&others[2].id.as_str()) && members.contains(&alice.id.as_str()));
    assert_eq!(update["summary"]["m.heroes"].as_array().unwrap().len(), 4);
    assert_eq!(update["summary"]["m.joined_member_count"], 5);
}

/// What a client that loads members lazily learns of somebody's membership from an answer: by the state, and then by the timeline
/// if the state is that before it.
fn membership_told(update: &Value, key: &str, user: &User) -> Value {
    let of_user = |events: &Value| {
        let events = events["events"].as_array().cloned().unwrap_or_default();
        events.into_iter().rfind(|event| event["type"] == "m.room.member" && event["state_key"] == *user.id)
    };
    let told = match key {
        "state" => of_user(&update["timeline"]).or_else(|| of_user(&update["state"])),
        key => of_user(&update[key]),
    };
    told.map_or(Value::Null, |event| event["content"]["membership"].clone())
}

#[tokio::test]
async fn whoever_is_removed_is_so_for_clients_that_load_members_lazily() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let reader = User::register(&server, "reader").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    reader.join(&room).await.ok();
    let filter = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":3}}}"#;
    for (round, (key, state_after)) in [
        ("state", None),
        ("state_after", Some(("use_state_after", "true"))),
        ("org.matrix.msc4222.state_after", Some(("org.matrix.msc4222.use_state_after", "true"))),
    ]
    .into_iter()
    .enumerate()
    {
        for (what, membership) in [("kick", "leave"), ("ban", "ban"), ("invite", "invite")] {
            for gap in [false, true] {
                let name = format!("{what}-{round}-{gap}");
                let third = User::register(&server, &name).await;
                if what != "invite" {
                    third.join(&room).await.ok();
                }
                let mut parameters = vec![("filter", filter)];
                parameters.extend(state_after);
                let since = next(&reader.sync(&parameters).await);
                alice.membership(&room, what, json!({ "user_id": third.id })).await.ok();
                if gap {
                    for number in 0..5 {
                        alice.say(&room, &format!("{number}")).await;
                    }
                }
                parameters.push(("since", &since));
                let synced = reader.sync(&parameters).await;
                let update = joined(&synced, &room);
                assert_eq!(update["timeline"]["limited"], gap, "{name}");
                assert_eq!(membership_told(update, key, &third), membership, "{name}: {update}");
                // Once, though they may be needed as senders as well.
                let mut members: Vec<String> = update[key]["events"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|event| event["state_key"].to_string() + &event["type"].to_string())
                    .collect();
                let given = members.len();
                members.sort();
                members.dedup();
                assert_eq!(members.len(), given, "{name}: {update}");
            }
        }
    }
}

#[tokio::test]
async fn filters_ask_what_relates_to_an_event() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let bob = User::register(&server, "bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let since = next(&bob.sync(&[]).await);
    let root = alice.say(&room, "root").await;
    for number in 0..30 {
        alice.say(&room, &number.to_string()).await;
    }
    let relates_to = json!({ "rel_type": "m.thread", "event_id": root });
    let reply = json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": relates_to });
    bob.send(&room, "m.room.message", reply).await.ok();
    let threads = json!({ "related_by_rel_types": ["m.thread"], "limit": 5 });
    let own = json!({ "related_by_senders": [bob.id], "limit": 5 });
    let others = json!({ "related_by_senders": [alice.id] });
    for (wanted, expected) in [(threads, vec!["root"]), (own, vec!["root"]), (others, vec![])] {
        let filter = json!({ "room": { "timeline": wanted } });
        for since in [None, Some(("since", since.as_str()))] {
            let inline = filter.to_string();
            let mut parameters = vec![("filter", inline.as_str())];
            parameters.extend(since);
            let synced = alice.sync(&parameters).await;
            assert_eq!(bodies(timeline(&synced, &room)), expected, "{filter} {since:?}");
        }
        // The same when it is stored.
        let path = format!("/_matrix/client/v3/user/{}/filter", entente_tests::segment(&alice.id));
        let stored = alice.post(&path, &filter).await.ok();
        let synced = alice.sync(&[("filter", stored["filter_id"].as_str().unwrap())]).await;
        assert_eq!(bodies(timeline(&synced, &room)), expected, "{filter}");
    }
    // State that nothing relates to is left out too, if that is asked for.
    let state = json!({ "room": { "state": { "related_by_rel_types": ["m.thread"] },
        "timeline": { "limit": 1 } } });
    let synced = alice.sync(&[("filter", &state.to_string())]).await;
    assert_eq!(joined(&synced, &room)["state"]["events"], json!([]));
    let path = format!("/_matrix/client/v3/user/{}/filter", entente_tests::segment(&alice.id));
    let wrong = json!({ "room": { "timeline": { "related_by_senders": 5 } } });
    alice.post(&path, &wrong).await.refused(400, "M_BAD_JSON");
}

#[tokio::test]
async fn account_data_comes_once_and_ignored_users_do_not() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let bob = User::register(&server, "bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let since = next(&alice.sync(&[]).await);
    let own = format!("/_matrix/client/v3/user/{}", entente_tests::segment(&alice.id));
    alice.put(&format!("{own}/account_data/org.example"), &json!({ "a": 1 })).await.ok();
    let in_room = format!("{own}/rooms/{}/account_data/m.tag", entente_tests::segment(&room));
    alice.put(&in_room, &json!({ "tags": { "u.x": {} } })).await.ok();
    let synced = alice.sync(&[("since", &since)]).await;
    assert_eq!(synced["account_data"]["events"], json!([{ "type": "org.example", "content": { "a": 1 } }]));
    assert_eq!(types(&joined(&synced, &room)["account_data"]["events"]), ["m.tag"]);
    let quiet = alice.sync(&[("since", &next(&synced))]).await;
    assert_eq!((&quiet["account_data"], &quiet["rooms"]), (&Value::Null, &Value::Null));
    let ignore = json!({ "ignored_users": { bob.id.clone(): {} } });
    alice.put(&format!("{own}/account_data/m.ignored_user_list"), &ignore).await.ok();
    bob.say(&room, "unheard").await;
    alice.say(&room, "heard").await;
    let synced = alice.sync(&[("since", &next(&synced))]).await;
    assert_eq!(bodies(timeline(&synced, &room)), ["heard"]);
}

#[tokio::test]
async fn every_event_comes_to_every_reader_once_and_in_order() {
    let mut server = Server::open();
    let writer = User::register(&server, "writer").await;
    let mut rooms = Vec::new();
    for _ in 0..3 {
        rooms.push(writer.create_room(json!({ "preset": "public_chat" })).await);
    }
    let mut readers = Vec::new();
    for number in 0..4 {
        let reader = User::register(&server, &format!("reader{number}")).await;
        for room in &rooms {
            reader.join(room).await.ok();
        }
        let since = next(&reader.sync(&[]).await);
        readers.push((reader, since, Vec::<Vec<String>>::new()));
    }
    let filter = r#"{"room":{"timeline":{"limit":1000,"types":["m.room.message"]}}}"#;
    for round in 0..3 {
        let writers = (0..4_usize).map(|task| {
            let (writer, rooms) = (writer.at(&server), rooms.clone());
            tokio::spawn(async move {
                for number in 0..30_usize {
                    let room = &rooms[(task + number) % rooms.len()];
                    writer.say(room, &format!("{round}/{task}/{number}")).await;
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let reading: Vec<_> = readers
            .drain(..)
            .enumerate()
            .map(|(index, (reader, mut since, mut seen))| {
                let (reader, done, rooms) = (reader.at(&server), done.clone(), rooms.clone());
                tokio::spawn(async move {
                    seen.resize(rooms.len(), Vec::new());
                    let timeout = ["0", "3", "50", "200"][index];
                    loop {
                        let was_done = done.load(std::sync::atomic::Ordering::SeqCst);
                        let synced =
                            reader.sync(&[("since", &since), ("timeout", timeout), ("filter", filter)]).await;
                        since = next(&synced);
                        for (room, seen) in rooms.iter().zip(&mut seen) {
                            assert_ne!(joined(&synced, room)["timeline"]["limited"], true);
                            seen.extend(bodies(timeline(&synced, room)).into_iter().map(str::to_owned));
                        }
                        if was_done {
                            return (reader, since, seen);
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        for reader in reading {
            readers.push(reader.await.unwrap());
        }
        // Tokens are good for the next process too.
        server = server.crash_and_restart();
    }
    let expected = &readers[0].2;
    assert_eq!(expected.iter().map(Vec::len).sum::<usize>(), 3 * 4 * 30);
    for (_, _, seen) in &readers[1..] {
        assert_eq!(seen, expected, "all readers see the same order");
    }
    let writer = writer.at(&server);
    for (room, seen) in rooms.iter().zip(expected) {
        let path = User::in_room(
            room,
            "messages?dir=b&limit=1000&filter=%7B%22types%22%3A%5B%22m.room.message%22%5D%7D",
        );
        let page = writer.get(&path).await.ok();
        let mut stored: Vec<&str> = bodies(&page["chunk"]);
        stored.reverse();
        assert_eq!(&stored, seen);
    }
}

#[tokio::test]
async fn a_long_first_answer_comes_in_parts_and_whole() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let mut rooms = Vec::new();
    let text = "long ".repeat(8_000);
    for number in 0..12 {
        let room = alice.create_room(json!({ "preset": "public_chat", "name": format!("{number}") })).await;
        bob.join(&room).await.ok();
        alice.say(&room, &format!("{number} {text}")).await;
        rooms.push(room);
    }
    let left = rooms.split_off(10);
    for room in &left {
        bob.membership(room, "leave", json!({})).await.ok();
    }
    let invited = alice.create_room(json!({ "invite": [bob.id] })).await;
    let filter = json!({ "room": { "include_leave": true } }).to_string();
    let first = bob.sync(&[("filter", &filter)]).await;
    let ids = |kind: &str| first["rooms"][kind].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    assert_eq!(sorted(ids("join")), sorted(rooms.clone()));
    assert_eq!(sorted(ids("leave")), sorted(left));
    assert_eq!(ids("invite"), [invited]);
    for room in &rooms {
        let last = timeline(&first, room).as_array().unwrap().last().unwrap().clone();
        assert!(last["content"]["body"].as_str().unwrap().len() > text.len());
    }
    assert!(first["device_one_time_keys_count"].is_object());
    // What comes next is behind it.
    alice.say(&rooms[3], "short").await;
    let second = bob.sync(&[("since", &next(&first)), ("timeout", "10000")]).await;
    assert_eq!(entente_tests::bodies(timeline(&second, &rooms[3])), ["short"]);
}

#[tokio::test]
async fn who_stops_reading_holds_up_nobody_else() {
    let server = Server::open();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let carol = User::register(&server, "carol").await;
    let text = "x".repeat(60_000);
    // More than the buffers between the server and a client hold.
    for _ in 0..10 {
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await.ok();
        for _ in 0..10 {
            alice.say(&room, &text).await;
        }
    }
    let small = carol.create_room(json!({})).await;
    let since = next(&carol.sync(&[]).await);
    let address = server.base_url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let token = bob.access_token.clone().unwrap();
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
        let request = format!(
            "GET /_matrix/client/v3/sync HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let news = tokio::time::timeout(SOON, async {
        carol.say(&small, "for me").await;
        let news = carol.sync(&[("since", &since)]).await;
        assert_eq!(bodies(timeline(&carol.sync(&[]).await, &small)), ["for me"]);
        news
    });
    let news = news.await.expect("others hold up the answer");
    assert_eq!(bodies(timeline(&news, &small)), ["for me"]);
    drop(stalled);
    // And whoever went away makes room.
    let whole = tokio::time::timeout(SOON, bob.sync(&[]));
    let whole = whole.await.expect("those who went away hold up the answer");
    assert_eq!(whole["rooms"]["join"].as_object().unwrap().len(), 10);
}

/// Reads one answer that says how long it is, and nothing behind it.
async fn read_answer(stream: &mut TcpStream) -> Value {
    let mut answer = Vec::new();
    loop {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "the server hangs up");
        let text = String::from_utf8_lossy(&answer);
        let Some((header, body)) = text.split_once("\r\n\r\n") else { continue };
        let (_, length) = header.split_once("content-length: ").unwrap();
        if body.len() == length.lines().next().unwrap().parse::<usize>().unwrap() {
            assert!(header.starts_with("HTTP/1.1 200"), "{text}");
            return serde_json::from_str(body).unwrap();
        }
    }
}

/// A connection on which a request waits for news, after another one that did not.
async fn waiting(address: String, token: String, since: String) -> TcpStream {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    for timeout in ["0", "600000"] {
        let request = format!(
            "GET /_matrix/client/v3/sync?since={since}&timeout={timeout}&set_presence=offline HTTP/1.1\r\nHost: {address}\r\n\
             User-Agent: a client with a name of usual length (Linux; X11)\r\nAccept: application/json\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        if timeout == "0" {
            read_answer(&mut stream).await;
        }
    }
    stream
}

/// Waits until the server needs no more memory than a moment before.
async fn settled(server: &Server) -> u64 {
    let give_up_at = Instant::now() + SOON;
    let mut before = server.resident_memory();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = server.resident_memory();
        if now <= before || Instant::now() > give_up_at {
            return now;
        }
        before = now;
    }
}

/// Has so many users wait for news on so many devices each. Answers how much memory the server needs without them and with them.
async fn wait_on_many_devices(users: usize, devices: usize) -> (u64, u64) {
    let server = Server::with(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_LIMITS__MAX_CONNECTIONS", "20000"),
        ("ENTENTE_LIMITS__MAX_SYNC_TIMEOUT", "1 h"),
    ]);
    let address = server.base_url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let anonymous = server.anonymous();
    let mut tokens = Vec::new();
    let mut talking = Vec::new();
    for number in 0..users {
        let user = User::register(&server, &format!("user{number}")).await;
        let room = user.create_room(json!({})).await;
        for _ in 0..devices {
            let login = json!({ "type": "m.login.password", "password": "correct horse battery staple",
                "identifier": { "type": "m.id.user", "user": user.id } });
            let session = anonymous.post("/_matrix/client/v3/login", &login).await.ok();
            tokens.push(session["access_token"].as_str().unwrap().to_owned());
        }
        talking.push((user, room));
    }
    let since = next(&talking[0].0.sync(&[("set_presence", "offline")]).await);
    let before = settled(&server).await;
    let mut streams = Vec::new();
    for tokens in tokens.chunks(64) {
        let begun = tokens.iter().map(|token| waiting(address.clone(), token.clone(), since.clone()));
        let begun: Vec<_> = begun.map(tokio::spawn).collect();
        for stream in begun {
            streams.push(stream.await.unwrap());
        }
    }
    let with_them = settled(&server).await;
    for stream in &streams {
        assert_eq!(
            stream.try_read(&mut [0]).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "nobody is answered yet"
        );
    }
    // Every device of one of them hears what is said, and nobody else's does.
    let (user, room) = &talking[0];
    user.say(room, "hello").await;
    for stream in &mut streams[..devices] {
        let heard = tokio::time::timeout(SOON, read_answer(stream)).await.expect("they are woken");
        assert_eq!(bodies(timeline(&heard, room)), ["hello"]);
    }
    for stream in &streams[devices..] {
        assert!(stream.try_read(&mut [0]).is_err(), "others are not woken");
    }
    (before, with_them)
}

#[tokio::test]
async fn whoever_waits_costs_little() {
    let (before, with_them) = wait_on_many_devices(4, 150).await;
    let each = with_them.saturating_sub(before) / 600;
    println!("{each} bytes for each request that waits");
    assert!(each < 32 * 1_024, "{before} {with_them}");
}

/// For a figure that means something the program has to be a release build.
#[tokio::test]
#[ignore = "takes minutes, and 10 000 connections"]
async fn ten_thousand_wait_within_300_megabytes() {
    let (before, with_them) = wait_on_many_devices(100, 100).await;
    println!("{before} bytes before, {with_them} bytes with 10 000 requests that wait");
    assert!(with_them < 300_000_000, "{before} {with_them}");
}
