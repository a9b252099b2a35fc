//! Three servers in one room, on a network that fails, while one of them is killed: everything ends up everywhere, once. And what could not
//! be asked for is asked for again soon.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use entente_tests::{Answer, Authority, Key, Peer, PeerAnswer, SOON, User, free_port, fresh_id, segment};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

/// One of so many pieces that go through is lost with its connection: a request that arrived and is not answered, or one that did not
/// arrive. A request on a new connection is about ten pieces, one on a known connection two to four: about one of ten fails.
const ONE_OF: usize = 40;
/// Whether anything is lost yet: whoever joins a room asks once and is told that it failed.
static IS_BAD: AtomicBool = AtomicBool::new(false);

/// Lets connections through to a port of this machine, and cuts them. Answers its own port.
fn bad_wire(to: u16) -> u16 {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || carry(from, to));
            }
        }
    });
    port
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    static PIECES: AtomicUsize = AtomicUsize::new(0);
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let is_lost =
            IS_BAD.load(Ordering::Relaxed) && PIECES.fetch_add(1, Ordering::Relaxed) % ONE_OF == ONE_OF - 1;
        if is_lost || to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Waits until something is so. Requests that fail on the way are made again.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(4 * SOON, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what}: it does not happen"))
}

fn server_of(user: &User) -> &str {
    user.id.split_once(':').unwrap().1
}

/// `join` or `knock`, through somebody in the room.
async fn comes(user: &User, what: &str, room: &str, through: &User) {
    let path = format!("/_matrix/client/v3/{what}/{}?via={}", segment(room), segment(server_of(through)));
    let does = format!("{} comes into {room}", user.id);
    until(&does, async || user.post(&path, &json!({})).await.status.is_success().then_some(())).await;
}

/// Waits until somebody sees a membership, for the reason that was given for it.
async fn sees(user: &User, room: &str, whose: &User, membership: &str, reason: &str) {
    until(&format!("{} sees {membership} of {}", user.id, whose.id), async || {
        let member = user.state(room, "m.room.member", &whose.id).await.body;
        (member["membership"] == membership && member["reason"] == reason).then_some(())
    })
    .await;
}

/// All events of a room, by their ids: type, sender and content. Nothing while one comes twice.
async fn everything(user: &User, room: &str) -> Option<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    let mut from = String::new();
    loop {
        let page = user.get(&User::in_room(room, &format!("messages?dir=b&limit=100{from}"))).await.ok();
        for event in page["chunk"].as_array().unwrap() {
            let told = json!([event["type"], event["sender"], event["content"]]);
            let before = all.insert(event["event_id"].as_str().unwrap().to_owned(), told);
            if before.is_some() {
                return None;
            }
        }
        let Some(end) = page["end"].as_str() else { return Some(all) };
        from = format!("&from={}", segment(end));
    }
}

/// The ids of a room's state.
async fn state_of(user: &User, room: &str) -> BTreeMap<(String, String), String> {
    let state = user.get(&User::in_room(room, "state")).await.ok();
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    let state = state.as_array().unwrap().iter();
    state.map(|event| ((text(event, "type"), text(event, "state_key")), text(event, "event_id"))).collect()
}

/// What somebody heard beside events, from the beginning on.
#[derive(Default)]
struct Heard {
    since: String,
    /// Texts of messages to the device, as often as they came.
    to_device: Vec<String>,
    /// Whose devices changed.
    devices: BTreeSet<String>,
    /// Who read what last.
    receipts: BTreeSet<(String, String)>,
    /// Who types.
    typing: BTreeSet<String>,
}

impl Heard {
    async fn more(&mut self, user: &User, room: &str) {
        let mut parameters = vec![("timeout", "0")];
        if !self.since.is_empty() {
            parameters.push(("since", &self.since));
        }
        let answer = user.sync(&parameters).await;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        for event in list(&answer["to_device"]["events"]) {
            self.to_device.push(event["content"]["text"].as_str().unwrap().to_owned());
        }
        let changed = list(&answer["device_lists"]["changed"]);
        self.devices.extend(changed.iter().map(|user| user.as_str().unwrap().to_owned()));
        for event in list(&answer["rooms"]["join"][room]["ephemeral"]["events"]) {
            if event["type"] == "m.typing" {
                let typing = list(&event["content"]["user_ids"]);
                self.typing = typing.iter().map(|user| user.as_str().unwrap().to_owned()).collect();
                continue;
            }
            for (event_id, kinds) in event["content"].as_object().into_iter().flatten() {
                let readers = kinds["m.read"].as_object().into_iter().flatten();
                self.receipts.extend(readers.map(|(reader, _)| (reader.clone(), event_id.clone())));
            }
        }
        answer["next_batch"].as_str().unwrap().clone_into(&mut self.since);
    }
}

