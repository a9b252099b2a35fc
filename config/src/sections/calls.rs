//! `[calls]`: voice and video.

use std::{
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{validation::Contradictions, values::Secret};

/// Who forwards the media of calls, and how clients reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Calls {
    /// Whether clients are offered a way to hold calls; absent: as [`crate::Config::holds_calls`] says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What forwards the media.
    pub sfu: Sfu,
    /// The UDP port of all media; for `embedded`.
    pub udp_port: NonZeroU16,
    /// The TCP port of media, for clients that cannot send datagrams; absent: there is none. For `embedded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_port: Option<NonZeroU16>,
    /// The addresses of this machine at which clients reach it; for `embedded`.
    pub addresses: Vec<IpAddr>,
    /// What clients are told instead of the address of its family; for `embedded`, behind one-to-one NAT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_ip: Option<IpAddr>,
    /// Threads that forward media; absent: as many as there are processors. For `embedded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<NonZeroU32>,
    /// What users of other servers may do in calls that are held here.
    pub remote_users: RemoteUsers,
    /// Where clients reach the LiveKit server; for `livekit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub livekit_url: Option<Url>,
    /// The name of the key that signs tokens.
    pub api_key: String,
    /// Its secret; absent: for `embedded` a random one, which is kept in [`crate::Config::calls_secret_path`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_secret: Option<Secret>,
    /// Where it is told what happens in calls; for `embedded`.
    pub webhooks: Vec<Url>,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            enabled: None,
            sfu: Sfu::default(),
            udp_port: NonZeroU16::new(7_882).expect("a constant above zero"),
            tcp_port: None,
            addresses: Vec::new(),
            external_ip: None,
            workers: None,
            remote_users: RemoteUsers::default(),
            livekit_url: None,
            api_key: "entente".to_owned(),
            api_secret: None,
            webhooks: Vec::new(),
        }
    }
}

/// What forwards the media of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sfu {
    /// This program.
    #[default]
    Embedded,
    /// A LiveKit server.
    Livekit,
}

/// What users of other servers may do in calls that are held here, if they are in the room and it lets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteUsers {
    /// Nothing.
    Refused,
    /// Receive media. They send theirs through their own server.
    #[default]
    Subscribe,
    /// Send media as well.
    Publish,
}

/// Shorter secrets can be guessed.
const MINIMUM_SECRET_BYTES: usize = 32;

impl Calls {
    /// Looks for contradictions; `addresses` are those at which calls are reached.
    pub(crate) fn check(&self, addresses: &[IpAddr], found: &mut Contradictions) {
        if self.api_key.is_empty() {
            found.add(&["calls.api_key"], "tokens name the key that signs them; it can't be empty");
        }
        if self.api_secret.as_ref().is_some_and(|secret| secret.reveal().len() < MINIMUM_SECRET_BYTES) {
            let message = format!("at least {MINIMUM_SECRET_BYTES} bytes are needed");
            found.add(&["calls.api_secret"], message);
        }
        if self.livekit_url.as_ref().is_some_and(|url| !matches!(url.scheme(), "ws" | "wss")) {
            found.add(&["calls.livekit_url"], "a ws or wss address is needed");
        }
        for (index, url) in self.webhooks.iter().enumerate() {
            if !matches!(url.scheme(), "http" | "https") {
                found.add(&[&format!("calls.webhooks.{index}")], "an http or https address is needed");
            }
        }
        if self.enabled == Some(true) {
            self.check_enabled(addresses, found);
        }
    }

    fn check_enabled(&self, addresses: &[IpAddr], found: &mut Contradictions) {
        match self.sfu {
            Sfu::Embedded if addresses.is_empty() => {
                found
                    .add(&["calls.enabled", "calls.addresses"], "clients must be told an address to send to");
            }
            Sfu::Embedded => {
                let of_family = |ip: &IpAddr| addresses.iter().any(|other| other.is_ipv4() == ip.is_ipv4());
                if self.external_ip.as_ref().is_some_and(|ip| !of_family(ip)) {
                    let message = "no address of this family is in calls.addresses";
                    found.add(&["calls.external_ip", "calls.addresses"], message);
                }
            }
            Sfu::Livekit => {
                let given = [
                    ("calls.livekit_url", self.livekit_url.is_some()),
                    ("calls.api_secret", self.api_secret.is_some()),
                ];
                for (setting, _) in given.into_iter().filter(|(_, is_given)| !is_given) {
                    found.add(&["calls.sfu", setting], format!("the sfu \"livekit\" needs {setting}"));
                }
            }
        }
    }
}

impl crate::Config {
    /// The file of the secret that signs tokens for calls, unless the settings say another: `calls-secret` in the data directory.
    pub fn calls_secret_path(&self) -> PathBuf {
        self.data_dir.join("calls-secret")
    }
}
