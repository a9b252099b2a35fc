use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ruma::ServerName;

/// Who answers at an address: what its certificate is made out to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name, in lower case.
    Name(String),
    /// A literal address.
    Address(IpAddr),
}

/// Host and, perhaps, port: what stands in the `Host` header, and from which follows where to connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Who answers.
    pub host: Host,
    /// On which port, if that was said.
    pub port: Option<u16>,
}

impl Authority {
    /// Reads `host` or `host:port`; `None` if it is not in the grammar of server names (S-S API, "Server Names").
    pub fn parse(text: &str) -> Option<Self> {
        let name = <&ServerName>::try_from(text).ok()?;
        let (host, port) = split_port(name.as_str());
        let port = match port {
            Some(port) => Some(port.parse::<u16>().ok().filter(|&port| port != 0)?),
            None => None,
        };
        let host = if let Some(address) = host.strip_prefix('[') {
            Host::Address(address.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into())
        } else if let Ok(address) = host.parse::<Ipv4Addr>() {
            Host::Address(address.into())
        } else if is_dns_name(host) {
            Host::Name(host.to_ascii_lowercase())
        } else {
            return None;
        };
        Some(Self { host, port })
    }
}

fn split_port(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (name, None),
    }
}

/// The grammar lets through what no resolver and no URL takes, such as "300.1.2.3" or "a..b".
fn is_dns_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let labels_are_sound = host.split('.').all(|label| (1..=63).contains(&label.len()));
    let last_is_number =
        host.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    labels_are_sound && !last_is_number
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(formatter),
            Self::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]"),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(formatter)?;
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_back() {
        for text in
            ["example.org", "example.org:8448", "1.2.3.4", "1.2.3.4:80", "[2001:db8::1]", "[::1]:8448"]
        {
            assert_eq!(Authority::parse(text).map(|authority| authority.to_string()).as_deref(), Some(text));
        }
        assert_eq!(
            Authority::parse("EXAMPLE.org").map(|parsed| parsed.to_string()).as_deref(),
            Some("example.org")
        );
    }

    #[test]
    fn what_cannot_be_reached_is_no_authority() {
        let long = format!("{}.example", "a".repeat(64));
        for text in [
            "",
            "300.1.2.3",
            "a..b",
            "example.org:0",
            "example.org:99999",
            "http://example.org",
            "a b",
            "[::g]",
            &long,
        ] {
            assert_eq!(Authority::parse(text), None, "{text}");
        }
    }
}
