//! Synapse, which `tests/run` installs.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Authority, SOON, free_port};

/// A running Synapse. Killed when it is dropped.
pub struct Synapse {
    child: Child,
    directory: TempDir,
    /// Where clients find it.
    pub base_url: String,
    /// Its name: `localhost:port`.
    pub name: String,
}

impl Drop for Synapse {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Synapse {
    /// A fresh one.
    pub async fn start(authority: &Authority) -> Self {
        let port = free_port();
        Self::start_at(authority, port, port).await
    }

    /// The same that others find at one port and that listens at another one.
    pub async fn start_at(authority: &Authority, known_port: u16, federation: u16) -> Self {
        let directory = TempDir::new().unwrap();
        authority.write_certificate(directory.path());
        let port = free_port();
        let at = |file: &str| directory.path().join(file).to_str().unwrap().to_owned();
        let unlimited = json!({ "per_second": 1_000_000, "burst_count": 1_000_000 });
        let name = format!("localhost:{known_port}");
        // YAML takes JSON for what it is.
        let settings = json!({
            "server_name": name,
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
            "app_service_config_files": [authority.crowd_file()],
            "report_stats": false, "macaroon_secret_key": "a", "form_secret": "a",
            "enable_registration": true, "enable_registration_without_verification": true, "bcrypt_rounds": 4,
            "rc_message": unlimited, "rc_registration": unlimited,
            "rc_login": { "address": unlimited, "account": unlimited, "failed_attempts": unlimited },
            "rc_joins": { "local": unlimited, "remote": unlimited }, "rc_joins_per_room": unlimited,
            "rc_room_creation": unlimited, "rc_user_directory": unlimited, "rc_profile": unlimited, "rc_key_requests": unlimited,
            "rc_invites": { "per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited },
            "rc_federation": { "window_size": 1_000, "sleep_limit": 1_000_000, "sleep_delay": 1, "reject_limit": 1_000_000, "concurrent": 100 },
            // It asks again soon: what is away in a test comes back within seconds.
            "federation": {
                "max_short_retries": 1, "max_long_retries": 1, "max_short_retry_delay": "1s", "max_long_retry_delay": "1s",
                "destination_min_retry_interval": "1s", "destination_retry_multiplier": 1, "destination_max_retry_interval": "1s",
            },
        });
        std::fs::write(directory.path().join("homeserver.yaml"), settings.to_string()).unwrap();
        let made = synapse(directory.path()).arg("--generate-keys").status();
        assert!(made.unwrap().success(), "Synapse cannot make its keys; tests/run installs it");
        let child = spawn(directory.path());
        let started = Self { child, directory, base_url: format!("http://127.0.0.1:{port}"), name };
        started.wait_until_up().await;
        started
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after it was killed.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.directory.path());
        self.wait_until_up().await;
    }

    /// Its process.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    async fn wait_until_up(&self) {
        let up = tokio::time::timeout(4 * SOON, async {
            let versions = format!("{}/_matrix/client/versions", self.base_url);
            while reqwest::get(&versions).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        assert!(up.await.is_ok(), "Synapse does not come up\n{}", log());
    }
}

fn synapse(directory: &Path) -> Command {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("synapse/.venv/bin/python");
    let mut command = Command::new(python);
    command.args(["-m", "synapse.app.homeserver", "-c"]).arg(directory.join("homeserver.yaml"));
    command
}

fn spawn(directory: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
    synapse(directory).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// The registration of an application service whose users fill rooms, at any homeserver. Its token is `as-crowd`.
pub(crate) fn write_crowd(directory: &Path) -> PathBuf {
    let registration: Value = json!({
        "id": "crowd", "url": null, "as_token": "as-crowd", "hs_token": "hs-crowd", "sender_localpart": "crowdbot",
        "rate_limited": false,
        "namespaces": { "users": [{ "exclusive": true, "regex": "@crowd_.*" }], "aliases": [], "rooms": [] },
    });
    let file = directory.join("crowd.yaml");
    std::fs::write(&file, registration.to_string()).unwrap();
    file
}
