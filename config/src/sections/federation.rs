//! `[federation]`: which other servers this one speaks to.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Rate;
use crate::{
    validation::Contradictions,
    values::{ServerName, ServerNamePattern, TimeSpan},
};

/// Which other servers this one speaks to, and how it is found by them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Federation {
    /// The rule for servers that are in neither list.
    pub policy: FederationPolicy,
    /// The servers spoken to under the policy `closed`.
    pub allow: Vec<ServerNamePattern>,
    /// The servers never spoken to, whatever the policy.
    pub deny: Vec<ServerNamePattern>,
    /// Host and port that `/.well-known/matrix/server` announces; absent: those of the public base URL. Read it through
    /// [`crate::Config::federation_address`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_address: Option<ServerName>,
    /// Whether other servers may be at addresses that are not of the public internet.
    pub allow_private_addresses: bool,
    /// Further addresses at which nothing is ever contacted.
    pub denied_address_ranges: Vec<IpNet>,
    /// Certificates, in PEM form, of roots to trust when speaking to other servers, besides the usual ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long another server may take to answer a request.
    pub request_timeout: TimeSpan,
    /// Servers that are asked for the keys of those that cannot be asked themselves. None by default: they learn who is spoken
    /// to.
    pub key_notaries: Vec<ServerName>,
    /// What holds of single servers; of several rules for one server the first counts.
    pub peers: Vec<FederationPeer>,
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            policy: FederationPolicy::default(),
            allow: Vec::new(),
            deny: Vec::new(),
            public_address: None,
            allow_private_addresses: false,
            denied_address_ranges: Vec::new(),
            ca_file: None,
            request_timeout: TimeSpan::seconds(60),
            key_notaries: Vec::new(),
            peers: Vec::new(),
        }
    }
}

/// What holds of the servers that a pattern matches. Gives nobody access whom the policy refuses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FederationPeer {
    /// Which servers.
    pub server: ServerNamePattern,
    /// Who may ask whom.
    #[serde(default)]
    pub direction: FederationDirection,
    /// Host and port where the server is reached, whatever its `/.well-known/matrix/server` and its DNS records say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<ServerName>,
    /// Whether the server may be at a private address; absent: as `allow_private_addresses` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_private_addresses: Option<bool>,
    /// How often the server may ask; absent: as `rate_limits.requests_by_server` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Rate>,
    /// The only keys with which the server signs, each as its id and the key in base64 (`"ed25519:a_key XGX0…"`); absent: those that
    /// it publishes. Read them through [`FederationPeer::pinned_keys`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_keys: Option<Vec<String>>,
}

impl FederationPeer {
    /// The keys with which the server signs, if only these are to count: ids and base64.
    pub fn pinned_keys(&self) -> Option<Vec<(&str, &str)>> {
        let keys = self.signing_keys.as_ref()?;
        Some(keys.iter().filter_map(|key| key.split_once(' ')).collect())
    }
}

/// Who of two servers may ask the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FederationDirection {
    /// Either.
    #[default]
    Both,
    /// Only the other server this one.
    Inbound,
    /// Only this server the other.
    Outbound,
}

impl FederationDirection {
    /// Whether the other server may ask this one.
    pub fn admits_inbound(self) -> bool {
        self != Self::Outbound
    }

    /// Whether this server may ask the other.
    pub fn admits_outbound(self) -> bool {
        self != Self::Inbound
    }
}

/// The rule for servers that are in neither list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FederationPolicy {
    /// Speak to every server that is not denied.
    #[default]
    Open,
    /// Speak only to servers that are allowed and not denied.
    Closed,
    /// Speak to no server.
    Disabled,
}

impl Federation {
    /// Whether the policy lets this server speak to the one of that name, in either direction.
    pub fn allows(&self, server_name: &str) -> bool {
        let is_in = |list: &[ServerNamePattern]| list.iter().any(|pattern| pattern.matches(server_name));
        let is_admitted = match self.policy {
            FederationPolicy::Open => true,
            FederationPolicy::Closed => is_in(&self.allow),
            FederationPolicy::Disabled => false,
        };
        is_admitted && !is_in(&self.deny)
    }

