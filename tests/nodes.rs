//! The server on PostgreSQL, alone and as several nodes over one database.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../homeserver/storage/tests/support/postgresql.rs"]
#[allow(dead_code, reason = "shared with the storage's own tests, which use all of it")]
mod postgresql;

use entente_tests::{Server, Settings, run_well};
use postgresql::TemporaryPostgres;
use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;

const PASSWORD: &str = "correct horse battery staple";

fn settings(url: &str) -> [(&str, &str); 3] {
    [
        ("ENTENTE_STORAGE__ENGINE", "postgresql"),
        ("ENTENTE_STORAGE__POSTGRESQL__URL", url),
        ("ENTENTE_REGISTRATION__OPEN", "true"),
    ]
}

fn node(settings: Settings<'_>) -> Server {
    Server::with(settings)
}

#[tokio::test]
async fn nodes_over_one_database_share_everything() {
    let url = TemporaryPostgres::shared().create_database().await;
    let (one, other) = (node(&settings(&url)), node(&settings(&url)));
    let alice = one.register("alice", PASSWORD).await;
    let there = other.caller(alice.access_token.as_deref().unwrap());
    assert_eq!(there.get("/_matrix/client/v3/account/whoami").await.ok()["user_id"], "@alice:localhost:8008");
    let path = "/_matrix/client/v3/user/@alice:localhost:8008/account_data/org.example.settings";
    alice.put(path, &json!({ "theme": "dark" })).await.ok();
    assert_eq!(there.get(path).await.ok(), json!({ "theme": "dark" }));

    // The same name asked of both at once goes to one.
    for round in 0..10 {
        let body = json!({ "username": format!("bob{round}"), "password": PASSWORD,
            "auth": { "type": "m.login.dummy" } });
        let (here, there) = (one.anonymous(), other.anonymous());
        let path = "/_matrix/client/v3/register";
        let (first, second) = tokio::join!(here.post(path, &body), there.post(path, &body));
        let winners =
            [first.status, second.status].iter().filter(|&&status| status == StatusCode::OK).count();
        assert_eq!(winners, 1, "{} {}", first.body, second.body);
    }
    let one = one.crash_and_restart();
    let here = one.caller(alice.access_token.as_deref().unwrap());
    here.post("/_matrix/client/v3/logout", &json!({})).await.ok();
    there.get("/_matrix/client/v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_backup_moves_a_server_from_one_engine_to_another() {
    let url = TemporaryPostgres::shared().create_database().await;
    let embedded = Server::open();
    let alice = embedded.register("alice", PASSWORD).await;
    let file = embedded.directory().join("backup");
    let file = file.to_str().unwrap();
    run_well(&mut embedded.command(&["backup", file]), "");

    let settings = settings(&url);
    let elsewhere = TempDir::new().unwrap();
    let mut restore = entente_tests::entente(elsewhere.path());
    run_well(restore.envs(settings).args(["restore", file]), "");
    let moved = Server::start(elsewhere, &settings);
    let there = moved.caller(alice.access_token.as_deref().unwrap());
    there.get("/_matrix/client/v3/account/whoami").await.ok();
    there.post("/_matrix/client/v3/logout/all", &json!({})).await.ok();
}
