//! Services as a homeserver sees them. The homeserver is the test's own, so that it can be away, busy, and slow at the right moment.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod homeserver;

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::http::StatusCode;
use entente_appservice::{
    Bridge, Builder, Commands, Encrypting, Registration, RunError, Settings, ruma::RoomId,
};
use entente_environment::Environment;
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
        let directory = TempDir::new().unwrap();
        let settings = settings(fake, directory.path());
        let registration = registration(&settings);
        let pusher = Pusher { address: settings.listen, token: registration.hs_token.clone() };
        let bridge = build(Builder::new(settings, registration)).build().await.unwrap();
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
    let invite = |event_id: &str, sender: &str| {
        json!({
            "type": "m.room.member", "event_id": event_id, "room_id": ROOM, "sender": sender,
            "state_key": "@bot:example.org", "content": { "membership": "invite" },
        })
    };
    assert_eq!(service.pusher.push("1", &[invite("$1", "@a:elsewhere.org")]).await, 200);
    assert!(!fake.requests().iter().any(|request| request.ends_with("/join")));
    assert_eq!(service.pusher.push("2", &[invite("$2", "@a:example.org")]).await, 200);
    assert!(fake.requests().iter().any(|request| request.ends_with("/join")));
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
