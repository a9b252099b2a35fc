use std::{
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};

use crate::{Answer, Caller, Server};

/// A logged-in user, with what users do in rooms.
#[derive(Clone)]
pub struct User {
    caller: Caller,
    /// The full user id.
    pub id: String,
    /// The device.
    pub device_id: String,
}

impl Deref for User {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

/// A path segment.
pub fn segment(text: &str) -> String {
    text.bytes().fold(String::new(), |path, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            path + &char::from(byte).to_string()
        }
        _ => path + &format!("%{byte:02X}"),
    })
}

/// A transaction id that no other request of this process has.
pub fn fresh_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl User {
    /// Registers a user.
    pub async fn register(server: &Server, name: &str) -> Self {
        let caller = server.register(name, "correct horse battery staple").await;
        let who = caller.get("/_matrix/client/v3/account/whoami").await.ok();
        let text = |name: &str| who[name].as_str().unwrap().to_owned();
        Self { caller, id: text("user_id"), device_id: text("device_id") }
    }

    /// Registers a user at any homeserver where everybody can.
    pub async fn register_at(base_url: &str, name: &str) -> Self {
        let body = json!({
            "username": name, "password": "correct horse battery staple", "auth": { "type": "m.login.dummy" },
        });
        let registered = Caller::new(base_url, None).post("/_matrix/client/v3/register", &body).await.ok();
        let text = |name: &str| registered[name].as_str().unwrap().to_owned();
        let caller = Caller::new(base_url, Some(&text("access_token")));
        Self { caller, id: text("user_id"), device_id: text("device_id") }
    }

    /// The same user after the server was started anew, perhaps at another address.
    #[must_use]
    pub fn at(&self, server: &Server) -> Self {
        let caller = server.caller(self.caller.access_token.as_deref().unwrap());
        Self { caller, ..self.clone() }
    }

    /// The path of something in a room.
    pub fn in_room(room: &str, rest: &str) -> String {
        format!("/_matrix/client/v3/rooms/{}/{rest}", segment(room))
    }

    /// Makes a room.
    pub async fn create_room(&self, body: Value) -> String {
        let created = self.post("/_matrix/client/v3/createRoom", &body).await.ok();
        created["room_id"].as_str().unwrap().to_owned()
    }

    /// Does something with memberships: `join`, `invite`, `leave`, `kick`, `ban`, `unban`, `forget`.
    pub async fn membership(&self, room: &str, what: &str, body: Value) -> Answer {
        self.post(&Self::in_room(room, what), &body).await
    }

    /// Joins a room.
    pub async fn join(&self, room: &str) -> Answer {
        self.membership(room, "join", json!({})).await
    }

    /// Invites somebody.
    pub async fn invite(&self, room: &str, user: &User) -> Answer {
        self.membership(room, "invite", json!({ "user_id": user.id })).await
    }

    /// Sends an event.
    pub async fn send(&self, room: &str, event_type: &str, content: Value) -> Answer {
        let path = Self::in_room(room, &format!("send/{}/{}", segment(event_type), fresh_id()));
        self.put(&path, &content).await
    }

    /// Sends a text, and answers its event id.
    pub async fn say(&self, room: &str, text: &str) -> String {
        let sent = self.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": text })).await.ok();
        sent["event_id"].as_str().unwrap().to_owned()
    }

    /// Sets state.
    pub async fn set_state(&self, room: &str, event_type: &str, state_key: &str, content: Value) -> Answer {
        let path = Self::in_room(room, &format!("state/{}/{}", segment(event_type), segment(state_key)));
        self.put(&path, &content).await
    }

    /// Reads the content of state.
    pub async fn state(&self, room: &str, event_type: &str, state_key: &str) -> Answer {
        let path = Self::in_room(room, &format!("state/{}/{}", segment(event_type), segment(state_key)));
        self.get(&path).await
    }

    /// Reads an event.
    pub async fn event(&self, room: &str, event_id: &str) -> Answer {
        self.get(&Self::in_room(room, &format!("event/{}", segment(event_id)))).await
    }

    /// Asks what is new, with these parameters.
    pub async fn sync(&self, parameters: &[(&str, &str)]) -> Value {
        let query: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", segment(value))).collect();
        self.get(&format!("/_matrix/client/v3/sync?{}", query.join("&"))).await.ok()
    }
}

/// The bodies of the messages in a list of events.
pub fn bodies(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().filter_map(|event| event["content"]["body"].as_str()).collect()
}
