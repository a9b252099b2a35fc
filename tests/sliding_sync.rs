//! Sliding sync: windows over a user's rooms, and what stays right whatever happens to the connection.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, time::Duration};

use entente_tests::{Server, User, bodies, segment};
use serde_json::{Value, json};

const SIMPLIFIED: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const MERGED: &str = "/_matrix/client/v4/sync";

/// A client that keeps what it was told.
struct Client<'a> {
    user: &'a User,
    is_merged: bool,
    pos: Option<String>,
    request: Value,
    rooms: BTreeMap<String, Value>,
    counts: BTreeMap<String, u64>,
}

impl<'a> Client<'a> {
    fn new(user: &'a User, is_merged: bool, request: Value) -> Self {
        Self { user, is_merged, pos: None, request, rooms: BTreeMap::new(), counts: BTreeMap::new() }
    }

    fn timeline_key(&self) -> &'static str {
        if self.is_merged { "timeline_events" } else { "timeline" }
    }

    async fn ask(&self, timeout: Duration) -> entente_tests::Answer {
        let timeout = timeout.as_millis();
        if self.is_merged {
            let mut body = self.request.clone();
            body["timeout"] = json!(u64::try_from(timeout).unwrap());
            if let Some(pos) = &self.pos {
                body["pos"] = json!(pos);
            }
            return self.user.post(MERGED, &body).await;
        }
        let pos = self.pos.as_ref().map(|pos| format!("&pos={}", segment(pos))).unwrap_or_default();
        self.user.post(&format!("{SIMPLIFIED}?timeout={timeout}{pos}"), &self.request).await
    }

    async fn sync(&mut self, timeout: Duration) -> Value {
        let answer = self.ask(timeout).await.ok();
        self.take(&answer);
        answer
    }

    /// Asks until there is nothing new.
    async fn catch_up(&mut self) {
        for _ in 0..50 {
            let answer = self.sync(Duration::ZERO).await;
            if answer["rooms"].as_object().unwrap().is_empty() {
                return;
            }
        }
        panic!("it never becomes quiet");
    }

    fn take(&mut self, answer: &Value) {
        self.pos = Some(answer["pos"].as_str().unwrap().to_owned());
        for (list, result) in answer["lists"].as_object().unwrap() {
            self.counts.insert(list.clone(), result["count"].as_u64().unwrap());
        }
        let timeline_key = self.timeline_key();
        for (room_id, news) in answer["rooms"].as_object().unwrap() {
            let is_new = news["initial"] == true || !self.rooms.contains_key(room_id);
            assert!(
                news["initial"] == true || self.rooms.contains_key(room_id),
                "{room_id}: a part without the rest"
            );
            let room = self.rooms.entry(room_id.clone()).or_default();
            if is_new {
                *room = json!({ "timeline": [], "state": {} });
            }
            for field in [
                "name",
                "avatar",
                "joined_count",
                "invited_count",
                "notification_count",
                "is_dm",
                "membership",
            ] {
                if let Some(value) = news.get(field) {
                    room[field] = value.clone();
                }
            }
            for key in ["invite_state", "stripped_state"] {
                if let Some(stripped) = news.get(key) {
                    room["invite_state"] = stripped.clone();
                }
            }
            for event in news["required_state"].as_array().into_iter().flatten() {
                let key =
                    format!("{} {}", event["type"].as_str().unwrap(), event["state_key"].as_str().unwrap());
                room["state"][key] = event["content"].clone();
            }
            let new: Vec<Value> = news[timeline_key].as_array().cloned().unwrap_or_default();
            let replaces = news["limited"] == true
                || news["unstable_expanded_timeline"] == true
                || news["expanded_timeline"] == true;
            if replaces {
                room["timeline"] = json!([]);
            }
            room["timeline"].as_array_mut().unwrap().extend(new);
        }
    }

    fn room(&self, room_id: &str) -> &Value {
        &self.rooms[room_id]
    }

    fn texts(&self, room_id: &str) -> Vec<&str> {
        bodies(&self.room(room_id)["timeline"])
    }
}

