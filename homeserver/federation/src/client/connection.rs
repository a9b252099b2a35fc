//! Connections to other servers: where an authority leads, at addresses that the policy lets through, over TLS.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use entente_environment::Environment;
use entente_outbound::{Connection, Route};
use futures_util::future::BoxFuture;
use http::Uri;
use ruma::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    Policy,
    discovery::{Answer, Authority, DEFAULT_PORT, Discovery, Dns, Host, Next, Question},
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
    pub(crate) route: Route,
    pub(crate) environment: Environment,
    /// Whether the server may be at a private address.
    pub(crate) private: bool,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<Connection, ConnectError> {
        let named = uri.authority().and_then(|authority| Authority::parse(authority.as_str()));
        let named = named.ok_or_else(|| ConnectError(String::from("the request names no server")))?;
        let at = self.pinned(&named).unwrap_or_else(|| named.clone());
        if self.route.resolves_names()
            && let Host::Name(name) = &at.host
        {
            // Where the names of the internet are not known, no SRV records are either.
            let stream = self.route.connect_by_name(name, at.port.unwrap_or(DEFAULT_PORT));
            let outcome = timeout(CONNECT_TIMEOUT, self.open(stream, &named)).await;
            let outcome = outcome.map_err(|_| ConnectError(String::from("it takes too long to connect")))?;
            return outcome.map_err(|error| ConnectError(error.to_string()));
        }
        let addresses = self.addresses(at).await?;
        let mut reason = String::from("it has no address");
        for address in addresses {
            if !self.policy.allows_address(address.ip(), self.private) {
                reason = format!("{} is an address that is not spoken to", address.ip());
                continue;
            }
            match timeout(CONNECT_TIMEOUT, self.open(self.route.connect(address), &named)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => reason = format!("{address}: {error}"),
                Err(_) => reason = format!("{address} takes too long to connect"),
            }
        }
        Err(ConnectError(reason))
    }

    /// Where the operator says that a server is, which comes before what the network says.
    fn pinned(&self, named: &Authority) -> Option<Authority> {
        let name = ServerName::parse(named.to_string()).ok()?;
        self.policy.address_of(&name).and_then(Authority::parse)
    }

    /// Where an authority leads, best first.
    async fn addresses(&self, authority: Authority) -> Result<Vec<SocketAddr>, ConnectError> {
        let mut search = Discovery::at(authority);
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

    async fn open(
        &self,
        stream: impl Future<Output = io::Result<TcpStream>>,
        named: &Authority,
    ) -> io::Result<Connection> {
        Connection::secure(&self.tls, &named.host.to_string(), stream.await?).await
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Connection;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Connection, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
