use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::StreamExt;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_acme::{AcmeConfig, axum::AxumAcceptor, caches::DirCache};

use super::ServerError;

/// An ACME authority (RFC 8555), and what to ask of it.
#[derive(Clone, Debug)]
pub struct Acme {
    /// The authority's directory.
    pub directory_url: String,
    /// The names to certify.
    pub domains: Vec<String>,
    /// `mailto:` addresses for the authority.
    pub contacts: Vec<String>,
    /// Where the account and the certificates are kept.
    pub cache_dir: PathBuf,
    /// Roots in PEM form that are trusted when speaking to the authority, besides the usual ones.
    pub ca_file: Option<PathBuf>,
}

/// Obtains and renews certificates for as long as the process lives, and accepts connections with them. The authority's
/// challenges (TLS-ALPN-01) are answered on the same port.
pub(super) fn acceptor(acme: Acme) -> Result<AxumAcceptor, ServerError> {
    let mut config = AcmeConfig::new(acme.domains)
        .contact(acme.contacts)
        .cache(DirCache::new(acme.cache_dir))
        .directory(acme.directory_url);
    if let Some(ca_file) = &acme.ca_file {
        config = config.client_tls_config(Arc::new(trusting(ca_file)?));
    }
    let mut state = config.state();
    let mut tls = state.default_rustls_config().as_ref().clone();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = state.axum_acceptor(Arc::new(tls));
    tokio::spawn(async move {
        while let Some(event) = state.next().await {
            match event {
                Ok(event) => tracing::info!(?event, "certificate"),
                Err(error) => tracing::error!(%error, "no new certificate; another attempt follows"),
            }
        }
    });
    Ok(acceptor)
}

fn trusting(ca_file: &Path) -> Result<ClientConfig, ServerError> {
    let refused = |reason: String| ServerError::Roots { ca_file: ca_file.to_owned(), reason };
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let certificates = CertificateDer::pem_file_iter(ca_file).map_err(|error| refused(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        roots.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