fn everything() -> Value {
    json!({
        "conn_id": "room-list",
        "lists": { "all": { "ranges": [[0, 999]], "timeline_limit": 5, "required_state": [
            ["m.room.name", ""], ["m.room.topic", ""], ["m.room.member", "$ME"], ["m.room.member", "$LAZY"],
        ] } },
        "extensions": { "account_data": { "enabled": true }, "receipts": { "enabled": true },
                        "typing": { "enabled": true } },
    })
}

fn everything_merged() -> Value {
    json!({
        "conn_id": "room-list",
        "lists": { "all": { "range": [0, 999], "timeline_limit": 5, "required_state": { "include": [
            { "type": "m.room.name", "state_key": "" }, { "type": "m.room.topic", "state_key": "" } ],
            "lazy_members": true } } },
    })
}

async fn two(server: &Server) -> (User, User) {
    (User::register(server, "alice").await, User::register(server, "bob").await)
}

#[tokio::test]
async fn a_window_moves_over_the_rooms_in_the_order_of_their_activity() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let mut rooms = Vec::new();
    for place in 0..6 {
        let room = alice.create_room(json!({ "name": format!("Salle {place}") })).await;
        alice.say(&room, "bonjour").await;
        rooms.push(room);
    }
    let list = |first: u64, last: u64| {
        json!({ "lists": { "top": { "ranges": [[first, last]], "timeline_limit": 1,
                "required_state": [["m.room.create", ""]] } } })
    };
    let mut client = Client::new(&alice, false, list(0, 1));
    let first = client.sync(Duration::ZERO).await;
    assert_eq!(first["lists"]["top"]["count"], 6);
    let given: Vec<&str> = first["rooms"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(given.len(), 2);
    assert!(given.contains(&rooms[5].as_str()) && given.contains(&rooms[4].as_str()));
    let newest = &first["rooms"][&rooms[5]];
    assert_eq!((&newest["name"], &newest["initial"]), (&json!("Salle 5"), &json!(true)));
    assert_eq!((&newest["limited"], &newest["joined_count"]), (&json!(true), &json!(1)));
    assert_eq!(bodies(&newest["timeline"]), ["bonjour"]);
    assert_eq!(newest["required_state"].as_array().unwrap().len(), 1);
    assert!(
        newest["bump_stamp"].as_u64().unwrap() > first["rooms"][&rooms[4]]["bump_stamp"].as_u64().unwrap()
    );

    client.request = list(0, 3);
    let wider = client.sync(Duration::ZERO).await;
    assert_eq!(wider["rooms"].as_object().unwrap().len(), 2, "only those that are new");

    // A room outside the window rises into it.
    alice.say(&rooms[0], "ohé").await;
    client.request = list(0, 0);
    let risen = client.sync(Duration::from_secs(5)).await;
    assert_eq!(client.texts(&rooms[0]), ["ohé"]);
    assert_eq!(risen["rooms"][&rooms[0]]["num_live"], 1);

    // What happened to a room while nothing asked for it comes when something does.
    client.request = json!({ "lists": {} });
    alice.set_state(&rooms[5], "m.room.name", "", json!({ "name": "Grande salle" })).await.ok();
    alice.say(&rooms[5], "un").await;
    client.sync(Duration::ZERO).await;
    alice.say(&rooms[5], "deux").await;
    client.request = list(0, 0);
    client.sync(Duration::from_secs(5)).await;
    assert_eq!(
        (client.room(&rooms[5])["name"].as_str(), client.texts(&rooms[5])),
        (Some("Grande salle"), vec!["deux"])
    );
}

