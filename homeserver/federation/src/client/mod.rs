//! Requests to other servers (S-S API, "Authentication", "TLS").

mod calls;
mod connection;
mod delegation;
pub(crate) mod media;
mod policy_server;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use entente_environment::Environment;
use entente_outbound::{Route, public_tls};
use entente_rooms::SigningKeys;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{client::legacy, rt::TokioExecutor};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName};
use rustls::ClientConfig;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

pub use self::{calls::DirectoryAnswer, media::RemoteFile};
use self::{connection::Connector, delegation::Delegations};
use crate::{
    Destinations, FederationError, Policy,
    discovery::{Answer, Authority, Discovery, Dns, Next, Question},
    x_matrix,
};

/// An answer of which nothing else is said has at most this many bytes.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Idle connections that are kept for each server.
const IDLE_CONNECTIONS: usize = 4;
/// For how long they are kept.
const IDLE_FOR: Duration = Duration::from_secs(90);
/// Of what a server says about its refusal this many characters are passed on.
const MOST_MESSAGE: usize = 300;

type Http = legacy::Client<Connector, Full<Bytes>>;

/// Asks other servers. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    policy: Policy,
    destinations: Destinations,
    signing_keys: SigningKeys,
    environment: Environment,
    delegations: Delegations,
    public: Http,
    private: Http,
    timeout: Duration,
}

/// A request to another server.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// Path and query, percent-encoded.
    pub(crate) target: String,
    pub(crate) body: Option<&'a CanonicalJsonObject>,
    /// The answer has at most this many bytes.
    pub(crate) most_bytes: usize,
    /// How long it may take; `None`: as the settings say.
    pub(crate) timeout: Option<Duration>,
    /// Whether to ask even a server that did not answer lately.
    pub(crate) insists: bool,
}

impl<'a> Ask<'a> {
    pub(crate) fn get(target: String) -> Self {
        let (method, body) = (Method::GET, None);
        Self { method, target, body, most_bytes: MOST_BYTES, timeout: None, insists: false }
    }

    pub(crate) fn with(method: Method, target: String, body: &'a CanonicalJsonObject) -> Self {
        Self { method, body: Some(body), ..Self::get(target) }
    }

    pub(crate) fn up_to(mut self, bytes: usize) -> Self {
        self.most_bytes = bytes;
        self
    }

    pub(crate) fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub(crate) fn insisting(mut self) -> Self {
        self.insists = true;
        self
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    errcode: String,
    error: String,
    retry_after_ms: Option<u64>,
}

impl Client {
    /// A client with these settings, whose connections take this route.
    pub fn new(
        policy: Policy,
        destinations: Destinations,
        signing_keys: SigningKeys,
        environment: Environment,
        dns: Arc<dyn Dns>,
        settings: &entente_config::Federation,
        route: &Route,
    ) -> Result<Self, FederationError> {
        let tls = TlsConnector::from(Arc::new(tls_settings(settings.ca_file.as_deref())?));
        let http = |private| {
            let connector = Connector {
                policy: policy.clone(),
                dns: Arc::clone(&dns),
                tls: tls.clone(),
                route: route.clone(),
                environment: environment.clone(),
                private,
            };
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(hyper_util::rt::TokioTimer::new())
                .pool_idle_timeout(IDLE_FOR)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .build::<_, Full<Bytes>>(connector)
        };
        let (public, private) = (http(false), http(true));
        let delegations = Delegations::new(environment.clone());
        let timeout = settings.request_timeout.duration();
        let inner =
            Inner { policy, destinations, signing_keys, environment, delegations, public, private, timeout };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// With whom this server speaks.
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// Which servers do not answer.
    pub fn destinations(&self) -> &Destinations {
        &self.inner.destinations
    }

    fn http(&self, server: &ServerName) -> &Http {
        if self.inner.policy.may_be_private(server) { &self.inner.private } else { &self.inner.public }
    }

    /// Asks a server and reads its answer as JSON.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        server: &ServerName,
        ask: Ask<'_>,
    ) -> Result<T, FederationError> {
        let bytes = self.ask_bytes(server, ask).await?;
        serde_json::from_slice(&bytes).map_err(|error| FederationError::BadAnswer {
            server: server.to_owned(),
            reason: format!("it is not the JSON that was expected: {error}"),
        })
    }

    async fn ask_bytes(&self, server: &ServerName, ask: Ask<'_>) -> Result<Bytes, FederationError> {
        self.within_policy(server, &ask, self.exchange(server, &ask)).await
    }

    /// Asks a server for what is not read at once: the headers of its answer, and its body. Only the headers are waited for within
    /// the time of the request.
    async fn open(
        &self,
        server: &ServerName,
        ask: Ask<'_>,
    ) -> Result<(HeaderMap, Incoming), FederationError> {
        self.within_policy(server, &ask, async {
            let answer = self.begin(server, &ask).await?;
            let (head, body) = answer.into_parts();
            if head.status.is_success() {
                return Ok((head.headers, body));
            }
            let refused = Limited::new(body, ask.most_bytes).collect().await;
            let refused = refused.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            Err(refusal(server, head.status, &refused))
        })
        .await
    }

