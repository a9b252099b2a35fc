//! Application services: bridges and bots that act for many users.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use entente_tests::{
    Answer, Authority, Caller, SOON, Server, Service, ServiceRequest, Settings, User, fresh_id, run,
    run_well, segment,
};
use reqwest::Method;
use serde_json::{Value, json};

/// A server with services whose registrations lie in a directory.
fn server_with(services: &[(&str, &Service, &str)]) -> Server {
    server_and(services, &[])
}

fn server_and(services: &[(&str, &Service, &str)], more: Settings<'_>) -> Server {
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("services")).unwrap();
    for (id, service, more) in services {
        let path = directory.path().join(format!("services/{id}.yaml"));
        std::fs::write(path, service.registration(id, more)).unwrap();
    }
    let settings = [
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_RATE_LIMITS__ENABLED", "false"),
        ("ENTENTE_ACCOUNTS__ARGON2__MEMORY_KIB", "64"),
        ("ENTENTE_ACCOUNTS__ARGON2__ITERATIONS", "1"),
        ("ENTENTE_APPLICATION_SERVICES__REGISTRATIONS", "[\"services\"]"),
    ];
    Server::start(directory, &[&settings, more].concat())
}

fn ghost(name: &str) -> String {
    format!("user_id={}", segment(&format!("@{name}:localhost:8008")))
}

async fn make_ghost(bridge: &Caller, name: &str) {
    let body = json!({ "type": "m.login.application_service", "username": name, "inhibit_login": true });
    let made = bridge.post("/_matrix/client/v3/register", &body).await.ok();
    assert_eq!(made["user_id"], format!("@{name}:localhost:8008"));
    assert!(made.get("access_token").is_none_or(Value::is_null), "no session was asked for");
}

