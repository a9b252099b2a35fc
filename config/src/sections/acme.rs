//! `[acme]`: certificates from an authority.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    Config, Tls,
    validation::Contradictions,
    values::{DomainName, EmailAddress},
};

/// How certificates are obtained for listeners with `tls = { acme = true }` (RFC 8555). Nothing is asked of the authority
/// unless a listener wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acme {
    /// The authority's directory.
    pub directory_url: Url,
    /// Whether the operator agrees to the authority's terms of service; no certificate without.
    pub terms_of_service_agreed: bool,
    /// Where the authority can write about expiring certificates.
    pub contact_emails: Vec<EmailAddress>,
    /// The names for which certificates are asked; empty: the host of the public base URL. Read it through
    /// [`Config::acme_domains`].
    pub domains: Vec<DomainName>,
    /// Where account key and certificates are kept; absent: `acme` in the data directory. Read it through
    /// [`Config::acme_cache_dir`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// Certificates, in PEM form, of roots to trust when speaking to the directory, besides the usual ones: for authorities
    /// of an organisation's own, and for tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            directory_url: Url::parse("https://acme-v02.api.letsencrypt.org/directory")
                .expect("a constant URL"),
            terms_of_service_agreed: false,
            contact_emails: Vec::new(),
            domains: Vec::new(),
            cache_dir: None,
            ca_file: None,
        }
    }
}

pub(crate) fn check(config: &Config, found: &mut Contradictions) {
    if config.acme.directory_url.scheme() != "https" {
        found.add(&["acme.directory_url"], "an authority is spoken to over https only");
    }
    let wanting = config.listeners.iter().position(|listener| listener.tls == Some(Tls::Acme));
    let Some(index) = wanting else { return };
    let wanted_by = format!("listeners.{index}.tls");
    if !config.acme.terms_of_service_agreed {
        let message =
            "no certificate is issued before acme.terms_of_service_agreed = true: read the authority's terms";
        found.add(&[&wanted_by, "acme.terms_of_service_agreed"], message);
    }
    if config.acme_domains().is_empty() {
        let message = "acme.domains is needed: the host of the public base URL is not a domain name";
        found.add(&[&wanted_by, "acme.domains", "public_base_url", "server_name"], message);
    }
}
