//! Other servers as tests want them: they sign as all do, are in rooms, and answer what they are told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use reqwest::{Method, RequestBuilder};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomVersionId,
    room_version_rules::RoomVersionRules,
    signatures::{Ed25519KeyPair, KeyPair as _, hash_and_sign_event, reference_hash, sign_json},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::{Answer, Authority, SOON, free_port, segment};

/// For how long its keys are good, unless it is told otherwise.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A server under a test's control, on `localhost`, over TLS.
#[derive(Clone)]
pub struct Peer {
    /// Its name: `localhost:port`.
    pub name: String,
    http: reqwest::Client,
    tls: Arc<ServerConfig>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    key: Arc<Ed25519KeyPair>,
    keys_end: Duration,
    answers: Vec<(String, Arc<Answering>)>,
    requests: Vec<PeerRequest>,
    connections: usize,
    sent: u64,
}

/// What a server does with some requests.
type Answering = dyn Fn(&PeerRequest) -> PeerAnswer + Send + Sync;

/// What it was asked.
#[derive(Clone, Debug)]
pub struct PeerRequest {
    /// The method, and the target as it came.
    pub line: String,
    /// The body; null if there is none.
    pub body: Value,
    /// When it came.
    pub at: Instant,
}

/// What it answers.
pub enum PeerAnswer {
    /// A status and JSON.
    Json(u16, String),
    /// Headers and a body.
    Bytes(&'static str, Vec<u8>),
    /// The beginning of a JSON body at once, and of what is missing a byte a second.
    Slow(String),
}

/// A room as a server knows it.
pub struct PeerRoom {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: RoomVersionId,
    /// The newest event.
    pub newest: String,
    /// How deep that is.
    pub depth: u64,
    /// The state: ids by type and state key.
    pub state: BTreeMap<(String, String), String>,
    /// State events by their ids, those as well that were replaced.
    pub known: BTreeMap<String, CanonicalJsonObject>,
    rules: RoomVersionRules,
}

fn text(text: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(text.to_owned())
}

fn object(value: Value) -> CanonicalJsonObject {
    match CanonicalJsonValue::try_from(value).unwrap() {
        CanonicalJsonValue::Object(object) => object,
        other => panic!("{other:?} is no object"),
    }
}

#[expect(clippy::disallowed_methods, reason = "tests read the time")]
fn milliseconds() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn new_key() -> Arc<Ed25519KeyPair> {
    Arc::new(Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "one".to_owned()).unwrap())
}

impl Peer {
    /// A server that others find, with a certificate that they trust.
    pub fn start(authority: &Authority) -> Self {
        let directory = TempDir::new().unwrap();
        authority.write_certificate(directory.path());
        let certificate = CertificateDer::from_pem_file(directory.path().join("certificate.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(directory.path().join("key.pem")).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let inner = Inner {
            key: new_key(),
            keys_end: A_DAY,
            answers: Vec::new(),
            requests: Vec::new(),
            connections: 0,
            sent: 0,
        };
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let peer = Self {
            name: format!("localhost:{port}"),
            http: authority.client(),
            tls: Arc::new(tls),
            inner: Arc::new(Mutex::new(inner)),
        };
        let serving = peer.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                serving.inner.lock().unwrap().connections += 1;
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        peer
    }

    /// One of its users.
    pub fn user(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.name)
    }

    /// The public half of its key, in unpadded base64. Its id is `ed25519:one`.
    pub fn public_key(&self) -> String {
        STANDARD_NO_PAD.encode(self.key().public_key())
    }

    fn key(&self) -> Arc<Ed25519KeyPair> {
        Arc::clone(&self.inner.lock().unwrap().key)
    }

    /// Signs with another key from here on, under the same id.
    pub fn take_another_key(&self) {
        self.inner.lock().unwrap().key = new_key();
    }

