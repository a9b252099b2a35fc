//! Events of other servers that are taken in together: what comes of them is what comes of them one by one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod servers;

use entente_rooms::{
    Direction, Draft, EventFilter, Reader, Received, RoomError, Shape, UserRoom, VerifiedPdu, object,
};
use ruma::{CanonicalJsonObject, OwnedEventId, RoomVersionId, UserId, events::TimelineEventType};
use serde_json::{Value, json};

use self::servers::{Home, Shared};

async fn send(shared: &Shared, sender: &UserId, content: Value) -> OwnedEventId {
    let draft = Draft::message(sender, TimelineEventType::RoomMessage, object(content).unwrap());
    shared.one.send(&shared.room, draft).await.unwrap()
}

/// A message that relates to an event.
fn relation(rel_type: &str, event_id: &OwnedEventId, body: &str) -> Value {
    json!({
        "msgtype": "m.text", "body": body, "m.new_content": { "msgtype": "m.text", "body": body },
        "m.relates_to": { "rel_type": rel_type, "event_id": event_id },
    })
}

/// An event of the first server with other fields than it has, signed anew. Null takes a field out.
async fn altered(shared: &Shared, event_id: &OwnedEventId, fields: Value) -> VerifiedPdu {
    let mut event: Value = serde_json::from_slice(&shared.one.json(&shared.room, event_id).await).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        event[name] = value.clone();
    }
    event.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let event: CanonicalJsonObject = serde_json::from_value(event).unwrap();
    let (event, _) = shared.one.rooms.sign_template(event, &shared.rules).unwrap();
    shared.verified(&serde_json::to_vec(&event).unwrap())
}

/// Everything that a user of a server can tell of a room.
async fn seen_by(home: &Home, shared: &Shared, user: &UserId) -> Value {
    let view = home.rooms.view(&shared.room).await.unwrap();
    let (filter, end) = (EventFilter::default(), view.timeline_end().await.unwrap());
    let page = view.timeline(user, end, None, Direction::Backward, 1_000, &filter).await.unwrap();
    let reader = Reader { user_id: user, device_id: "PHONE" };
    let written = view.client_events(reader, &page.events, Shape::WithRoom).await.unwrap();
    let timeline: Vec<Value> = written.iter().map(|event| serde_json::from_slice(event).unwrap()).collect();
    let threads = view.threads(user, None, false, 10).await.unwrap();
    let threads: Vec<String> =
        threads.roots.into_iter().map(|root| root.event.event_id.to_string()).collect();
    let (joined, invited) = view.member_counts().await.unwrap();
    let state: Vec<String> =
        home.state(&shared.room).await.into_iter().map(|entry| format!("{entry:?}")).collect();
    let mut newest: Vec<String> =
        view.newest_events().await.unwrap().into_iter().map(|id| id.to_string()).collect();
    newest.sort();
    json!({
        "timeline": timeline, "threads": threads, "counts": [joined, invited], "state": state, "newest": newest,
    })
}

/// What local users have to do with the room, without where the log says so.
async fn own_rooms(home: &Home, user: &UserId) -> Vec<(String, bool, i64)> {
    let snapshot = home.store.snapshot().await.unwrap();
    let rooms = home.rooms.user_rooms(&snapshot, user.localpart()).await.unwrap();
    let row = |room: UserRoom| (room.membership.as_str().to_owned(), room.was_joined, room.event.0);
    rooms.into_iter().map(row).collect()
}

