//! Serving on sockets: several listeners, IPv4 and IPv6, plain or with TLS, and an end that finishes what was accepted.

mod acme;
mod begun;
mod connections;
mod turn;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use axum::{Extension, Router};
use axum_server::{
    Handle,
    accept::DefaultAcceptor,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use entente_turn::TurnServer;
use hyper_util::rt::TokioTimer;
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;

pub use self::{acme::Acme, connections::ConnectionSettings};
use self::{connections::Places, turn::Divert};
use crate::{ApiState, Resource, layers::TrustedProxies};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;
/// Certificate files are looked at again this often.
const CERTIFICATE_CHECK_EVERY: Duration = Duration::from_secs(60 * 60);

/// Where to listen, and how.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The address; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What is served there.
    pub serves: Vec<Resource>,
    /// Proxies that are believed when they name the client.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether TURN is served there, too, if this server serves it.
    pub turn: bool,
    /// How connections are encrypted; `None`: not at all, for loopback and for proxies that do it.
    pub tls: Option<Tls>,
}

/// Where a listener's certificate comes from.
#[derive(Clone, Debug)]
pub enum Tls {
    /// PEM files, read again when they change.
    Files {
        /// The certificate and those that lead from it to a root.
        certificate: PathBuf,
        /// Its private key.
        private_key: PathBuf,
    },
    /// An ACME authority, asked by TLS-ALPN-01 on this very listener.
    Acme(Acme),
}

/// Why serving did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use the certificate {certificate}: {source}")]
    Certificate {
        /// Which.
        certificate: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The roots for speaking to the ACME authority cannot be used.
    #[error("cannot use the roots in {ca_file}: {reason}")]
    Roots {
        /// The file.
        ca_file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A listener ended although nobody asked it to.
    #[error("a listener ended: {0}")]
    Ended(io::Error),
}

/// Listeners that serve.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    handle: Handle<SocketAddr>,
    tasks: JoinSet<io::Result<()>>,
}

impl Server {
    /// Binds all listeners, then serves on them. If one cannot be bound, none serves.
    pub async fn start(
        listeners: Vec<Listener>,
        state: &ApiState,
        settings: ConnectionSettings,
    ) -> Result<Self, ServerError> {
        let mut bound = Vec::new();
        for listener in listeners {
            let address = listener.address;
            let bind_error = |source| ServerError::Bind { address, source };
            let socket = bind(address).map_err(bind_error)?;
            bound.push((socket.local_addr().map_err(bind_error)?, socket, listener));
        }
        let addresses = bound.iter().map(|(address, ..)| *address).collect();
        let mut server = Self { addresses, handle: Handle::new(), tasks: JoinSet::new() };
        let places = Places::new(settings);
        for (address, socket, listener) in bound {
            let router = crate::router(state.clone(), &listener.serves)
                .layer(Extension(TrustedProxies::from(listener.trusted_proxies)));
            let turn = state.turn_server.clone().filter(|_| listener.turn);
            server.serve(address, socket, listener.tls, router, &places, turn).await?;
        }
        Ok(server)
    }

    /// Serves one router in plain HTTP, such as the metrics.
    pub async fn start_plain(
        address: SocketAddr,
        router: Router,
        settings: ConnectionSettings,
    ) -> Result<Self, ServerError> {
        let bind_error = |source| ServerError::Bind { address, source };
        let socket = bind(address).map_err(bind_error)?;
        let address = socket.local_addr().map_err(bind_error)?;
        let mut server = Self { addresses: vec![address], handle: Handle::new(), tasks: JoinSet::new() };
        server.serve(address, socket, None, router, &Places::new(settings), None).await?;
        Ok(server)
    }

    async fn serve(
        &mut self,
        address: SocketAddr,
        socket: TcpListener,
        tls: Option<Tls>,
        router: Router,
        places: &Places,
        turn: Option<TurnServer>,
    ) -> Result<(), ServerError> {
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let mut server = axum_server::from_tcp(socket)
            .map_err(|source| ServerError::Bind { address, source })?
            .handle(self.handle.clone());
        let settings = places.settings();
        server
            .http_builder()
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_buf_size(settings.max_header_size);
        let max_header_list = u32::try_from(settings.max_header_size).unwrap_or(u32::MAX);
        server.http_builder().http2().timer(TokioTimer::new()).max_header_list_size(max_header_list);
        match tls {
            None => {
                let acceptor = Divert { inner: DefaultAcceptor::new(), turn };
                self.tasks.spawn(server.acceptor(places.admit(acceptor)).serve(service));
            }
            Some(Tls::Files { certificate, private_key }) => {
                let config = RustlsConfig::from_pem_file(&certificate, &private_key).await;
                let config = config.map_err(|source| ServerError::Certificate {
                    certificate: certificate.clone(),
                    source,
                })?;
                tokio::spawn(reload(config.clone(), certificate, private_key));
                let acceptor = Divert { inner: RustlsAcceptor::new(config), turn };
                self.tasks.spawn(server.acceptor(places.admit(acceptor)).serve(service));
            }
            Some(Tls::Acme(acme)) => {
                let acceptor = Divert { inner: acme::acceptor(acme)?, turn };
                self.tasks.spawn(server.acceptor(places.admit(acceptor)).serve(service));
            }
        }
        Ok(())
    }

    /// Where it listens, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Accepts nothing more, finishes what was accepted within `grace`, and then ends.
    pub async fn stop(mut self, grace: Duration) {
        self.handle.graceful_shutdown(Some(grace));
        while self.tasks.join_next().await.is_some() {}
    }

    /// Waits until a listener ends by itself, which it should not.
    pub async fn failed(&mut self) -> ServerError {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => ServerError::Ended(error),
            Some(Err(error)) => ServerError::Ended(io::Error::other(error)),
            Some(Ok(Ok(()))) | None => ServerError::Ended(io::Error::other("without a reason")),
        }
    }
}

/// An IPv6 listener takes no IPv4 connections, so that both families can have the same port.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Reads the certificate again every hour and at SIGHUP, for as long as the process lives: renewal programs replace files.
async fn reload(config: RustlsConfig, certificate: PathBuf, private_key: PathBuf) {
    let Ok(mut hangups) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) else {
        tracing::error!("SIGHUP cannot be watched; certificates are read again every hour only");
        return;
    };
    loop {
        tokio::select! {
            _ = hangups.recv() => {}
            () = tokio::time::sleep(CERTIFICATE_CHECK_EVERY) => {}
        }
        match config.reload_from_pem_file(&certificate, &private_key).await {
            Ok(()) => tracing::info!(certificate = %certificate.display(), "certificate read again"),
            Err(error) => {
                tracing::error!(%error, certificate = %certificate.display(), "certificate kept as it was");
            }
        }
    }
}
