//! `[[listeners]]`: the addresses on which the server is reached.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{validation::Contradictions, values::InvalidValue};

/// One address on which HTTP is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Address and port; `0.0.0.0` and `[::]` stand for every address of their family.
    pub address: SocketAddr,
    /// What is served here. Health checks and `/.well-known/matrix/` are served on every listener.
    #[serde(default = "every_resource")]
    pub serves: Vec<Resource>,
    /// The proxies that may say in `X-Forwarded-For` where a request came from; from others the header is ignored.
    #[serde(default)]
    pub trusted_proxies: Vec<IpNet>,
    /// Where the certificate comes from; absent: plain HTTP, for use behind a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Listener {
    /// A listener for plain HTTP that serves everything and trusts no proxy.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, serves: every_resource(), trusted_proxies: Vec::new(), tls: None }
    }

    /// Whether this listener serves the resource.
    pub fn serves(&self, resource: Resource) -> bool {
        self.serves.contains(&resource)
    }
}

/// A part of the server's HTTP interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// The client-server API, OAuth pages and media for clients.
    Client,
    /// The server-server API, keys and media for other servers.
    Federation,
}

/// Where a listener's certificate comes from. Written as `{ certificate_file = "…", private_key_file = "…" }` or
/// `{ acme = true }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TlsSettings", into = "TlsSettings")]
pub enum Tls {
    /// From files, in PEM form.
    Files {
        /// The certificate, followed by those that lead to its root.
        certificate_file: PathBuf,
        /// The certificate's private key.
        private_key_file: PathBuf,
    },
    /// From the authority of the `[acme]` section.
    Acme,
}

/// [`Tls`] as it is written.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct TlsSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key_file: Option<PathBuf>,
    acme: bool,
}

impl TryFrom<TlsSettings> for Tls {
    type Error = InvalidValue;

    fn try_from(settings: TlsSettings) -> Result<Self, Self::Error> {
        match settings {
            TlsSettings { certificate_file: None, private_key_file: None, acme: true } => Ok(Self::Acme),
            TlsSettings {
                certificate_file: Some(certificate_file),
                private_key_file: Some(private_key_file),
                acme: false,
            } => Ok(Self::Files { certificate_file, private_key_file }),
            TlsSettings { acme: true, .. } => {
                Err(InvalidValue::new("a certificate comes either from files or from acme, not from both"))
            }
            TlsSettings { .. } => Err(InvalidValue::new(
                "certificate_file and private_key_file are needed, or else acme = true",
            )),
        }
    }
}

impl From<Tls> for TlsSettings {
    fn from(tls: Tls) -> Self {
        match tls {
            Tls::Files { certificate_file, private_key_file } => Self {
                certificate_file: Some(certificate_file),
                private_key_file: Some(private_key_file),
                acme: false,
            },
            Tls::Acme => Self { acme: true, ..Self::default() },
        }
    }
}

fn every_resource() -> Vec<Resource> {
    vec![Resource::Client, Resource::Federation]
}

/// Port 8008 on this machine only, in both families.
pub(crate) fn default_listeners() -> Vec<Listener> {
    vec![
        Listener::plain(SocketAddr::from((Ipv4Addr::LOCALHOST, 8008))),
        Listener::plain(SocketAddr::from((Ipv6Addr::LOCALHOST, 8008))),
    ]
}

pub(crate) fn check(listeners: &[Listener], found: &mut Contradictions) {
    if listeners.is_empty() {
        found.add(&["listeners"], "without a listener nobody can reach the server");
    }
    let mut addresses = BTreeSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        if listener.serves.is_empty() {
            found.add(&[&format!("listeners.{index}.serves")], "a listener that serves nothing is of no use");
        }
        // The system gives a port of its own to each listener that asks for port 0.
        if listener.address.port() != 0 && !addresses.insert(listener.address) {
            let key = format!("listeners.{index}.address");
            found.add(&[&key], format!("another listener already has {}", listener.address));
        }
    }
}
