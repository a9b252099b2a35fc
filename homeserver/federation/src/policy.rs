use std::{net::IpAddr, sync::Arc};

use entente_config::{FederationPeer, Rate};
use entente_outbound::AddressPolicy;
use ruma::{OwnedServerName, ServerName};

use crate::FederationError;

/// With whom this server speaks. Asked on every path before anything else happens: who is refused causes no packet.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    own_name: OwnedServerName,
    settings: entente_config::Federation,
    /// Where servers may be that are not at private addresses, and where the others may.
    public: AddressPolicy,
    private: AddressPolicy,
}

impl Policy {
    /// The policy of the server `own_name`.
    pub fn new(own_name: OwnedServerName, settings: entente_config::Federation) -> Self {
        let denied = settings.denied_address_ranges.iter().copied();
        let public = AddressPolicy::public_internet().denying(denied);
        let private = public.clone().with_private_addresses(true);
        Self { inner: Arc::new(Inner { own_name, settings, public, private }) }
    }

    /// This server's name.
    pub fn own_name(&self) -> &ServerName {
        &self.inner.own_name
    }

    /// Whether `server` is this server: names are the same in either case of letters.
    pub fn is_own(&self, server: &ServerName) -> bool {
        self.inner.own_name.as_str().eq_ignore_ascii_case(server.as_str())
    }

    /// Refuses requests to `server`.
    pub fn check_outbound(&self, server: &ServerName) -> Result<(), FederationError> {
        if self.is_own(server) {
            return Err(FederationError::OwnServer);
        }
        let admits = |peer: &FederationPeer| peer.direction.admits_outbound();
        self.check(server, self.peer(server).is_none_or(admits))
    }

    /// Refuses requests from `server`. Nobody else has this server's name.
    pub fn check_inbound(&self, server: &ServerName) -> Result<(), FederationError> {
        let admits = |peer: &FederationPeer| peer.direction.admits_inbound();
        self.check(server, !self.is_own(server) && self.peer(server).is_none_or(admits))
    }

    /// Refuses what comes from `server` by others' hands, such as its signing keys by a notary.
    pub fn check_either(&self, server: &ServerName) -> Result<(), FederationError> {
        self.check(server, !self.is_own(server))
    }

    fn check(&self, server: &ServerName, is_admitted: bool) -> Result<(), FederationError> {
        if is_admitted && self.inner.settings.allows(server.as_str()) {
            Ok(())
        } else {
            Err(FederationError::Refused(server.to_owned()))
        }
    }

    /// Host and port where the operator says that `server` is.
    pub fn address_of(&self, server: &ServerName) -> Option<&str> {
        self.peer(server)?.address.as_ref().map(entente_config::ServerName::as_str)
    }

    /// Whether `server` may be at a private address.
    pub fn may_be_private(&self, server: &ServerName) -> bool {
        let of_peer = self.peer(server).and_then(|peer| peer.allow_private_addresses);
        of_peer.unwrap_or(self.inner.settings.allow_private_addresses)
    }

    /// Whether a connection may be made to `address` for a server that may or may not be at a private one. To be asked for
    /// every address, after names were resolved.
    pub fn allows_address(&self, address: IpAddr, private: bool) -> bool {
        let addresses = if private { &self.inner.private } else { &self.inner.public };
        addresses.allows(address)
    }

    /// How often `server` may ask, if the operator says so for it.
    pub fn requests_of(&self, server: &ServerName) -> Option<Rate> {
        self.peer(server)?.requests
    }

    /// The only keys with which `server` signs, if the operator says so: by their ids.
    pub(crate) fn signing_keys_of(&self, server: &ServerName) -> Option<Vec<(&str, &str)>> {
        self.peer(server)?.pinned_keys()
    }

    fn peer(&self, server: &ServerName) -> Option<&FederationPeer> {
        self.inner.settings.peer(server.as_str())
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn policy(settings: &str) -> Policy {
        let config = entente_config::Config::parse(settings, "test", []).expect("settings");
        Policy::new(server_name!("here.example").to_owned(), config.federation)
    }

    fn directions(policy: &Policy, name: &str) -> (bool, bool) {
        let name = <&ServerName>::try_from(name).expect("a name");
        (policy.check_inbound(name).is_ok(), policy.check_outbound(name).is_ok())
    }

    #[test]
    fn open_closed_and_disabled() {
        let open = policy("[federation]\ndeny = [\"*.evil.example\"]");
        assert_eq!(directions(&open, "a.example"), (true, true));
        assert_eq!(directions(&open, "x.evil.example:8448"), (false, false));
        let closed = policy(
            "[federation]\npolicy = \"closed\"\nallow = [\"*.gov.example\"]\ndeny = [\"mad.gov.example\"]",
        );
        assert_eq!(directions(&closed, "a.gov.example"), (true, true));
        assert_eq!(directions(&closed, "a.example"), (false, false));
        assert_eq!(directions(&closed, "mad.gov.example"), (false, false));
        let disabled = policy("[federation]\npolicy = \"disabled\"");
        assert_eq!(directions(&disabled, "a.example"), (false, false));
    }

    #[test]
    fn peers_have_directions_but_no_way_around_the_lists() {
        let policy = policy(
            "[federation]\npolicy = \"closed\"\nallow = [\"in.example\", \"out.example\"]\n\
             [[federation.peers]]\nserver = \"in.example\"\ndirection = \"inbound\"\n\
             [[federation.peers]]\nserver = \"out.example\"\ndirection = \"outbound\"\n\
             [[federation.peers]]\nserver = \"other.example\"\ndirection = \"both\"\n",
        );
        assert_eq!(directions(&policy, "in.example"), (true, false));
        assert_eq!(directions(&policy, "out.example"), (false, true));
        assert_eq!(directions(&policy, "other.example"), (false, false));
    }

    #[test]
    fn nobody_else_is_this_server() {
        let policy = policy("");
        for name in ["here.example", "HERE.example"] {
            let name = <&ServerName>::try_from(name).unwrap();
            assert!(matches!(policy.check_outbound(name), Err(FederationError::OwnServer)));
            assert!(matches!(policy.check_inbound(name), Err(FederationError::Refused(_))));
        }
    }

    #[test]
    fn private_addresses_are_for_those_who_may() {
        let policy = policy(
            "[federation]\ndenied_address_ranges = [\"10.9.0.0/16\"]\n\
             [[federation.peers]]\nserver = \"near.example\"\nallow_private_addresses = true\naddress = \"10.1.2.3:8448\"\n",
        );
        let near = server_name!("near.example");
        assert!(policy.may_be_private(near));
        assert!(!policy.may_be_private(server_name!("far.example")));
        assert_eq!(policy.address_of(near), Some("10.1.2.3:8448"));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(policy.allows_address(address("10.1.2.3"), true));
        assert!(!policy.allows_address(address("10.9.2.3"), true), "denied ranges are denied to all");
        assert!(!policy.allows_address(address("10.1.2.3"), false));
        assert!(policy.allows_address(address("9.9.9.9"), false));
    }
}
