//! Push: what a gateway is told, by whose rules, in which order, and what happens when it does not listen.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use entente_tests::{Authority, Caller, SOON, Server, User, segment};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Of those whom the tests register.
const PASSWORD: &str = "correct horse battery staple";
const SET: &str = "/_matrix/client/v3/pushers/set";
const PUSHERS: &str = "/_matrix/client/v3/pushers";

/// A gateway of the test's own, which takes what it is told, unless it is to answer otherwise.
#[derive(Clone, Default)]
struct Gateway {
    told: Arc<Mutex<VecDeque<Value>>>,
    /// What it answers instead of taking, the next first.
    answers: Arc<Mutex<VecDeque<(u16, Value)>>>,
}

impl Gateway {
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/_matrix/push/v1/notify", listener.local_addr().unwrap());
        let gateway = Self::default();
        let serving = gateway.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        (gateway, url)
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        loop {
            let Some(body) = read_request(&mut stream, &mut buffer).await else { return };
            let next = self.answers.lock().unwrap().pop_front();
            let (status, answer) = next.unwrap_or((200, json!({ "rejected": [] })));
            if status == 200 {
                self.told.lock().unwrap().push_back(body["notification"].clone());
            }
            let answer = answer.to_string();
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", answer.len());
            if stream.write_all((head + &answer).as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// The next that it is told.
    async fn next(&self) -> Value {
        let told = tokio::time::timeout(SOON, async {
            loop {
                if let Some(told) = self.told.lock().unwrap().pop_front() {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        told.await.expect("the gateway is told nothing")
    }

    /// Nothing more comes.
    async fn is_quiet(&self) {
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(*self.told.lock().unwrap(), VecDeque::<Value>::new());
    }

    fn answers(&self, status: u16, answer: Value) {
        self.answers.lock().unwrap().push_back((status, answer));
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Value> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            let length = length.unwrap_or_default();
            if body.len() >= length {
                let value = serde_json::from_str(&body[..length]).unwrap();
                buffer.drain(..head.len() + 4 + length);
                return Some(value);
            }
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => buffer.extend_from_slice(&piece[..read]),
        }
    }
}

fn server() -> Server {
    Server::with(&[("ENTENTE_REGISTRATION__OPEN", "true"), ("ENTENTE_PUSH__INTERNAL", "[\"127.0.0.1\"]")])
}

fn pusher(url: &str, pushkey: &str) -> Value {
    json!({
        "kind": "http",
        "app_id": "org.example.app",
        "pushkey": pushkey,
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "fr",
        "data": { "url": url, "default_payload": { "aps": { "mutable-content": 1 } } },
    })
}

async fn room_of(alice: &User, bob: &User) -> String {
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Cabinet" })).await;
    bob.join(&room).await.ok();
    room
}

async fn mention(from: &User, room: &str, whom: &User, text: &str) -> String {
    let content = json!({ "msgtype": "m.text", "body": text, "m.mentions": { "user_ids": [whom.id] } });
    from.send(room, "m.room.message", content).await.ok()["event_id"].as_str().unwrap().to_owned()
}

async fn unread(user: &User) -> u64 {
    let sync = user.sync(&[]).await;
    let rooms = sync["rooms"]["join"].as_object().unwrap();
    rooms.values().map(|room| room["unread_notifications"]["notification_count"].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn a_gateway_is_told_what_the_rules_say_in_order() {
    let server = server();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let (gateway, url) = Gateway::start().await;
    bob.post(SET, &pusher(&url, "key")).await.ok();
    let listed = bob.get(PUSHERS).await.ok();
    assert_eq!(listed["pushers"][0]["data"]["url"], url);
    assert_eq!(listed["pushers"][0]["pushkey"], "key");

    let room = room_of(&alice, &bob).await;
    let first = mention(&alice, &room, &bob, "bonjour bob").await;
    let told = gateway.next().await;
    assert_eq!((&told["event_id"], &told["room_id"]), (&json!(first), &json!(room)));
    assert_eq!((&told["type"], &told["sender"]), (&json!("m.room.message"), &json!(alice.id)));
    assert_eq!((&told["room_name"], &told["content"]["body"]), (&json!("Cabinet"), &json!("bonjour bob")));
    assert_eq!((&told["prio"], &told["counts"]["unread"]), (&json!("high"), &json!(1)));
    let device = &told["devices"][0];
    assert_eq!((&device["app_id"], &device["pushkey"]), (&json!("org.example.app"), &json!("key")));
    assert_eq!(device["tweaks"]["highlight"], true);
    assert_eq!(device["data"], json!({ "default_payload": { "aps": { "mutable-content": 1 } } }));

    let mut said = Vec::new();
    for number in 0..20 {
        said.push(alice.say(&room, &format!("{number}")).await);
        // What is no message wakes nobody.
        alice.set_state(&room, "org.example.state", "", json!({ "n": number })).await.ok();
    }
    for event_id in &said {
        let told = gateway.next().await;
        // Of two who are alone every message counts.
        assert_eq!(
            (&told["event_id"], &told["devices"][0]["tweaks"]),
            (&json!(event_id), &json!({ "sound": "default" }))
        );
    }
    gateway.is_quiet().await;
    // Badges agree with what clients see, and who reads is told that nothing is unread.
    let last = alice.say(&room, "and this").await;
    assert_eq!(gateway.next().await["counts"]["unread"], 22);
    assert_eq!(unread(&bob).await, 22);
    let receipt = User::in_room(&room, &format!("receipt/m.read/{}", segment(&last)));
    bob.post(&receipt, &json!({})).await.ok();
    let told = gateway.next().await;
    assert_eq!((told.get("event_id"), &told["counts"]["unread"]), (None, &json!(0)));
    assert_eq!(unread(&bob).await, 0);

    // Whoever says something has read what came before; their own message wakes nobody.
    alice.say(&room, "well?").await;
    assert_eq!(gateway.next().await["counts"]["unread"], 1);
    bob.say(&room, "well.").await;
    let told = gateway.next().await;
    assert_eq!((told.get("event_id"), &told["counts"]["unread"]), (None, &json!(0)));
    assert_eq!(unread(&bob).await, 0);
    gateway.is_quiet().await;

    // An invite, to somebody who is not in the room.
    let invited = alice.create_room(json!({ "name": "Conseil", "invite": [bob.id] })).await;
    let told = gateway.next().await;
    assert_eq!((&told["room_id"], &told["user_is_target"]), (&json!(invited), &json!(true)));
    assert_eq!((&told["type"], &told["content"]["membership"]), (&json!("m.room.member"), &json!("invite")));

    // A room that is mute.
    let rule = format!("/_matrix/client/v3/pushrules/global/room/{}", segment(&room));
    bob.put(&rule, &json!({ "actions": ["dont_notify"] })).await.ok();
    alice.say(&room, "for nobody").await;
    gateway.is_quiet().await;

    let notified = bob.get("/_matrix/client/v3/notifications?limit=3").await.ok();
    let notified = notified["notifications"].as_array().unwrap();
    assert!(notified.iter().all(|one| one["event"]["event_id"].is_string() && one["ts"].is_u64()));
    assert!(notified.len() <= 3);
}

#[tokio::test]
async fn badges_agree_with_sync_whatever_is_left_or_set_anew() {
    let server = server();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let (gateway, url) = Gateway::start().await;
    bob.post(SET, &pusher(&url, "key")).await.ok();
    let (one, two) = (room_of(&alice, &bob).await, room_of(&alice, &bob).await);
    let say = async |room: &str| {
        alice.say(room, "bonjour").await;
        let told = gateway.next().await["counts"]["unread"].as_u64().unwrap();
        assert_eq!(told, unread(&bob).await);
        told
    };
    assert_eq!((say(&one).await, say(&one).await, say(&two).await), (1, 2, 3));
    // Who leaves a room, by themselves or not, is told that there is nothing in it.
    bob.membership(&one, "leave", json!({})).await.ok();
    let told = gateway.next().await;
    assert_eq!((told.get("event_id"), &told["counts"]["unread"]), (None, &json!(1)));
    assert_eq!(say(&two).await, 2);
    bob.join(&one).await.ok();
    assert_eq!(say(&one).await, 3);
    alice.membership(&one, "ban", json!({ "user_id": bob.id })).await.ok();
    assert_eq!(gateway.next().await["counts"]["unread"], 2);
    assert_eq!(say(&two).await, 3);
    // While there is no pusher, nobody counts.
    let mut delete = pusher(&url, "key");
    delete["kind"] = Value::Null;
    bob.post(SET, &delete).await.ok();
    let last = alice.say(&two, "unheard").await;
    let receipt = User::in_room(&two, &format!("receipt/m.read/{}", segment(&last)));
    bob.post(&receipt, &json!({})).await.ok();
    bob.post(SET, &pusher(&url, "key")).await.ok();
    let three = room_of(&alice, &bob).await;
    assert_eq!(say(&three).await, 1);
    // Nor while it is switched off.
    let mut switched = pusher(&url, "key");
    switched["org.matrix.msc3881.enabled"] = json!(false);
    bob.post(SET, &switched).await.ok();
    let (alices, alices_url) = Gateway::start().await;
    alice.post(SET, &pusher(&alices_url, "another key")).await.ok();
    alice.say(&two, "unheard").await;
    bob.say(&three, "read").await;
    // When Alice is told, both were looked at: what is looked at only after it was switched on again is told.
    assert_eq!(alices.next().await["content"]["body"], "read");
    switched["org.matrix.msc3881.enabled"] = json!(true);
    bob.post(SET, &switched).await.ok();
    assert_eq!(say(&two).await, 2);
    gateway.is_quiet().await;
}

#[tokio::test]
async fn what_was_read_meanwhile_is_not_told() {
    let server = server();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let (gateway, url) = Gateway::start().await;
    let room = room_of(&alice, &bob).await;
    bob.post(SET, &pusher(&url, "key")).await.ok();
    // It comes back after a second, then after two, and then after four.
    gateway.answers(503, json!({}));
    gateway.answers(404, json!({}));
    gateway.answers(503, json!({}));
    alice.say(&room, "1").await;
    let read = alice.say(&room, "2").await;
    let receipt = User::in_room(&room, &format!("receipt/m.read/{}", segment(&read)));
    bob.post(&receipt, &json!({})).await.ok();
    let unread = alice.say(&room, "3").await;
    let mut told = gateway.next().await;
    if told.get("event_id").is_none() {
        told = gateway.next().await;
    }
    assert_eq!((&told["event_id"], &told["counts"]["unread"]), (&json!(unread), &json!(1)));
    gateway.is_quiet().await;
}

#[tokio::test]
async fn a_pusher_stays_its_devices_whoever_switches_it() {
    let server = server();
    let bob = User::register(&server, "bob").await;
    let versions = bob.get("/_matrix/client/versions").await.ok();
    assert_eq!(versions["unstable_features"]["org.matrix.msc3881"], true);
    let (_, url) = Gateway::start().await;
    let identifier = json!({ "type": "m.id.user", "user": "bob" });
    let login = json!({ "type": "m.login.password", "identifier": identifier, "password": PASSWORD });
    let anybody = Caller::new(&server.base_url, None);
    let logged_in = anybody.post("/_matrix/client/v3/login", &login).await.ok();
    let phone = Caller::new(&server.base_url, logged_in["access_token"].as_str());
    phone.post(SET, &pusher(&url, "key")).await.ok();
    let of_phone = bob.get(PUSHERS).await.ok()["pushers"][0].clone();
    assert_ne!(of_phone["org.matrix.msc3881.device_id"], json!(bob.device_id));
    for enabled in [false, true] {
        let mut switched = pusher(&url, "key");
        switched["org.matrix.msc3881.enabled"] = json!(enabled);
        bob.post(SET, &switched).await.ok();
        let now = bob.get(PUSHERS).await.ok()["pushers"][0].clone();
        assert_eq!(now["org.matrix.msc3881.enabled"], enabled);
        assert_eq!(now["org.matrix.msc3881.device_id"], of_phone["org.matrix.msc3881.device_id"]);
    }
    // Setting it anew is taking it over.
    bob.post(SET, &pusher(&url, "key")).await.ok();
    let taken = bob.get(PUSHERS).await.ok()["pushers"][0].clone();
    assert_eq!(taken["org.matrix.msc3881.device_id"], json!(bob.device_id));
}

#[tokio::test]
async fn what_one_says_is_read_in_its_thread() {
    let server = server();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let powers = json!({ "events": { "org.example.state": 0 } });
    let new = json!({ "preset": "public_chat", "power_level_content_override": powers });
    let room = alice.create_room(new).await;
    bob.join(&room).await.ok();
    let root = alice.say(&room, "root").await;
    let in_thread = async |user: &User| {
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        let content = json!({ "msgtype": "m.text", "body": "in it", "m.relates_to": relation });
        user.send(&room, "m.room.message", content).await.ok();
    };
    let filter = json!({ "room": { "timeline": { "unread_thread_notifications": true } } }).to_string();
    let counts = async || {
        let synced = bob.sync(&[("filter", &filter)]).await;
        let joined = &synced["rooms"]["join"][&room];
        let thread = &joined["unread_thread_notifications"][&root]["notification_count"];
        (joined["unread_notifications"]["notification_count"].as_u64(), thread.as_u64().unwrap_or(0))
    };
    in_thread(&alice).await;
    assert_eq!(counts().await, (Some(1), 1));
    in_thread(&bob).await;
    assert_eq!(counts().await, (Some(1), 0));
    in_thread(&alice).await;
    assert_eq!(counts().await, (Some(1), 1));
    bob.say(&room, "in none").await;
    assert_eq!(counts().await, (Some(0), 1));
    // State does not show that anybody looked.
    alice.say(&room, "more").await;
    bob.set_state(&room, "org.example.state", "", json!({})).await.ok();
    assert_eq!(counts().await, (Some(1), 1));
    let notified = bob.get("/_matrix/client/v3/notifications").await.ok();
    let read: Vec<bool> =
        notified["notifications"].as_array().unwrap().iter().map(|one| one["read"] == true).collect();
    assert_eq!(read, [false, false, true, true]);
}

#[tokio::test]
async fn what_notified_somebody_can_be_read() {
    let server = server();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let room = room_of(&alice, &bob).await;
    for number in 0..5 {
        alice.say(&room, &format!("{number}")).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mention = mention(&alice, &room, &bob, "bob!").await;
    let all = bob.get("/_matrix/client/v3/notifications?limit=4").await.ok();
    let texts = |page: &Value| -> Vec<String> {
        let events = page["notifications"].as_array().unwrap().iter();
        events.map(|one| one["event"]["content"]["body"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(texts(&all), ["bob!", "4", "3", "2"]);
    assert_eq!(all["notifications"][0]["read"], false);
    let from = all["next_token"].as_str().unwrap();
    let rest = bob.get(&format!("/_matrix/client/v3/notifications?from={from}")).await.ok();
    assert_eq!(texts(&rest), ["1", "0"]);
    assert!(rest.get("next_token").is_none());
    let highlights = bob.get("/_matrix/client/v3/notifications?only=highlight").await.ok();
    assert_eq!(highlights["notifications"][0]["event"]["event_id"], mention);
    assert_eq!(highlights["notifications"].as_array().unwrap().len(), 1);
    let receipt = User::in_room(&room, &format!("receipt/m.read/{}", segment(&mention)));
    bob.post(&receipt, &json!({})).await.ok();
    let all = bob.get("/_matrix/client/v3/notifications").await.ok();
    assert!(all["notifications"].as_array().unwrap().iter().all(|one| one["read"] == true));
    bob.get("/_matrix/client/v3/notifications?from=x").await.refused(400, "M_INVALID_PARAM");
    bob.get("/_matrix/client/v3/notifications?only=x").await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_gateway_that_does_not_listen_is_told_later_also_after_a_crash() {
    let server = server();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let carol = User::register(&server, "carol").await;
    let (gateway, url) = Gateway::start().await;
    let (other, other_url) = Gateway::start().await;
    bob.post(SET, &pusher(&url, "bob's")).await.ok();
    carol.post(SET, &pusher(&other_url, "carol's")).await.ok();
    let room = room_of(&alice, &bob).await;
    carol.join(&room).await.ok();
    for _ in 0..3 {
        gateway.answers(503, json!({}));
    }
    let mut said = Vec::new();
    for number in 0..10 {
        said.push(alice.say(&room, &format!("{number}")).await);
    }
    // The other one does not wait for it.
    for event_id in &said {
        assert_eq!(other.next().await["event_id"], json!(event_id));
    }
    let server = server.crash_and_restart();
    let alice = alice.at(&server);
    for number in 10..15 {
        said.push(alice.say(&room, &format!("{number}")).await);
    }
    // Once and in order; at most the one that was being sent comes again.
    let mut told = Vec::new();
    while told.last() != said.last() {
        let event_id = gateway.next().await["event_id"].as_str().unwrap().to_owned();
        if told.last() != Some(&event_id) {
            told.push(event_id);
        }
    }
    assert_eq!(told, said);
    gateway.is_quiet().await;
}

#[tokio::test]
async fn pushers_end_with_what_they_stand_for() {
    let server = server();
    let (alice, bob) = (User::register(&server, "alice").await, User::register(&server, "bob").await);
    let (gateway, url) = Gateway::start().await;
    let room = room_of(&alice, &bob).await;
    let count = async |user: &User| user.get(PUSHERS).await.ok()["pushers"].as_array().unwrap().len();

    // A key that the gateway says is nobody's any more.
    bob.post(SET, &pusher(&url, "gone")).await.ok();
    gateway.answers(200, json!({ "rejected": ["gone"] }));
    alice.say(&room, "1").await;
    gateway.next().await;
    let ended = tokio::time::timeout(SOON, async {
        while count(&bob).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    ended.await.expect("the rejected pusher is still there");

    // One that is deleted, one that another user has now, one whose device logs out.
    bob.post(SET, &pusher(&url, "a")).await.ok();
    let mut delete = pusher(&url, "a");
    delete["kind"] = Value::Null;
    bob.post(SET, &delete).await.ok();
    assert_eq!(count(&bob).await, 0);
    bob.post(SET, &pusher(&url, "b")).await.ok();
    let mut added = pusher(&url, "b");
    added["append"] = json!(true);
    alice.post(SET, &added).await.ok();
    assert_eq!((count(&alice).await, count(&bob).await), (1, 1));
    alice.post(SET, &pusher(&url, "b")).await.ok();
    assert_eq!((count(&alice).await, count(&bob).await), (1, 0));
    alice.say(&room, "nobody hears it").await;
    gateway.is_quiet().await;
    bob.say(&room, "alice hears it").await;
    gateway.next().await;
    let mut disabled = pusher(&url, "b");
    disabled["org.matrix.msc3881.enabled"] = json!(false);
    alice.post(SET, &disabled).await.ok();
    bob.say(&room, "alice does not hear it").await;
    gateway.is_quiet().await;
    alice.post(SET, &pusher(&url, "b")).await.ok();
    alice.post("/_matrix/client/v3/logout", &json!({})).await.ok();
    tokio::time::sleep(Duration::from_millis(300)).await;
    bob.say(&room, "nobody hears it").await;
    gateway.is_quiet().await;
}

#[tokio::test]
async fn an_invite_of_another_server_is_told() {
    let authority = Authority::new();
    let one = authority.server(&[]);
    let other = authority.server(&[("ENTENTE_PUSH__INTERNAL", "[\"127.0.0.1\"]")]);
    let (alice, bob) = (User::register(&one, "alice").await, User::register(&other, "bob").await);
    let (gateway, url) = Gateway::start().await;
    bob.post(SET, &pusher(&url, "key")).await.ok();
    let room = alice.create_room(json!({ "name": "Cabinet", "invite": [bob.id] })).await;
    let told = gateway.next().await;
    assert_eq!((&told["room_id"], &told["sender"]), (&json!(room), &json!(alice.id)));
    assert_eq!((&told["user_is_target"], &told["content"]["membership"]), (&json!(true), &json!("invite")));
    bob.join(&room).await.ok();
    let said = alice.say(&room, "bienvenue").await;
    assert_eq!(gateway.next().await["event_id"], json!(said));
    gateway.is_quiet().await;
}

#[tokio::test]
async fn gateways_that_could_be_anything_are_refused() {
    let server = Server::with(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_PUSH__POLICY", "closed"),
        ("ENTENTE_PUSH__ALLOW", "[\"push.example.org\"]"),
    ]);
    let alice = User::register(&server, "alice").await;
    let set = async |url: &str| alice.post(SET, &pusher(url, "key")).await;
    let path = "/_matrix/push/v1/notify";
    set(&format!("https://push.example.org{path}")).await.ok();
    for (url, status, errcode) in [
        (format!("https://other.example.org{path}"), 403, "M_FORBIDDEN"),
        (format!("https://127.0.0.1{path}"), 403, "M_FORBIDDEN"),
        (format!("http://push.example.org{path}"), 400, "M_INVALID_PARAM"),
        (String::from("https://push.example.org/other"), 400, "M_INVALID_PARAM"),
        (String::from("no url"), 400, "M_INVALID_PARAM"),
    ] {
        set(&url).await.refused(status, errcode);
    }
    let open = Server::open();
    let bob = User::register(&open, "bob").await;
    for host in ["127.0.0.1", "[::1]", "10.0.0.1", "[fd00::1]", "169.254.169.254"] {
        let pusher = pusher(&format!("https://{host}{path}"), "key");
        bob.post(SET, &pusher).await.refused(403, "M_FORBIDDEN");
    }
    let url = format!("https://push.example.org{path}");
    let mut long = pusher(&url, &"k".repeat(513));
    bob.post(SET, &long).await.refused(400, "M_INVALID_PARAM");
    long = pusher(&url, "");
    bob.post(SET, &long).await.refused(400, "M_INVALID_PARAM");
    let mut email = pusher(&url, "key");
    email["kind"] = json!("email");
    bob.post(SET, &email).await.refused(400, "M_INVALID_PARAM");
    bob.post(SET, &json!({ "app_id": "a", "kind": "http" })).await.refused(400, "M_MISSING_PARAM");
    for number in 0..50 {
        bob.post(SET, &pusher(&url, &format!("{number}"))).await.ok();
    }
    bob.post(SET, &pusher(&url, "one more")).await.refused(403, "M_FORBIDDEN");
}
