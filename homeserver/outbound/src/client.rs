use std::{sync::Arc, time::Duration};

use reqwest::{Client, redirect};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::GuardedResolver;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// What it calls itself.
    pub user_agent: String,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a request may take as a whole.
    pub request_timeout: Duration,
    /// How many idle connections to one host are kept.
    pub idle_connections: usize,
}

/// A client that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS.
    #[error("TLS for requests to other servers: {0}")]
    Tls(String),
    /// The rest.
    #[error("requests to other servers: {0}")]
    Client(#[from] reqwest::Error),
}

/// TLS that trusts the roots of public certificate authorities and the certificates in `further_roots` (PEM).
pub fn public_tls(further_roots: &[u8]) -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for certificate in CertificateDer::pem_slice_iter(further_roots) {
        let certificate = certificate.map_err(|error| ClientError::Tls(error.to_string()))?;
        roots.add(certificate).map_err(|error| ClientError::Tls(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Tls(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A client that connects only where the resolver lets it. It follows no redirects, uses no proxy, keeps no cookies, and
/// names no page that it came from. Host names only: an address in a URL is not resolved, so check URLs with
/// [`crate::UrlPolicy`] before.
pub fn client(
    settings: &ClientSettings,
    resolver: GuardedResolver,
    tls: ClientConfig,
) -> Result<Client, ClientError> {
    let client = Client::builder()
        .user_agent(&settings.user_agent)
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.request_timeout)
        .pool_max_idle_per_host(settings.idle_connections)
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .http1_only()
        .dns_resolver(Arc::new(resolver))
        .tls_backend_preconfigured(tls)
        .build()?;
    Ok(client)
}
