//! What holds of every request: errors, CORS, bounds, compression, discovery, health.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use entente_tests::{Answer, SOON, Server, read_to_end};
use reqwest::{Method, StatusCode};
use serde_json::json;

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.base_url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

#[tokio::test]
async fn unknown_paths_and_methods_have_matrix_errors() {
    let server = Server::open();
    let anonymous = server.anonymous();
    anonymous.get("/_matrix/client/v3/no_such_thing").await.refused(404, "M_UNRECOGNIZED");
    anonymous.get("/_matrix/client/v9/login").await.refused(404, "M_UNRECOGNIZED");
    anonymous.get("/nothing").await.refused(404, "M_UNRECOGNIZED");
    anonymous.delete("/_matrix/client/v3/login", &json!({})).await.refused(405, "M_UNRECOGNIZED");
    anonymous.post("/_matrix/client/versions", &json!({})).await.refused(405, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn malformed_bodies_have_matrix_errors() {
    let server = Server::open();
    let anonymous = server.anonymous();
    let post = async |body: Vec<u8>| {
        Answer::to(anonymous.request(Method::POST, "/_matrix/client/v3/login").body(body)).await
    };
    post(b"{".to_vec()).await.refused(400, "M_NOT_JSON");
    post(b"\xff\xfe{}".to_vec()).await.refused(400, "M_NOT_JSON");
    post(b"[]".to_vec()).await.refused(400, "M_BAD_JSON");
    post(b"{\"type\": 5}".to_vec()).await.refused(400, "M_BAD_JSON");
    post(b"{\"identifier\": {}}".to_vec()).await.refused(400, "M_BAD_JSON");
    post(format!("{{\"type\": {}", "[".repeat(100_000)).into_bytes()).await.refused(400, "M_NOT_JSON");
    post(vec![b' '; 1024 * 1024 + 1]).await.refused(413, "M_TOO_LARGE");
    anonymous.get("/_matrix/client/v3/register/available").await.refused(400, "M_MISSING_PARAM");
    anonymous.get("/_matrix/client/v3/profile/not-a-user").await.refused(400, "M_INVALID_PARAM");
    anonymous.get("/_matrix/client/versions").await.ok();
}

#[tokio::test]
async fn any_page_may_be_a_client() {
    let server = Server::open();
    let anonymous = server.anonymous();
    let preflight = anonymous
        .request(Method::OPTIONS, "/_matrix/client/v3/login")
        .header("Origin", "https://app.element.io")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "content-type,authorization");
    let preflight = Answer::to(preflight).await;
    assert!(preflight.status.is_success());
    assert_eq!(preflight.header("access-control-allow-origin"), "*");
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        assert!(preflight.header("access-control-allow-methods").contains(method));
    }
    for header in ["x-requested-with", "content-type", "authorization"] {
        assert!(preflight.header("access-control-allow-headers").to_lowercase().contains(header));
    }
    for path in ["/_matrix/client/versions", "/_matrix/client/v3/none", "/.well-known/matrix/client"] {
        assert_eq!(anonymous.get(path).await.header("access-control-allow-origin"), "*", "{path}");
    }
}