#[tokio::test]
async fn lists_pass_what_their_filters_let_through() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let chat = alice.create_room(json!({ "name": "chat" })).await;
    let space =
        alice.create_room(json!({ "name": "space", "creation_content": { "type": "m.space" } })).await;
    let secret = alice
        .create_room(json!({ "name": "secret", "initial_state": [
            { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } } ] }))
        .await;
    let invited = bob.create_room(json!({ "name": "invited", "invite": [alice.id] })).await;
    let via = json!({ "via": ["localhost"] });
    alice.set_state(&space, "m.space.child", &chat, via).await.ok();
    let account = format!("/_matrix/client/v3/user/{}", segment(&alice.id));
    alice.put(&format!("{account}/account_data/m.direct"), &json!({ bob.id.clone(): [secret] })).await.ok();
    let tag = format!("{account}/rooms/{}/account_data/m.tag", segment(&chat));
    alice.put(&tag, &json!({ "tags": { "m.favourite": {} } })).await.ok();
    for (filters, expected) in [
        (json!({ "is_dm": true }), vec![&secret]),
        (json!({ "is_dm": false }), vec![&chat, &space, &invited]),
        (json!({ "is_encrypted": true }), vec![&secret]),
        (json!({ "is_invite": true }), vec![&invited]),
        (json!({ "is_invited": false }), vec![&chat, &space, &secret]),
        (json!({ "room_types": ["m.space"] }), vec![&space]),
        (json!({ "not_room_types": ["m.space"] }), vec![&chat, &secret, &invited]),
        (json!({ "room_types": [null, "m.space"], "not_room_types": [null] }), vec![&space]),
        (json!({ "spaces": [space] }), vec![&chat]),
        (json!({ "tags": ["m.favourite"] }), vec![&chat]),
        (json!({ "not_tags": ["m.favourite"] }), vec![&space, &secret, &invited]),
    ] {
        let request =
            json!({ "lists": { "l": { "ranges": [[0, 99]], "timeline_limit": 0, "filters": filters } } });
        let answer = Client::new(&alice, false, request).sync(Duration::ZERO).await;
        let mut expected: Vec<&str> = expected.into_iter().map(String::as_str).collect();
        expected.sort_unstable();
        let given: Vec<&str> = answer["rooms"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut given = given;
        given.sort_unstable();
        assert_eq!(given, expected, "{filters}");
        assert_eq!(answer["lists"]["l"]["count"], expected.len(), "{filters}");
    }
}

/// The members that an answer brings, and how they are called.
fn members(news: &Value) -> BTreeMap<&str, (&str, &str)> {
    let events = news["required_state"].as_array().into_iter().flatten();
    let of_members = events.filter(|event| event["type"] == "m.room.member");
    of_members
        .map(|event| {
            let content = &event["content"];
            let name = content["displayname"].as_str().unwrap_or_default();
            (event["state_key"].as_str().unwrap(), (content["membership"].as_str().unwrap(), name))
        })
        .collect()
}

