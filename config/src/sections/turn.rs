//! `[turn]`: how calls reach clients that the network shuts in.

use std::{
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    validation::Contradictions,
    values::{ByteSize, Secret, TimeSpan},
};

/// Whether this server relays media itself (STUN and TURN), and which servers clients are told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Turn {
    /// Whether it does, at `calls.addresses`.
    pub enabled: bool,
    /// The UDP and TCP port on which it does.
    pub port: NonZeroU16,
    /// Whether it does so on the ports of listeners with TLS, too, besides HTTP.
    pub on_tls_listeners: bool,
    /// The first of the UDP ports through which media is relayed.
    pub first_relay_port: NonZeroU16,
    /// The last of them.
    pub last_relay_port: NonZeroU16,
    /// What clients are told; empty: the addresses of this server, if `enabled`.
    pub uris: Vec<String>,
    /// From which credentials follow; absent: a random one, which is kept in [`crate::Config::turn_secret_path`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// How long credentials let in.
    pub lifetime: TimeSpan,
    /// Clients at a time.
    pub max_clients: NonZeroU32,
    /// Relayed addresses of one user at a time.
    pub max_allocations_per_user: NonZeroU32,
    /// What is relayed for one client in a second, in bytes, both ways together.
    pub max_bytes_per_second: ByteSize,
    /// Addresses that are relayed to although they are not of the public internet.
    pub allowed_address_ranges: Vec<IpNet>,
    /// Addresses that are never relayed to.
    pub denied_address_ranges: Vec<IpNet>,
}

impl Default for Turn {
    fn default() -> Self {
        let port = |port| NonZeroU16::new(port).expect("a constant above zero");
        let count = |count| NonZeroU32::new(count).expect("a constant above zero");
        Self {
            enabled: false,
            port: port(3_478),
            on_tls_listeners: true,
            first_relay_port: port(49_152),
            last_relay_port: port(65_535),
            uris: Vec::new(),
            secret: None,
            lifetime: TimeSpan::days(1),
            max_clients: count(4_096),
            max_allocations_per_user: count(32),
            max_bytes_per_second: ByteSize::mebibytes(4),
            allowed_address_ranges: Vec::new(),
            denied_address_ranges: Vec::new(),
        }
    }
}

/// Shorter secrets can be guessed: whoever has a name and a password can try them at leisure.
const MINIMUM_SECRET_BYTES: usize = 32;

impl crate::Config {
    /// The file of the secret from which credentials of TURN follow, unless the settings say another: `turn-secret` in the data directory.
    pub fn turn_secret_path(&self) -> PathBuf {
        self.data_dir.join("turn-secret")
    }

    pub(crate) fn check_turn(&self, found: &mut Contradictions) {
        let turn = &self.turn;
        found.refuse_zero_spans(&[("turn.lifetime", Some(turn.lifetime))]);
        if turn.secret.as_ref().is_some_and(|secret| secret.reveal().len() < MINIMUM_SECRET_BYTES) {
            found.add(&["turn.secret"], format!("at least {MINIMUM_SECRET_BYTES} bytes are needed"));
        }
        let schemes = ["stun:", "stuns:", "turn:", "turns:"];
        for (index, uri) in turn.uris.iter().enumerate() {
            if !schemes.iter().any(|scheme| uri.len() > scheme.len() && uri.starts_with(scheme)) {
                found.add(
                    &[&format!("turn.uris.{index}")],
                    "expected a stun:, stuns:, turn: or turns: address",
                );
            }
        }
        if turn.first_relay_port > turn.last_relay_port {
            let settings = ["turn.first_relay_port", "turn.last_relay_port"];
            found.add(&settings, "there is no port from the first to the last");
        }
        if !turn.enabled {
            if !turn.uris.is_empty() && turn.secret.is_none() {
                found.add(&["turn.secret", "turn.uris"], "servers elsewhere need the secret that they know");
            }
            return;
        }
        if self.calls.addresses.is_empty() {
            found.add(
                &["turn.enabled", "calls.addresses"],
                "media is relayed from calls.addresses; there are none",
            );
        }
        if self.holds_calls() && turn.port == self.calls.udp_port {
            found.add(&["turn.port", "calls.udp_port"], "two things cannot be served on one UDP port");
        }
        if self.holds_calls() && self.calls.tcp_port == Some(turn.port) {
            found.add(&["turn.port", "calls.tcp_port"], "two things cannot be served on one TCP port");
        }
        let relay_ports = turn.first_relay_port..=turn.last_relay_port;
        for (setting, port) in [("turn.port", turn.port), ("calls.udp_port", self.calls.udp_port)] {
            if relay_ports.contains(&port) {
                let settings = [setting, "turn.first_relay_port", "turn.last_relay_port"];
                found.add(&settings, "media is relayed through this port");
            }
        }
    }
}
