//! Federation with Synapse, in both directions and in rooms of several versions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, time::Duration};

use entente_tests::{
    Answer, Authority, Caller, SOON, Server, Synapse, User, Wire, bodies, free_port, fresh_id, segment,
};
use reqwest::Method;
use serde_json::{Value, json};

/// Waits until something is so.
async fn soon<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(2 * SOON, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what}: it does not happen"))
}

/// All that is written in a room, in the order of the alphabet.
async fn read(user: &User, room: &str) -> Vec<String> {
    let mut read = Vec::new();
    let mut from = String::new();
    loop {
        let page = user.get(&User::in_room(room, &format!("messages?dir=b&limit=100{from}"))).await;
        if page.status != 200 {
            return Vec::new();
        }
        read.extend(bodies(&page.body["chunk"]).into_iter().map(str::to_owned));
        let Some(end) = page.body["end"].as_str() else { break };
        from = format!("&from={}", segment(end));
    }
    // What both said at the same time stands in either order.
    read.sort();
    read
}

async fn both_read(users: [&User; 2], room: &str, expected: &[&str]) {
    for user in users {
        let what = format!("{} reads {expected:?} in {room}", user.id);
        soon(&what, async || (read(user, room).await == expected).then_some(())).await;
    }
}

/// `join` or `knock`, through the server of somebody in the room.
async fn come(user: &User, what: &str, room: &str, through: &User) -> Answer {
    let server = segment(through.id.split_once(':').unwrap().1);
    // The older name of the parameter is the one that all servers know.
    let path = format!("/_matrix/client/v3/{what}/{}?server_name={server}&via={server}", segment(room));
    user.post(&path, &json!({})).await
}

async fn join_via(user: &User, room: &str, through: &User) {
    assert_eq!(come(user, "join", room, through).await.ok()["room_id"], room);
}

/// Waits until state says something of itself under a name.
async fn shows(user: &User, room: &str, state: (&str, &str), field: &str, value: &str) {
    let what = format!("{} sees {field} {value} of {state:?} in {room}", user.id);
    soon(&what, async || {
        let found = user.state(room, state.0, state.1).await;
        (found.status == 200 && found.body[field] == value).then_some(())
    })
    .await;
}

/// One of them makes a room, the other comes in; they talk, and something is taken back.
async fn share_a_room(host: &User, guest: &User, version: &str) {
    let room = host
        .create_room(json!({ "preset": "public_chat", "room_version": version, "name": "Conseil" }))
        .await;
    host.say(&room, "a before").await;
    join_via(guest, &room, host).await;
    host.say(&room, "b from the host").await;
    guest.say(&room, "c from the guest").await;
    both_read([host, guest], &room, &["a before", "b from the host", "c from the guest"]).await;
    let slip = guest.say(&room, "d a slip").await;
    soon("the slip", async || read(host, &room).await.contains(&"d a slip".to_owned()).then_some(())).await;
    guest
        .put(&User::in_room(&room, &format!("redact/{}/{}", segment(&slip), fresh_id())), &json!({}))
        .await
        .ok();
    both_read([host, guest], &room, &["a before", "b from the host", "c from the guest"]).await;
    host.set_state(&room, "m.room.topic", "", json!({ "topic": "Budget" })).await.ok();
    let has_topic = async || {
        let topic = guest.state(&room, "m.room.topic", "").await;
        (topic.body["topic"] == "Budget").then_some(())
    };
    soon("the topic", has_topic).await;
    host.post(&User::in_room(&room, "kick"), &json!({ "user_id": guest.id })).await.ok();
    let is_out = async || {
        let joined = guest.get("/_matrix/client/v3/joined_rooms").await.ok();
        (!joined["joined_rooms"].as_array().unwrap().contains(&json!(room))).then_some(())
    };
    soon("the kick", is_out).await;
}