    /// Does what asks a server, if it may be asked and answered lately, and notes whether it answers.
    async fn within_policy<T>(
        &self,
        server: &ServerName,
        ask: &Ask<'_>,
        exchange: impl Future<Output = Result<T, FederationError>>,
    ) -> Result<T, FederationError> {
        let Inner { policy, destinations, environment, .. } = &*self.inner;
        policy.check_outbound(server)?;
        if !ask.insists {
            destinations.check(server)?;
        }
        let asked_at = environment.now();
        let limit = ask.timeout.unwrap_or(self.inner.timeout);
        let outcome = timeout(limit, exchange).await;
        let outcome = outcome.unwrap_or_else(|_| Err(FederationError::TimedOut(server.to_owned())));
        match &outcome {
            // A server that says no is there.
            Ok(_) | Err(FederationError::Status { status: ..500, .. }) => {
                destinations.succeeded(server).await;
            }
            // It is there as well, and has trouble with what was asked.
            Err(FederationError::Status { errcode, .. }) if !errcode.is_empty() => {}
            Err(_) => {
                destinations.failed(server, asked_at).await;
            }
        }
        outcome
    }

    async fn exchange(&self, server: &ServerName, ask: &Ask<'_>) -> Result<Bytes, FederationError> {
        let (head, body) = self.begin(server, ask).await?.into_parts();
        let unreachable = |reason: String| FederationError::Unreachable { server: server.to_owned(), reason };
        let body = Limited::new(body, ask.most_bytes).collect().await;
        let body = body.map_err(|error| unreachable(format!("its answer broke off: {error}")))?.to_bytes();
        if head.status.is_success() { Ok(body) } else { Err(refusal(server, head.status, &body)) }
    }

    /// Sends a request and waits for the headers of the answer.
    async fn begin(&self, server: &ServerName, ask: &Ask<'_>) -> Result<Response<Incoming>, FederationError> {
        let authority = self.authority_of(server).await?;
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("https://{authority}{}", ask.target))
            .header(header::AUTHORIZATION, self.sign(server, ask)?);
        let body = match ask.body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).map_err(|error| FederationError::Internal(error.to_string()))?
            }
            None => Vec::new(),
        };
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| FederationError::Internal(format!("a request cannot be made: {error}")))?;
        let unreachable = |reason: String| FederationError::Unreachable { server: server.to_owned(), reason };
        let answer =
            self.http(server).request(request).await.map_err(|error| unreachable(in_words(&error)))?;
        if answer.headers().contains_key(header::CONTENT_ENCODING) {
            let reason = String::from("it is compressed, which was not asked for");
            return Err(FederationError::BadAnswer { server: server.to_owned(), reason });
        }
        Ok(answer)
    }

    /// The `Authorization` header of a request (S-S API, "Request Authentication").
    fn sign(&self, server: &ServerName, ask: &Ask<'_>) -> Result<String, FederationError> {
        let own_name = self.inner.policy.own_name();
        let content = ask.body.map(|body| CanonicalJsonValue::Object(body.clone()));
        let mut signed = x_matrix::signed_object(&ask.method, &ask.target, own_name, server, content);
        self.inner.signing_keys.sign(&mut signed)?;
        x_matrix::header(&signed, own_name, server)
    }

    /// Where a server says that it is.
    async fn authority_of(&self, server: &ServerName) -> Result<Authority, FederationError> {
        let unreachable = || FederationError::Unreachable {
            server: server.to_owned(),
            reason: String::from("nothing of that name can be anywhere"),
        };
        let mut search = Discovery::of(server).ok_or_else(unreachable)?;
        if let Next::Ask(Question::WellKnown(name)) = search.next() {
            let is_pinned = self.inner.policy.address_of(server).is_some();
            let delegated =
                if is_pinned { None } else { self.inner.delegations.of(&name, self.http(server)).await };
            search.answer(Answer::WellKnown(delegated), &mut |_| 0);
        }
        search.authority().cloned().ok_or_else(unreachable)
    }
}

fn refusal(server: &ServerName, status: StatusCode, body: &[u8]) -> FederationError {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    FederationError::Status {
        server: server.to_owned(),
        status: status.as_u16(),
        errcode: refusal.errcode.chars().take(MOST_MESSAGE).collect(),
        message: refusal.error.chars().take(MOST_MESSAGE).collect(),
        retry_after: refusal.retry_after_ms.map(Duration::from_millis),
    }
}

/// An error with what caused it.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        words = format!("{words}: {next}");
        cause = next.source();
    }
    words
}

/// The usual roots of trust, and those that the operator names.
fn tls_settings(ca_file: Option<&Path>) -> Result<ClientConfig, FederationError> {
    let named = ca_file.map(|path| path.display().to_string()).unwrap_or_default();
    let unusable = |error: &dyn std::fmt::Display| {
        FederationError::Settings(format!("federation.ca_file {named}: {error}"))
    };
    let further_roots = match ca_file {
        Some(path) => std::fs::read(path).map_err(|error| unusable(&error))?,
        None => Vec::new(),
    };
    let mut settings = public_tls(&further_roots).map_err(|error| unusable(&error))?;
    settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(settings)
}
