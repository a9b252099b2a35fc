//! `[[identity_servers]]`: who knows which user an address belongs to.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{config::Config, validation::Contradictions, values::ServerName};

/// A server that knows which users e-mail addresses and telephone numbers belong to (Identity Service API). It learns who invites
/// whom by these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentityServer {
    /// What clients call it.
    pub name: ServerName,
    /// Where it is, at a private address too; absent: `https://` and its name, on the public internet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
}

pub(crate) fn check(config: &Config, found: &mut Contradictions) {
    for (index, server) in config.identity_servers.iter().enumerate() {
        let is_base = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        if server.url.as_ref().is_some_and(|url| !is_base(url)) {
            let key = format!("identity_servers.{index}.url");
            found.add(&[&key], "an http or https address without a user or a query is needed");
        }
    }
}