/// Waits for an invite, and answers it.
async fn is_invited(guest: &User, room: &str) -> Value {
    let mut timeout = 0;
    let invited = async || {
        // Synapse answers the same request of a client that begins with what it answered before, for two minutes.
        timeout += 1;
        let sync = guest.sync(&[("timeout", &timeout.to_string())]).await;
        sync["rooms"]["invite"].get(room).cloned()
    };
    soon("the invite", invited).await
}

/// One invites the other into a closed room.
async fn invite(host: &User, guest: &User, version: &str) {
    let room =
        host.create_room(json!({ "room_version": version, "name": "Cabinet", "invite": [guest.id] })).await;
    let invite = is_invited(guest, &room).await;
    let told: &Vec<Value> = invite["invite_state"]["events"].as_array().unwrap();
    assert!(told.iter().any(|event| event["content"]["name"] == "Cabinet"), "{told:?}");
    guest.join(&room).await.ok();
    guest.say(&room, "a present").await;
    both_read([host, guest], &room, &["a present"]).await;
    guest.membership(&room, "leave", json!({})).await.ok();
    let has_left = async || {
        let member = host.state(&room, "m.room.member", &guest.id).await;
        (member.body["membership"] == "leave").then_some(())
    };
    soon("the leave", has_left).await;
}

/// Who is in a space comes into a room that is for those, with the signature of the server that lets them in.
async fn restrict(host: &User, guest: &User, version: &str) {
    let space = json!({ "preset": "public_chat", "room_version": version, "creation_content": { "type": "m.space" } });
    let space = host.create_room(space).await;
    let rule =
        json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }] });
    let initial = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
    let room = json!({ "preset": "private_chat", "room_version": version, "initial_state": initial });
    let room = host.create_room(room).await;
    let refused = come(guest, "join", &room, host).await;
    assert!(refused.status.is_client_error(), "{} {}", refused.status, refused.body);
    join_via(guest, &space, host).await;
    join_via(guest, &room, host).await;
    for user in [host, guest] {
        shows(user, &room, ("m.room.member", &guest.id), "join_authorised_via_users_server", &host.id).await;
    }
    guest.say(&room, "a let in").await;
    both_read([host, guest], &room, &["a let in"]).await;
}

/// One knocks, and is let in.
async fn knock(host: &User, guest: &User, version: &str) {
    let rule = json!([{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }]);
    let room = json!({ "preset": "private_chat", "room_version": version, "initial_state": rule });
    let room = host.create_room(room).await;
    let refused = come(guest, "join", &room, host).await;
    assert!(refused.status.is_client_error(), "{} {}", refused.status, refused.body);
    come(guest, "knock", &room, host).await.ok();
    shows(host, &room, ("m.room.member", &guest.id), "membership", "knock").await;
    host.invite(&room, guest).await.ok();
    is_invited(guest, &room).await;
    guest.join(&room).await.ok();
    guest.say(&room, "a let in").await;
    both_read([host, guest], &room, &["a let in"]).await;
}

/// A room is replaced by one of a newer version, and the guest follows.
async fn upgrade(host: &User, guest: &User) {
    let room =
        host.create_room(json!({ "preset": "public_chat", "room_version": "9", "name": "Conseil" })).await;
    join_via(guest, &room, host).await;
    let path = User::in_room(&room, "upgrade");
    let upgraded = host.post(&path, &json!({ "new_version": "12" })).await.ok();
    let new = upgraded["replacement_room"].as_str().unwrap().to_owned();
    shows(guest, &room, ("m.room.tombstone", ""), "replacement_room", &new).await;
    join_via(guest, &new, host).await;
    let created = guest.state(&new, "m.room.create", "").await.ok();
    assert_eq!((&created["predecessor"]["room_id"], &created["room_version"]), (&json!(room), &json!("12")));
    shows(guest, &new, ("m.room.name", ""), "name", "Conseil").await;
    guest.say(&new, "a moved").await;
    both_read([host, guest], &new, &["a moved"]).await;
}

