//! What an operator does: configure, start, stop, crash, administer, back up, watch.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io::Write as _, net::TcpStream, os::unix::fs::PermissionsExt as _, time::Duration};

use entente_tests::{SOON, Server, entente, free_port, read_to_end, run, run_well};
use serde_json::json;
use tempfile::TempDir;

const PASSWORD: &str = "correct horse battery staple";

fn login(user: &str, password: &str) -> serde_json::Value {
    json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password })
}

/// An address on loopback with a port that is free.
fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

async fn scrape(address: &str) -> String {
    reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap()
}

#[test]
fn a_wrong_configuration_is_refused_with_its_line() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("wrong.toml");
    std::fs::write(&file, "server_name = \"example.org\"\n\n[registration]\nopne = true\n").unwrap();
    for command in ["check-config", "serve"] {
        let output = run(entente(directory.path()).args(["--config", "wrong.toml", command]), "");
        assert_eq!(output.status.code(), Some(78), "{command}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("wrong.toml:4") && message.contains("open"), "{message}");
    }
    std::fs::write(&file, "server_name = \"example.org\"\n").unwrap();
    let answer = run_well(entente(directory.path()).args(["--config", "wrong.toml", "check-config"]), "");
    assert_eq!(answer, "the configuration is good");
    let unknown =
        run(entente(directory.path()).env("ENTENTE_REGISTRATION__OPNE", "true").arg("check-config"), "");
    assert_eq!(unknown.status.code(), Some(78));
}

