//! Keys that come late, and a homeserver that fails at the wrong moment. Alice's client is the encryption library itself.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::StatusCode,
};
use entente_environment::Environment;
use matrix_sdk::ruma::{
    OwnedDeviceId, RoomId, UserId,
    api::{
        IncomingResponse,
        client::keys::{claim_keys, get_keys},
    },
    device_id, room_id,
    serde::Raw,
    user_id,
};
use matrix_sdk_crypto::{EncryptionSettings, OlmMachine, types::requests::AnyOutgoingRequest};
use serde_json::{Map, Value, json};

use crate::{
    Bridge, Builder, Event, Registration, Settings, inbox::Handled, message::RoomMessageEventContent,
    transaction::Transaction,
};

fn room() -> &'static RoomId {
    room_id!("!room:example.org")
}

/// A homeserver that keeps device keys.
#[derive(Clone, Default)]
struct Fake {
    inside: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    devices: Map<String, Value>,
    one_time_keys: Map<String, Value>,
    refuses_uploads: bool,
}

impl Fake {
    async fn start() -> (Self, String) {
        let fake = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (fake, url)
    }

    fn add_device(&self, keys: Value) {
        let text = |name: &str| keys[name].as_str().unwrap().to_owned();
        let (user_id, device_id) = (text("user_id"), text("device_id"));
        let mut devices = Map::new();
        devices.insert(device_id, keys);
        self.inside.lock().unwrap().devices.insert(user_id, devices.into());
    }

    fn keys(&self) -> Value {
        json!({ "device_keys": self.inside.lock().unwrap().devices })
    }

    fn refuse_uploads(&self, refuses: bool) {
        self.inside.lock().unwrap().refuses_uploads = refuses;
    }
}

async fn answer(State(fake): State<Fake>, request: Request) -> (StatusCode, String) {
    let path = request.uri().path().to_owned();
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if path.ends_with("/keys/query") {
        return (StatusCode::OK, fake.keys().to_string());
    }
    if !path.ends_with("/keys/upload") {
        return (StatusCode::OK, "{}".to_owned());
    }
    if fake.inside.lock().unwrap().refuses_uploads {
        return (StatusCode::INTERNAL_SERVER_ERROR, "{}".to_owned());
    }
    if body["device_keys"].is_object() {
        fake.add_device(body["device_keys"].clone());
    }
    let mut inside = fake.inside.lock().unwrap();
    inside.one_time_keys.extend(body["one_time_keys"].as_object().cloned().unwrap_or_default());
    let counts = json!({ "one_time_key_counts": { "signed_curve25519": inside.one_time_keys.len() } });
    (StatusCode::OK, counts.to_string())
}

fn response<R: IncomingResponse>(body: &Value) -> R {
    let answer = http::Response::new(Bytes::from(body.to_string()));
    let Ok(response) = R::try_from_http_response(answer) else { panic!("{body}") };
    response
}

/// Somebody with a client.
struct Alice {
    machine: OlmMachine,
    bot_id: &'static UserId,
    bot_device: OwnedDeviceId,
}

impl Alice {
    async fn meet(fake: &Fake, bot_id: &'static UserId) -> Self {
        let machine = OlmMachine::new(user_id!("@alice:example.org"), device_id!("ALICE")).await;
        machine.update_tracked_users([bot_id]).await.unwrap();
        for outgoing in machine.outgoing_requests().await.unwrap() {
            if let AnyOutgoingRequest::KeysUpload(upload) = outgoing.request() {
                let keys = upload.device_keys.as_ref().unwrap();
                fake.add_device(serde_json::from_str(keys.json().get()).unwrap());
            }
        }
        for outgoing in machine.outgoing_requests().await.unwrap() {
            if let AnyOutgoingRequest::KeysQuery(_) = outgoing.request() {
                let keys: get_keys::v3::Response = response(&fake.keys());
                machine.mark_request_as_sent(outgoing.request_id(), &keys).await.unwrap();
            }
        }
        let (id, _) = machine.get_missing_sessions([bot_id].into_iter()).await.unwrap().unwrap();
        let keys = fake.keys();
        let bot_device = keys["device_keys"][bot_id.as_str()].as_object().unwrap().keys().next().unwrap();
        let (key_id, key) = fake.inside.lock().unwrap().one_time_keys.clone().into_iter().next().unwrap();
        let claimed = json!({ "one_time_keys": { bot_id.as_str(): { bot_device: { key_id: key } } } });
        let claimed: claim_keys::v3::Response = response(&claimed);
        machine.mark_request_as_sent(&id, &claimed).await.unwrap();
        Self { machine, bot_id, bot_device: bot_device.as_str().into() }
    }