/// Events of many kinds, each behind those that it names, and what becomes of them.
async fn everything(shared: &Shared) -> Vec<(VerifiedPdu, &'static str)> {
    let (alice, erin) = (shared.one.user("alice"), shared.one.user("erin"));
    let dora = shared.other.user("dora");
    let room = &shared.room;
    let mut ids = Vec::new();
    let said = shared.one.say(room, &alice, "said").await;
    ids.push(said.clone());
    ids.push(send(shared, &alice, relation("m.replace", &said, "first edit")).await);
    let second = send(shared, &alice, relation("m.replace", &said, "second edit")).await;
    ids.push(second.clone());
    ids.push(send(shared, &alice, relation("m.thread", &said, "first reply")).await);
    let reply = send(shared, &alice, relation("m.thread", &said, "second reply")).await;
    ids.push(reply.clone());
    ids.push(send(shared, &alice, relation("m.reference", &said, "reference")).await);
    // Twice the same: the second finds it redacted.
    for redacted in [&second, &reply, &second] {
        ids.push(shared.one.rooms.redact(room, &alice, redacted, None, None).await.unwrap());
    }
    let topic = json!({ "topic": "one" });
    let topic = shared.one.set(room, &alice, "m.room.topic", "", topic).await.unwrap();
    ids.push(topic.clone());
    ids.push(shared.one.rooms.redact(room, &alice, &topic, None, None).await.unwrap());
    ids.push(shared.one.say(room, &alice, "after the topic").await);
    for (sender, user, membership) in [
        (&alice, &dora, "invite"),
        (&alice, &dora, "leave"),
        (&alice, &dora, "invite"),
        (&erin, &erin, "join"),
    ] {
        let membership = json!({ "membership": membership });
        ids.push(shared.one.set(room, sender, "m.room.member", user.as_str(), membership).await.unwrap());
    }
    let erins = shared.one.say(room, &erin, "of erin").await;
    ids.push(erins.clone());
    let mut events = Vec::new();
    for event_id in &ids {
        events.push((shared.verified(&shared.one.json(room, event_id).await), "accepted"));
    }

    // One that is not allowed, one that is authorised by it, and one that is only built upon it.
    let stranger = shared.one.user("stranger");
    let fields =
        json!({ "sender": stranger, "type": "m.room.name", "state_key": "", "content": { "name": "x" } });
    let forged = altered(shared, &erins, fields).await;
    let authorised = json!({ "auth_events": [forged.event_id] });
    let upon =
        json!({ "prev_events": [forged.event_id], "content": { "body": "upon", "msgtype": "m.text" } });
    let (authorised, upon) = (altered(shared, &erins, authorised).await, altered(shared, &erins, upon).await);
    events.extend([(forged, "rejected"), (authorised, "rejected"), (upon, "accepted")]);

    // An edit and a redaction that come before what they are of.
    for (event_type, content) in
        [("m.room.message", relation("m.replace", &said, "early edit")), ("m.room.redaction", json!({}))]
    {
        let target = shared.one.say(room, &alice, event_type).await;
        let mut content = content;
        match event_type {
            "m.room.redaction" => content["redacts"] = json!(target),
            _ => content["m.relates_to"]["event_id"] = json!(target),
        }
        let early = altered(shared, &target, json!({ "type": event_type, "content": content })).await;
        events.push((early, "accepted"));
        events.push((shared.verified(&shared.one.json(room, &target).await), "accepted"));
    }

    // A fork, and somebody who speaks where nobody had heard yet of the ban.
    let name = json!({ "name": "one" });
    let name = shared.one.set(room, &alice, "m.room.name", "", name).await.unwrap();
    let other_name = altered(shared, &name, json!({ "content": { "name": "two" } })).await;
    let ban = json!({ "membership": "ban" });
    let ban = shared.one.set(room, &alice, "m.room.member", erin.as_str(), ban).await.unwrap();
    let of_ban: Value = serde_json::from_slice(&shared.one.json(room, &ban).await).unwrap();
    let late = altered(shared, &erins, json!({ "prev_events": of_ban["prev_events"] })).await;
    let last = shared.one.say(room, &alice, "last").await;
    for event_id in [&name, &ban, &last] {
        events.push((shared.verified(&shared.one.json(room, event_id).await), "accepted"));
    }
    events.insert(events.len() - 2, (other_name, "accepted"));
    events.insert(events.len() - 1, (late, "soft-failed"));
    // One again.
    events.push((events[0].0.clone(), "known"));
    events
}

fn word(received: &Received) -> &'static str {
    match received {
        Received::Accepted => "accepted",
        Received::SoftFailed => "soft-failed",
        Received::Rejected(_) => "rejected",
        Received::Known => "known",
        Received::MissingAuthEvents(_) | Received::MissingPrevEvents(_) => "missing",
    }
}