#[test]
fn the_example_configuration_is_good() {
    let directory = TempDir::new().unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/entente.example.toml");
    run_well(entente(directory.path()).args(["--config", example, "check-config"]), "");
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_crash() {
    let mut server = Server::open();
    for round in 0..5 {
        let name = format!("user{round}");
        let user = server.register(&name, PASSWORD).await;
        let path = format!("/_matrix/client/v3/user/@{name}:localhost:8008/account_data/org.example.round");
        user.put(&path, &json!({ "round": round })).await.ok();
        server = server.crash_and_restart();
        for earlier in 0..=round {
            server
                .anonymous()
                .post("/_matrix/client/v3/login", &login(&format!("user{earlier}"), PASSWORD))
                .await
                .ok();
        }
        let user = server.caller(user.access_token.as_deref().unwrap());
        assert_eq!(user.get(&path).await.ok(), json!({ "round": round }));
    }
}

#[tokio::test]
async fn a_stop_finishes_what_was_accepted() {
    let metrics = free_address();
    let mut server = Server::with(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_METRICS__ADDRESS", metrics.as_str()),
    ]);
    server.register("alice", PASSWORD).await;
    let body = login("alice", PASSWORD).to_string();
    let mut stream = TcpStream::connect(server.base_url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = format!(
        "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (first, rest) = body.split_at(10);
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(first.as_bytes()).unwrap();
    let accepted = tokio::time::timeout(SOON, async {
        while !scrape(&metrics).await.contains("entente_http_requests_in_flight 1") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    accepted.await.expect("the request reaches its handler, which waits for the rest");
    server.signal("TERM");
    let refused = tokio::time::timeout(SOON, async {
        while TcpStream::connect(server.base_url.strip_prefix("http://").unwrap()).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    refused.await.expect("it still takes new connections");
    stream.write_all(rest.as_bytes()).unwrap();
    let answer = read_to_end(stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("access_token"));
    assert!(server.wait().success());
    assert!(!server.directory().join("data/admin.sock").exists());
}

#[tokio::test]
async fn accounts_are_administered_while_the_server_runs_and_while_it_does_not() {
    let server = Server::with(&[]);
    let made = run_well(&mut server.command(&["admin", "create-user", "alice"]), PASSWORD);
    assert!(made.contains("@alice:localhost:8008"), "{made}");
    let session = server.anonymous().post("/_matrix/client/v3/login", &login("alice", PASSWORD)).await.ok();
    let alice = server.caller(session["access_token"].as_str().unwrap());
    run_well(&mut server.command(&["admin", "reset-password", "alice"]), "a brand new password\n");
    alice.get("/_matrix/client/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    server.anonymous().post("/_matrix/client/v3/login", &login("alice", "a brand new password")).await.ok();
    let refused = run(&mut server.command(&["admin", "create-user", "alice"]), PASSWORD);
    assert!(!refused.status.success());
    assert!(String::from_utf8(refused.stderr).unwrap().contains("taken"));
    let weak = run(&mut server.command(&["admin", "create-user", "bob"]), "short");
    assert!(!weak.status.success());
    let socket = server.directory().join("data/admin.sock");
    let permissions = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(permissions & 0o777, 0o600, "for the server's own user only");

    let directory = server.stop();
    let offline = |arguments: &[&str], input| {
        run_well(entente(directory.path()).env("ENTENTE_CONFIG", "entente.toml").args(arguments), input)
    };
    offline(&["admin", "create-user", "carol", "--admin"], PASSWORD);
    let token = offline(&["admin", "registration-token", "--uses", "1", "--lifetime", "3600"], "");
    let server = Server::start(directory, &[]);
    server.anonymous().post("/_matrix/client/v3/login", &login("carol", PASSWORD)).await.ok();
    let validity = format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}");
    assert_eq!(server.anonymous().get(&validity).await.ok()["valid"], true);
}

#[tokio::test]
async fn one_store_has_one_server_and_one_name() {
    let server = Server::open();
    let second =
        run(server.command(&["serve"]).env("ENTENTE_LISTENERS", r#"[{ address = "127.0.0.1:0" }]"#), "");
    assert!(!second.status.success());
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(message.contains("in use by another process"), "{message}");
    server.anonymous().get("/health").await.ok();
    let directory = server.stop();
    let renamed = run(
        entente(directory.path())
            .env("ENTENTE_SERVER_NAME", "other.example")
            .env("ENTENTE_CONFIG", "entente.toml"),
        "",
    );
    assert!(!renamed.status.success());
    let message = String::from_utf8(renamed.stderr).unwrap();
    assert!(message.contains("localhost:8008") && message.contains("other.example"), "{message}");
}

#[tokio::test]
async fn a_backup_of_a_running_server_is_restored_elsewhere() {
    let server = Server::open();
    let alice = server.register("alice", PASSWORD).await;
    let file = server.directory().join("backup");
    let file = file.to_str().unwrap();
    let said = run_well(&mut server.command(&["backup", file]), "");
    assert!(said.contains("rows"), "{said}");
    assert!(!run(&mut server.command(&["backup", file]), "").status.success(), "nothing is overwritten");
    server.register("late", PASSWORD).await;
    run_well(&mut server.command(&["verify-backup", file]), "");
    let elsewhere = TempDir::new().unwrap();
    run_well(entente(elsewhere.path()).args(["restore", file]), "");
    let again = run(entente(elsewhere.path()).args(["restore", file]), "");
    assert!(!again.status.success(), "only into an empty store");
    let restored = Server::start(elsewhere, &[]);
    restored
        .caller(alice.access_token.as_deref().unwrap())
        .get("/_matrix/client/v3/account/whoami")
        .await
        .ok();
    restored
        .anonymous()
        .post("/_matrix/client/v3/login", &login("late", PASSWORD))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn metrics_are_on_a_listener_of_their_own() {
    let address = free_address();
    let server = Server::with(&[("ENTENTE_METRICS__ADDRESS", address.as_str())]);
    server.anonymous().get("/_matrix/client/versions").await.ok();
    server.anonymous().get("/_matrix/client/v3/a/made/up/path").await.refused(404, "M_UNRECOGNIZED");
    server.anonymous().get("/metrics").await.refused(404, "M_UNRECOGNIZED");
    let text = scrape(&address).await;
    let counted =
        r#"entente_http_requests_total{method="GET",route="/_matrix/client/versions",status="200"} 1"#;
    assert!(text.contains(counted), "{text}");
    assert!(!text.contains("made/up"), "paths of a stranger's choice are no labels");
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_data_directory_is_private() {
    let server = Server::open();
    let mode = std::fs::metadata(server.directory().join("data")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
