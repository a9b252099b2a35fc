//! The server on PostgreSQL, alone and as several nodes over one database.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../homeserver/storage/tests/support/postgresql.rs"]
#[allow(dead_code, reason = "shared with the storage's own tests, which use all of it")]
mod postgresql;

use entente_tests::{SOON, Server, Settings, run_well};
use postgresql::TemporaryPostgres;
use reqwest::{Method, StatusCode};
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
async fn what_was_kept_for_the_encryption_of_a_deactivated_user_is_gone() {
    const BACKUPS: i32 = 0x0301;
    const BACKUP_KEYS: i32 = 0x0302;
    let url = TemporaryPostgres::shared().create_database().await;
    let server = node(&settings(&url));
    let alice = server.register("alice", PASSWORD).await;
    let bob = server.register("bob", PASSWORD).await;
    for caller in [&alice, &bob] {
        let description = json!({ "algorithm": "org.example.backup", "auth_data": {} });
        caller.post("/_matrix/client/v3/room_keys/version", &description).await.ok();
        let sessions = (0..1_500).map(|number| {
            (
                format!("session{number}"),
                json!({
            "first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": {
                "ephemeral": "ZXBo", "ciphertext": "Y2lw", "mac": "bWFj" } }),
            )
        });
        let body = json!({ "rooms": { "!room:localhost:8008": { "sessions":
            sessions.collect::<serde_json::Map<_, _>>() } } });
        caller.put("/_matrix/client/v3/room_keys/keys?version=1", &body).await.ok();
    }
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let rows = async |space: i32| -> i64 {
        let counted = client.query_one("SELECT count(*) FROM entente_rows WHERE space = $1", &[&space]).await;
        counted.unwrap().get(0)
    };
    assert_eq!((rows(BACKUPS).await, rows(BACKUP_KEYS).await), (2, 3_000));
    let path = "/_matrix/client/v3/account/deactivate";
    alice.prove_and(Method::POST, path, json!({}), "alice", PASSWORD).await.ok();
    // Whether the follower had begun or not: the next process goes on.
    let server = server.crash_and_restart();
    let gone = async {
        while (rows(BACKUPS).await, rows(BACKUP_KEYS).await) != (1, 1_500) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("alice's keys are gone, bob's are not");
    let bob = server.caller(bob.access_token.as_deref().unwrap());
    assert_eq!(bob.get("/_matrix/client/v3/room_keys/version").await.ok()["count"], 1_500);
    drop(client);
    connection.await.unwrap().unwrap();
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
