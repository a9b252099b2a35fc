use std::net::IpAddr;

use ipnet::IpNet;

use crate::ranges;

/// At which addresses nothing is contacted. By default: everything that is not the public internet, namely the ranges for
/// special purposes of RFC 6890 (loopback, private, link-local, shared by carriers, documentation, benchmarks, reserved),
/// multicast, and IPv6 addresses that stand for such an IPv4 address (mapped, translated, NAT64) or are tunnels (6to4, Teredo).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    allows_private: bool,
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
}

impl AddressPolicy {
    /// The public internet only.
    pub fn public_internet() -> Self {
        Self::default()
    }

    /// Whether addresses that are not of the public internet are allowed as well.
    #[must_use]
    pub fn with_private_addresses(mut self, allowed: bool) -> Self {
        self.allows_private = allowed;
        self
    }

    /// Allows these ranges although they may not be of the public internet.
    #[must_use]
    pub fn allowing(mut self, ranges: impl IntoIterator<Item = IpNet>) -> Self {
        self.allowed.extend(ranges);
        self
    }

    /// Denies these ranges, whatever else allows them.
    #[must_use]
    pub fn denying(mut self, ranges: impl IntoIterator<Item = IpNet>) -> Self {
        self.denied.extend(ranges);
        self
    }

    /// Whether a connection may be made to this address. To be asked after each name resolution and each redirect.
    pub fn allows(&self, address: IpAddr) -> bool {
        if is_in(&self.denied, address) {
            return false;
        }
        self.allows_private || is_in(&self.allowed, address) || !ranges::is_private(address)
    }
}

/// An IPv4 address in IPv6 clothes is held against the ranges as both.
fn is_in(list: &[IpNet], address: IpAddr) -> bool {
    let canonical = address.to_canonical();
    let inner = ranges::v4_inside(address).map(IpAddr::V4);
    list.iter().any(|range| {
        range.contains(&address)
            || range.contains(&canonical)
            || inner.is_some_and(|inner| range.contains(&inner))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(policy: &AddressPolicy, text: &str) -> bool {
        policy.allows(text.parse().expect("an address"))
    }

    fn range(text: &str) -> IpNet {
        text.parse().expect("a range")
    }

    #[test]
    fn only_the_public_internet_by_default() {
        let policy = AddressPolicy::public_internet();
        assert!(allows(&policy, "9.9.9.9"));
        assert!(allows(&policy, "2606:4700::1111"));
        assert!(!allows(&policy, "10.1.2.3"));
        assert!(!allows(&policy, "::1"));
    }

    #[test]
    fn what_is_denied_outranks_what_is_allowed() {
        let policy = AddressPolicy::public_internet()
            .allowing([range("10.0.0.0/8"), range("fd00::/8")])
            .denying([range("10.9.0.0/16"), range("9.9.9.0/24")]);
        assert!(allows(&policy, "10.1.2.3"));
        assert!(allows(&policy, "fd12::1"));
        assert!(!allows(&policy, "192.168.1.1"));
        assert!(!allows(&policy, "9.9.9.9"));
        let all = policy.with_private_addresses(true);
        assert!(allows(&all, "192.168.1.1"));
        assert!(!allows(&all, "10.9.2.3"));
    }

    #[test]
    fn other_spellings_of_a_denied_address_are_denied() {
        let policy =
            AddressPolicy::public_internet().with_private_addresses(true).denying([range("10.9.0.0/16")]);
        assert!(!allows(&policy, "::ffff:10.9.2.3"));
        assert!(!allows(&policy, "64:ff9b::10.9.2.3"));
        assert!(!allows(&policy, "::ffff:0:10.9.2.3"));
        assert!(!allows(&policy, "2002:a09:203::1"), "6to4 carries the address behind its first 16 bits");
        assert!(!allows(&policy, "::10.9.2.3"));
        assert!(allows(&policy, "2002:a08:203::1"));
    }
}
