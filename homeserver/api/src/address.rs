use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, request::Parts};
use ipnet::IpNet;

/// Where a request comes from: a request extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

impl ClientAddress {
    /// The address of a request; `None` for one that came over no network.
    pub(crate) fn of(parts: &Parts) -> Option<IpAddr> {
        parts.extensions.get::<Self>().map(|address| address.0)
    }
}

/// The client's address: the peer's, unless that is a trusted proxy; then the last address in `X-Forwarded-For` that is no
/// trusted proxy itself. What stands before it was said by somebody whom nobody vouches for.
pub(crate) fn client_address(peer: SocketAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted_proxies.iter().any(|range| range.contains(&address));
    let mut address = peer.ip().to_canonical();
    if !is_trusted(address) {
        return address;
    }
    let forwarded: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    for hop in forwarded.iter().flat_map(|value| value.split(',')).rev() {
        let Some(hop) = parse_hop(hop.trim()) else { break };
        address = hop;
        if !is_trusted(address) {
            break;
        }
    }
    address
}

fn parse_hop(hop: &str) -> Option<IpAddr> {
    let address = hop.parse::<IpAddr>().or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// What limits are counted by: an IPv4 address, or the /64 of an IPv6 address, which is what one subscriber has.
pub(crate) fn address_key(address: Option<IpAddr>) -> String {
    match address {
        None => String::new(),
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => {
            let prefix = u128::from(address) & !u128::from(u64::MAX);
            format!("{}/64", Ipv6Addr::from(prefix))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn seen(peer: &str, forwarded: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        let trusted = ["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_speak_for_others() {
        assert_eq!(seen("203.0.113.9:1", &["198.51.100.7"]), "203.0.113.9");
        assert_eq!(seen("127.0.0.1:1", &[]), "127.0.0.1");
        assert_eq!(seen("127.0.0.1:1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("127.0.0.1:1", &["6.6.6.6, 198.51.100.7, 10.0.0.3"]), "198.51.100.7");
        assert_eq!(seen("127.0.0.1:1", &["6.6.6.6", "198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("[::ffff:127.0.0.1]:1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(seen("127.0.0.1:1", &["nonsense"]), "127.0.0.1");
    }

    #[test]
    fn an_ipv6_subscriber_is_a_64() {
        let key = |address: &str| address_key(Some(address.parse().unwrap()));
        assert_eq!(key("2001:db8:1:2:aaaa::1"), key("2001:db8:1:2:bbbb::2"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