#[tokio::test]
async fn a_service_acts_as_its_users_and_nobody_takes_their_names() {
    let service = Service::start();
    let server = server_with(&[("irc", &service, "")]);
    let bridge = server.caller("as-irc");
    let whoami = "/_matrix/client/v3/account/whoami";
    let bot = bridge.get(whoami).await.ok();
    assert_eq!(bot["user_id"], "@ircbot:localhost:8008", "its own user is there from the start");
    assert_eq!(bot.get("device_id"), None);
    bridge.get(&format!("{whoami}?{}", ghost("irc_ann"))).await.refused(403, "M_FORBIDDEN");
    make_ghost(&bridge, "irc_ann").await;
    assert_eq!(
        bridge.get(&format!("{whoami}?{}", ghost("irc_ann"))).await.ok()["user_id"],
        "@irc_ann:localhost:8008"
    );
    bridge.get(&format!("{whoami}?{}", ghost("ann"))).await.refused(403, "M_FORBIDDEN");
    let unknown = format!("{whoami}?{}&device_id=NONE", ghost("irc_ann"));
    bridge.get(&unknown).await.refused(400, "M_UNKNOWN_DEVICE");

    let body = json!({ "type": "m.login.application_service", "username": "ann" });
    bridge.post("/_matrix/client/v3/register", &body).await.refused(400, "M_EXCLUSIVE");
    server.anonymous().post("/_matrix/client/v3/register", &body).await.refused(401, "M_MISSING_TOKEN");
    server.caller("wrong").post("/_matrix/client/v3/register", &body).await.refused(401, "M_UNKNOWN_TOKEN");
    let stranger =
        json!({ "username": "irc_bob", "password": "long enough", "auth": { "type": "m.login.dummy" } });
    server.anonymous().post("/_matrix/client/v3/register", &stranger).await.refused(400, "M_EXCLUSIVE");
    let available = "/_matrix/client/v3/register/available?username=irc_bob";
    server.anonymous().get(available).await.refused(400, "M_EXCLUSIVE");

    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({})).await;
    let alias = format!("/_matrix/client/v3/directory/room/{}", segment("#irc_room:localhost:8008"));
    alice.put(&alias, &json!({ "room_id": room })).await.refused(400, "M_EXCLUSIVE");
    let login = json!({
        "type": "m.login.application_service",
        "identifier": { "type": "m.id.user", "user": "irc_ann" },
    });
    let session = bridge.post("/_matrix/client/v3/login", &login).await.ok();
    let logged_in = server.caller(session["access_token"].as_str().unwrap());
    assert_eq!(logged_in.get(whoami).await.ok()["user_id"], "@irc_ann:localhost:8008");
    server.anonymous().post("/_matrix/client/v3/login", &login).await.refused(401, "M_MISSING_TOKEN");

    let device = |id: &str| format!("/_matrix/client/v3/devices/{id}?{}", ghost("irc_ann"));
    let made = bridge.put(&device("BRIDGE"), &json!({ "display_name": "bridge" })).await;
    assert_eq!(made.status, 201, "a device was made");
    assert_eq!(bridge.put(&device("BRIDGE"), &json!({ "display_name": "bridge" })).await.status, 200);
    let acting = format!("{whoami}?{}&org.matrix.msc3202.device_id=BRIDGE", ghost("irc_ann"));
    assert_eq!(bridge.get(&acting).await.ok()["device_id"], "BRIDGE");
    bridge.delete(&device("BRIDGE"), &json!({})).await.ok();
    bridge.get(&device("BRIDGE")).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_service_hears_what_concerns_it_and_sends_with_times_of_its_own() {
    let (service, other) = (Service::start(), Service::start());
    let server = server_with(&[
        ("irc", &service, "receive_ephemeral: true\nprotocols: [irc]\n"),
        ("xmpp", &other, ""),
    ]);
    let bridge = server.caller("as-irc");
    make_ghost(&bridge, "irc_ann").await;
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.say(&room, "nobody hears this").await;
    let join = format!("{}?{}", User::in_room(&room, "join"), ghost("irc_ann"));
    bridge.post(&join, &json!({})).await.ok();
    alice.say(&room, "hello").await;
    let send = User::in_room(&room, &format!("send/m.room.message/{}", fresh_id()));
    let send = format!("{send}?{}&ts=1234567890123", ghost("irc_ann"));
    let sent = bridge.put(&send, &json!({ "msgtype": "m.text", "body": "from then" })).await.ok();
    let event = alice.event(&room, sent["event_id"].as_str().unwrap()).await.ok();
    assert_eq!(event["origin_server_ts"], 1_234_567_890_123_u64);
    service.until("all events", |service| service.events().len() >= 3).await;
    let heard: Vec<Value> = service.events();
    let bodies: Vec<&str> = heard.iter().filter_map(|event| event["content"]["body"].as_str()).collect();
    assert_eq!(bodies, ["hello", "from then"]);
    assert_eq!(heard[0]["content"]["membership"], "join");
    assert_eq!(heard[0]["room_id"], room.as_str());
    assert!(service.requests().iter().all(|request| request.token == "hs-irc"));
    let typing = User::in_room(&room, &format!("typing/{}", segment(&alice.id)));
    alice.put(&typing, &json!({ "typing": true, "timeout": 10_000 })).await.ok();
    let types = |service: &Service| {
        service.requests().iter().any(|request| request.body["ephemeral"][0]["type"] == "m.typing")
    };
    service.until("typing", types).await;
    assert!(other.requests().is_empty(), "what concerns one is not told to another");

    let ping = "/_matrix/client/v1/appservice/irc/ping";
    assert!(bridge.post(ping, &json!({ "transaction_id": "p" })).await.ok()["duration_ms"].is_u64());
    server.caller("as-xmpp").post(ping, &json!({})).await.refused(403, "M_FORBIDDEN");
    service.refuse(true);
    let refused = bridge.post(ping, &json!({})).await.refused(502, "M_BAD_STATUS");
    assert_eq!(refused["status"], 500);
    service.refuse(false);
    let protocols = alice.get("/_matrix/client/v3/thirdparty/protocols").await.ok();
    assert_eq!(protocols["irc"]["instances"][0]["network_id"], "n");
    assert_eq!(protocols["irc"]["instances"][0]["instance_id"], "irc|n");
    // Anybody can ask for profiles: that makes no users. An invite does.
    alice.get("/_matrix/client/v3/profile/@irc_new:localhost:8008").await.refused(404, "M_NOT_FOUND");
    let asked = |service: &Service| {
        let asks = |request: &&ServiceRequest| request.line.starts_with("GET /_matrix/app/v1/users/");
        service.requests().iter().filter(asks).count()
    };
    assert_eq!(asked(&service), 0);
    for _ in 0..2 {
        let invite = json!({ "user_id": "@irc_new:localhost:8008" });
        alice.post(&User::in_room(&room, "invite"), &invite).await;
    }
    assert_eq!(asked(&service), 1, "a no is remembered for a while");
}