/// A space of one leads to a space of the other, and to the rooms in it that may be seen.
async fn walk_through_a_space(host: &User, guest: &User) {
    let space = json!({ "type": "m.space" });
    let plaza = host.create_room(json!({ "name": "plaza", "preset": "public_chat" })).await;
    let cellar = host.create_room(json!({ "name": "cellar", "preset": "private_chat" })).await;
    let town = json!({ "name": "town", "preset": "public_chat", "creation_content": space.clone() });
    let town = host.create_room(town).await;
    let country = json!({ "name": "country", "creation_content": space });
    let country = guest.create_room(country).await;
    let via = json!({ "via": [host.id.split_once(':').unwrap().1] });
    for (parent, child, owner) in [(&town, &plaza, host), (&town, &cellar, host), (&country, &town, guest)] {
        owner.set_state(parent, "m.space.child", child, via.clone()).await.ok();
    }
    let page = guest.get(&format!("/_matrix/client/v1/rooms/{}/hierarchy", segment(&country))).await.ok();
    let names: Vec<&str> =
        page["rooms"].as_array().unwrap().iter().filter_map(|room| room["name"].as_str()).collect();
    assert_eq!(names, ["country", "town", "plaza"]);
}

/// Who shares a room is in the user directory, under the name that they have now.
async fn find(host: &User, guest: &User) {
    let room = host.create_room(json!({ "preset": "public_chat" })).await;
    join_via(guest, &room, host).await;
    let name = format!("Guest{}", fresh_id());
    let profile = format!("/_matrix/client/v3/profile/{}/displayname", segment(&guest.id));
    guest.put(&profile, &json!({ "displayname": name })).await.ok();
    shows(host, &room, ("m.room.member", &guest.id), "displayname", &name).await;
    soon("the guest in the directory", async || {
        let search = json!({ "search_term": name });
        let found = host.post("/_matrix/client/v3/user_directory/search", &search).await.ok();
        let found = found["results"].as_array().unwrap().clone();
        found.iter().any(|user| user["user_id"] == guest.id.as_str()).then_some(())
    })
    .await;
}

/// What one uploads the other downloads, as it was.
async fn exchange_a_file(from: &User, to: &User) {
    let text = "a file of some length\n".repeat(20_000);
    let upload = from
        .request(Method::POST, "/_matrix/media/v3/upload?filename=a.txt")
        .header("Content-Type", "text/plain")
        .body(text.clone());
    let uri = Answer::to(upload).await.ok()["content_uri"].as_str().unwrap().to_owned();
    let path = format!("/_matrix/client/v1/media/download/{}", uri.strip_prefix("mxc://").unwrap());
    let got = to.get(&path).await;
    assert!(got.header("content-type").starts_with("text/plain"));
    assert!(got.header("content-disposition").contains("a.txt"));
    assert_eq!(got.ok().as_str(), Some(text.as_str()));
}

#[tokio::test]
async fn users_of_synapse_and_ours_share_rooms() {
    let authority = Authority::new();
    let (server, synapse) = (authority.server(&[]), Synapse::start(&authority).await);
    let ours = User::register(&server, "alice").await;
    let theirs = User::register_at(&synapse.base_url, "bob").await;

    let profile = |user: &User| format!("/_matrix/client/v3/profile/{}", segment(&user.id));
    let name = json!({ "displayname": "Alice" });
    ours.put(&format!("{}/displayname", profile(&ours)), &name).await.ok();
    assert_eq!(theirs.get(&profile(&ours)).await.ok()["displayname"], "Alice");
    assert_eq!(ours.get(&profile(&theirs)).await.ok()["displayname"], "bob");

    exchange_a_file(&ours, &theirs).await;
    exchange_a_file(&theirs, &ours).await;

    for version in ["6", "7", "8", "9", "10", "11", "12"] {
        share_a_room(&ours, &theirs, version).await;
        share_a_room(&theirs, &ours, version).await;
    }
    for version in ["10", "12"] {
        for (host, guest) in [(&ours, &theirs), (&theirs, &ours)] {
            invite(host, guest, version).await;
            restrict(host, guest, version).await;
            knock(host, guest, version).await;
        }
    }
    for (host, guest) in [(&ours, &theirs), (&theirs, &ours)] {
        upgrade(host, guest).await;
        walk_through_a_space(host, guest).await;
        find(host, guest).await;
    }

    // The list of public rooms, and an alias.
    let body = json!({ "visibility": "public", "name": "Place", "room_alias_name": "place" });
    let place = ours.create_room(body).await;
    let our_name = ours.id.split_once(':').unwrap().1;
    let list = theirs
        .post(&format!("/_matrix/client/v3/publicRooms?server={}", segment(our_name)), &json!({}))
        .await
        .ok();
    assert_eq!(list["chunk"][0]["room_id"], place);
    let alias = segment(&format!("#place:{our_name}"));
    let found = theirs.get(&format!("/_matrix/client/v3/directory/room/{alias}")).await.ok();
    assert_eq!(found["room_id"], place);
}