    /// Says from here on that its keys are good for so long; for no time: that they were good until a minute ago.
    pub fn keys_end_in(&self, lifetime: Duration) {
        self.inner.lock().unwrap().keys_end = lifetime;
    }

    /// Has it answer requests whose line has `part` in it.
    pub fn answer_with(
        &self,
        part: &str,
        answer: impl Fn(&PeerRequest) -> PeerAnswer + Send + Sync + 'static,
    ) {
        self.inner.lock().unwrap().answers.push((part.to_owned(), Arc::new(answer)));
    }

    /// What it was asked whose line has `part` in it.
    pub fn requests(&self, part: &str) -> Vec<PeerRequest> {
        let inner = self.inner.lock().unwrap();
        inner.requests.iter().filter(|request| request.line.contains(part)).cloned().collect()
    }

    /// How often somebody connected to it.
    pub fn connections(&self) -> usize {
        self.inner.lock().unwrap().connections
    }

    /// Forgets what it was asked.
    pub fn forget_requests(&self) {
        self.inner.lock().unwrap().requests.clear();
    }

    /// The `Authorization` header of a request to a server by a server of the name `origin` that has its key.
    pub fn signature(
        &self,
        origin: &str,
        method: &Method,
        target: &str,
        to: &str,
        content: Option<CanonicalJsonValue>,
    ) -> String {
        let mut signed = object(json!({
            "method": method.as_str(), "uri": target, "origin": origin, "destination": to,
        }));
        if let Some(content) = content {
            signed.insert("content".to_owned(), content);
        }
        sign_json(origin, &*self.key(), &mut signed).unwrap();
        let signed = serde_json::to_value(&signed).unwrap();
        let signature = signed["signatures"][origin]["ed25519:one"].as_str().unwrap().to_owned();
        format!(r#"X-Matrix origin="{origin}",destination="{to}",key="ed25519:one",sig="{signature}""#)
    }

    /// The same where the content is JSON that is not canonical, but for the order of its names and the spaces between them.
    pub fn signature_of_text(&self, method: &Method, target: &str, to: &str, content: &str) -> String {
        let origin = &self.name;
        let signed = format!(
            r#"{{"content":{content},"destination":"{to}","method":"{method}","origin":"{origin}","uri":"{target}"}}"#
        );
        let signature = self.key().sign(signed.as_bytes()).base64();
        format!(r#"X-Matrix origin="{origin}",destination="{to}",key="ed25519:one",sig="{signature}""#)
    }

    /// A signed request to a server that is yet to be sent.
    pub fn request(&self, to: &str, method: Method, target: &str, body: Option<&Value>) -> RequestBuilder {
        self.request_as(&self.name, to, method, target, body)
    }

    /// The same by another name.
    pub fn request_as(
        &self,
        origin: &str,
        to: &str,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> RequestBuilder {
        let content = body.map(|body| CanonicalJsonValue::try_from(body.clone()).unwrap());
        let signature = self.signature(origin, &method, target, to, content);
        let request = self.unsigned(to, method, target).header("Authorization", signature);
        match body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    /// A request to a server without a signature.
    pub fn unsigned(&self, to: &str, method: Method, target: &str) -> RequestBuilder {
        self.http.request(method, format!("https://{to}{target}")).timeout(4 * SOON)
    }

    /// The target of a transaction that has not been.
    pub fn transaction(&self) -> String {
        let mut inner = self.inner.lock().unwrap();
        inner.sent += 1;
        format!("/_matrix/federation/v1/send/{}", inner.sent)
    }

    /// Sends events to a server.
    pub async fn send(&self, to: &str, pdus: &[CanonicalJsonObject]) -> Answer {
        self.send_as(&self.name, to, pdus).await
    }

    /// The same by another name.
    pub async fn send_as(&self, origin: &str, to: &str, pdus: &[CanonicalJsonObject]) -> Answer {
        let body = json!({ "origin": origin, "origin_server_ts": milliseconds(), "pdus": pdus, "edus": [] });
        Answer::to(self.request_as(origin, to, Method::PUT, &self.transaction(), Some(&body))).await
    }

    /// Sends events to a server. Answers why it refused those that it refused, by their ids.
    pub async fn send_and_ask(&self, to: &str, pdus: &[CanonicalJsonObject]) -> BTreeMap<String, String> {
        let answer = self.send(to, pdus).await.ok();
        let outcomes = answer["pdus"].as_object().cloned().unwrap_or_default();
        let refusal = |(id, outcome): (String, Value)| Some((id, outcome["error"].as_str()?.to_owned()));
        outcomes.into_iter().filter_map(refusal).collect()
    }

    /// Lets one of its users join a room through a server in it.
    pub async fn join(&self, through: &str, room_id: &str, user: &str) -> PeerRoom {
        let origin = user.split_once(':').unwrap().1.to_owned();
        let target = format!(
            "/_matrix/federation/v1/make_join/{}/{}?ver=5&ver=10&ver=11&ver=12",
            segment(room_id),
            segment(user)
        );
        let template = Answer::to(self.request_as(&origin, through, Method::GET, &target, None)).await.ok();
        let version = RoomVersionId::try_from(template["room_version"].as_str().unwrap()).unwrap();
        let rules = version.rules().unwrap();
        let mut join = object(template["event"].clone());
        join.insert(
            "content".to_owned(),
            CanonicalJsonValue::Object(object(json!({ "membership": "join" }))),
        );
        hash_and_sign_event(&origin, &*self.key(), &mut join, &rules.redaction).unwrap();
        let event_id = format!("${}", reference_hash(&join, &rules).unwrap());
        let target = format!("/_matrix/federation/v2/send_join/{}/{}", segment(room_id), segment(&event_id));
        let body = serde_json::to_value(&join).unwrap();
        let answer = self.request_as(&origin, through, Method::PUT, &target, Some(&body));
        let answer = Answer::to(answer).await.ok();
        let mut room = PeerRoom {
            id: room_id.to_owned(),
            version,
            newest: String::new(),
            depth: 0,
            state: BTreeMap::new(),
            known: BTreeMap::new(),
            rules,
        };
        for event in answer["state"].as_array().unwrap() {
            room.add(&object(event.clone()));
        }
        room.add(&join);
        room
    }

    /// A room of its own, in which its user `host` is and into which everybody may come.
    pub fn room(&self, version: &RoomVersionId) -> PeerRoom {
        let rules = version.rules().unwrap();
        let host = self.user("host");
        let mut create = object(json!({
            "type": "m.room.create", "state_key": "", "sender": host, "origin_server_ts": milliseconds(), "depth": 1,
            "content": { "room_version": version.as_str(), "creator": host }, "prev_events": [], "auth_events": [],
        }));
        let of_create = rules.authorization.room_create_event_id_as_room_id;
        if !of_create {
            let tag = milliseconds();
            create.insert("room_id".to_owned(), text(&format!("!{tag}:{}", self.name)));
        }
        hash_and_sign_event(&self.name, &*self.key(), &mut create, &rules.redaction).unwrap();
        let id = match create.get("room_id") {
            Some(id) => id.as_str().unwrap().to_owned(),
            None => format!("!{}", reference_hash(&create, &rules).unwrap()),
        };
        let mut room = PeerRoom {
            id,
            version: version.clone(),
            newest: String::new(),
            depth: 0,
            state: BTreeMap::new(),
            known: BTreeMap::new(),
            rules,
        };
        room.add(&create);
        room.set(self, &host, "m.room.member", &host, json!({ "membership": "join" }));
        let users = if of_create { json!({}) } else { json!({ host.clone(): 100 }) };
        room.set(self, &host, "m.room.power_levels", "", json!({ "users": users }));
        room.set(self, &host, "m.room.join_rules", "", json!({ "join_rule": "public" }));
        room.set(
            self,
            &host,
            "m.room.history_visibility",
            "",
            json!({ "history_visibility": "world_readable" }),
        );
        room
    }

    /// Lets others into a room of its own.
    pub fn host(&self, room: &Arc<Mutex<PeerRoom>>) {
        let (template, own) = (Arc::clone(room), self.name.clone());
        self.answer_with("/make_join/", move |request| {
            let room = template.lock().unwrap();
            let user = request.line.split(['?', ' ']).nth(1).unwrap().rsplit('/').next().unwrap();
            let user = user.replace("%40", "@").replace("%3A", ":");
            let event = room.unsigned(&user, "m.room.member", Some(&user), json!({ "membership": "join" }));
            let answer = json!({ "room_version": room.version.as_str(), "event": event });
            PeerAnswer::Json(200, answer.to_string())
        });
        let room = Arc::clone(room);
        self.answer_with("/send_join/", move |request| {
            let mut room = room.lock().unwrap();
            let join = object(request.body.clone());
            let state: Vec<&CanonicalJsonObject> = room.state.values().map(|id| &room.known[id]).collect();
            let auth_chain = room.auth_chain();
            let answer = json!({
                "origin": own, "state": state, "auth_chain": auth_chain, "event": join, "members_omitted": false,
                "servers_in_room": [own],
            });
            room.add(&join);
            PeerAnswer::Json(200, answer.to_string())
        });
    }

    fn serve(&self, stream: TcpStream) {
        let connection = ServerConnection::new(Arc::clone(&self.tls)).unwrap();
        let mut reader = BufReader::new(StreamOwned::new(connection, stream));
        loop {
            let (mut line, mut length) = (String::new(), 0);
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            loop {
                let mut header = String::new();
                if reader.read_line(&mut header).unwrap_or(0) == 0 {
                    return;
                }
                let Some((name, value)) = header.trim_end().split_once(": ") else { break };
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let answer = self.answer(&PeerRequest { line, body, at: now() });
            if say(reader.get_mut(), answer).is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &PeerRequest) -> PeerAnswer {
        let answers = {
            let mut inner = self.inner.lock().unwrap();
            inner.requests.push(request.clone());
            inner.answers.clone()
        };
        let wanted = answers.iter().rev().find(|(part, _)| request.line.contains(part));
        if let Some((_, answer)) = wanted {
            return answer(request);
        }
        if request.line.contains("/_matrix/key/v2/server") {
            return PeerAnswer::Json(200, self.keys());
        }
        if request.line.contains("/federation/v1/send/") {
            return PeerAnswer::Json(200, json!({ "pdus": {} }).to_string());
        }
        let unknown = json!({ "errcode": "M_NOT_FOUND", "error": "there is nothing" });
        PeerAnswer::Json(404, unknown.to_string())
    }

    /// What it says of its keys.
    pub fn keys(&self) -> String {
        let lifetime = self.inner.lock().unwrap().keys_end;
        let end = if lifetime.is_zero() {
            milliseconds() - 60_000
        } else {
            milliseconds() + u64::try_from(lifetime.as_millis()).unwrap()
        };
        let mut keys = object(json!({
            "server_name": self.name, "valid_until_ts": end,
            "verify_keys": { "ed25519:one": { "key": self.public_key() } }, "old_verify_keys": {},
        }));
        sign_json(&self.name, &*self.key(), &mut keys).unwrap();
        serde_json::to_string(&keys).unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "tests read the time")]
fn now() -> Instant {
    Instant::now()
}

/// Sends an answer.
fn say(stream: &mut impl Write, answer: PeerAnswer) -> std::io::Result<()> {
    match answer {
        PeerAnswer::Json(status, body) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes())?;
            stream.write_all(body.as_bytes())?;
            stream.flush()
        }
        PeerAnswer::Bytes(headers, body) => {
            let head = format!("HTTP/1.1 200 X\r\n{headers}content-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes())?;
            stream.write_all(&body)?;
            stream.flush()
        }
        PeerAnswer::Slow(begun) => {
            let length = begun.len() + 1_000_000;
            let head = format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\n\r\n{begun}");
            stream.write_all(head.as_bytes())?;
            loop {
                stream.write_all(b" ")?;
                stream.flush()?;
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

impl PeerRoom {
    /// The id of an event of this room.
    pub fn id_of(&self, event: &CanonicalJsonObject) -> String {
        format!("${}", reference_hash(event, &self.rules).unwrap())
    }

    /// What authorises the state.
    fn auth_chain(&self) -> Vec<&CanonicalJsonObject> {
        let mut named = BTreeSet::new();
        for event in self.known.values() {
            let ids = event["auth_events"].as_array().unwrap().iter().filter_map(CanonicalJsonValue::as_str);
            named.extend(ids);
        }
        self.known.iter().filter(|(id, _)| named.contains(id.as_str())).map(|(_, event)| event).collect()
    }

    /// An event upon the newest one, as it is before it is signed.
    pub fn unsigned(
        &self,
        sender: &str,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> CanonicalJsonObject {
        let mut wanted = vec![
            ("m.room.power_levels".to_owned(), String::new()),
            ("m.room.member".to_owned(), sender.to_owned()),
        ];
        if !self.rules.authorization.room_create_event_id_as_room_id {
            wanted.push(("m.room.create".to_owned(), String::new()));
        }
        if event_type == "m.room.member" {
            wanted.push(("m.room.join_rules".to_owned(), String::new()));
        }
        let auth_events: Vec<&String> = wanted.iter().filter_map(|key| self.state.get(key)).collect();
        let mut event = object(json!({
            "type": event_type, "sender": sender, "room_id": self.id, "content": content, "depth": self.depth + 1,
            "origin_server_ts": milliseconds(), "prev_events": [self.newest], "auth_events": auth_events,
        }));
        if let Some(state_key) = state_key {
            event.insert("state_key".to_owned(), text(state_key));
        }
        event
    }

    /// Signs an event, whatever it says, anew.
    pub fn sign(&self, peer: &Peer, event: CanonicalJsonObject) -> CanonicalJsonObject {
        let mut event = event;
        for field in ["hashes", "signatures", "unsigned"] {
            event.remove(field);
        }
        let sender = event.get("sender").and_then(CanonicalJsonValue::as_str).unwrap().to_owned();
        let server = sender.split_once(':').unwrap().1;
        hash_and_sign_event(server, &*peer.key(), &mut event, &self.rules.redaction).unwrap();
        event
    }

    /// A message upon the newest event.
    pub fn message(&self, peer: &Peer, sender: &str, body: &str) -> CanonicalJsonObject {
        let content = json!({ "msgtype": "m.text", "body": body });
        self.sign(peer, self.unsigned(sender, "m.room.message", None, content))
    }

    /// Changes the state of the room, and answers the event that does.
    pub fn set(
        &mut self,
        peer: &Peer,
        sender: &str,
        event_type: &str,
        state_key: &str,
        content: Value,
    ) -> CanonicalJsonObject {
        let event = self.sign(peer, self.unsigned(sender, event_type, Some(state_key), content));
        self.add(&event);
        event
    }

    /// Makes an event the newest one.
    pub fn add(&mut self, event: &CanonicalJsonObject) {
        let id = self.id_of(event);
        let field = |name: &str| event.get(name).and_then(CanonicalJsonValue::as_str).map(str::to_owned);
        if let (Some(event_type), Some(state_key)) = (field("type"), field("state_key")) {
            self.state.insert((event_type, state_key), id.clone());
            self.known.insert(id.clone(), event.clone());
        }
        let depth = event.get("depth").and_then(CanonicalJsonValue::as_integer).map_or(0, i64::from);
        self.depth = self.depth.max(u64::try_from(depth).unwrap());
        self.newest = id;
    }
}
