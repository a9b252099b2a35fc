//! Addresses that are not on the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Ranges for special purposes (<https://www.iana.org/assignments/iana-ipv4-special-registry>), multicast, reserved.
const PRIVATE_V4: [Ipv4Net; 15] = [
    // This network; private.
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    // Shared by carriers; loopback.
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    // Link-local, where clouds keep their metadata; private.
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    // Protocol assignments; documentation; the retired 6to4 relays.
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 88, 99, 0], 24),
    // Private; benchmarks.
    v4([192, 168, 0, 0], 16),
    v4([198, 18, 0, 0], 15),
    // Documentation.
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    // Multicast; reserved and broadcast.
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
];

/// Ranges for special purposes (<https://www.iana.org/assignments/iana-ipv6-special-registry>), multicast, retired.
const PRIVATE_V6: [Ipv6Net; 11] = [
    // Unspecified, loopback and the retired IPv4-compatible addresses.
    v6([0, 0, 0, 0], 96),
    // NAT64 inside a network; discard-only and its neighbour for dummies.
    v6([0x64, 0xff9b, 1, 0], 48),
    v6([0x100, 0, 0, 0], 63),
    // Protocol assignments, Teredo among them; documentation; 6to4; documentation again.
    v6([0x2001, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0], 32),
    v6([0x2002, 0, 0, 0], 16),
    v6([0x3fff, 0, 0, 0], 20),
    // Segment routing; unique local.
    v6([0x5f00, 0, 0, 0], 16),
    v6([0xfc00, 0, 0, 0], 7),
    // Link-local and the retired site-local; multicast.
    v6([0xfe80, 0, 0, 0], 9),
    v6([0xff00, 0, 0, 0], 8),
];

/// Ranges of which the last 32 bits are the IPv4 address that is reached: mapped, translated, NAT64.
const WITH_V4_INSIDE: [Ipv6Net; 3] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
    v6([0x64, 0xff9b, 0, 0], 96),
];

const fn v4([a, b, c, d]: [u8; 4], prefix_length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_length)
}

/// From the upper half of the address.
const fn v6([a, b, c, d]: [u16; 4], prefix_length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix_length)
}

/// 6to4: the IPv4 address stands behind the first 16 bits.
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0], 16);
/// The retired IPv4-compatible addresses: the IPv4 address stands at the end.
const COMPATIBLE: Ipv6Net = v6([0, 0, 0, 0], 96);

/// The IPv4 address for which an IPv6 address stands, if it does for one.
pub(crate) fn v4_inside(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let octets = address.octets();
    if SIX_TO_FOUR.contains(&address) {
        let [_, _, a, b, c, d, ..] = octets;
        return Some(Ipv4Addr::new(a, b, c, d));
    }
    let is_at_the_end =
        COMPATIBLE.contains(&address) || WITH_V4_INSIDE.iter().any(|range| range.contains(&address));
    let [.., a, b, c, d] = octets;
    is_at_the_end.then(|| Ipv4Addr::new(a, b, c, d))
}

/// Whether the address is not one of the public internet: loopback, private, link-local, shared, multicast, documentation,
/// reserved (RFC 6890), or an IPv6 address that stands for such an IPv4 address.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(v6) if WITH_V4_INSIDE.iter().any(|range| range.contains(&v6)) => {
            v4_inside(address).is_none_or(is_private_v4)
        }
        IpAddr::V6(address) => PRIVATE_V6.iter().any(|range| range.contains(&address)),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    PRIVATE_V4.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_private_text(text: &str) -> bool {
        is_private(text.parse().expect("an address"))
    }

    #[test]
    fn private_addresses() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.9",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.1.2.3",
            "::10.1.2.3",
            "::ffff:0:10.1.2.3",
            "64:ff9b::10.1.2.3",
            "64:ff9b:1::1",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:a01:203::1",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(is_private_text(text), "{text}");
        }
    }

    #[test]
    fn public_addresses() {
        for text in [
            "1.1.1.1",
            "9.9.9.9",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:9.9.9.9",
            "64:ff9b::9.9.9.9",
            "2001:200::1",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(!is_private_text(text), "{text}");
        }
    }
}
