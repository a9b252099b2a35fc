use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::SOON;

/// An application service that notes what it is sent, and takes it or not.
#[derive(Clone)]
pub struct Service {
    port: u16,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    refuses: bool,
    requests: Vec<ServiceRequest>,
    answers: Vec<(String, Arc<Answering>)>,
}

/// What a service does with some requests.
type Answering = dyn Fn(&ServiceRequest) -> (u16, Value) + Send + Sync;

/// What a service was sent.
#[derive(Clone, Debug)]
pub struct ServiceRequest {
    /// The method and the path with its query.
    pub line: String,
    /// The bearer token.
    pub token: String,
    /// The body.
    pub body: Value,
    /// Whether it was taken.
    pub taken: bool,
    /// When it came.
    pub at: Instant,
}

impl Service {
    /// A service on a port of its own.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Self { port: listener.local_addr().unwrap().port(), inner: Arc::default() };
        let serving = service.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(&stream));
            }
        });
        service
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its registration, for users `@<id>_…`.
    pub fn registration(&self, id: &str, more: &str) -> String {
        format!(
            "id: {id}\nurl: http://127.0.0.1:{}\nas_token: as-{id}\nhs_token: hs-{id}\nsender_localpart: {id}bot\n\
             rate_limited: false\nnamespaces:\n  users:\n  - exclusive: true\n    regex: '@{id}_.*'\n  aliases:\n  \
             - exclusive: true\n    regex: '#{id}_.*'\n{more}",
            self.port
        )
    }

    /// Whether it answers 500 to everything from here on.
    pub fn refuse(&self, refuses: bool) {
        self.inner.lock().unwrap().refuses = refuses;
    }

    /// Has it answer requests whose line has `part` in it with a status and a body.
    pub fn answer_with(
        &self,
        part: &str,
        answer: impl Fn(&ServiceRequest) -> (u16, Value) + Send + Sync + 'static,
    ) {
        self.inner.lock().unwrap().answers.push((part.to_owned(), Arc::new(answer)));
    }

    /// All that it was sent.
    pub fn requests(&self) -> Vec<ServiceRequest> {
        self.inner.lock().unwrap().requests.clone()
    }

    /// The transactions that it took, those with one id once, in their order.
    pub fn transactions(&self) -> Vec<ServiceRequest> {
        let mut known = std::collections::BTreeMap::new();
        let mut transactions = Vec::new();
        for request in self.requests() {
            if !request.taken || !request.line.starts_with("PUT /_matrix/app/v1/transactions/") {
                continue;
            }
            if let Some(body) = known.get(&request.line) {
                assert_eq!(*body, request.body, "another content under the same id");
                continue;
            }
            known.insert(request.line.clone(), request.body.clone());
            transactions.push(request);
        }
        transactions
    }

    /// What the transactions that it took list under a name, in their order.
    pub fn listed(&self, name: &str) -> Vec<Value> {
        let transactions = self.transactions();
        transactions.iter().filter_map(|request| request.body[name].as_array()).flatten().cloned().collect()
    }

    /// The events of the transactions that it took, in their order.
    pub fn events(&self) -> Vec<Value> {
        self.listed("events")
    }

    /// Waits until what it was sent is as it should be.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        self.until_within(SOON, what, is_so).await;
    }

    /// The same with another patience: for what takes a busy machine longer.
    #[expect(clippy::disallowed_methods, reason = "tests read the time")]
    pub async fn until_within(&self, patience: Duration, what: &str, is_so: impl Fn(&Self) -> bool) {
        let give_up_at = Instant::now() + patience;
        while !is_so(self) {
            assert!(Instant::now() < give_up_at, "not {what}: {:?}", self.requests().last());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        loop {
            let (mut line, mut token, mut length) = (String::new(), String::new(), 0);
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            loop {
                let mut header = String::new();
                if reader.read_line(&mut header).unwrap_or(0) == 0 {
                    return;
                }
                let Some((name, value)) = header.trim_end().split_once(": ") else { break };
                match name.to_lowercase().as_str() {
                    "content-length" => length = value.parse().unwrap(),
                    "authorization" => value.trim_start_matches("Bearer ").clone_into(&mut token),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, answer) = self.answer(ServiceRequest { line, token, body, taken: true, at: now() });
            let answer = answer.to_string();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", answer.len());
            let mut stream = stream;
            if stream.write_all(format!("{head}{answer}").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, mut request: ServiceRequest) -> (u16, Value) {
        let (refuses, answers) = {
            let inner = self.inner.lock().unwrap();
            (inner.refuses, inner.answers.clone())
        };
        let wanted = answers.iter().rev().find(|(part, _)| request.line.contains(part));
        let answer = if refuses {
            (500, json!({}))
        } else if let Some((_, answer)) = wanted {
            answer(&request)
        } else if request.line.contains("/thirdparty/protocol/") {
            (200, json!({ "instances": [{ "desc": "a network", "network_id": "n", "fields": {} }] }))
        } else if request.line.contains("/users/") || request.line.contains("/rooms/") {
            (404, json!({ "errcode": "M_NOT_FOUND" }))
        } else {
            (200, json!({}))
        };
        request.taken = answer.0 == 200;
        self.inner.lock().unwrap().requests.push(request);
        answer
    }
}

#[expect(clippy::disallowed_methods, reason = "tests read the time")]
fn now() -> Instant {
    Instant::now()
}