#[tokio::test]
async fn together_comes_to_the_same_as_one_by_one() {
    let shared = Shared::new(&RoomVersionId::V12).await;
    let twin = Home::new("other.example", 2).await;
    let (bob, dora) = (shared.other.user("bob"), shared.other.user("dora"));
    shared.join_at(&bob, &[&shared.other, &twin]).await;
    let (pdus, expected): (Vec<VerifiedPdu>, Vec<&str>) = everything(&shared).await.into_iter().unzip();

    let mut outcomes = Vec::new();
    for pdu in &pdus {
        outcomes.push(shared.other.rooms.receive(&shared.room, pdu).await.unwrap());
    }
    assert_eq!(outcomes.iter().map(word).collect::<Vec<_>>(), expected);
    let together = twin.rooms.receive_together(&shared.room, &[&pdus[..]]).await.unwrap();
    assert_eq!(together, [outcomes]);

    let one_by_one = seen_by(&shared.other, &shared, &bob).await;
    assert_eq!(seen_by(&twin, &shared, &bob).await, one_by_one);
    for user in [&bob, &dora] {
        assert_eq!(own_rooms(&twin, user).await, own_rooms(&shared.other, user).await, "{user}");
    }
    // What there is to be seen: the edit that was not redacted, the thread without the redacted reply, an early edit.
    let timeline = one_by_one["timeline"].as_array().unwrap();
    let of = |body: &str| timeline.iter().find(|event| event["content"]["body"] == body).unwrap();
    let relations = &of("said")["unsigned"]["m.relations"];
    assert_eq!(relations["m.replace"]["content"]["body"], "first edit");
    assert_eq!(relations["m.thread"]["count"], 1);
    assert_eq!(of("m.room.message")["unsigned"]["m.relations"]["m.replace"]["content"]["body"], "early edit");
    assert!(timeline.iter().all(|event| event["content"]["body"] != "m.room.redaction"), "it was redacted");
    assert!(timeline.iter().all(|event| event["content"]["body"] != "second edit"), "it was redacted");

    // One transaction is one place in the log.
    let position = |home: &Home| {
        let (rooms, room) = (home.rooms.clone(), shared.room.clone());
        let (first, last) = (pdus[0].event_id.clone(), pdus[pdus.len() - 2].event_id.clone());
        async move {
            let view = rooms.view(&room).await.unwrap();
            let first = view.event_by_id(&first).await.unwrap().unwrap().position;
            (first, view.event_by_id(&last).await.unwrap().unwrap().position)
        }
    };
    let (first, last) = position(&twin).await;
    assert_eq!(first, last);
    let (first, last) = position(&shared.other).await;
    assert_ne!(first, last);
}

#[tokio::test]
async fn what_cannot_be_taken_in_stops_its_run_and_no_other() {
    let shared = Shared::new(&RoomVersionId::V12).await;
    let (alice, bob) = (shared.one.user("alice"), shared.other.user("bob"));
    shared.join(&bob).await;
    let mut events = Vec::new();
    for number in 0..8 {
        let said = shared.one.say(&shared.room, &alice, &number.to_string()).await;
        events.push(shared.verified(&shared.one.json(&shared.room, &said).await));
    }
    let elsewhere = altered(&shared, &events[1].event_id, json!({ "room_id": "!elsewhere" })).await;
    let (first, rest) = events.split_at(2);
    // Before the fourth something is missing, and one is of another room.
    let gap = &rest[1..];
    let bad = [&events[..1], std::slice::from_ref(&elsewhere), &events[1..2]].concat();
    let runs: [&[VerifiedPdu]; 4] = [gap, &bad, first, &[]];
    let received = shared.other.rooms.receive_together(&shared.room, &runs).await.unwrap();
    assert_eq!(
        received,
        [vec![], vec![Received::Accepted], vec![Received::Known, Received::Accepted], vec![]]
    );
    assert!(matches!(
        shared.other.rooms.receive(&shared.room, &elsewhere).await,
        Err(RoomError::BadEvent(_))
    ));
    let outcomes = shared.take_together(&shared.other, rest).await;
    assert!(outcomes.iter().all(|received| *received == Received::Accepted), "{outcomes:?}");
    // A room that is not there.
    let nowhere = ruma::room_id!("!nowhere:one.example");
    let received = shared.other.rooms.receive_together(nowhere, &[rest]).await;
    assert!(matches!(received, Err(RoomError::RoomNotFound)));
}

#[tokio::test]
async fn more_of_the_state_is_asked_for_than_is_remembered() {
    let shared = Shared::new(&RoomVersionId::V12).await;
    let alice = shared.one.user("alice");
    // Whether somebody may be invited depends on parts of the state that are looked up for every invite, and on one that is new.
    for number in 0..2_100 {
        let user = shared.one.user(&format!("user{number}"));
        let invite = json!({ "membership": "invite" });
        let set = shared.one.set(&shared.room, &alice, "m.room.member", user.as_str(), invite).await;
        assert!(set.is_ok(), "invite {number}: {set:?}");
    }
}
