//! The way to other servers: straight, or through a proxy.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Uri};
use hyper_util::{
    client::legacy::connect::{
        HttpConnector,
        proxy::{SocksV5, Tunnel},
    },
    rt::TokioIo,
};
use ipnet::IpNet;
use tokio::net::TcpStream;
use tower::Service as _;

/// How long the proxy itself may take to accept a connection.
const PROXY_TIMEOUT: Duration = Duration::from_secs(10);

/// How connections are made. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Route {
    proxy: Option<Arc<ProxySettings>>,
}

/// A proxy, and what goes through it.
#[derive(Clone)]
pub struct ProxySettings {
    /// What it speaks.
    pub protocol: ProxyProtocol,
    /// Host and port where it is, as in a URL.
    pub authority: String,
    /// User and password, if it wants them.
    pub credentials: Option<(String, String)>,
    /// Addresses that are reached without it.
    pub direct: Vec<IpNet>,
    /// Whether it is told names, and looks them up itself. Otherwise it is told addresses that have been looked up, and held
    /// against the policy, here.
    pub resolves_names: bool,
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// `CONNECT` of HTTP/1.1 (RFC 9110, section 9.3.6).
    Http,
    /// SOCKS5 (RFC 1928).
    Socks5,
}

impl std::fmt::Debug for ProxySettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { protocol, authority, .. } = self;
        formatter
            .debug_struct("ProxySettings")
            .field("protocol", protocol)
            .field("authority", authority)
            .finish_non_exhaustive()
    }
}

impl Route {
    /// Without a proxy.
    pub fn direct() -> Self {
        Self::default()
    }

    /// Through a proxy.
    pub fn through(proxy: ProxySettings) -> Self {
        Self { proxy: Some(Arc::new(proxy)) }
    }

    /// Whether names are for the proxy to look up. Which addresses are behind them is then unknown here, and that none is private is
    /// for the proxy to see to.
    pub fn resolves_names(&self) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.resolves_names)
    }

    /// Connects to an address, which whoever calls has held against the policy.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        if let Some(proxy) = self.proxy.as_ref().filter(|proxy| !proxy.reaches_directly(address.ip())) {
            return proxy.connect(&address.to_string()).await;
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Has the proxy connect to a name, if it looks names up.
    pub async fn connect_by_name(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        match self.proxy.as_ref().filter(|proxy| proxy.resolves_names) {
            Some(proxy) => proxy.connect(&format!("{host}:{port}")).await,
            None => Err(io::Error::new(io::ErrorKind::Unsupported, "names are looked up here")),
        }
    }
}

impl ProxySettings {
    fn reaches_directly(&self, address: IpAddr) -> bool {
        let canonical = address.to_canonical();
        self.direct.iter().any(|range| range.contains(&address) || range.contains(&canonical))
    }

    async fn connect(&self, authority: &str) -> io::Result<TcpStream> {
        let unusable = |error: http::Error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let uri = |authority: &str| {
            Uri::builder().scheme("http").authority(authority).path_and_query("/").build().map_err(unusable)
        };
        let (target, proxy) = (uri(authority)?, uri(&self.authority)?);
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(PROXY_TIMEOUT));
        let stream = match self.protocol {
            ProxyProtocol::Http => {
                let mut tunnel = Tunnel::new(proxy, connector);
                if let Some(credentials) = self.basic_credentials()? {
                    tunnel = tunnel.with_auth(credentials);
                }
                tunnel.call(target).await.map_err(|error| said_by_proxy(&error))?
            }
            ProxyProtocol::Socks5 => {
                let mut socks = SocksV5::new(proxy, connector);
                if let Some((user, password)) = self.credentials.clone() {
                    socks = socks.with_auth(user, password);
                }
                socks.call(target).await.map_err(|error| said_by_proxy(&error))?
            }
        };
        Ok(TokioIo::into_inner(stream))
    }

    /// `Proxy-Authorization` (RFC 7617).
    fn basic_credentials(&self) -> io::Result<Option<HeaderValue>> {
        let Some((user, password)) = &self.credentials else { return Ok(None) };
        let encoded = STANDARD.encode(format!("{user}:{password}"));
        let value = HeaderValue::try_from(format!("Basic {encoded}"));
        value.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}

fn said_by_proxy(error: &dyn std::error::Error) -> io::Error {
    let mut words = format!("the proxy does not connect: {error}");
    let mut cause = error.source();
    while let Some(next) = cause {
        words = format!("{words}: {next}");
        cause = next.source();
    }
    io::Error::other(words)
}