/// What was sent and must be everywhere.
#[derive(Default)]
struct Sent {
    /// Events, by their ids.
    events: BTreeSet<String>,
    /// Events that were taken back.
    redacted: BTreeSet<String>,
    /// Messages to the devices of each user.
    to_device: [Vec<String>; 3],
}

impl Sent {
    async fn send(&mut self, user: &User, room: &str, event_type: &str, content: Value) -> String {
        self.note(user.send(room, event_type, content).await)
    }

    fn note(&mut self, sent: Answer) -> String {
        let event_id = sent.ok()["event_id"].as_str().unwrap().to_owned();
        self.events.insert(event_id.clone());
        event_id
    }

    /// One of three says something, corrects it, reacts to it, says something else and takes that back, changes the state, and tells the
    /// devices of the two others.
    async fn round(&mut self, users: &[User], number: usize, room: &str, round: usize) {
        let user = &users[number];
        let text = format!("{round} of {number}");
        let message = |body: &str| json!({ "msgtype": "m.text", "body": body });
        let said = self.send(user, room, "m.room.message", message(&text)).await;
        match round % 4 {
            0 => {
                let mut edit = message("* better");
                edit["m.new_content"] = message("better");
                edit["m.relates_to"] = json!({ "rel_type": "m.replace", "event_id": said });
                self.send(user, room, "m.room.message", edit).await;
            }
            1 => {
                let to = json!({ "rel_type": "m.annotation", "event_id": said, "key": "+" });
                self.send(user, room, "m.reaction", json!({ "m.relates_to": to })).await;
            }
            2 => {
                let path = User::in_room(room, &format!("redact/{}/{}", segment(&said), fresh_id()));
                let redaction = user.put(&path, &json!({ "reason": "sorry" })).await;
                self.note(redaction);
                self.redacted.insert(said);
            }
            _ => {
                let topic = json!({ "topic": text });
                self.note(user.set_state(room, "m.room.topic", "", topic).await);
                self.note(user.set_state(room, "org.example.of", &user.id, json!({ "round": round })).await);
            }
        }
        for (other, to) in users.iter().enumerate().filter(|(other, _)| *other != number) {
            let messages = json!({ &to.id: { &to.device_id: { "text": text } } });
            let path = format!("/_matrix/client/v3/sendToDevice/org.example.test/{}", fresh_id());
            user.put(&path, &json!({ "messages": messages })).await.ok();
            self.to_device[other].push(text.clone());
        }
    }
}

/// Gives somebody's device keys, of which the others hear.
async fn has_keys(user: &User) {
    let (key, key_id) = (Key::generate(), format!("ed25519:{}", user.device_id));
    let mut keys = json!({
        "user_id": user.id, "device_id": user.device_id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { key_id.clone(): key.public() },
    });
    key.sign(&mut keys, user, &key_id);
    user.post("/_matrix/client/v3/keys/upload", &json!({ "device_keys": keys })).await.ok();
}

/// Somebody comes in, is kicked by a user of another server, comes again, is banned by one of the third server, and pardoned.
async fn is_thrown_out(guest: &User, room: &str, kicks: &User, bans: &User) {
    let by = |reason: &str| json!({ "user_id": guest.id, "reason": reason });
    guest.membership(room, "join", json!({ "reason": "first" })).await.ok();
    sees(kicks, room, guest, "join", "first").await;
    kicks.membership(room, "kick", by("enough")).await.ok();
    sees(guest, room, guest, "leave", "enough").await;
    guest.membership(room, "join", json!({ "reason": "again" })).await.ok();
    sees(bans, room, guest, "join", "again").await;
    bans.membership(room, "ban", by("for ever")).await.ok();
    sees(guest, room, guest, "ban", "for ever").await;
    sees(kicks, room, guest, "ban", "for ever").await;
    kicks.membership(room, "unban", by("for now")).await.ok();
    sees(bans, room, guest, "leave", "for now").await;
}