#[tokio::test]
async fn every_answer_has_an_id_that_its_log_lines_carry() {
    let server = Server::with(&[("ENTENTE_LOG__FILTER", "debug"), ("ENTENTE_LOG__FORMAT", "json")]);
    let secret = "ena_a_secret_that_must_not_be_logged";
    let answer = server.caller(secret).get("/_matrix/client/v3/account/whoami?secret=in_the_query").await;
    let id = answer.header("x-request-id").to_owned();
    assert!(!id.is_empty());
    let log = server.log();
    // The last line may be half written.
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let of_request: Vec<_> = lines.filter(|line| line["span"]["request.id"] == id.as_str()).collect();
    assert!(of_request.iter().any(|line| line["http.status"] == 401), "{log}");
    assert!(!log.contains(secret) && !log.contains("in_the_query"), "{log}");
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_can_read_them() {
    let server = Server::open();
    let alice = server.register("alice", "correct horse battery staple").await;
    let path = "/_matrix/client/v3/user/@alice:localhost:8008/account_data/org.example.large";
    alice.put(path, &json!({ "text": "x".repeat(20_000) })).await.ok();
    let headers = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n",
        alice.access_token.as_deref().unwrap()
    );
    let mut lengths = Vec::new();
    for accept in ["Accept-Encoding: gzip\r\n\r\n", "\r\n"] {
        let mut stream = connect(&server);
        stream.write_all(headers.as_bytes()).unwrap();
        stream.write_all(accept.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        lengths.push(answer.len());
    }
    assert!(lengths[0] < 2_000 && lengths[1] > 20_000, "{lengths:?}");
}

#[tokio::test]
async fn the_server_is_found() {
    let server = Server::with(&[
        ("ENTENTE_SERVER_NAME", "example.org"),
        ("ENTENTE_PUBLIC_BASE_URL", "https://matrix.example.org"),
        ("ENTENTE_SUPPORT__CONTACTS", r#"[{ role = "m.role.admin", email_address = "help@example.org" }]"#),
    ]);
    let anonymous = server.anonymous();
    let client = anonymous.get("/.well-known/matrix/client").await.ok();
    assert_eq!(client, json!({ "m.homeserver": { "base_url": "https://matrix.example.org" } }));
    let federation = anonymous.get("/.well-known/matrix/server").await.ok();
    assert_eq!(federation, json!({ "m.server": "matrix.example.org:443" }));
    let support = anonymous.get("/.well-known/matrix/support").await.ok();
    assert_eq!(
        support,
        json!({ "contacts": [{ "role": "m.role.admin", "email_address": "help@example.org" }] })
    );
    let versions = anonymous.get("/_matrix/client/versions").await.ok();
    assert!(versions["versions"].as_array().unwrap().contains(&json!("v1.11")));
    let page = anonymous.get("/").await;
    assert!(page.body.as_str().unwrap().contains("https://matrix.example.org"));
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    Server::open().anonymous().get("/.well-known/matrix/support").await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn health_is_told() {
    let server = Server::open();
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(server.anonymous().get(path).await.ok(), json!({ "status": "ok" }), "{path}");
    }
}

#[tokio::test]
async fn a_listener_serves_what_it_is_for() {
    let server =
        Server::with(&[("ENTENTE_LISTENERS", r#"[{ address = "127.0.0.1:0", serves = ["federation"] }]"#)]);
    let anonymous = server.anonymous();
    anonymous.get("/_matrix/client/versions").await.refused(404, "M_UNRECOGNIZED");
    anonymous
        .get("/_matrix/federation/v1/openid/userinfo?access_token=x")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    anonymous.get("/health").await.ok();
    anonymous.get("/.well-known/matrix/client").await.ok();
}

#[tokio::test]
async fn oversized_and_slow_headers_are_cut_off() {
    let server = Server::with(&[
        ("ENTENTE_LIMITS__HEADER_TIMEOUT", "500ms"),
        ("ENTENTE_LIMITS__MAX_HEADER_SIZE", "8 KiB"),
    ]);
    let mut large = connect(&server);
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(20_000));
    // The server may have hung up before it was all sent.
    let _ = large.write_all(head.as_bytes());
    let answer = read_to_end(large);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut slow = connect(&server);
    slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
    let answer = read_to_end(slow);
    assert!(!answer.contains("200"), "{answer}");
    server.anonymous().get("/health").await.ok();
}

#[tokio::test]
async fn connections_have_a_limit_and_are_given_back() {
    let server = Server::with(&[("ENTENTE_LIMITS__MAX_CONNECTIONS", "3")]);
    let idle: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut stream = connect(&server);
            stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            assert!(stream.read(&mut [0; 16]).unwrap() > 0, "it has a place");
            stream
        })
        .collect();
    let mut refused = connect(&server);
    let _ = refused.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(read_to_end(refused), "", "closed at once");
    drop(idle);
    let give_up_at = tokio::time::Instant::now() + SOON;
    loop {
        let answer = server.anonymous().request(Method::GET, "/health/live").send().await;
        if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
            break;
        }
        assert!(tokio::time::Instant::now() < give_up_at, "places were not given back");
    }
}
