//! A homeserver that knows one room, remembers what it was asked, and misbehaves on demand.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

/// A message that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) user_id: Option<String>,
    pub(crate) transaction_id: String,
    pub(crate) content: Value,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "it misbehaves in as many ways")]
struct Inside {
    requests: Vec<String>,
    sent: Vec<Sent>,
    invited: HashSet<String>,
    joined: HashSet<String>,
    busy: u32,
    retry_after: Option<u64>,
    breaks_joins: bool,
    refuses_invites: bool,
    is_closed: bool,
    is_encrypted: bool,
    swallows: bool,
}

/// The homeserver.
#[derive(Clone)]
pub(crate) struct Fake {
    inside: Arc<Mutex<Inside>>,
    url: String,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self { inside: Arc::default(), url };
        let router = Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        fake
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// All requests, as method and path.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.inside().requests.clone()
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.inside().sent.clone()
    }

    pub(crate) async fn until_sent(&self, count: usize) {
        while self.inside().sent.len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The next messages are put off.
    pub(crate) fn be_busy(&self, times: u32) {
        self.inside().busy = times;
    }

    /// All messages are put off, for as long as can be said.
    pub(crate) fn be_busy_for_ever(&self) {
        let mut inside = self.inside();
        inside.busy = u32::MAX;
        inside.retry_after = Some(u64::MAX);
    }

    /// Rooms are of a server that does not answer.
    pub(crate) fn break_joins(&self) {
        self.inside().breaks_joins = true;
    }

    /// Nobody can be invited; this one because they are there.
    pub(crate) fn refuse_invites_of(&self, user_id: &str) {
        let mut inside = self.inside();
        inside.refuses_invites = true;
        inside.joined.insert(user_id.to_owned());
    }

    pub(crate) fn let_leave(&self, user_id: &str) {
        self.inside().joined.remove(user_id);
    }

    /// How many requests had this in their method and path.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.inside().requests.iter().filter(|request| request.contains(what)).count()
    }

    /// Only who is invited may join.
    pub(crate) fn close_room(&self) {
        self.inside().is_closed = true;
    }

    pub(crate) fn encrypt_room(&self) {
        self.inside().is_encrypted = true;
    }

    /// Messages are taken, and the answer is kept back.
    pub(crate) fn swallow_answers(&self, swallows: bool) {
        self.inside().swallows = swallows;
    }

    fn judge(&self, path: &[&str], user_id: Option<String>, body: &Value) -> (u16, Value) {
        let mut inside = self.inside();
        match path {
            [.., "send", _, transaction_id] => {
                if inside.busy > 0 {
                    inside.busy -= 1;
                    return (
                        429,
                        json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "later", "retry_after_ms": 20 }),
                    );
                }
                let sent =
                    Sent { user_id, transaction_id: (*transaction_id).to_owned(), content: body.clone() };
                inside.sent.push(sent);
                (200, json!({ "event_id": format!("$sent{}", inside.sent.len()) }))
            }
            [.., "invite"] if inside.refuses_invites => {
                (403, json!({ "errcode": "M_FORBIDDEN", "error": "no" }))
            }
            [.., "state", "m.room.member", user_id] if inside.joined.contains(*user_id) => {
                (200, json!({ "membership": "join" }))
            }
            [.., "invite"] => {
                inside.invited.insert(body["user_id"].as_str().unwrap().to_owned());
                (200, json!({}))
            }
            [.., "join"] if inside.breaks_joins => {
                (502, json!({ "errcode": "M_UNKNOWN", "error": "no server of the room answers" }))
            }
            [.., "join"] if inside.is_closed && !user_id.is_some_and(|id| inside.invited.contains(&id)) => {
                (403, json!({ "errcode": "M_FORBIDDEN", "error": "you are not invited" }))
            }
            [.., "state", "m.room.encryption", ""] if inside.is_encrypted => {
                (200, json!({ "algorithm": "m.megolm.v1.aes-sha2" }))
            }
            [.., "members"] => (200, json!({ "chunk": [] })),
            [.., "state", "m.room.power_levels", ""] => {
                (200, json!({ "users": { "@moderator:example.org": 50 } }))
            }
            [.., "state", _, _] => (404, json!({ "errcode": "M_NOT_FOUND", "error": "no such state" })),
            _ => (200, json!({})),
        }
    }
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    fake.inside().requests.push(format!("{} {}", parts.method, parts.uri.path()));
    let query = parts.uri.query().unwrap_or_default();
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let user_id = pairs.into_owned().find(|(name, _)| name == "user_id").map(|(_, value)| value);
    let segments: Vec<&str> = parts.uri.path().split('/').collect();
    let (status, answer) = fake.judge(&segments, user_id, &body);
    if segments.contains(&"send") && fake.inside().swallows {
        std::future::pending::<()>().await;
    }
    let mut response = (StatusCode::from_u16(status).unwrap(), answer.to_string()).into_response();
    if let Some(seconds) = fake.inside().retry_after.filter(|_| status == 429) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