/// What people do beside talking: each of it between servers, and once.
async fn errands(users: &[User; 3], main: &str) {
    let [alice, bob, carol] = users;
    let rule = |rule: Value| json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
    // A knock is answered.
    let closed = alice.create_room(json!({ "initial_state": rule(json!({ "join_rule": "knock" })) })).await;
    comes(carol, "knock", &closed, alice).await;
    until("the knock", async || {
        let member = alice.state(&closed, "m.room.member", &carol.id).await.body;
        (member["membership"] == "knock").then_some(())
    })
    .await;
    until("the invite", async || alice.invite(&closed, carol).await.status.is_success().then_some(())).await;
    comes(carol, "join", &closed, alice).await;

    // Who is in one room may come into another, which is replaced then.
    let allow = json!([{ "type": "m.room_membership", "room_id": main }]);
    let restricted = rule(json!({ "join_rule": "restricted", "allow": allow }));
    let old = bob.create_room(json!({ "initial_state": restricted, "room_version": "11" })).await;
    comes(carol, "join", &old, bob).await;
    let upgraded = bob.post(&User::in_room(&old, "upgrade"), &json!({ "new_version": "12" })).await.ok();
    let new = upgraded["replacement_room"].as_str().unwrap();
    until("the tombstone", async || {
        let tombstone = carol.state(&old, "m.room.tombstone", "").await.body;
        (tombstone["replacement_room"] == new).then_some(())
    })
    .await;
    comes(carol, "join", new, bob).await;

    // A space of one server leads to a room of another, which nobody of the third is in.
    let space = alice
        .create_room(json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } }))
        .await;
    let place = json!({ "preset": "public_chat", "visibility": "public", "name": "Place" });
    let place = carol.create_room(place).await;
    let child = json!({ "via": [server_of(carol)] });
    alice.set_state(&space, "m.space.child", &place, child).await.ok();
    comes(bob, "join", &space, alice).await;
    let hierarchy = format!("/_matrix/client/v1/rooms/{}/hierarchy", segment(&space));
    until("the space", async || {
        let rooms = bob.get(&hierarchy).await.body["rooms"].clone();
        rooms.as_array()?.iter().any(|room| room["name"] == "Place").then_some(())
    })
    .await;
    let list = format!("/_matrix/client/v3/publicRooms?server={}", segment(server_of(carol)));
    until("the public room", async || {
        let page = bob.post(&list, &json!({})).await.body;
        (page["chunk"][0]["room_id"] == place).then_some(())
    })
    .await;

    // A file, and a name.
    let file = "a file of some length\n".repeat(20_000);
    let upload = alice.request(Method::POST, "/_matrix/media/v3/upload").header("Content-Type", "text/plain");
    let uri = Answer::to(upload.body(file.clone())).await.ok()["content_uri"].as_str().unwrap().to_owned();
    let download = format!("/_matrix/client/v1/media/download/{}", uri.strip_prefix("mxc://").unwrap());
    until("the file", async || {
        let got = carol.get(&download).await;
        (got.status == 200 && got.body.as_str() == Some(&file)).then_some(())
    })
    .await;
    let profile = format!("/_matrix/client/v3/profile/{}/displayname", segment(&alice.id));
    alice.put(&profile, &json!({ "displayname": "Alice" })).await.ok();
    until("the name", async || (bob.get(&profile).await.body["displayname"] == "Alice").then_some(())).await;
}

