use std::{
    error::Error,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::{AddressRefused, Connection, GuardedResolver, Route};

/// For how long idle connections are kept.
const IDLE_FOR: Duration = Duration::from_secs(90);

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// What it calls itself.
    pub user_agent: String,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a request may take as a whole, its answer included.
    pub request_timeout: Duration,
    /// How many idle connections to one host are kept.
    pub idle_connections: usize,
    /// The way that connections take.
    pub route: Route,
}

/// A client that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS.
    #[error("TLS for requests to other servers: {0}")]
    Tls(String),
    /// What it calls itself cannot be said in a header.
    #[error("what a client calls itself is not printable: {0}")]
    UserAgent(#[from] header::InvalidHeaderValue),
}

/// Why a request has no answer. The texts name neither the URL nor what is in it.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nothing at the address that the URL names, or at any to which its name leads, may be contacted.
    #[error(transparent)]
    Refused(#[from] AddressRefused),
    /// It took too long.
    #[error("the other server took too long")]
    TimedOut,
    /// It could not be reached, or the answer broke off.
    #[error("the other server cannot be reached, or its answer broke off: {0}")]
    Failed(String),
}

/// A request to a server that somebody else named.
#[derive(Clone, Debug)]
pub struct Request {
    /// How.
    pub method: Method,
    /// What.
    pub url: Url,
    /// Headers besides those that every request has.
    pub headers: HeaderMap,
    /// The body, which may be empty.
    pub body: Bytes,
    /// Of the answer so much is read.
    pub most_bytes: usize,
    /// How long it may take as a whole; `None`: as long as the client's settings say.
    pub timeout: Option<Duration>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, or its beginning.
    pub body: Bytes,
    /// Whether the body went on.
    pub is_cut_short: bool,
}

impl Request {
    /// Of one method at one URL, with nothing else.
    pub fn new(method: Method, url: Url, most_bytes: usize) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new(), most_bytes, timeout: None }
    }

    /// With a body of JSON.
    #[must_use]
    pub fn with_json(mut self, json: Bytes) -> Self {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = json;
        self
    }
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

/// A client that connects only where the resolver lets it. It follows no redirects, keeps no cookies, asks for nothing compressed,
/// and names no page that it came from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    user_agent: HeaderValue,
    timeout: Duration,
}

impl Client {
    /// A client with these settings.
    pub fn new(
        settings: &ClientSettings,
        resolver: GuardedResolver,
        tls: ClientConfig,
    ) -> Result<Self, ClientError> {
        let connector = Connector {
            resolver,
            route: settings.route.clone(),
            tls: TlsConnector::from(Arc::new(tls)),
            timeout: settings.connect_timeout,
        };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(settings.idle_connections)
            .build(connector);
        let user_agent = HeaderValue::try_from(settings.user_agent.as_str())?;
        Ok(Self { http, user_agent, timeout: settings.request_timeout })
    }

    /// Asks, and reads the answer.
    pub async fn ask(&self, request: Request) -> Result<Answer, RequestError> {
        let limit = request.timeout.unwrap_or(self.timeout);
        timeout(limit, self.exchange(request)).await.map_err(|_| RequestError::TimedOut)?
    }

    async fn exchange(&self, request: Request) -> Result<Answer, RequestError> {
        let Request { method, mut url, headers, body, most_bytes, .. } = request;
        let failed = |error: &dyn std::fmt::Display| RequestError::Failed(error.to_string());
        url.set_fragment(None);
        // A user or a password in a URL is for `Authorization`, which is the caller's to set.
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return Err(failed(&"the URL names no host"));
        }
        let uri: Uri = url.as_str().parse().map_err(|error: http::uri::InvalidUri| failed(&error))?;
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::USER_AGENT, self.user_agent.clone());
        let response = self.http.request(request).await.map_err(|error| failure(&error))?;
        read(response, most_bytes).await
    }
}

async fn read(response: Response<Incoming>, most_bytes: usize) -> Result<Answer, RequestError> {
    let (head, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    let mut is_cut_short = false;
    while let Some(frame) = incoming.frame().await {
        let Ok(chunk) = frame.map_err(|error| failure(&error))?.into_data() else { continue };
        let room = most_bytes.saturating_sub(body.len());
        let taken = chunk.get(..room).unwrap_or(&chunk);
        body.extend_from_slice(taken);
        if taken.len() < chunk.len() {
            is_cut_short = true;
            break;
        }
    }
    Ok(Answer { status: head.status, headers: head.headers, body: body.freeze(), is_cut_short })
}

/// A name whose addresses are denied fails like a URL with such an address.
fn failure(error: &(dyn Error + 'static)) -> RequestError {
    let mut words = String::new();
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = source {
        // What an `io::Error` wraps is not among its sources.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if cause.is::<AddressRefused>() || matches!(wrapped, Some(inner) if inner.is::<AddressRefused>()) {
            return RequestError::Refused(AddressRefused);
        }
        words = if words.is_empty() { cause.to_string() } else { format!("{words}: {cause}") };
        source = cause.source();
    }
    RequestError::Failed(words)
}

/// Makes connections to where the resolver lets it.
#[derive(Clone)]
struct Connector {
    resolver: GuardedResolver,
    route: Route,
    tls: TlsConnector,
    timeout: Duration,
}

impl Connector {
    async fn connect(self, uri: Uri) -> io::Result<Connection> {
        let is_secure = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or_else(|| io::Error::other("the request names no server"))?;
        let host = host.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let stream = async {
            match host.parse::<IpAddr>() {
                Ok(address) if self.resolver.allows(address) => {
                    self.route.connect(SocketAddr::new(address, port)).await
                }
                Ok(_) => Err(io::Error::new(io::ErrorKind::PermissionDenied, AddressRefused)),
                Err(_) if self.route.resolves_names() => self.route.connect_by_name(host, port).await,
                Err(_) => self.connect_to_any(host, port).await,
            }
        };
        let too_slow = || io::Error::new(io::ErrorKind::TimedOut, "it takes too long to connect");
        let connection = async {
            let stream = stream.await?;
            if is_secure {
                Connection::secure(&self.tls, host, stream).await
            } else {
                Ok(Connection::plain(stream))
            }
        };
        timeout(self.timeout, connection).await.map_err(|_| too_slow())?
    }

    /// Connects to the first of a name's addresses that answers. Each has its share of the time.
    async fn connect_to_any(&self, host: &str, port: u16) -> io::Result<tokio::net::TcpStream> {
        let addresses = self.resolver.resolve_name(host).await?;
        let share = self.timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
        for address in addresses {
            match timeout(share, self.route.connect(SocketAddr::new(address, port))).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "it takes too long to connect"),
            }
        }
        Err(last)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Connection;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