#[tokio::test]
async fn whoever_appears_in_a_timeline_comes_with_it() {
    let server = Server::open();
    let (alice, reader) = two(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Place" })).await;
    reader.join(&room).await.ok();
    let mut speakers = Vec::new();
    for number in 0..8 {
        let speaker = User::register(&server, &format!("speaker{number}")).await;
        speaker.join(&room).await.ok();
        speakers.push(speaker);
    }
    for merged in [false, true] {
        let mut request = if merged { everything_merged() } else { everything() };
        request["lists"]["all"]["timeline_limit"] = json!(3);
        let mut client = Client::new(&reader, merged, request);
        client.catch_up().await;
        let timeline_key = client.timeline_key();
        // They speak so much that there is a gap; one is called something else by then, and one is gone.
        for round in 0..2 {
            for (number, speaker) in speakers.iter().enumerate() {
                let name = format!("Speaker {number} {merged} {round}");
                let path = format!("/_matrix/client/v3/profile/{}/displayname", segment(&speaker.id));
                if number % 2 == 0 {
                    speaker.put(&path, &json!({ "displayname": name })).await.ok();
                }
                speaker.say(&room, &format!("{number}")).await;
            }
            speakers[6].membership(&room, "leave", json!({})).await.ok();
            let answer = client.sync(Duration::from_secs(5)).await;
            let news = &answer["rooms"][&room];
            assert_eq!(news["limited"], true, "{news}");
            let told = members(news);
            let timeline = news[timeline_key].as_array().unwrap();
            assert_eq!(timeline.len(), 3);
            for event in timeline {
                let sender = event["sender"].as_str().unwrap();
                let current = alice.state(&room, "m.room.member", sender).await.ok();
                let expected = (
                    current["membership"].as_str().unwrap(),
                    current["displayname"].as_str().unwrap_or_default(),
                );
                assert_eq!(told.get(sender), Some(&expected), "{sender}: {news}");
            }
            assert_eq!(told[speakers[6].id.as_str()].0, "leave");
            speakers[6].join(&room).await.ok();
            client.catch_up().await;
        }
        // And those who appear when the timeline is made longer.
        client.request["room_subscriptions"] =
            json!({ room.clone(): { "timeline_limit": 12, "required_state": [["m.room.member", "$LAZY"]] } });
        if merged {
            client.request["room_subscriptions"][&room]["required_state"] = json!({ "lazy_members": true });
        }
        let answer = client.sync(Duration::from_secs(5)).await;
        let news = &answer["rooms"][&room];
        let told = members(news);
        let timeline = news[timeline_key].as_array().unwrap();
        assert_eq!(timeline.len(), 12, "{news}");
        for event in timeline {
            let sender = event["sender"].as_str().unwrap();
            assert!(told.contains_key(sender), "{sender}: {news}");
        }
    }
}

#[tokio::test]
async fn invites_become_rooms_and_rooms_are_left() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    for merged in [false, true] {
        let request = if merged { everything_merged() } else { everything() };
        let mut client = Client::new(&bob, merged, request);
        client.catch_up().await;
        let room = alice.create_room(json!({ "name": "Bureau", "invite": [bob.id] })).await;
        client.sync(Duration::from_secs(5)).await;
        let invite = client.room(&room);
        assert!(bodies(&invite["timeline"]).is_empty());
        let names: Vec<&Value> = invite["invite_state"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| &event["content"]["name"])
            .collect();
        assert!(names.contains(&&json!("Bureau")));
        alice.say(&room, "avant").await;
        bob.join(&room).await.ok();
        alice.say(&room, "après").await;
        client.catch_up().await;
        assert_eq!(client.room(&room)["name"], "Bureau");
        assert_eq!(client.room(&room)["joined_count"], 2);
        assert!(client.texts(&room).contains(&"après"));
        alice.membership(&room, "kick", json!({ "user_id": bob.id })).await.ok();
        alice.say(&room, "sans toi").await;
        client.catch_up().await;
        assert!(!client.texts(&room).contains(&"sans toi"));
        let last = client.room(&room)["timeline"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&last["content"]["membership"], &last["state_key"]), (&json!("leave"), &json!(bob.id)));
        // Who was put out is shown it on new connections too; who left by themselves is not.
        let mut other = Client::new(&bob, merged, client.request.clone());
        other.request["conn_id"] = json!("other");
        other.catch_up().await;
        assert!(other.rooms.contains_key(&room));
        let own = bob.create_room(json!({})).await;
        bob.membership(&own, "leave", json!({})).await.ok();
        let mut third = Client::new(&bob, merged, client.request.clone());
        third.request["conn_id"] = json!("third");
        third.catch_up().await;
        assert!(!third.rooms.contains_key(&own));
    }
}

#[tokio::test]
async fn what_was_not_received_is_given_again() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Place" })).await;
    bob.join(&room).await.ok();
    let mut client = Client::new(&bob, false, everything());
    client.catch_up().await;
    let before = client.pos.clone();
    alice.say(&room, "un").await;
    let lost = client.ask(Duration::from_secs(5)).await.ok();
    assert_eq!(bodies(&lost["rooms"][&room]["timeline"]), ["un"]);
    alice.say(&room, "deux").await;
    // The answer got lost, and so did the process.
    let server = server.crash_and_restart();
    let (alice, bob) = (alice.at(&server), bob.at(&server));
    client.user = &bob;
    assert_eq!(client.pos, before);
    client.sync(Duration::ZERO).await;
    assert_eq!(client.texts(&room).last_chunk(), Some(&["un", "deux"]));
    let new = alice.create_room(json!({ "invite": [bob.id] })).await;
    let unseen = client.ask(Duration::from_secs(5)).await.ok();
    assert!(unseen["rooms"].get(&new).is_some());
    client.sync(Duration::ZERO).await;
    assert!(client.rooms.contains_key(&new), "an invite whose answer got lost comes again");

    for pos in ["c0.1_s1", "s17", "nonsense"] {
        client.pos = Some(pos.to_owned());
        client.ask(Duration::ZERO).await.refused(400, "M_UNKNOWN_POS");
    }
}