/// Waits until all have the same events and the same state, and these are what they have to be.
async fn agree(users: &[User; 3], room: &str, sent: &Sent) {
    let mut last = Vec::new();
    let agreed = tokio::time::timeout(4 * SOON, async {
        loop {
            let (events, states) = tokio::join!(
                join_all(users.iter().map(|user| everything(user, room))),
                join_all(users.iter().map(|user| state_of(user, room))),
            );
            let is_all = |events: &Option<BTreeMap<String, Value>>| {
                let events = events.as_ref();
                events.is_some_and(|events| sent.events.iter().all(|event_id| events.contains_key(event_id)))
            };
            let is_same = events.iter().all(|of_one| of_one == &events[0] && is_all(of_one));
            if is_same && states.iter().all(|state| state == &states[0]) {
                return events.into_iter().next().flatten().unwrap();
            }
            last = events;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let Ok(events) = agreed.await else {
        let known = |events: &Option<BTreeMap<String, Value>>| events.as_ref().map(BTreeMap::len);
        let known: Vec<_> = last.iter().map(known).collect();
        panic!("{} events were sent, and they have {known:?}", sent.events.len());
    };
    // The others are memberships and the room's beginning.
    let others = events.iter().filter(|(event_id, _)| !sent.events.contains(*event_id));
    for (event_id, event) in others {
        let kind = event[0].as_str().unwrap();
        assert!(kind.starts_with("m.room.") && kind != "m.room.message", "{event_id}: {event}");
    }
    for event_id in &sent.redacted {
        assert_eq!(events[event_id][2], json!({}), "it was taken back");
    }
}

/// Makes a room in which all three are, see each other, and may do everything.
async fn meet(users: &[User]) -> String {
    let powers = json!({ "users": { &users[1].id: 100, &users[2].id: 100 } });
    let encryption =
        json!([{ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }]);
    let body = json!({
        "preset": "public_chat", "power_level_content_override": powers, "initial_state": encryption,
    });
    let room = users[0].create_room(body).await;
    comes(&users[1], "join", &room, &users[0]).await;
    comes(&users[2], "join", &room, &users[0]).await;
    for user in users {
        for other in users {
            until("the members", async || {
                let member = user.state(&room, "m.room.member", &other.id).await.body;
                (member["membership"] == "join").then_some(())
            })
            .await;
        }
    }
    room
}

/// Everybody reads the newest message and types, and all see it.
async fn read_and_type(users: &[User; 3], room: &str, heard: &mut [Heard; 3], newest: &str) {
    for user in users {
        let receipt = User::in_room(room, &format!("receipt/m.read/{}", segment(newest)));
        let typing = User::in_room(room, &format!("typing/{}", segment(&user.id)));
        let mut seen = [false; 3];
        until(&format!("who sees that {} reads and types", user.id), async || {
            user.post(&receipt, &json!({})).await.ok();
            user.put(&typing, &json!({ "typing": true, "timeout": 30_000 })).await.ok();
            for (number, (heard, other)) in heard.iter_mut().zip(users).enumerate() {
                heard.more(other, room).await;
                let reads = heard.receipts.contains(&(user.id.clone(), newest.to_owned()));
                seen[number] |= reads && heard.typing.contains(&user.id);
            }
            (seen == [true; 3]).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn everything_ends_up_everywhere_once() {
    let authority = Authority::new();
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let peers: Vec<String> = ports
        .iter()
        .map(|port| {
            format!(r#"{{ server = "localhost:{port}", address = "localhost:{}" }}"#, bad_wire(*port))
        })
        .collect();
    let peers = format!("[{}]", peers.join(", "));
    let settings = [("ENTENTE_FEDERATION__PEERS", peers.as_str())];
    let mut servers = Vec::new();
    for port in &ports {
        servers.push(authority.server_at(*port, &settings));
    }
    let (mut users, mut guests) = (Vec::new(), Vec::new());
    for (server, name) in servers.iter().zip(["alice", "bob", "carol"]) {
        users.push(User::register(server, name).await);
        guests.push(User::register(server, &format!("guest-of-{name}")).await);
    }
    let room = meet(&users).await;
    let mut heard = [Heard::default(), Heard::default(), Heard::default()];
    for (heard, user) in heard.iter_mut().zip(&users) {
        heard.more(user, &room).await;
        heard.devices.clear();
    }
    IS_BAD.store(true, Ordering::Relaxed);

    let mut sent = Sent::default();
    for round in 0..30 {
        if round == 10 {
            // In mid-traffic one is killed, and is away for a while.
            let crashed = servers.remove(1).crash();
            for number in [0, 2] {
                sent.round(&users, number, &room, 100 + round).await;
            }
            has_keys(&users[2]).await;
            let restarted = crashed.restart();
            for user in [&mut users[1], &mut guests[1]] {
                *user = user.at(&restarted);
            }
            servers.insert(1, restarted);
        }
        for number in 0..3 {
            sent.round(&users, number, &room, round).await;
        }
        match round {
            5 => has_keys(&users[0]).await,
            20 => has_keys(&users[1]).await,
            _ => {}
        }
    }
    let users: [User; 3] = users.try_into().unwrap_or_else(|_| panic!());
    let thrown_out = (0..3).map(|number| {
        is_thrown_out(&guests[number], &room, &users[(number + 1) % 3], &users[(number + 2) % 3])
    });
    tokio::join!(join_all(thrown_out), errands(&users, &room));

    agree(&users, &room, &sent).await;
    for (number, (heard, user)) in heard.iter_mut().zip(&users).enumerate() {
        until(&format!("what {} is told", user.id), async || {
            heard.more(user, &room).await;
            let others = users.iter().filter(|other| other.id != user.id);
            let hears_devices = others.clone().all(|other| heard.devices.contains(&other.id));
            (heard.to_device.len() >= sent.to_device[number].len() && hears_devices).then_some(())
        })
        .await;
    }
    // Nothing comes twice, later on either.
    tokio::time::sleep(Duration::from_secs(2)).await;
    agree(&users, &room, &sent).await;
    for (number, (heard, user)) in heard.iter_mut().zip(&users).enumerate() {
        heard.more(user, &room).await;
        heard.to_device.sort();
        sent.to_device[number].sort();
        assert_eq!(heard.to_device, sent.to_device[number], "what the device of {} is told", user.id);
    }

    // What is worth telling only now is not told again; when nothing is lost any more, it arrives.
    IS_BAD.store(false, Ordering::Relaxed);
    let newest =
        sent.send(&users[0], &room, "m.room.message", json!({ "msgtype": "m.text", "body": "bye" })).await;
    agree(&users, &room, &sent).await;
    read_and_type(&users, &room, &mut heard, &newest).await;
}

#[tokio::test]
async fn a_room_of_a_space_that_could_not_be_looked_at_is_looked_at_again() {
    let authority = Authority::new();
    let (server, peer) = (authority.server(&[]), Peer::start(&authority));
    let alice = User::register(&server, "alice").await;
    let place = format!("!place:{}", peer.name);
    let shown = json!({
        "room": {
            "room_id": place, "name": "Place", "join_rule": "public", "num_joined_members": 1,
            "guest_can_join": false, "world_readable": true, "children_state": [],
        },
        "children": [], "inaccessible_children": [],
    });
    let asked = AtomicUsize::new(0);
    peer.answer_with("/hierarchy/", move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => PeerAnswer::Json(502, "{}".to_owned()),
        _ => PeerAnswer::Json(200, shown.to_string()),
    });
    let space = alice.create_room(json!({ "creation_content": { "type": "m.space" } })).await;
    let child = json!({ "via": [peer.name] });
    alice.set_state(&space, "m.space.child", &place, child).await.ok();
    let hierarchy = format!("/_matrix/client/v1/rooms/{}/hierarchy", segment(&space));
    let found = tokio::time::timeout(SOON, async {
        while alice.get(&hierarchy).await.ok()["rooms"].as_array().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    found.await.expect("the other room is shown");
}

#[tokio::test]
async fn who_hangs_up_while_its_keys_are_asked_for_is_heard_soon_after() {
    let authority = Authority::new();
    let server = authority.server(&[]);
    let alice = User::register(&server, "alice").await;
    let peer = Peer::start(&authority);
    let (asked, answering) = (Arc::new(AtomicUsize::new(0)), peer.clone());
    let counted = Arc::clone(&asked);
    peer.answer_with("/_matrix/key/v2/server", move |_| match counted.fetch_add(1, Ordering::Relaxed) {
        0 => PeerAnswer::Slow("{".to_owned()),
        _ => PeerAnswer::Json(200, answering.keys()),
    });
    let target = format!("/_matrix/federation/v1/query/profile?user_id={}", segment(&alice.id));
    let ask = || peer.request(&server.name(), Method::GET, &target, None).send();
    let hang_up = async {
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        answer = ask() => panic!("nobody knows who that was: {answer:?}"),
        () = hang_up => {}
    }
    let heard = tokio::time::timeout(SOON, async {
        while ask().await.unwrap().status() != 200 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    heard.await.expect("its keys are asked for again");
}
