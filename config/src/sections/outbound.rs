//! `[outbound]`: the way that requests to other servers take.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{validation::Contradictions, values::Secret};

/// The way of requests to other servers, push gateways, identity servers and pages that are previewed. What is of the operator's
/// own network (application services, internal gateways, media stores, databases) is always reached directly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outbound {
    /// The proxy through which they go: `http://host:port` or `socks5://host:port`; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Url>,
    /// The user that the proxy knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_username: Option<String>,
    /// That user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_password: Option<Secret>,
    /// Whether the proxy looks names up. If not, the server does, and tells the proxy addresses that it has found to be allowed.
    pub proxy_resolves_names: bool,
    /// Addresses that are reached without the proxy.
    pub direct_address_ranges: Vec<IpNet>,
}

impl Outbound {
    pub(crate) fn check(&self, found: &mut Contradictions) {
        let Some(proxy) = &self.proxy else {
            let of_proxy = [
                ("outbound.proxy_username", self.proxy_username.is_some()),
                ("outbound.proxy_password", self.proxy_password.is_some()),
            ];
            for (setting, _) in of_proxy.iter().filter(|(_, is_set)| *is_set) {
                found.add(&[setting], "it is for a proxy, and outbound.proxy names none");
            }
            return;
        };
        if !proxy.username().is_empty() || proxy.password().is_some() {
            found.add(&["outbound.proxy"], "the user and the password have settings of their own");
        }
        let is_plain = matches!(proxy.path(), "" | "/") && proxy.query().is_none();
        if !matches!(proxy.scheme(), "http" | "socks5") || self.proxy_address().is_none() || !is_plain {
            found.add(&["outbound.proxy"], "expected http://host:port or socks5://host:port");
        }
        if self.proxy_username.is_some() != self.proxy_password.is_some() {
            found.add(&["outbound.proxy_username"], "a user needs a password, and a password a user");
        }
        let longest = self.proxy_username.iter().map(String::len);
        let longest = longest.chain(self.proxy_password.iter().map(|password| password.reveal().len())).max();
        if proxy.scheme() == "socks5" && longest.is_some_and(|longest| longest > 255) {
            found.add(&["outbound.proxy_username"], "SOCKS5 takes at most 255 bytes");
        }
    }

    /// Host and port of the proxy, as in a URL.
    pub fn proxy_address(&self) -> Option<String> {
        let proxy = self.proxy.as_ref()?;
        let default = if proxy.scheme() == "socks5" { 1080 } else { 80 };
        Some(format!("{}:{}", proxy.host_str()?, proxy.port().unwrap_or(default)))
    }
}
