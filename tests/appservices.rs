//! Application services: bridges and bots that act for many users.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_tests::{Caller, Server, Service, User, fresh_id, run, run_well, segment};
use serde_json::{Value, json};

/// A server with services whose registrations lie in a directory.
fn server_with(services: &[(&str, &Service, &str)]) -> Server {
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("services")).unwrap();
    for (id, service, more) in services {
        let path = directory.path().join(format!("services/{id}.yaml"));
        std::fs::write(path, service.registration(id, more)).unwrap();
    }
    Server::start(
        directory,
        &[
            ("ENTENTE_REGISTRATION__OPEN", "true"),
            ("ENTENTE_RATE_LIMITS__ENABLED", "false"),
            ("ENTENTE_ACCOUNTS__ARGON2__MEMORY_KIB", "64"),
            ("ENTENTE_ACCOUNTS__ARGON2__ITERATIONS", "1"),
            ("ENTENTE_APPLICATION_SERVICES__REGISTRATIONS", "[\"services\"]"),
        ],
    )
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
    bridge.put(&device("BRIDGE"), &json!({ "display_name": "bridge" })).await.ok();
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
    alice.get("/_matrix/client/v3/profile/@irc_new:localhost:8008").await.refused(404, "M_NOT_FOUND");
    assert!(service.requests().iter().any(|request| request.line.starts_with("GET /_matrix/app/v1/users/")));
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