/// Synapse sends what its clients say: numbers as well that canonical JSON does not have, in messages to devices and in old rooms. They
/// hold up nothing of what comes behind them.
#[tokio::test]
async fn numbers_of_all_kinds_from_synapse_hold_nothing_up() {
    let authority = Authority::new();
    let (server, synapse) = (authority.server(&[]), Synapse::start(&authority).await);
    let ours = User::register(&server, "alice").await;
    let theirs = User::register_at(&synapse.base_url, "bob").await;
    let body = json!({ "preset": "public_chat", "room_version": "5" });
    let room = theirs.create_room(body).await;
    join_via(&ours, &room, &theirs).await;
    let heavy = json!({ "msgtype": "m.text", "body": "heavy", "mass": 1.5, "more": 1e300 });
    let heavy = theirs.send(&room, "m.room.message", heavy).await;
    let heavy = heavy.ok()["event_id"].as_str().unwrap().to_owned();
    for mass in [json!(0.1), json!(9_007_199_254_740_993_u64), json!(3)] {
        let messages = json!({ "messages": { &ours.id: { &ours.device_id: { "mass": mass } } } });
        let path = format!("/_matrix/client/v3/sendToDevice/org.example.mass/{}", fresh_id());
        theirs.put(&path, &messages).await.ok();
    }
    theirs.say(&room, "light").await;
    soon("what comes behind them", async || (read(&ours, &room).await == ["light"]).then_some(())).await;
    // There it is whole, here it is an event whose content is not what was hashed.
    assert_eq!(theirs.event(&room, &heavy).await.ok()["content"]["mass"], 1.5);
    assert_eq!(ours.event(&room, &heavy).await.ok()["content"], json!({}));
    let heard = soon("the message to the device", async || {
        let heard = ours.sync(&[]).await["to_device"]["events"].clone();
        heard.as_array().filter(|heard| !heard.is_empty()).cloned()
    })
    .await;
    assert_eq!(heard.iter().map(|event| &event["content"]).collect::<Vec<_>>(), [&json!({ "mass": 3 })]);
    ours.say(&room, "answered").await;
    soon("the answer", async || read(&theirs, &room).await.contains(&"answered".to_owned()).then_some(()))
        .await;
}

/// The ids of a room's state as a user's server has it.
async fn state_of(user: &User, room: &str) -> BTreeMap<(String, String), String> {
    let state = user.get(&User::in_room(room, "state")).await.ok();
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    let state = state.as_array().unwrap().iter();
    state.map(|event| ((text(event, "type"), text(event, "state_key")), text(event, "event_id"))).collect()
}

/// Two servers whose link can be cut.
struct Apart {
    server: Server,
    synapse: Synapse,
    wires: [Wire; 2],
}

