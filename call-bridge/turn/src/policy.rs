use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

use ipnet::IpNet;
use parking_lot::RwLock;

use crate::RelayAddress;

/// The peers that are relayed to. A relay must not be a way into the network that the server is in.
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    /// The port of this server's own media, on its own addresses.
    pub media_port: Option<u16>,
    /// Ranges that are relayed to although they are private.
    pub allowed: Vec<IpNet>,
    /// Ranges that are never relayed to.
    pub denied: Vec<IpNet>,
    /// Whether an address is not of the public internet.
    pub is_private: fn(IpAddr) -> bool,
}

/// [`PeerPolicy`], and what it needs to know of this server.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    pub(crate) policy: PeerPolicy,
    pub(crate) own: Vec<RelayAddress>,
    pub(crate) relay_ports: RangeInclusive<u16>,
    pub(crate) relays: Relays,
}

/// The relayed addresses there are, as others know them: a port among those for relays can be another program's. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relays(Arc<RwLock<HashSet<SocketAddr>>>);

/// A relayed address that is among them until this is dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    relays: Relays,
    address: SocketAddr,
}

impl Relays {
    pub(crate) fn list(&self, address: SocketAddr) -> Listed {
        self.0.write().insert(address);
        Listed { relays: self.clone(), address }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.relays.0.write().remove(&self.address);
    }
}

impl Peers {
    /// Whether anything behind an address may be relayed to.
    pub(crate) fn may_be_at(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_in = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
        if self.is_own(address) {
            return true;
        }
        !is_in(&self.policy.denied) && (is_in(&self.policy.allowed) || !(self.policy.is_private)(address))
    }

    /// Whether a peer may be relayed to: on the server's own addresses only its media and other relays.
    pub(crate) fn may_be(&self, peer: SocketAddr) -> bool {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if self.is_own(peer.ip()) {
            return Some(peer.port()) == self.policy.media_port
                || self.relays.0.read().contains(&self.seen_from_outside(peer));
        }
        self.may_be_at(peer.ip())
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own.iter().any(|own| own.local == address || own.advertised == address)
    }

    /// Where a peer is as seen from this machine: behind one-to-one NAT it does not reach itself at what it tells others.
    pub(crate) fn seen_from_here(&self, peer: SocketAddr) -> SocketAddr {
        let own = self.own.iter().find(|own| own.advertised == peer.ip() && !own.local.is_unspecified());
        own.map_or(peer, |own| SocketAddr::new(own.local, peer.port()))
    }

    /// The inverse of [`Self::seen_from_here`].
    pub(crate) fn seen_from_outside(&self, peer: SocketAddr) -> SocketAddr {
        let own = self.own.iter().find(|own| own.local == peer.ip());
        own.map_or(peer, |own| SocketAddr::new(own.advertised, peer.port()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn peers() -> Peers {
        Peers {
            policy: PeerPolicy {
                media_port: Some(7_882),
                allowed: vec!["10.1.0.0/16".parse().unwrap()],
                denied: vec!["10.1.2.0/24".parse().unwrap(), "198.51.100.0/24".parse().unwrap()],
                is_private: |address| match address {
                    IpAddr::V4(address) => address.is_private() || address.is_loopback(),
                    IpAddr::V6(address) => address.is_loopback(),
                },
            },
            own: vec![RelayAddress {
                local: "192.168.0.2".parse().unwrap(),
                advertised: "203.0.113.7".parse().unwrap(),
            }],
            relay_ports: 50_000..=50_100,
            relays: Relays::default(),
        }
    }

    #[test]
    fn a_relay_is_no_way_into_the_network() {
        let peers = peers();
        let listed = peers.relays.list("203.0.113.7:50100".parse().unwrap());
        let may = |peer: &str| peers.may_be(peer.parse().unwrap());
        assert!(may("192.0.2.1:5000"));
        assert!(may("10.1.0.1:5000"), "allowed");
        assert!(!may("10.1.2.1:5000"), "denied in what is allowed");
        assert!(!may("198.51.100.1:5000"), "denied");
        assert!(!may("10.2.0.1:5000"), "private");
        assert!(!may("127.0.0.1:5000"), "loopback");
        assert!(!may("[::ffff:127.0.0.1]:5000"), "loopback in other words");
        for own in ["203.0.113.7", "192.168.0.2"] {
            assert!(may(&format!("{own}:7882")), "media");
            assert!(may(&format!("{own}:50100")), "another relay");
            assert!(!may(&format!("{own}:8008")), "what else runs here");
            assert!(!may(&format!("{own}:50099")), "what else runs here, where relays might be");
        }
        drop(listed);
        assert!(!may("203.0.113.7:50100"), "no relay any more");
        assert!(!peers.may_be_at("10.2.0.1".parse().unwrap()));
        assert!(peers.may_be_at("203.0.113.7".parse().unwrap()));
    }

    #[test]
    fn behind_nat_the_server_reaches_itself() {
        let peers = peers();
        let (outside, inside): (SocketAddr, SocketAddr) =
            ("203.0.113.7:7882".parse().unwrap(), "192.168.0.2:7882".parse().unwrap());
        assert_eq!(peers.seen_from_here(outside), inside);
        assert_eq!(peers.seen_from_outside(inside), outside);
        let other = "192.0.2.1:1".parse().unwrap();
        assert_eq!((peers.seen_from_here(other), peers.seen_from_outside(other)), (other, other));
    }
}