#[tokio::test]
async fn demands_can_grow() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({ "name": "Salle", "topic": "Rien" })).await;
    for text in ["1", "2", "3", "4", "5"] {
        alice.say(&room, text).await;
    }
    let mut client = Client::new(
        &alice,
        false,
        json!({ "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 1, "required_state": [["m.room.name", ""]] } } }),
    );
    client.catch_up().await;
    assert_eq!(client.texts(&room), ["5"]);
    client.request["room_subscriptions"] = json!({ room.clone(): { "timeline_limit": 3, "required_state": [["m.room.topic", ""], ["*", "x"]] } });
    let grown = client.sync(Duration::from_secs(5)).await;
    assert_eq!(grown["rooms"][&room]["unstable_expanded_timeline"], true);
    assert_eq!(client.texts(&room), ["3", "4", "5"]);
    assert_eq!(client.room(&room)["state"]["m.room.topic "]["topic"], "Rien");
    client.catch_up().await;
    alice.say(&room, "6").await;
    let next = client.sync(Duration::from_secs(5)).await;
    assert_eq!(bodies(&next["rooms"][&room]["timeline"]), ["6"], "only what is new");
}

#[tokio::test]
async fn extensions_bring_what_is_not_in_timelines() {
    let server = Server::open();
    let (alice, bob) = two(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let event = alice.say(&room, "lu?").await;
    let mut client = Client::new(&alice, false, everything());
    let first = client.sync(Duration::ZERO).await;
    let types: Vec<&str> = first["extensions"]["account_data"]["global"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert!(types.contains(&"m.push_rules"));
    bob.post(&User::in_room(&room, &format!("receipt/m.read/{}", segment(&event))), &json!({})).await.ok();
    let next = client.sync(Duration::from_secs(5)).await;
    let receipts = &next["extensions"]["receipts"]["rooms"][&room];
    assert!(receipts["content"][&event]["m.read"].get(&bob.id).is_some(), "{next}");
    bob.put(
        &User::in_room(&room, &format!("typing/{}", segment(&bob.id))),
        &json!({ "typing": true, "timeout": 9000 }),
    )
    .await
    .ok();
    let next = client.sync(Duration::from_secs(5)).await;
    assert_eq!(next["extensions"]["typing"]["rooms"][&room]["content"]["user_ids"], json!([bob.id]));

    let encryption = json!({ "conn_id": "encryption", "extensions": {
        "to_device": { "enabled": true }, "e2ee": { "enabled": true } } });
    let mut second = Client::new(&alice, false, encryption);
    let first = second.sync(Duration::ZERO).await;
    assert!(first["extensions"]["e2ee"]["device_unused_fallback_key_types"].is_array());
    let send = |text: &str| {
        let path = format!("/_matrix/client/v3/sendToDevice/org.example/{text}");
        let body = json!({ "messages": { alice.id.clone(): { alice.device_id.clone(): { "text": text } } } });
        let bob = bob.clone();
        async move { bob.put(&path, &body).await.ok() }
    };
    send("un").await;
    let news = second.sync(Duration::from_secs(5)).await;
    let messages = |answer: &Value| {
        let events = answer["extensions"]["to_device"]["events"].as_array().unwrap();
        events.iter().map(|event| event["content"]["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(messages(&news), ["un"]);
    // Not acknowledged yet, it is given again.
    assert_eq!(messages(&second.sync(Duration::ZERO).await), ["un"]);
    second.request["extensions"]["to_device"]["since"] =
        news["extensions"]["to_device"]["next_batch"].clone();
    send("deux").await;
    assert_eq!(messages(&second.sync(Duration::from_secs(5)).await), ["deux"]);
    let plain = alice.sync(&[]).await;
    let left = &plain["to_device"]["events"];
    assert_eq!(left.as_array().unwrap().len(), 1, "what was acknowledged is deleted: {left}");
}

#[tokio::test]
async fn odd_requests_are_refused_clearly() {
    let server = Server::open();
    let alice = User::register(&server, "alice").await;
    let many: BTreeMap<String, Value> = (0..101)
        .map(|place| (place.to_string(), json!({ "timeline_limit": 1, "ranges": [[0, 1]] })))
        .collect();
    for (body, status, errcode) in [
        (json!({ "lists": many }), 400, "M_INVALID_PARAM"),
        (json!({ "lists": { "l": { "ranges": [[2, 1]], "timeline_limit": 1 } } }), 400, "M_INVALID_PARAM"),
        (json!({ "lists": { "l": { "ranges": [[0, 1]] } } }), 400, "M_BAD_JSON"),
        (json!({ "lists": { "l": { "ranges": [[0, -1]], "timeline_limit": 1 } } }), 400, "M_BAD_JSON"),
        (json!({ "conn_id": "x".repeat(100) }), 400, "M_INVALID_PARAM"),
        (json!({ "room_subscriptions": { "nonsense": { "timeline_limit": 1 } } }), 400, "M_BAD_JSON"),
        (json!([]), 400, "M_BAD_JSON"),
    ] {
        alice.post(SIMPLIFIED, &body).await.refused(status, errcode);
    }
    server.anonymous().post(SIMPLIFIED, &json!({})).await.refused(401, "M_MISSING_TOKEN");
    // Rooms that do not exist, or are none of the user's business, are passed over.
    let stranger = User::register(&server, "bob").await;
    let private = stranger.create_room(json!({})).await;
    let subscriptions =
        json!({ private: { "timeline_limit": 1 }, "!none:localhost": { "timeline_limit": 1 } });
    let answer = alice.post(SIMPLIFIED, &json!({ "room_subscriptions": subscriptions })).await.ok();
    assert_eq!(answer["rooms"], json!({}));
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// Does something in one of the rooms. Much of it is refused, as it should be.
async fn do_something(dice: &mut Dice, users: &[User], rooms: &mut Vec<String>) {
    let (user, other) = (&users[dice.below(users.len())], &users[dice.below(users.len())]);
    if rooms.is_empty() || dice.below(40) == 0 {
        let body = json!({ "name": format!("Salle {}", rooms.len()), "preset": "public_chat" });
        rooms.push(user.create_room(body).await);
        return;
    }
    let room = &rooms[dice.below(rooms.len())];
    let target = json!({ "user_id": other.id });
    match dice.below(20) {
        0..=7 => {
            let body = format!("message {}", dice.below(1_000_000));
            user.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await;
        }
        8..=10 => drop(user.join(room).await),
        11 => drop(user.membership(room, "leave", json!({})).await),
        12 => drop(user.membership(room, "invite", target).await),
        13 => drop(user.membership(room, "kick", target).await),
        14 => {
            let name = json!({ "name": format!("Nom {}", dice.below(1_000)) });
            user.set_state(room, "m.room.name", "", name).await;
        }
        15 => {
            let topic = json!({ "topic": format!("Sujet {}", dice.below(1_000)) });
            user.set_state(room, "m.room.topic", "", topic).await;
        }
        16 | 17 => {
            let page = user.get(&User::in_room(room, "messages?dir=b&limit=3")).await;
            let chunk = page.body["chunk"].as_array().cloned().unwrap_or_default();
            if let Some(event) = chunk.last() {
                let event_id = segment(event["event_id"].as_str().unwrap());
                user.post(&User::in_room(room, &format!("receipt/m.read/{event_id}")), &json!({})).await;
            }
        }
        18 => {
            let tag = format!(
                "/_matrix/client/v3/user/{}/rooms/{}/account_data/m.tag",
                segment(&user.id),
                segment(room)
            );
            user.put(&tag, &json!({ "tags": { "m.favourite": { "order": dice.below(10) } } })).await;
        }
        _ => {
            let typing = json!({ "typing": dice.below(2) == 0, "timeout": 5_000 });
            user.put(&User::in_room(room, &format!("typing/{}", segment(&user.id))), &typing).await;
        }
    }
}

fn window(dice: &mut Dice, merged: bool) -> Value {
    let last = dice.below(8);
    let limit = 1 + dice.below(6);
    if merged {
        let mut request = everything_merged();
        request["lists"]["all"]["range"] = json!([0, last]);
        request["lists"]["all"]["timeline_limit"] = json!(limit);
        request
    } else {
        let mut request = everything();
        request["lists"]["all"]["ranges"] = json!([[0, last]]);
        request["lists"]["all"]["timeline_limit"] = json!(limit);
        request
    }
}

fn ids(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().map(|event| event["event_id"].as_str().unwrap()).collect()
}

/// What a client was told bit by bit is what `/v3/sync` tells at once.
fn compare(client: &Client<'_>, plain: &Value) {
    let empty = serde_json::Map::new();
    let joined = plain["rooms"]["join"].as_object().unwrap_or(&empty);
    for (room_id, expected) in joined {
        let room = client.rooms.get(room_id).unwrap_or_else(|| panic!("{room_id} is missing"));
        let state: BTreeMap<String, &Value> = expected["state"]["events"]
            .as_array()
            .into_iter()
            .chain(expected["timeline"]["events"].as_array())
            .flatten()
            .filter_map(|event| {
                Some((
                    format!("{} {}", event["type"].as_str()?, event["state_key"].as_str()?),
                    &event["content"],
                ))
            })
            .collect();
        for key in ["m.room.name ", "m.room.topic "] {
            assert_eq!(room["state"].get(key), state.get(key).copied(), "{key} of {room_id}");
        }
        assert_eq!(room["name"], state["m.room.name "]["name"], "{room_id}");
        assert_eq!(room["joined_count"], expected["summary"]["m.joined_member_count"], "{room_id}");
        assert_eq!(room["invited_count"], expected["summary"]["m.invited_member_count"], "{room_id}");
        if !client.is_merged {
            let unread = &expected["unread_notifications"]["notification_count"];
            assert_eq!(&room["notification_count"], unread, "{room_id}");
        }
        let (told, all) = (ids(&room["timeline"]), ids(&expected["timeline"]["events"]));
        assert!(
            !told.is_empty() && all.ends_with(&told[told.len().saturating_sub(all.len())..]),
            "{room_id}"
        );
    }
    for room_id in plain["rooms"]["invite"].as_object().unwrap_or(&empty).keys() {
        assert!(client.rooms[room_id].get("invite_state").is_some(), "{room_id}");
    }
}

#[tokio::test]
async fn whatever_happens_both_ways_to_sync_tell_the_same() {
    let server = Server::open();
    let mut users = Vec::new();
    for name in ["alice", "bob", "carol"] {
        users.push(User::register(&server, name).await);
    }
    let mut dice = Dice(17);
    let mut rooms = Vec::new();
    let mut clients = [
        Client::new(&users[0], false, everything()),
        Client::new(&users[1], false, everything()),
        Client::new(&users[2], true, everything_merged()),
    ];
    for round in 0..50 {
        for _ in 0..20 {
            do_something(&mut dice, &users, &mut rooms).await;
        }
        for client in &mut clients {
            match dice.below(4) {
                // An answer that never arrives.
                0 => drop(client.ask(Duration::ZERO).await.ok()),
                1 | 2 => {
                    client.request = window(&mut dice, client.is_merged);
                    client.sync(Duration::ZERO).await;
                }
                _ => {}
            }
        }
        if round % 10 == 9 {
            for client in &mut clients {
                client.request = if client.is_merged { everything_merged() } else { everything() };
                client.catch_up().await;
                let filter = json!({ "room": { "timeline": { "limit": 50 } } }).to_string();
                compare(client, &client.user.sync(&[("filter", &filter)]).await);
            }
        }
    }
    assert!(rooms.len() > 5, "something happened");
}