#[tokio::test]
async fn nothing_is_lost_or_out_of_order_whoever_crashes() {
    let (up, down) = (Service::start(), Service::start());
    let server = server_with(&[("up", &up, ""), ("down", &down, "")]);
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for id in ["up", "down"] {
        let bot = server.caller(&format!("as-{id}"));
        bot.post(&User::in_room(&room, "join"), &json!({})).await.ok();
    }
    down.refuse(true);
    for number in 0..150 {
        alice.say(&room, &number.to_string()).await;
    }
    let texts = |service: &Service| -> Vec<String> {
        let events = service.events();
        events.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    };
    up.until("everything at the one that is there", |service| texts(service).len() == 150).await;
    assert!(texts(&down).is_empty());
    let server = server.crash_and_restart();
    let alice = alice.at(&server);
    for number in 150..300 {
        alice.say(&room, &number.to_string()).await;
    }
    let server = server.crash_and_restart();
    down.refuse(false);
    let all: Vec<String> = (0..300).map(|number: u32| number.to_string()).collect();
    down.until("everything", |service| texts(service).len() == 300).await;
    up.until("everything", |service| texts(service).len() == 300).await;
    assert_eq!(texts(&down), all);
    assert_eq!(texts(&up), all);
    let attempts = down.requests();
    assert!(attempts.iter().any(|request| !request.taken), "it was tried while it was down");
    drop(server);
}

