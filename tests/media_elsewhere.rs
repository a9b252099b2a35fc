//! Files of other servers: those that are elsewhere, take long, or are refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use entente_tests::{Authority, Server, User, free_port};
use reqwest::Method;
use tempfile::TempDir;

/// A server of files, by its name. It ends with its standard input.
struct Elsewhere {
    _child: Child,
    _directory: TempDir,
    name: String,
}

impl Elsewhere {
    fn start(authority: &Authority) -> Self {
        let directory = TempDir::new().unwrap();
        authority.write_certificate(directory.path());
        let port = free_port().to_string();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("media/files_elsewhere.py");
        let mut child = Command::new("python3")
            .args([program.as_path(), directory.path(), Path::new(&port)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Self { _child: child, _directory: directory, name: format!("localhost:{port}") }
    }

    fn path(&self, media_id: &str) -> String {
        format!("/_matrix/client/v1/media/download/{}/{media_id}", self.name)
    }
}

async fn user(server: &Server) -> User {
    User::register(server, "alice").await
}

#[tokio::test]
async fn refusals_are_passed_on_and_are_no_silence() {
    let authority = Authority::new();
    let (elsewhere, server) = (Elsewhere::start(&authority), authority.server(&[]));
    let alice = user(&server).await;
    for _ in 0..3 {
        alice.get(&elsewhere.path("promised")).await.refused(504, "M_NOT_YET_UPLOADED");
    }
    alice.get(&elsewhere.path("huge")).await.refused(502, "M_TOO_LARGE");
    alice.get(&elsewhere.path("nothing")).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn redirects_are_followed_by_https() {
    let authority = Authority::new();
    let elsewhere = Elsewhere::start(&authority);
    let closed = [
        ("ENTENTE_FEDERATION__POLICY", "closed"),
        ("ENTENTE_FEDERATION__ALLOW", &format!("[\"{}\"]", elsewhere.name)),
    ];
    let server = authority.server(&closed);
    let alice = user(&server).await;
    let response = alice.request(Method::GET, &elsewhere.path("moved")).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-disposition"], "inline; filename=\"a;b.txt\"");
    assert_eq!(response.text().await.unwrap(), "moved");
    alice.get(&elsewhere.path("moved-in-clear")).await.refused(502, "M_UNKNOWN");
    // Nobody named that host.
    alice.get(&elsewhere.path("moved-away")).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn what_takes_long_comes_for_the_next_who_asks() {
    let authority = Authority::new();
    let (elsewhere, server) = (Elsewhere::start(&authority), authority.server(&[]));
    let alice = user(&server).await;
    let path = elsewhere.path("slow");
    alice.get(&format!("{path}?timeout_ms=300")).await.refused(504, "M_NOT_YET_UPLOADED");
    let response = alice.request(Method::GET, &path).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "request 1"));
}