    /// A message, and the key to it for the bot's device.
    async fn say(&self, text: &str) -> (Value, Value) {
        let shared = self
            .machine
            .share_room_key(room(), [self.bot_id].into_iter(), EncryptionSettings::default())
            .await;
        let shared = shared.unwrap();
        let [request] = shared.as_slice() else { panic!("one request for one device") };
        let content = request.messages[self.bot_id].values().next().unwrap();
        let key = json!({
            "type": request.event_type, "sender": self.machine.user_id(), "content": content,
            "to_user_id": self.bot_id, "to_device_id": self.bot_device,
        });
        let content = json!({ "msgtype": "m.text", "body": text });
        let content = Raw::new(&content).unwrap().cast_unchecked();
        let encrypted =
            self.machine.encrypt_room_event_raw(room(), "m.room.message", &content).await.unwrap();
        let event = json!({
            "type": "m.room.encrypted", "event_id": format!("${text}"), "room_id": room(),
            "sender": self.machine.user_id(), "origin_server_ts": 1_000, "content": encrypted.content,
        });
        (event, key)
    }
}

fn transaction(body: Value) -> Transaction {
    serde_json::from_value(body).unwrap()
}

/// A bot that notes what it reads.
async fn bot(url: &str, directory: &std::path::Path) -> (Bridge, Arc<Mutex<Vec<String>>>) {
    let server_name = "example.org".try_into().unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let settings = Settings::new(url.parse().unwrap(), server_name, listen, directory.to_owned());
    let registration = Registration::generate("test", "http://127.0.0.1:1", "bot", &Environment::system());
    let read = Arc::new(Mutex::new(Vec::new()));
    let reading = Arc::clone(&read);
    let builder = Builder::new(settings, registration).on(move |event: Event<RoomMessageEventContent>, _| {
        reading.lock().unwrap().push(event.content.body().to_owned());
        async { Ok(()) }
    });
    let bridge = builder.build().await.unwrap();
    bridge.encryption().unwrap().open_all(&bridge).await.unwrap();
    (bridge, read)
}

#[tokio::test]
async fn what_waits_for_a_key_is_read_whatever_fails_when_the_key_comes() {
    let (fake, url) = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (bridge, read) = bot(&url, directory.path()).await;
    bridge.try_all_again().await.unwrap();
    let alice = Alice::meet(&fake, user_id!("@bot:example.org")).await;
    let (event, key) = alice.say("late").await;
    bridge.receive("1", transaction(json!({ "events": [event] }))).await.unwrap();
    assert!(read.lock().unwrap().is_empty());
    assert!(bridge.metrics().text().contains("appservice_waiting_for_keys 1"));

    // The key is taken in, and making up for the one-time key that it used fails.
    fake.refuse_uploads(true);
    let body = json!({
        "to_device": [key],
        "device_one_time_keys_count": { "@bot:example.org": { alice.bot_device.as_str(): { "signed_curve25519": 0 } } },
    });
    assert!(bridge.receive("2", transaction(body.clone())).await.is_err());
    fake.refuse_uploads(false);
    assert_eq!(bridge.receive("2", transaction(body)).await.unwrap(), Handled::Now);
    assert_eq!(*read.lock().unwrap(), ["late"]);
    assert!(bridge.metrics().text().contains("appservice_waiting_for_keys 0"));
}
