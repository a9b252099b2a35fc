//! Servers that federate on loopback addresses, over TLS.

use std::{
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use crate::{Server, Settings, synapse};

/// A port that is free, below those that the system gives to whoever asks for any. No other caller in this process gets it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 1_000).unwrap() * 10;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A certificate authority that all servers of a test trust.
pub struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        synapse::write_crowd(directory.path());
        Self { directory, issuer: Issuer::new(parameters, key) }
    }

    /// The file with its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The registration of an application service, with the token `as-crowd`, for users `@crowd_…` who fill rooms.
    pub fn crowd_file(&self) -> PathBuf {
        self.directory.path().join("crowd.yaml")
    }

    /// Speaks to servers with its certificates.
    pub fn client(&self) -> reqwest::Client {
        self.client_from(Ipv4Addr::LOCALHOST)
    }

    /// The same from another loopback address.
    pub fn client_from(&self, address: Ipv4Addr) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(&std::fs::read(self.ca_file()).unwrap()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        client.local_address(IpAddr::from(address)).build().unwrap()
    }

    /// Writes `certificate.pem` and `key.pem` for `localhost` into a directory.
    pub fn write_certificate(&self, directory: &Path) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "localhost");
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(directory.join("certificate.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    }

    /// A server that others find under `localhost` and a port. The first listener is for clients.
    #[must_use]
    pub fn server(&self, more: Settings<'_>) -> Server {
        self.server_at(free_port(), more)
    }

    /// The same at a port that others know already.
    #[must_use]
    pub fn server_at(&self, port: u16, more: Settings<'_>) -> Server {
        let directory = TempDir::new().unwrap();
        self.write_certificate(directory.path());
        let listeners = format!(
            r#"[{{ address = "127.0.0.1:0", serves = ["client"] }},
                {{ address = "127.0.0.1:{port}", serves = ["federation"],
                   tls = {{ certificate_file = "certificate.pem", private_key_file = "key.pem" }} }}]"#
        );
        let name = format!("localhost:{port}");
        let ca_file = self.ca_file();
        let settings = [
            ("ENTENTE_SERVER_NAME", name.as_str()),
            ("ENTENTE_LISTENERS", &listeners),
            ("ENTENTE_FEDERATION__CA_FILE", ca_file.to_str().unwrap()),
            ("ENTENTE_FEDERATION__ALLOW_PRIVATE_ADDRESSES", "true"),
            ("ENTENTE_REGISTRATION__OPEN", "true"),
            ("ENTENTE_RATE_LIMITS__ENABLED", "false"),
            ("ENTENTE_ACCOUNTS__ARGON2__MEMORY_KIB", "64"),
            ("ENTENTE_ACCOUNTS__ARGON2__ITERATIONS", "1"),
        ];
        Server::start(directory, &[&settings, more].concat())
    }
}

impl Server {
    /// Its name, by which other servers know it.
    pub fn name(&self) -> String {
        let settings = self.command(&[]);
        let mut found = settings.get_envs().filter(|(key, _)| *key == "ENTENTE_SERVER_NAME");
        found.next().unwrap().1.unwrap().to_str().unwrap().to_owned()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
