//! `[federation]`: which other servers this one speaks to.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::is_private_address;
use crate::{
    validation::Contradictions,
    values::{ServerName, ServerNamePattern},
};

/// Which other servers this one speaks to, and how it is found by them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether other servers may be at addresses that are not of the public internet ([`is_private_address`]).
    pub allow_private_addresses: bool,
    /// Further addresses at which nothing is ever contacted.
    pub denied_address_ranges: Vec<IpNet>,
    /// Certificates, in PEM form, of roots to trust when speaking to other servers, besides the usual ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
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

    /// Whether a connection may be made to this address; to be asked after each name resolution and each redirect.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        // An IPv4 address in IPv6 clothes is held against the IPv4 ranges.
        let canonical = address.to_canonical();
        let is_denied = self
            .denied_address_ranges
            .iter()
            .any(|range| range.contains(&canonical) || range.contains(&address));
        !is_denied && (self.allow_private_addresses || !is_private_address(address))
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
    }
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
    fn private_and_denied_addresses_are_not_contacted() {
        let allows = |federation: &Federation, text: &str| {
            federation.allows_address(text.parse().expect("an address"))
        };
        let mut federation = Federation {
            denied_address_ranges: vec!["10.9.0.0/16".parse().expect("a range")],
            ..Federation::default()
        };
        assert!(allows(&federation, "9.9.9.9"));
        assert!(!allows(&federation, "10.1.2.3"));
        federation.allow_private_addresses = true;
        assert!(allows(&federation, "10.1.2.3"));
        assert!(!allows(&federation, "10.9.2.3"));
        assert!(!allows(&federation, "::ffff:10.9.2.3"));
    }
}
