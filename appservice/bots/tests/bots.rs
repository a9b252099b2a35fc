//! Services as a homeserver sees them. The homeserver is the test's own, so that it can be away, busy, and slow at the right moment.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod homeserver;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use entente_appservice::{
    Bridge, Builder, Commands, Encrypting, Error, Registration, RunError, Settings, StateEvent,
    ThirdPartyQuery,
    ruma::{
        RoomId,
        events::room::topic::RoomTopicEventContent,
        thirdparty::{self, ProtocolInit},
    },
};
use entente_bots::{Plan, meeting};
use entente_environment::{Environment, ManualClock, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::homeserver::{Fake, Sent};

const SOON: Duration = Duration::from_secs(30);
const ROOM: &str = "!room:example.org";

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn settings(fake: &Fake, directory: &Path) -> Settings {
    let url = fake.url().parse().unwrap();
    let server_name = "example.org".try_into().unwrap();
    let mut settings = Settings::new(url, server_name, free_address(), directory.to_owned());
    settings.encryption.who = Encrypting::Nobody;
    settings.ghost_prefix.push_str("_test_");
    settings.patience_seconds = 10;
    settings
}

fn registration(settings: &Settings) -> Registration {
    let url = format!("http://{}", settings.listen);
    Registration::generate("test", &url, "bot", &Environment::system()).with_ghosts("_test_", "example.org")
}

fn echo() -> Commands {
    Commands::new("!").command("echo", "", "", |command, context| async move {
        context.room().notice(command.text).await?;
        Ok(())
    })
}

/// A service that runs in this process.
struct Service {
    bridge: Bridge,
    running: tokio::task::JoinHandle<Result<(), RunError>>,
    pusher: Pusher,
    _directory: TempDir,
}

impl Service {
    async fn start(fake: &Fake, build: impl FnOnce(Builder) -> Builder) -> Self {
        Self::start_with(fake, |_| {}, build).await
    }

    async fn start_with(
        fake: &Fake,
        adjust: impl FnOnce(&mut Settings),
        build: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let directory = TempDir::new().unwrap();
        let mut settings = settings(fake, directory.path());
        adjust(&mut settings);
        let registration = registration(&settings);
        let pusher = Pusher { address: settings.listen, token: registration.hs_token.clone() };
        let bridge = build(Builder::new(settings, registration)).build().await.unwrap();
        Self::run(bridge, pusher, directory).await
    }

    async fn of_plan(fake: &Fake, environment: Environment, plan: Plan) -> Self {
        let directory = TempDir::new().unwrap();
        let settings = settings(fake, directory.path());
        let registration = registration(&settings);
        let pusher = Pusher { address: settings.listen, token: registration.hs_token.clone() };
        let builder = Builder::new(settings, registration).with_environment(environment);
        Self::run(plan.build(builder).await.unwrap(), pusher, directory).await
    }

    async fn run(bridge: Bridge, pusher: Pusher, directory: TempDir) -> Self {
        let runner = bridge.clone();
        let running = tokio::spawn(async move { runner.run().await });
        pusher.wait().await;
        Self { bridge, running, pusher, _directory: directory }
    }

    async fn stop(self) {
        self.bridge.shutdown().cancel();
        tokio::time::timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

/// The homeserver's side that pushes.
struct Pusher {
    address: SocketAddr,
    token: String,
}

impl Pusher {
    async fn wait(&self) {
        let up = async {
            while tokio::net::TcpStream::connect(self.address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, up).await.expect("the service comes up");
    }

    async fn push_as(
        &self,
        token: Option<&str>,
        id: &str,
        body: String,
    ) -> reqwest::Result<(StatusCode, Value)> {
        let url = format!("http://{}/_matrix/app/v1/transactions/{id}", self.address);
        let mut request = reqwest::Client::new().put(url).body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        let status = response.status();
        Ok((status, serde_json::from_str(&response.text().await?).unwrap()))
    }

    async fn push(&self, id: &str, events: &[Value]) -> StatusCode {
        let body = json!({ "events": events }).to_string();
        self.push_as(Some(&self.token), id, body).await.unwrap().0
    }

    /// Asks the service something.
    async fn ask(&self, path: &str) -> (StatusCode, Value) {
        let url = format!("http://{}/_matrix/app/v1/{path}", self.address);
        let response = reqwest::Client::new().get(url).bearer_auth(&self.token).send().await.unwrap();
        (response.status(), serde_json::from_str(&response.text().await.unwrap()).unwrap())
    }
}

fn member(event_id: &str, sender: &str, user_id: &str, membership: &str) -> Value {
    json!({
        "type": "m.room.member", "event_id": event_id, "room_id": ROOM, "sender": sender,
        "state_key": user_id, "content": { "membership": membership },
    })
}

fn message(event_id: &str, sender: &str, text: &str) -> Value {
    json!({
        "type": "m.room.message", "event_id": event_id, "room_id": ROOM, "sender": sender,
        "origin_server_ts": 1_000, "content": { "msgtype": "m.text", "body": text },
    })
}

fn texts(sent: &[Sent]) -> Vec<&str> {
    sent.iter().map(|sent| sent.content["body"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn who_has_not_the_token_is_refused_and_odd_bodies_are_explained() {
    let fake = Fake::start().await;
    let service = Service::start(&fake, |builder| builder).await;
    let pusher = &service.pusher;
    let refused = async |token: Option<&str>, body: &str| {
        let (status, body) = pusher.push_as(token, "1", body.to_owned()).await.unwrap();
        (status.as_u16(), body["errcode"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(refused(None, "{}").await, (401, "M_MISSING_TOKEN".to_owned()));
    assert_eq!(refused(Some("wrong"), "{}").await, (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(refused(Some(&pusher.token), "[").await, (400, "M_NOT_JSON".to_owned()));
    assert_eq!(refused(Some(&pusher.token), "{}").await, (200, String::new()));
    service.stop().await;
}

#[tokio::test]
async fn transactions_and_events_are_handled_once() {
    let fake = Fake::start().await;
    let service = Service::start(&fake, |builder| builder.commands(echo())).await;
    let [one, two] =
        [message("$1", "@a:example.org", "!echo one"), message("$2", "@a:example.org", "!echo two")];
    // What the service itself says, and what is no event at all, moves nothing.
    let own = message("$3", "@_test_x:example.org", "!echo own");
    assert_eq!(service.pusher.push("1", &[one.clone(), own, json!({ "type": 7 })]).await, 200);
    assert_eq!(service.pusher.push("1", &[one.clone(), two.clone()]).await, 200);
    assert_eq!(texts(&fake.sent()), ["one"], "a transaction of the same id is the same transaction");
    assert_eq!(service.pusher.push("2", &[one, two]).await, 200);
    assert_eq!(texts(&fake.sent()), ["one", "two"]);
    service.stop().await;
}

#[tokio::test]
async fn ghosts_are_registered_named_invited_and_joined_as_they_act() {
    let fake = Fake::start().await;
    fake.close_room();
    let service = Service::start(&fake, |builder| builder).await;
    let room: &RoomId = ROOM.try_into().unwrap();
    let ghost = service.bridge.user("Älice").named("Alice");
    for text in ["one", "two"] {
        ghost.in_room(room).notice(text).await.unwrap();
    }
    let sent = fake.sent();
    assert!(
        sent.iter().all(|sent| sent.user_id.as_deref() == Some("@_test_=c3=84lice:example.org")),
        "{sent:?}"
    );
    assert_eq!(texts(&sent), ["one", "two"]);
    assert_ne!(sent[0].transaction_id, sent[1].transaction_id);
    let count = |what: &str| fake.requests().iter().filter(|request| request.contains(what)).count();
    assert_eq!([count("register"), count("displayname"), count("/invite")], [2, 1, 1]);
    service.stop().await;
}

#[tokio::test]
async fn an_invite_is_accepted_from_near_and_not_from_far() {
    let fake = Fake::start().await;
    let service = Service::start(&fake, |builder| builder).await;
    let invite = |event_id: &str, sender: &str| member(event_id, sender, "@bot:example.org", "invite");
    assert_eq!(service.pusher.push("1", &[invite("$1", "@a:elsewhere.org")]).await, 200);
    let room: &RoomId = ROOM.try_into().unwrap();
    let refused = service.bridge.bot().in_room(room).notice("hello").await;
    assert!(matches!(refused, Err(Error::StaysAway { .. })), "nor by having something to say: {refused:?}");
    assert_eq!(fake.count("/join"), 0);
    assert_eq!(service.pusher.push("2", &[invite("$2", "@a:example.org")]).await, 200);
    assert_eq!(fake.count("/join"), 1);
    service.bridge.bot().in_room(room).notice("hello").await.unwrap();
    service.stop().await;
}

#[tokio::test]
async fn a_bot_that_was_removed_stays_away_until_it_is_asked_in() {
    let fake = Fake::start().await;
    let service = Service::start(&fake, |builder| builder.commands(echo())).await;
    let (bot, alice) = ("@bot:example.org", "@a:example.org");
    let say = |event_id: &str| message(event_id, alice, "!echo here");
    assert_eq!(service.pusher.push("1", &[member("$1", alice, bot, "invite"), say("$2")]).await, 200);
    assert_eq!((fake.sent().len(), fake.count("/join")), (1, 1));
    assert_eq!(service.pusher.push("2", &[member("$3", alice, bot, "leave"), say("$4")]).await, 200);
    assert_eq!((fake.sent().len(), fake.count("/join")), (1, 1), "it neither speaks nor comes back");
    let room = service.bridge.bot().in_room(ROOM.try_into().unwrap());
    room.join().await.unwrap();
    assert_eq!(service.pusher.push("3", &[say("$5")]).await, 200);
    assert_eq!(service.pusher.push("4", &[member("$6", alice, bot, "ban")]).await, 200);
    assert_eq!(service.pusher.push("5", &[member("$7", alice, bot, "invite"), say("$8")]).await, 200);
    assert_eq!((fake.sent().len(), fake.count("/join")), (3, 3));
    service.stop().await;
}

#[tokio::test]
async fn an_invite_that_cannot_be_accepted_stops_nothing_for_ever() {
    let fake = Fake::start().await;
    fake.break_joins();
    let service = Service::start(&fake, |builder| builder).await;
    let invite = [member("$1", "@a:example.org", "@bot:example.org", "invite")];
    for _ in 0..4 {
        assert_eq!(service.pusher.push("1", &invite).await, 503);
    }
    assert_eq!(service.pusher.push("1", &invite).await, 200);
    assert_eq!(fake.count("/join"), 5);
    service.stop().await;
}

#[tokio::test]
async fn who_is_there_already_is_not_invited_and_nobody_minds() {
    let fake = Fake::start().await;
    fake.refuse_invites_of("@a:example.org");
    let service = Service::start(&fake, |builder| builder).await;
    let room = service.bridge.bot().in_room(ROOM.try_into().unwrap());
    let invite = async |user_id: &str| room.invite(user_id.try_into().unwrap()).await;
    invite("@a:example.org").await.unwrap();
    fake.let_leave("@a:example.org");
    assert!(invite("@a:example.org").await.unwrap_err().is("M_FORBIDDEN"));
    service.stop().await;
}

#[tokio::test]
async fn what_anybody_may_send_is_not_taken_for_state() {
    let fake = Fake::start().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    let service = Service::start(&fake, |builder| {
        builder.on_state(move |event: StateEvent<RoomTopicEventContent>, _| {
            hearing.lock().unwrap().push((event.state_key, event.content.topic));
            async { Ok(()) }
        })
    })
    .await;
    let topic = |event_id: &str, topic: &str| {
        json!({
            "type": "m.room.topic", "event_id": event_id, "room_id": ROOM, "sender": "@a:example.org",
            "content": { "topic": topic },
        })
    };
    let mut real = topic("$2", "real");
    real["state_key"] = json!("");
    assert_eq!(service.pusher.push("1", &[topic("$1", "forged"), real]).await, 200);
    assert_eq!(*heard.lock().unwrap(), [(String::new(), "real".to_owned())]);
    service.stop().await;
}

#[tokio::test]
async fn what_fails_for_the_time_being_is_tried_for_an_hour() {
    let fake = Fake::start().await;
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let environment = Environment::new(clock.clone(), Environment::system().randomness().clone());
    let service = Service::start_with(
        &fake,
        |settings| settings.patience_seconds = 0,
        |builder| builder.with_environment(environment).commands(echo()),
    )
    .await;
    fake.be_busy_for_ever();
    let event = [message("$1", "@a:example.org", "!echo late")];
    for _ in 0..10 {
        clock.advance(Duration::from_secs(359));
        assert_eq!(service.pusher.push("1", &event).await, 503);
    }
    clock.advance(Duration::from_secs(400));
    assert_eq!(service.pusher.push("1", &event).await, 200);
    assert!(fake.sent().is_empty());
    service.stop().await;
}

#[tokio::test]
async fn minutes_are_kept_of_calls_by_state_and_by_what_sticks() {
    let fake = Fake::start().await;
    let clock = Arc::new(ManualClock::new(Timestamp(60_000)));
    let environment = Environment::new(clock.clone(), Environment::system().randomness().clone());
    let options = meeting::Options { reminder_seconds: 1, ..meeting::Options::default() };
    let service = Service::of_plan(&fake, environment, meeting::plan(options)).await;
    let say = |event_id: &str, text: &str| message(event_id, "@moderator:example.org", text);
    let sticky = |event_id: &str, sender: &str, at: u64, is_there: bool| {
        let mut event = json!({
            "type": "org.matrix.msc4143.rtc.member", "event_id": event_id, "room_id": ROOM, "sender": sender,
            "origin_server_ts": at, "content": { "msc4354_sticky_key": "one" },
            "msc4354_sticky": { "duration_ms": 600_000 },
        });
        if is_there {
            event["content"]["slot_id"] = json!("m.call#ROOM");
            event["content"]["application"] = json!({ "type": "m.call" });
            event["content"]["member"] = json!({ "id": "one", "user_id": sender, "device_id": "D" });
        }
        event
    };
    let state = |event_id: &str, at: u64, content: Value| {
        json!({
            "type": "org.matrix.msc3401.call.member", "event_id": event_id, "room_id": ROOM,
            "sender": "@c:example.org", "state_key": "_@c:example.org_D", "origin_server_ts": at,
            "content": content,
        })
    };
    let membership = json!({
        "application": "m.call", "call_id": "", "scope": "m.room", "device_id": "D", "expires": 14_400_000,
        "focus_active": { "type": "livekit", "focus_selection": "oldest_membership" }, "foci_preferred": [],
    });
    let push = async |id: &str, events: &[Value]| assert_eq!(service.pusher.push(id, events).await, 200);
    push("1", &[sticky("$1", "@a:example.org", 60_000, true), sticky("$2", "@a:example.org", 61_000, false)])
        .await;
    assert!(fake.sent().is_empty(), "nobody agreed to minutes");
    push("2", &[say("$3", "!meet minutes on")]).await;
    assert!(texts(&fake.sent())[0].contains("!meet object"), "the room is told");
    let events = [
        sticky("$4", "@a:example.org", 120_000, true),
        sticky("$5", "@b:example.org", 180_000, true),
        state("$6", 240_000, membership),
        sticky("$7", "@a:example.org", 300_000, false),
        state("$8", 360_000, json!({})),
    ];
    push("3", &events).await;
    assert_eq!(fake.sent().len(), 1, "one of them is still there");
    // She never says that she has left.
    clock.advance(Duration::from_secs(12 * 60));
    fake.until_sent(2).await;
    let expected =
        "Minutes (UTC):\n@a:example.org 00:02–00:05\n@c:example.org 00:04–00:06\n@b:example.org 00:03–00:13";
    assert_eq!(texts(&fake.sent())[1], expected);
    // The next call has minutes of its own, until somebody objects.
    push(
        "4",
        &[sticky("$9", "@a:example.org", 900_000, true), message("$10", "@a:example.org", "!meet object")],
    )
    .await;
    push("5", &[sticky("$11", "@a:example.org", 960_000, false)]).await;
    assert_eq!(fake.sent().len(), 3);
    service.stop().await;
}

#[tokio::test]
async fn a_handler_that_takes_too_long_runs_again() {
    let fake = Fake::start().await;
    let runs = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&runs);
    let commands = Commands::new("!").command("wait", "", "", move |_, _| {
        let is_first = counter.fetch_add(1, Ordering::SeqCst) == 0;
        async move { if is_first { std::future::pending().await } else { Ok(()) } }
    });
    let service = Service::start_with(
        &fake,
        |settings| settings.handler_timeout_seconds = 1,
        |builder| builder.commands(commands),
    )
    .await;
    let event = [message("$1", "@a:example.org", "!wait")];
    assert_eq!(service.pusher.push("1", &event).await, 503);
    assert_eq!(service.pusher.push("1", &event).await, 200);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    service.stop().await;
}

#[tokio::test]
async fn users_and_rooms_are_made_when_somebody_looks_for_them() {
    let fake = Fake::start().await;
    let service = Service::start(&fake, |builder| {
        let protocol = ProtocolInit {
            user_fields: vec!["nick".to_owned()],
            location_fields: Vec::new(),
            icon: String::new(),
            field_types: BTreeMap::new(),
            instances: Vec::new(),
        };
        builder
            .on_user_query(|user_id, _| async move { Ok(user_id.localpart() == "_test_ann") })
            .on_alias_query(|alias, _| async move { Ok(alias.alias() == "_test_room") })
            .protocol("test", protocol.into())
            .on_user_lookup(|query, bridge| async move {
                let ThirdPartyQuery::Remote { protocol, fields } = query else { return Ok(Vec::new()) };
                let user_id = bridge.user(&fields["nick"]).id().to_owned();
                Ok(vec![thirdparty::User::new(user_id, protocol, fields)])
            })
    })
    .await;
    let pusher = &service.pusher;
    let status = async |path: &str| pusher.ask(path).await.0.as_u16();
    assert_eq!(status("users/@_test_bob:example.org").await, 404);
    assert_eq!(status("users/@ann:example.org").await, 404, "that is nobody of ours");
    let before = fake.count("register");
    assert_eq!(status("users/@_test_ann:example.org").await, 200);
    assert_eq!(status("users/@_test_ann:example.org").await, 200);
    assert_eq!(fake.count("register"), before + 1);
    assert_eq!(status("rooms/%23_test_room:example.org").await, 200);
    assert_eq!(status("rooms/%23_test_other:example.org").await, 404);
    assert_eq!(pusher.ask("thirdparty/protocol/test").await.1["user_fields"], json!(["nick"]));
    assert_eq!(status("thirdparty/protocol/other").await, 404);
    let found = pusher.ask("thirdparty/user/test?nick=ann").await.1;
    let expected =
        json!([{ "userid": "@_test_ann:example.org", "protocol": "test", "fields": { "nick": "ann" } }]);
    assert_eq!(found, expected);
    assert_eq!(pusher.ask("thirdparty/user?userid=@_test_ann:example.org").await.1, json!([]));
    assert_eq!(pusher.ask("thirdparty/location/test").await.1, json!([]));
    service.stop().await;
}

#[tokio::test]
async fn a_directory_is_for_one_process_and_the_homeserver_is_asked_to_ping() {
    let fake = Fake::start().await;
    let service = Service::start(&fake, |builder| builder).await;
    let settings = service.bridge.settings().clone();
    let registration = registration(&settings);
    let second = Builder::new(settings, registration).build().await;
    assert!(matches!(second, Err(RunError::InUse)));
    let pinged = async {
        while fake.count("/appservice/test/ping") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, pinged).await.expect("the homeserver is asked");
    service.stop().await;
}

#[tokio::test]
async fn a_busy_homeserver_is_waited_for() {
    let fake = Fake::start().await;
    let service = Service::start(&fake, |builder| builder.commands(echo())).await;
    fake.be_busy(3);
    assert_eq!(service.pusher.push("1", &[message("$1", "@a:example.org", "!echo one")]).await, 200);
    assert_eq!(texts(&fake.sent()), ["one"]);
    assert!(service.bridge.metrics().text().contains("appservice_rate_limited_total 3"));
    service.stop().await;
}

#[tokio::test]
async fn a_handler_that_panics_takes_nothing_with_it() {
    let fake = Fake::start().await;
    let commands = echo().command("panic", "", "", |_, _| async { panic!("on demand") });
    let service = Service::start(&fake, |builder| builder.commands(commands)).await;
    let events = [message("$1", "@a:example.org", "!panic"), message("$2", "@a:example.org", "!echo on")];
    assert_eq!(service.pusher.push("1", &events).await, 200);
    assert_eq!(texts(&fake.sent()), ["on"]);
    service.stop().await;
}

#[tokio::test]
async fn nothing_goes_into_an_encrypted_room_in_the_clear() {
    let fake = Fake::start().await;
    fake.encrypt_room();
    let service = Service::start(&fake, |builder| builder.commands(echo())).await;
    assert_eq!(service.pusher.push("1", &[message("$1", "@a:example.org", "!echo one")]).await, 200);
    assert!(fake.sent().is_empty());
    service.stop().await;
}

/// The echo bot as a process of its own.
struct Bot {
    child: Child,
    pusher: Pusher,
}

impl Bot {
    async fn start(directory: &Path, pusher: Pusher) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_entente-echo-bot"))
            .args(["--config", directory.join("bot.toml").to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        pusher.wait().await;
        Self { child, pusher }
    }

    /// As `kill -9`.
    fn kill(mut self) -> Pusher {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.pusher
    }
}

#[tokio::test]
async fn killed_between_sending_and_acknowledging_it_sends_the_same_again() {
    let fake = Fake::start().await;
    let directory = TempDir::new().unwrap();
    let settings = settings(&fake, directory.path());
    let registration = registration(&settings);
    registration.write_new(&directory.path().join("registration.yaml")).unwrap();
    let config = format!(
        "[service]\nhomeserver_url = \"{}\"\nserver_name = \"example.org\"\nlisten = \"{}\"\ndata = \"{}\"\n\
         [service.encryption]\nwho = \"nobody\"\n",
        fake.url(),
        settings.listen,
        directory.path().join("data").display()
    );
    std::fs::write(directory.path().join("bot.toml"), config).unwrap();
    let pusher = Pusher { address: settings.listen, token: registration.hs_token.clone() };
    let bot = Bot::start(directory.path(), pusher).await;

    // The homeserver takes the message and the bot never hears of it.
    fake.swallow_answers(true);
    let events = [message("$1", "@a:example.org", "!echo once")];
    let body = json!({ "events": events }).to_string();
    let push = bot.pusher.push_as(Some(&bot.pusher.token), "1", body);
    let killed = async {
        tokio::time::timeout(SOON, fake.until_sent(1)).await.expect("the bot answers");
    };
    tokio::select! {
        acknowledged = push => panic!("{acknowledged:?} before the answer was sent"),
        () = killed => {}
    }
    let pusher = bot.kill();
    fake.swallow_answers(false);
    let bot = Bot::start(directory.path(), pusher).await;
    assert_eq!(bot.pusher.push("1", &events).await, 200);
    let sent = fake.sent();
    assert_eq!(texts(&sent), ["once", "once"]);
    assert_eq!(sent[0].transaction_id, sent[1].transaction_id, "the homeserver knows that it is the same");
    assert_eq!(bot.pusher.push("1", &events).await, 200);
    assert_eq!(fake.sent().len(), 2, "once acknowledged it is not handled again, by whichever process");
    bot.kill();
}
