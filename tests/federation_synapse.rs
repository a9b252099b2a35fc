//! Federation with Synapse, in both directions and in rooms of several versions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use entente_tests::{Answer, Authority, SOON, User, bodies, free_port, fresh_id, segment};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running Synapse. Killed when it is dropped.
struct Synapse {
    child: Child,
    base_url: String,
    _directory: TempDir,
}

impl Drop for Synapse {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Synapse {
    async fn start(authority: &Authority) -> Self {
        let directory = TempDir::new().unwrap();
        authority.write_certificate(directory.path());
        let (port, federation) = (free_port(), free_port());
        let at = |file: &str| directory.path().join(file).to_str().unwrap().to_owned();
        let unlimited = json!({ "per_second": 1_000_000, "burst_count": 1_000_000 });
        // YAML takes JSON for what it is.
        let settings = json!({
            "server_name": format!("localhost:{federation}"),
            "public_baseurl": format!("http://127.0.0.1:{port}/"),
            "pid_file": at("pid"), "signing_key_path": at("signing.key"), "media_store_path": at("media"),
            "database": { "name": "sqlite3", "args": { "database": at("homeserver.db") } },
            "listeners": [
                { "port": port, "bind_addresses": ["127.0.0.1"], "type": "http", "tls": false, "resources": [{ "names": ["client"] }] },
                { "port": federation, "bind_addresses": ["127.0.0.1"], "type": "http", "tls": true, "resources": [{ "names": ["federation"] }] },
            ],
            "tls_certificate_path": at("certificate.pem"), "tls_private_key_path": at("key.pem"),
            "federation_custom_ca_list": [authority.ca_file()],
            "federation_ip_range_blacklist": [], "ip_range_blacklist": [], "trusted_key_servers": [],
            "report_stats": false, "macaroon_secret_key": "a", "form_secret": "a",
            "enable_registration": true, "enable_registration_without_verification": true, "bcrypt_rounds": 4,
            "rc_message": unlimited, "rc_registration": unlimited,
            "rc_joins": { "local": unlimited, "remote": unlimited },
            "rc_invites": { "per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited },
        });
        std::fs::write(directory.path().join("homeserver.yaml"), settings.to_string()).unwrap();
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("synapse/.venv/bin/python");
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new(python)
            .args(["-m", "synapse.app.homeserver", "--generate-keys", "-c", &at("homeserver.yaml")])
            .status();
        assert!(child.unwrap().success(), "Synapse cannot make its keys; tests/run installs it");
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("synapse/.venv/bin/python");
        let child = Command::new(python)
            .args(["-m", "synapse.app.homeserver", "-c", &at("homeserver.yaml")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let synapse = Self { child, base_url: format!("http://127.0.0.1:{port}"), _directory: directory };
        let is_up = async || {
            let answer = reqwest::get(format!("{}/_matrix/client/versions", synapse.base_url)).await;
            answer.is_ok().then_some(())
        };
        soon("Synapse comes up", is_up).await;
        synapse
    }
}

/// Waits until something is so.
async fn soon<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(2 * SOON, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what}: it does not happen"))
}

async fn read(user: &User, room: &str) -> Vec<String> {
    let page = user.get(&User::in_room(room, "messages?dir=b&limit=100")).await;
    if page.status != 200 {
        return Vec::new();
    }
    let mut read: Vec<String> = bodies(&page.body["chunk"]).into_iter().rev().map(str::to_owned).collect();
    // What both said at the same time stands in either order.
    read.sort();
    read
}

async fn both_read(users: [&User; 2], room: &str, expected: &[&str]) {
    for user in users {
        let what = format!("{} reads {expected:?} in {room}", user.id);
        soon(&what, async || (read(user, room).await == expected).then_some(())).await;
    }
}

async fn join_via(user: &User, room: &str, through: &User) {
    let server = segment(through.id.split_once(':').unwrap().1);
    // The older name of the parameter is the one that all servers know.
    let path = format!("/_matrix/client/v3/join/{}?server_name={server}&via={server}", segment(room));
    let joined = user.post(&path, &json!({})).await.ok();
    assert_eq!(joined["room_id"], room);
}

/// One of them makes a room, the other comes in; they talk, and something is taken back.
async fn share_a_room(host: &User, guest: &User, version: &str) {
    let room = host
        .create_room(json!({ "preset": "public_chat", "room_version": version, "name": "Conseil" }))
        .await;
    host.say(&room, "a before").await;
    join_via(guest, &room, host).await;
    host.say(&room, "b from the host").await;
    guest.say(&room, "c from the guest").await;
    both_read([host, guest], &room, &["a before", "b from the host", "c from the guest"]).await;
    let slip = guest.say(&room, "d a slip").await;
    soon("the slip", async || read(host, &room).await.contains(&"d a slip".to_owned()).then_some(())).await;
    guest
        .put(&User::in_room(&room, &format!("redact/{}/{}", segment(&slip), fresh_id())), &json!({}))
        .await
        .ok();
    both_read([host, guest], &room, &["a before", "b from the host", "c from the guest"]).await;
    host.set_state(&room, "m.room.topic", "", json!({ "topic": "Budget" })).await.ok();
    let has_topic = async || {
        let topic = guest.state(&room, "m.room.topic", "").await;
        (topic.body["topic"] == "Budget").then_some(())
    };
    soon("the topic", has_topic).await;
    host.post(&User::in_room(&room, "kick"), &json!({ "user_id": guest.id })).await.ok();
    let is_out = async || {
        let joined = guest.get("/_matrix/client/v3/joined_rooms").await.ok();
        (!joined["joined_rooms"].as_array().unwrap().contains(&json!(room))).then_some(())
    };
    soon("the kick", is_out).await;
}

/// One invites the other into a closed room.
async fn invite(host: &User, guest: &User, version: &str) {
    let room =
        host.create_room(json!({ "room_version": version, "name": "Cabinet", "invite": [guest.id] })).await;
    let mut timeout = 0;
    let invited = async || {
        // Synapse answers the same request of a client that begins with what it answered before, for two minutes.
        timeout += 1;
        let sync = guest.sync(&[("timeout", &timeout.to_string())]).await;
        sync["rooms"]["invite"].get(&room).cloned()
    };
    let invite = soon("the invite", invited).await;
    let told: &Vec<Value> = invite["invite_state"]["events"].as_array().unwrap();
    assert!(told.iter().any(|event| event["content"]["name"] == "Cabinet"), "{told:?}");
    guest.join(&room).await.ok();
    guest.say(&room, "a present").await;
    both_read([host, guest], &room, &["a present"]).await;
    guest.membership(&room, "leave", json!({})).await.ok();
    let has_left = async || {
        let member = host.state(&room, "m.room.member", &guest.id).await;
        (member.body["membership"] == "leave").then_some(())
    };
    soon("the leave", has_left).await;
}

/// What one uploads the other downloads, as it was.
async fn exchange_a_file(from: &User, to: &User) {
    let text = "a file of some length\n".repeat(20_000);
    let upload = from
        .request(Method::POST, "/_matrix/media/v3/upload?filename=a.txt")
        .header("Content-Type", "text/plain")
        .body(text.clone());
    let uri = Answer::to(upload).await.ok()["content_uri"].as_str().unwrap().to_owned();
    let path = format!("/_matrix/client/v1/media/download/{}", uri.strip_prefix("mxc://").unwrap());
    let got = to.get(&path).await;
    assert!(got.header("content-type").starts_with("text/plain"));
    assert!(got.header("content-disposition").contains("a.txt"));
    assert_eq!(got.ok().as_str(), Some(text.as_str()));
}

#[tokio::test]
async fn users_of_synapse_and_ours_share_rooms() {
    let authority = Authority::new();
    let (server, synapse) = (authority.server(&[]), Synapse::start(&authority).await);
    let ours = User::register(&server, "alice").await;
    let theirs = User::register_at(&synapse.base_url, "bob").await;

    let profile = |user: &User| format!("/_matrix/client/v3/profile/{}", segment(&user.id));
    let name = json!({ "displayname": "Alice" });
    ours.put(&format!("{}/displayname", profile(&ours)), &name).await.ok();
    assert_eq!(theirs.get(&profile(&ours)).await.ok()["displayname"], "Alice");
    assert_eq!(ours.get(&profile(&theirs)).await.ok()["displayname"], "bob");

    exchange_a_file(&ours, &theirs).await;
    exchange_a_file(&theirs, &ours).await;

    for version in ["6", "9", "10", "11", "12"] {
        share_a_room(&ours, &theirs, version).await;
        share_a_room(&theirs, &ours, version).await;
    }
    for version in ["10", "12"] {
        invite(&ours, &theirs, version).await;
        invite(&theirs, &ours, version).await;
    }

    // The list of public rooms, and an alias.
    let body = json!({ "visibility": "public", "name": "Place", "room_alias_name": "place" });
    let place = ours.create_room(body).await;
    let our_name = ours.id.split_once(':').unwrap().1;
    let list = theirs
        .post(&format!("/_matrix/client/v3/publicRooms?server={}", segment(our_name)), &json!({}))
        .await
        .ok();
    assert_eq!(list["chunk"][0]["room_id"], place);
    let alias = segment(&format!("#place:{our_name}"));
    let found = theirs.get(&format!("/_matrix/client/v3/directory/room/{alias}")).await.ok();
    assert_eq!(found["room_id"], place);
}