impl Apart {
    async fn new(authority: &Authority) -> Self {
        let (our_port, their_port) = (free_port(), free_port());
        let wires = [Wire::to(our_port), Wire::to(their_port)];
        let our_name = format!("localhost:{}", wires[0].port);
        let server = authority.server_at(our_port, &[("ENTENTE_SERVER_NAME", &our_name)]);
        let synapse = Synapse::start_at(authority, wires[1].port, their_port).await;
        Self { server, synapse, wires }
    }

    fn cut(&self) {
        self.wires.iter().for_each(Wire::cut);
    }

    fn mend(&self) {
        self.wires.iter().for_each(Wire::mend);
    }
}

/// One gives another one power over a room.
async fn raise(admin: &User, user: &User, room: &str) {
    let mut levels = admin.state(room, "m.room.power_levels", "").await.ok();
    levels["users"][&user.id] = json!(50);
    admin.set_state(room, "m.room.power_levels", "", levels).await.ok();
}

/// Both sides change who may do what and who is in the room while neither hears of the other. Then both have the same state, which
/// has what had been on one side only.
async fn fork(apart: &Apart, users: &[User; 4], version: &str) {
    let [alice, ann, bob, ben] = users;
    // Who makes a room of version 12 stands above all others.
    let mut admins = json!({ bob.id.clone(): 100 });
    if version != "12" {
        admins[&alice.id] = json!(100);
    }
    let room = alice
        .create_room(json!({
            "preset": "public_chat", "room_version": version, "power_level_content_override": { "users": admins },
        }))
        .await;
    ann.join(&room).await.ok();
    for theirs in [bob, ben] {
        join_via(theirs, &room, alice).await;
    }
    alice.say(&room, "a together").await;
    both_read([alice, bob], &room, &["a together"]).await;

    apart.cut();
    raise(alice, ann, &room).await;
    ann.set_state(&room, "m.room.topic", "", json!({ "topic": "ours" })).await.ok();
    alice.membership(&room, "ban", json!({ "user_id": ben.id })).await.ok();
    alice.say(&room, "b apart, alice").await;
    raise(bob, ben, &room).await;
    ben.set_state(&room, "m.room.name", "", json!({ "name": "theirs" })).await.ok();
    bob.membership(&room, "kick", json!({ "user_id": ann.id })).await.ok();
    bob.say(&room, "c apart, bob").await;
    let (ours, theirs) = (state_of(alice, &room).await, state_of(bob, &room).await);
    let levels = ("m.room.power_levels".to_owned(), String::new());
    assert_ne!(ours[&levels], theirs[&levels], "the link is not cut");

    apart.mend();
    // Whoever is spoken to asks again at once.
    alice.say(&room, "d together again, alice").await;
    bob.say(&room, "e together again, bob").await;
    let said =
        ["a together", "b apart, alice", "c apart, bob", "d together again, alice", "e together again, bob"];
    both_read([alice, bob], &room, &said).await;
    let what = format!("the same state on both sides of a room of version {version}");
    let state = soon(&what, async || {
        let (ours, theirs) = (state_of(alice, &room).await, state_of(bob, &room).await);
        (ours == theirs).then_some(ours)
    })
    .await;
    let of_a_side = |key: &(String, String)| {
        let id = &state[key];
        Some(id) == ours.get(key) || Some(id) == theirs.get(key)
    };
    assert!(state.keys().all(of_a_side), "{state:?}");
    // Who was banned is out, whoever won.
    shows(bob, &room, ("m.room.member", &ben.id), "membership", "ban").await;
}

/// What is said while one side is down arrives once.
async fn says_while_down(user: &User, room: &str, said: &mut Vec<String>) {
    for number in 0..120 {
        said.push(format!("{} while you were away {number}", user.id));
        user.say(room, said.last().unwrap()).await;
    }
}

async fn both_have(users: [&User; 2], room: &str, said: &mut [String]) {
    said.sort();
    for user in users {
        let what = format!("{} has all {} messages once", user.id, said.len());
        soon(&what, async || (read(user, room).await == *said).then_some(())).await;
    }
}