#[tokio::test]
async fn operators_add_and_remove_services() {
    let service = Service::start();
    let server = server_with(&[("irc", &service, "")]);
    let add = |text: &str| {
        std::fs::write(server.directory().join("new.yaml"), text).unwrap();
        run(&mut server.command(&["admin", "add-appservice", "new.yaml"]), "")
    };
    let problem = String::from_utf8(add(&service.registration("irc", "")).stderr).unwrap();
    assert!(problem.contains("two application services have the id irc"), "{problem}");
    let problem = String::from_utf8(add("id: [").stderr).unwrap();
    assert!(problem.contains("registration:1:"), "{problem}");
    server.caller("as-xmpp").get("/_matrix/client/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    assert!(add(&service.registration("xmpp", "")).status.success());
    let bot = server.caller("as-xmpp").get("/_matrix/client/v3/account/whoami").await.ok();
    assert_eq!(bot["user_id"], "@xmppbot:localhost:8008");
    let listed = run_well(&mut server.command(&["admin", "appservices"]), "");
    assert_eq!(listed.lines().count(), 2, "{listed}");
    run_well(&mut server.command(&["admin", "remove-appservice", "xmpp"]), "");
    server.caller("as-xmpp").get("/_matrix/client/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn administrators_add_and_remove_services() {
    let (service, other) = (Service::start(), Service::start());
    let server = server_with(&[("irc", &service, "")]);
    run_well(&mut server.command(&["admin", "create-user", "root1", "--admin"]), "a long password");
    let login = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "root1" },
        "password": "a long password",
    });
    let session = server.anonymous().post("/_matrix/client/v3/login", &login).await.ok();
    let token = session["access_token"].as_str().unwrap();
    let admin = server.caller(token);
    let alice = User::register(&server, "alice").await;
    let (all, xmpp) = ("/_entente/admin/v1/appservices", "/_entente/admin/v1/appservices/xmpp");
    let whoami = "/_matrix/client/v3/account/whoami";
    let put = async |caller: &Caller, id: &str, text: String| {
        Answer::to(caller.request(Method::PUT, &format!("{all}/{id}")).body(text)).await
    };

    server.anonymous().get(all).await.refused(401, "M_MISSING_TOKEN");
    alice.get(all).await.refused(403, "M_FORBIDDEN");
    put(&alice, "xmpp", other.registration("xmpp", "")).await.refused(403, "M_FORBIDDEN");
    server.caller("as-irc").get(all).await.refused(403, "M_FORBIDDEN");
    // Nor by way of a service whose user is an administrator.
    let everybody = "namespaces: { users: [{ exclusive: false, regex: '@.*' }] }\n";
    put(&admin, "all", service.registration("all", "").replace("namespaces:", "other:") + everybody)
        .await
        .ok();
    let as_root = format!("{all}?{}", ghost("root1"));
    server.caller("as-all").get(&as_root).await.refused(403, "M_FORBIDDEN");
    assert_eq!(server.caller("as-all").get(&format!("{whoami}?{}", ghost("root1"))).await.status, 200);
    admin.delete(&format!("{all}/all"), &json!({})).await.ok();

    admin.get(xmpp).await.refused(404, "M_NOT_FOUND");
    let broken = other.registration("xmpp", "").replace("url:", "url: ftp://x/ #");
    let refused = put(&admin, "xmpp", broken).await.refused(400, "M_INVALID_PARAM");
    assert!(refused["error"].as_str().unwrap().starts_with("registration:2:"), "{refused}");
    put(&admin, "xmpp", other.registration("other", "")).await.refused(400, "M_INVALID_PARAM");
    put(&admin, "irc", service.registration("irc", "")).await.refused(400, "M_INVALID_PARAM");
    put(&admin, "xmpp", "x".repeat(60_000)).await.refused(400, "M_INVALID_PARAM");
    server.caller("as-xmpp").get(whoami).await.refused(401, "M_UNKNOWN_TOKEN");

    put(&admin, "xmpp", other.registration("xmpp", "")).await.ok();
    assert_eq!(server.caller("as-xmpp").get(whoami).await.ok()["user_id"], "@xmppbot:localhost:8008");
    let shown = admin.get(xmpp).await.ok();
    assert_eq!((&shown["source"], &shown["sender"]), (&json!("stored"), &json!("@xmppbot:localhost:8008")));
    assert_eq!(shown["namespaces"]["users"][0], json!({ "exclusive": true, "regex": "@xmpp_.*" }));
    assert!(!shown.to_string().contains("as-xmpp") && !shown.to_string().contains("hs-xmpp"), "{shown}");
    let sources: Vec<Value> = admin.get(all).await.ok()["appservices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|service| json!([service["id"], service["source"]]))
        .collect();
    assert_eq!(sources, [json!(["irc", "file"]), json!(["xmpp", "stored"])]);
    // It hears of what happens from now on, after a crash as well, and by its newest registration.
    let server = server.crash_and_restart();
    let (alice, admin) = (alice.at(&server), server.caller(token));
    put(&admin, "xmpp", other.registration("xmpp", "protocols: [xmpp]\n")).await.ok();
    make_ghost(&server.caller("as-xmpp"), "xmpp_ann").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let join = format!("{}?{}", User::in_room(&room, "join"), ghost("xmpp_ann"));
    server.caller("as-xmpp").post(&join, &json!({})).await.ok();
    alice.say(&room, "hello").await;
    other.until("the message", |service| service.events().len() >= 2).await;
    assert_eq!(admin.get(xmpp).await.ok()["protocols"], json!(["xmpp"]));

    admin.delete(&format!("{all}/irc"), &json!({})).await.refused(403, "M_FORBIDDEN");
    admin.delete(xmpp, &json!({})).await.ok();
    admin.delete(xmpp, &json!({})).await.refused(404, "M_NOT_FOUND");
    server.caller("as-xmpp").get(whoami).await.refused(401, "M_UNKNOWN_TOKEN");
}

/// Has a service make something, once, before it answers that there is what it is asked for.
fn when_asked(service: &Service, part: &str, make: impl Future<Output = ()> + Send + 'static) {
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let (done, is_done) = std::sync::mpsc::channel();
    let is_done = std::sync::Mutex::new(is_done);
    service.answer_with(part, move |_| {
        ask.send(()).unwrap();
        is_done.lock().unwrap().recv_timeout(SOON).unwrap();
        (200, json!({}))
    });
    tokio::spawn(async move {
        asked.recv().await.unwrap();
        make.await;
        done.send(()).unwrap();
    });
}

