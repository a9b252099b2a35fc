use std::{net::IpAddr, sync::Arc};

use url::{Host, Url};

use crate::AddressPolicy;

/// Which URLs are asked: `http` and `https`, certain ports, no credentials, no address that is denied.
#[derive(Clone, Debug)]
pub struct UrlPolicy {
    addresses: Arc<AddressPolicy>,
    ports: Vec<u16>,
}

/// Why a URL is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefused {
    /// Another scheme.
    #[error("only http and https are asked")]
    Scheme,
    /// A user or a password in the URL.
    #[error("a URL with a user or a password is not asked")]
    Credentials,
    /// No host.
    #[error("the URL names no host")]
    NoHost,
    /// Another port.
    #[error("port {0} is not asked")]
    Port(u16),
    /// The URL names an address that is denied.
    #[error("this server does not contact addresses there")]
    Address,
}

impl UrlPolicy {
    /// The ports of http and https, and these.
    pub fn new(addresses: Arc<AddressPolicy>, further_ports: &[u16]) -> Self {
        Self { addresses, ports: [&[80, 443], further_ports].concat() }
    }

    /// The policy for addresses.
    pub fn addresses(&self) -> &Arc<AddressPolicy> {
        &self.addresses
    }

    /// Whether the URL may be asked, as far as it can be told without resolving names.
    pub fn check(&self, url: &Url) -> Result<(), UrlRefused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlRefused::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlRefused::Credentials);
        }
        let port = url.port_or_known_default().ok_or(UrlRefused::Scheme)?;
        if !self.ports.contains(&port) {
            return Err(UrlRefused::Port(port));
        }
        // The URL standard has turned 0x7f.1, 2130706433 and the like into addresses already.
        let address = match url.host().ok_or(UrlRefused::NoHost)? {
            Host::Domain("") => return Err(UrlRefused::NoHost),
            Host::Domain(_) => return Ok(()),
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
        };
        if self.addresses.allows(address) { Ok(()) } else { Err(UrlRefused::Address) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), UrlRefused> {
        let policy = UrlPolicy::new(Arc::new(AddressPolicy::public_internet()), &[8080]);
        policy.check(&Url::parse(text).expect("a URL"))
    }

    #[test]
    fn what_is_asked() {
        for text in ["http://example.org/", "https://example.org:8080/a?b", "https://9.9.9.9/"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_not() {
        for (text, refused) in [
            ("ftp://example.org/", UrlRefused::Scheme),
            ("file:///etc/passwd", UrlRefused::Scheme),
            ("data:text/html,x", UrlRefused::Scheme),
            ("http://me@example.org/", UrlRefused::Credentials),
            ("http://:pass@example.org/", UrlRefused::Credentials),
            ("http://example.org:22/", UrlRefused::Port(22)),
            ("http://127.0.0.1/", UrlRefused::Address),
            ("http://2130706433/", UrlRefused::Address),
            ("http://0x7f.1/", UrlRefused::Address),
            ("http://0177.0.0.1/", UrlRefused::Address),
            ("http://[::1]/", UrlRefused::Address),
            ("http://[::ffff:127.0.0.1]/", UrlRefused::Address),
            ("http://[64:ff9b::10.0.0.1]/", UrlRefused::Address),
            ("http://169.254.169.254/latest/meta-data/", UrlRefused::Address),
        ] {
            assert_eq!(check(text), Err(refused), "{text}");
        }
    }
}