#[tokio::test]
async fn synapse_and_ours_catch_up_and_agree_after_they_were_apart() {
    let authority = Authority::new();
    let mut apart = Apart::new(&authority).await;
    let users = [
        User::register(&apart.server, "alice").await,
        User::register(&apart.server, "ann").await,
        User::register_at(&apart.synapse.base_url, "bob").await,
        User::register_at(&apart.synapse.base_url, "ben").await,
    ];
    for version in ["10", "12"] {
        fork(&apart, &users, version).await;
    }

    let [alice, _, bob, _] = users;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join_via(&bob, &room, &alice).await;
    let mut said = Vec::new();
    apart.synapse.kill();
    says_while_down(&alice, &room, &mut said).await;
    apart.synapse.start_again().await;
    said.push("back again".to_owned());
    bob.say(&room, "back again").await;
    both_have([&alice, &bob], &room, &mut said).await;

    let Apart { server, synapse, wires } = apart;
    let crashed = server.crash();
    says_while_down(&bob, &room, &mut said).await;
    let server = crashed.restart();
    let alice = alice.at(&server);
    said.push("here again".to_owned());
    alice.say(&room, "here again").await;
    both_have([&alice, &bob], &room, &mut said).await;
    drop((synapse, wires));
}

/// Fills a room with users of an application service, as many at once as a server takes well.
async fn fill(base_url: &str, name: &str, room: &str, count: usize) {
    let crowd = Caller::new(base_url, Some("as-crowd"));
    let numbers: Vec<usize> = (0..count).collect();
    for some in numbers.chunks(8) {
        let joins = some.iter().map(|number| {
            let crowd = crowd.clone();
            async move {
                let body = json!({
                    "type": "m.login.application_service", "username": format!("crowd_{number}"), "inhibit_login": true,
                });
                crowd.post("/_matrix/client/v3/register", &body).await.ok();
                let ghost = segment(&format!("@crowd_{number}:{name}"));
                let join = format!("/_matrix/client/v3/join/{}?user_id={ghost}", segment(room));
                crowd.post(&join, &json!({})).await.ok();
            }
        });
        futures_util::future::join_all(joins).await;
    }
}

/// A room of many members of one server, which somebody of the other one joins.
async fn join_a_crowd(count: usize) {
    let authority = Authority::new();
    let crowd = format!("[\"{}\"]", authority.crowd_file().display());
    let server = authority.server(&[("ENTENTE_APPLICATION_SERVICES__REGISTRATIONS", &crowd)]);
    let synapse = Synapse::start(&authority).await;
    let ours = User::register(&server, "alice").await;
    let theirs = User::register_at(&synapse.base_url, "bob").await;
    let sides = [
        (&ours, &theirs, server.base_url.as_str(), server.name()),
        (&theirs, &ours, synapse.base_url.as_str(), synapse.name.clone()),
    ];
    for (host, guest, base_url, name) in sides {
        let room = host.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
        fill(base_url, &name, &room, count).await;
        join_via(guest, &room, host).await;
        soon("all members", async || {
            let members = guest.get(&User::in_room(&room, "joined_members")).await;
            let joined = members.body["joined"].as_object()?.len();
            (joined == count + 2).then_some(())
        })
        .await;
        for (speaker, listener) in [(host, guest), (guest, host)] {
            let said = speaker.say(&room, "many ears").await;
            soon("the message", async || (listener.event(&room, &said).await.status == 200).then_some(()))
                .await;
        }
        assert_eq!(state_of(host, &room).await, state_of(guest, &room).await);
    }
}

#[tokio::test]
async fn rooms_of_two_hundred_are_joined_from_either_side() {
    join_a_crowd(200).await;
}

/// `cargo test -p entente-tests --test federation_synapse -- --ignored`: some minutes, most of them Synapse's.
#[tokio::test]
#[ignore = "takes minutes"]
async fn rooms_of_two_thousand_are_joined_from_either_side() {
    join_a_crowd(2_000).await;
}
