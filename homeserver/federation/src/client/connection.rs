//! Connections to other servers: where an authority leads, at addresses that the policy lets through, over TLS.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use entente_environment::Environment;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use ruma::ServerName;
use rustls::pki_types;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Policy,
    discovery::{Answer, Authority, Discovery, Dns, Host, Next, Question},
};

/// How long one address may take to accept a connection and to agree on a key.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions that one search may ask.
const MOST_QUESTIONS: usize = 20;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConnectError(String);

/// Makes connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) policy: Policy,
    pub(crate) dns: Arc<dyn Dns>,
    pub(crate) tls: TlsConnector,
    pub(crate) environment: Environment,
    /// Whether the server may be at a private address.
    pub(crate) private: bool,
}

/// A connection to another server.
pub(crate) struct ServerConnection(TokioIo<TlsStream<TcpStream>>);

impl Connector {
    async fn connect(self, uri: Uri) -> Result<ServerConnection, ConnectError> {
        let named = uri.authority().and_then(|authority| Authority::parse(authority.as_str()));
        let named = named.ok_or_else(|| ConnectError(String::from("the request names no server")))?;
        let addresses = self.addresses(&named).await?;
        let mut reason = String::from("it has no address");
        for address in addresses {
            if !self.policy.allows_address(address.ip(), self.private) {
                reason = format!("{} is an address that is not spoken to", address.ip());
                continue;
            }
            match timeout(CONNECT_TIMEOUT, self.open(address, &named)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => reason = format!("{address}: {error}"),
                Err(_) => reason = format!("{address} takes too long to connect"),
            }
        }
        Err(ConnectError(reason))
    }

    /// Where an authority leads, best first. What the operator says comes before what the network says.
    async fn addresses(&self, named: &Authority) -> Result<Vec<SocketAddr>, ConnectError> {
        let pinned = ServerName::parse(named.to_string()).ok();
        let pinned = pinned.and_then(|name| self.policy.address_of(&name).and_then(Authority::parse));
        let mut search = Discovery::at(pinned.unwrap_or_else(|| named.clone()));
        for _ in 0..MOST_QUESTIONS {
            let answer = match search.next() {
                Next::Found(target) => return Ok(target.addresses),
                Next::NotFound(reason) => return Err(ConnectError(reason.to_owned())),
                Next::Ask(Question::Services(name)) => {
                    Answer::Services(self.dns.services(&name).await.unwrap_or_default())
                }
                Next::Ask(Question::Addresses(name)) => match self.dns.addresses(&name).await {
                    Ok(addresses) => Answer::Addresses(addresses),
                    Err(error) => return Err(ConnectError(format!("{name} cannot be looked up: {error}"))),
                },
                Next::Ask(Question::WellKnown(_)) => Answer::WellKnown(None),
            };
            search.answer(answer, &mut |end| self.environment.randomness().below(end));
        }
        Err(ConnectError(String::from("its DNS records lead nowhere")))
    }

    async fn open(&self, address: SocketAddr, named: &Authority) -> io::Result<ServerConnection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = match &named.host {
            Host::Name(name) => pki_types::ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
            Host::Address(address) => pki_types::ServerName::from(*address),
        };
        let stream = self.tls.connect(name, stream).await?;
        Ok(ServerConnection(TokioIo::new(stream)))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = ServerConnection;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<ServerConnection, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

impl Connection for ServerConnection {
    fn connected(&self) -> Connected {
        let (_, session) = self.0.inner().get_ref();
        if session.alpn_protocol() == Some(b"h2") {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}

impl Read for ServerConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for ServerConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
