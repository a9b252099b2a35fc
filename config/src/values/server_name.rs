//! Names of Matrix servers.

use std::{fmt, net::Ipv4Addr, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Serialize};
use url::Url;

use super::InvalidValue;

/// The longest server name: it leaves room for a localpart in an identifier of 255 bytes.
const MAXIMUM_LENGTH: usize = 230;

/// The name of a Matrix server: a DNS name, an IPv4 address or an IPv6 address in brackets, and optionally a port
/// ([Matrix specification, server name](https://spec.matrix.org/latest/appendices/#server-name)).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerName(String);

impl ServerName {
    /// The whole name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its port; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        split_port(&self.0).0
    }

    /// The port, where the name has one.
    pub fn port(&self) -> Option<u16> {
        split_port(&self.0).1.and_then(|port| port.parse().ok())
    }

    /// The URL of this host and port.
    pub(crate) fn url(&self, scheme: &str) -> Url {
        let url = format!("{scheme}://{}/", self.0);
        Url::parse(&url).expect("the name was tried in a URL before it was accepted")
    }
}

/// `localhost:8008`: a server to try things with.
impl Default for ServerName {
    fn default() -> Self {
        Self("localhost:8008".to_owned())
    }
}

/// Splits at the colon before the port; the colons inside an IPv6 address's brackets don't count.
pub(crate) fn split_port(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (name, None),
    }
}

impl FromStr for ServerName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = split_port(text);
        // The public address may be derived from the name, so that a name no URL can hold (such as "300.1.2.3", a DNS name
        // by the letter of the grammar) is refused as well.
        let valid = text.len() <= MAXIMUM_LENGTH
            && is_host(host)
            && port.is_none_or(is_port)
            && Url::parse(&format!("https://{text}/")).is_ok();
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue::new(format!(
                "expected a server name such as \"example.org\", \"example.org:8448\" or \"[2001:db8::1]:8448\", found {text:?}"
            )))
        }
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    host.parse::<Ipv4Addr>().is_ok()
        || (!host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.'))
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

impl TryFrom<String> for ServerName {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> Self {
        name.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_the_specification() {
        for text in [
            "matrix.org",
            "matrix.org:8888",
            "1.2.3.4",
            "1.2.3.4:1234",
            "[1234:5678::abcd]",
            "[1234:5678::abcd]:5678",
            "localhost",
            "localhost:8008",
        ] {
            assert_eq!(text.parse::<ServerName>().map(String::from).as_deref(), Ok(text));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let long = format!("{}.org", "a".repeat(230));
        for text in [
            "",
            ":8008",
            "example.org:",
            "example.org:0",
            "example.org:65536",
            "example.org:+80",
            "example.org:http",
            "https://example.org",
            "example.org/",
            "exa mple.org",
            "exa_mple.org",
            "bücher.example",
            "2001:db8::1",
            "[2001:db8::1",
            "[2001:db8::g]",
            "[]",
            "300.1.2.3",
            &long,
        ] {
            assert!(text.parse::<ServerName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_a_host_and_maybe_a_port() {
        let parts = |text: &str| {
            let name: ServerName = text.parse().expect("a valid name");
            (name.host().to_owned(), name.port())
        };
        assert_eq!(parts("example.org"), ("example.org".to_owned(), None));
        assert_eq!(parts("example.org:8448"), ("example.org".to_owned(), Some(8448)));
        assert_eq!(parts("[::1]"), ("[::1]".to_owned(), None));
        assert_eq!(parts("[::1]:8448"), ("[::1]".to_owned(), Some(8448)));
    }

    #[test]
    fn the_default_is_valid() {
        assert_eq!(ServerName::default().as_str().parse(), Ok(ServerName::default()));
    }
}