#[tokio::test]
async fn a_service_makes_rooms_when_somebody_looks_for_them() {
    let service = Service::start();
    let server = server_with(&[("irc", &service, "")]);
    let bridge = server.caller("as-irc");
    let directory = |alias: &str| format!("/_matrix/client/v3/directory/room/{}", segment(alias));
    let alias = directory("#irc_made:localhost:8008");

    let making = bridge.clone();
    when_asked(&service, "/rooms/%23irc_made", async move {
        let room = json!({ "preset": "public_chat", "room_alias_name": "irc_made" });
        making.post("/_matrix/client/v3/createRoom", &room).await.ok();
    });
    let found = server.anonymous().get(&alias).await.ok();
    assert!(found["room_id"].is_string());
    let alice = User::register(&server, "alice").await;
    alice.post("/_matrix/client/v3/join/%23irc_made:localhost:8008", &json!({})).await.ok();

    // Outside its namespaces it makes none; within them it gives and takes as it likes, and others do not.
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let (own, other) = (directory("#irc_own:localhost:8008"), directory("#other:localhost:8008"));
    bridge.put(&other, &json!({ "room_id": room })).await.refused(400, "M_EXCLUSIVE");
    bridge.put(&own, &json!({ "room_id": room })).await.ok();
    alice.delete(&own, &json!({})).await.refused(400, "M_EXCLUSIVE");
    bridge.delete(&own, &json!({})).await.ok();

    let list = |network: &str, room: &str| {
        format!("/_matrix/client/v3/directory/list/appservice/{network}/{}", segment(room))
    };
    bridge.put(&list("n", &room), &json!({ "visibility": "public" })).await.ok();
    let listed = async |body: Value| {
        let listed = alice.post("/_matrix/client/v3/publicRooms", &body).await.ok();
        let rooms = listed["chunk"].as_array().unwrap().iter();
        rooms.map(|listed| listed["room_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(listed(json!({})).await.is_empty(), "it is in the list of the network only");
    assert_eq!(listed(json!({ "third_party_instance_id": "irc|n" })).await, [room.as_str()]);
    assert_eq!(listed(json!({ "include_all_networks": true })).await, [room.as_str()]);
    assert!(listed(json!({ "third_party_instance_id": "irc|other" })).await.is_empty());
    bridge.put(&list("n", &room), &json!({ "visibility": "private" })).await.ok();
    assert!(listed(json!({ "include_all_networks": true })).await.is_empty());
    alice.put(&list("n", &room), &json!({ "visibility": "public" })).await.refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn strangers_make_others_look_only_so_often() {
    let service = Service::start();
    let server = server_and(
        &[("irc", &service, "")],
        &[
            ("ENTENTE_RATE_LIMITS__ENABLED", "true"),
            ("ENTENTE_RATE_LIMITS__REQUESTS_BY_ADDRESS", "{ per_second = 0.01, burst = 3 }"),
        ],
    );
    let look = |number: usize| format!("/_matrix/client/v3/directory/room/%23irc_{number}:localhost:8008");
    for number in 0..3 {
        server.anonymous().get(&look(number)).await.refused(404, "M_NOT_FOUND");
    }
    server.anonymous().get(&look(3)).await.refused(429, "M_LIMIT_EXCEEDED");
    assert_eq!(service.requests().len(), 3);
    server
        .anonymous()
        .get("/_matrix/client/v3/profile/@a:elsewhere.example")
        .await
        .refused(429, "M_LIMIT_EXCEEDED");
    let known = "/_matrix/client/v3/profile/@ircbot:localhost:8008";
    server.anonymous().get(known).await.ok();
}

#[tokio::test]
async fn an_old_service_is_asked_where_it_listens() {
    let service = Service::start();
    service.answer_with("/_matrix/app/v1/", |_| (404, json!({ "errcode": "M_UNRECOGNIZED" })));
    let server = server_with(&[("irc", &service, "protocols: [irc]\n")]);
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    server.caller("as-irc").post(&User::in_room(&room, "join"), &json!({})).await.ok();
    alice.say(&room, "hello").await;
    let legacy = |part: &'static str| {
        move |service: &Service| {
            let requests = service.requests();
            requests.iter().any(|request| request.taken && request.line.starts_with(part))
        }
    };
    service.until("the transaction", legacy("PUT /transactions/")).await;
    alice.get("/_matrix/client/v3/directory/room/%23irc_x:localhost:8008").await.refused(404, "M_NOT_FOUND");
    let protocols = alice.get("/_matrix/client/v3/thirdparty/protocols").await.ok();
    assert_eq!(protocols["irc"]["instances"][0]["network_id"], "n");
    let lines: Vec<String> = service.requests().into_iter().map(|request| request.line).collect();
    for wanted in ["GET /rooms/%23irc_x", "GET /_matrix/app/unstable/thirdparty/protocol/irc"] {
        let line = lines.iter().find(|line| line.starts_with(wanted));
        assert!(line.is_some_and(|line| line.contains("access_token=hs-irc")), "{wanted}: {lines:?}");
    }
}

/// Asks until the answer has this status.
async fn until_status(caller: &Caller, path: &str, status: u16) {
    let asked = tokio::time::timeout(SOON, async {
        while caller.get(path).await.status != status {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    asked.await.unwrap_or_else(|_| panic!("{path} does not answer {status}"));
}

#[tokio::test]
async fn registrations_are_read_again_at_a_signal() {
    let (service, new) = (Service::start(), Service::start());
    let server = server_with(&[("irc", &service, "")]);
    let file = |name: &str| server.directory().join("services").join(name);
    let whoami = "/_matrix/client/v3/account/whoami";
    let (known, added) = (server.caller("as-irc"), server.caller("as-new"));
    added.get(whoami).await.refused(401, "M_UNKNOWN_TOKEN");
    std::fs::write(file("new.yaml"), new.registration("new", "")).unwrap();
    server.signal("HUP");
    until_status(&added, whoami, 200).await;
    // With a mistake among them all stays as it was.
    std::fs::write(file("bad.yaml"), "id: [").unwrap();
    std::fs::remove_file(file("irc.yaml")).unwrap();
    server.signal("HUP");
    let complained = tokio::time::timeout(SOON, async {
        while !server.log().contains("bad.yaml:1:") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    complained.await.expect("the mistake is told");
    known.get(whoami).await.ok();
    std::fs::remove_file(file("bad.yaml")).unwrap();
    server.signal("HUP");
    until_status(&known, whoami, 401).await;
    added.get(whoami).await.ok();
}

#[tokio::test]
async fn a_service_is_limited_as_its_registration_says() {
    let (free, limited) = (Service::start(), Service::start());
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("services")).unwrap();
    let write = |id: &str, text: String| {
        std::fs::write(directory.path().join(format!("services/{id}.yaml")), text).unwrap();
    };
    write("free", free.registration("free", ""));
    let registration = limited.registration("limited", "");
    write("limited", registration.replace("rate_limited: false", "rate_limited: true"));
    let server = Server::start(
        directory,
        &[
            ("ENTENTE_REGISTRATION__OPEN", "true"),
            ("ENTENTE_RATE_LIMITS__REQUESTS_BY_USER", "{ per_second = 0.01, burst = 3 }"),
            ("ENTENTE_APPLICATION_SERVICES__REGISTRATIONS", "[\"services\"]"),
        ],
    );
    let (free, limited) = (server.caller("as-free"), server.caller("as-limited"));
    make_ghost(&free, "free_ann").await;
    make_ghost(&limited, "limited_ann").await;
    // One that is described by the spec in a type, and one that is written by hand.
    let whoami = |name: &str| format!("/_matrix/client/v3/account/whoami?{}", ghost(name));
    let heard = |name: &str| format!("/_matrix/client/v3/notifications?{}", ghost(name));
    for _ in 0..4 {
        free.get(&whoami("free_ann")).await.ok();
        free.get(&heard("free_ann")).await.ok();
        limited.get("/_matrix/client/v3/notifications").await.ok();
    }
    for _ in 0..3 {
        limited.get(&heard("limited_ann")).await.ok();
    }
    limited.get(&heard("limited_ann")).await.refused(429, "M_LIMIT_EXCEEDED");
    limited.get(&whoami("limited_ann")).await.refused(429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_service_may_have_a_name_that_is_kept_from_others() {
    let service = Service::start();
    let server = server_with(&[]);
    let text = service.registration("mod", "").replace("sender_localpart: modbot", "sender_localpart: admin");
    std::fs::write(server.directory().join("new.yaml"), text).unwrap();
    run_well(&mut server.command(&["admin", "add-appservice", "new.yaml"]), "");
    let server = server.crash_and_restart();
    let bot = server.caller("as-mod").get("/_matrix/client/v3/account/whoami").await.ok();
    assert_eq!(bot["user_id"], "@admin:localhost:8008");
    let stranger = json!({ "username": "administrator", "password": "long enough", "auth": { "type": "m.login.dummy" } });
    server
        .anonymous()
        .post("/_matrix/client/v3/register", &stranger)
        .await
        .refused(400, "M_INVALID_USERNAME");
}

#[tokio::test]
async fn what_only_a_user_is_to_know_is_told_to_their_service() {
    let (service, other) = (Service::start(), Service::start());
    let more = "receive_ephemeral: true\n";
    let server = server_with(&[("irc", &service, more), ("xmpp", &other, more)]);
    let alice = User::register(&server, "alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for id in ["irc", "xmpp"] {
        server.caller(&format!("as-{id}")).post(&User::in_room(&room, "join"), &json!({})).await.ok();
    }
    let said = alice.say(&room, "hello").await;
    let read = |kind: &str| User::in_room(&room, &format!("receipt/{kind}/{}", segment(&said)));
    let bridge = server.caller("as-irc");
    bridge.post(&read("m.read.private"), &json!({})).await.ok();
    alice.post(&read("m.read"), &json!({})).await.ok();
    let receipts = |service: &Service, kind: &str| {
        let told = service.listed("ephemeral");
        told.iter().filter(|message| !message["content"][&said][kind].is_null()).count()
    };
    service.until("the private receipt", |service| receipts(service, "m.read.private") == 1).await;
    other.until("the receipt for all", |service| receipts(service, "m.read") == 1).await;
    assert_eq!(receipts(&other, "m.read.private"), 0);
}

#[tokio::test]
async fn a_service_makes_what_other_servers_look_for() {
    let service = Service::start();
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("irc.yaml");
    std::fs::write(&file, service.registration("irc", "")).unwrap();
    let registrations = format!("[{file:?}]");
    let authority = Authority::new();
    let one = authority.server(&[("ENTENTE_APPLICATION_SERVICES__REGISTRATIONS", &registrations)]);
    let other = authority.server(&[]);
    let bridge = one.caller("as-irc");
    let bot = bridge.get("/_matrix/client/v3/account/whoami").await.ok();
    let name = bot["user_id"].as_str().unwrap().split_once(':').unwrap().1.to_owned();
    let (ghost, alias) = (format!("@irc_ann:{name}"), format!("#irc_made:{name}"));

    let making = bridge.clone();
    when_asked(&service, "/rooms/%23irc_made", async move {
        let room = json!({ "preset": "public_chat", "room_alias_name": "irc_made" });
        making.post("/_matrix/client/v3/createRoom", &room).await.ok();
    });
    let bob = User::register(&other, "bob").await;
    let room = bob.post(&format!("/_matrix/client/v3/join/{}", segment(&alias)), &json!({})).await.ok();
    assert!(room["room_id"].is_string());

    let making = bridge.clone();
    when_asked(&service, "/users/", async move {
        let body =
            json!({ "type": "m.login.application_service", "username": "irc_ann", "inhibit_login": true });
        making.post("/_matrix/client/v3/register", &body).await.ok();
    });
    let room = bob.create_room(json!({})).await;
    bob.post(&User::in_room(&room, "invite"), &json!({ "user_id": ghost })).await.ok();
    let invited = |service: &Service| {
        let is_invite =
            |event: &Value| event["state_key"] == *ghost && event["content"]["membership"] == "invite";
        service.events().iter().any(is_invite)
    };
    service.until("the invite", invited).await;
    let join = format!("{}?user_id={}", User::in_room(&room, "join"), segment(&ghost));
    bridge.post(&join, &json!({})).await.ok();
}