    /// What holds of this server in particular.
    pub fn peer(&self, server_name: &str) -> Option<&FederationPeer> {
        self.peers.iter().find(|peer| peer.server.matches(server_name))
    }

    pub(crate) fn check(&self, found: &mut Contradictions) {
        if !self.allow.is_empty() {
            match self.policy {
                FederationPolicy::Closed => {}
                FederationPolicy::Open => found.add(
                    &["federation.allow", "federation.policy"],
                    "under federation.policy = \"open\" every server is allowed; \
                     set it to \"closed\" to speak only to these, or remove the list",
                ),
                FederationPolicy::Disabled => found.add(
                    &["federation.allow", "federation.policy"],
                    "under federation.policy = \"disabled\" no server is spoken to; \
                     set it to \"closed\" to speak only to these, or remove the list",
                ),
            }
        }
        for (index, pattern) in self.allow.iter().enumerate() {
            if self.deny.contains(pattern) {
                let key = format!("federation.allow.{index}");
                found.add(&[&key, "federation.deny"], format!("\"{pattern}\" is in federation.deny as well"));
            }
        }
        for (index, peer) in self.peers.iter().enumerate() {
            let is_key = |key: &String| {
                let (key_id, public_key) = key.split_once(' ').unwrap_or_default();
                key_id.strip_prefix("ed25519:").is_some_and(|name| !name.is_empty())
                    && is_public_key(public_key)
            };
            if let Some(bad) = peer.signing_keys.iter().flatten().find(|key| !is_key(key)) {
                let key = format!("federation.peers.{index}.signing_keys");
                let problem =
                    "is no Ed25519 key: \"ed25519:\" and its name, a space, 43 characters of base64";
                found.add(&[&key], format!("\"{bad}\" {problem}"));
            }
        }
        found.refuse_zero_spans(&[("federation.request_timeout", Some(self.request_timeout))]);
    }
}

/// Whether a text is 32 bytes in base64, padded or not.
fn is_public_key(text: &str) -> bool {
    let text = text.strip_suffix('=').unwrap_or(text);
    text.len() == 43 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<ServerNamePattern> {
        texts.iter().map(|text| text.parse().expect("a pattern")).collect()
    }

    #[test]
    fn the_policy_decides_who_is_spoken_to() {
        let open = Federation { deny: patterns(&["*.evil.example"]), ..Federation::default() };
        assert!(open.allows("example.org"));
        assert!(!open.allows("very.evil.example:8448"));

        let closed = Federation { policy: FederationPolicy::Closed, ..open };
        assert!(!closed.allows("example.org"));
        let closed = Federation { allow: patterns(&["*.example"]), ..closed };
        assert!(closed.allows("town.example"));
        assert!(!closed.allows("very.evil.example"));
        assert!(!closed.allows("example.org"));

        let disabled = Federation { policy: FederationPolicy::Disabled, ..Federation::default() };
        assert!(!disabled.allows("example.org"));
    }

    #[test]
    fn the_first_rule_for_a_server_counts() {
        let peer = |server: &str, direction| FederationPeer {
            server: server.parse().expect("a pattern"),
            direction,
            address: None,
            allow_private_addresses: None,
            requests: None,
            signing_keys: None,
        };
        let peers = vec![
            peer("a.example", FederationDirection::Inbound),
            peer("*.example", FederationDirection::Outbound),
        ];
        let federation = Federation { peers, ..Federation::default() };
        let direction = |name: &str| federation.peer(name).map(|peer| peer.direction);
        assert_eq!(direction("a.example:8448"), Some(FederationDirection::Inbound));
        assert_eq!(direction("b.example"), Some(FederationDirection::Outbound));
        assert_eq!(direction("example.org"), None);
    }
}
