//! Push gateways (Push Gateway API): which of them are spoken to, and how.

use std::{collections::HashMap, sync::Arc, time::Duration};

use entente_config::{Push, PushPolicy};
use entente_outbound::{
    AddressPolicy, Client, ClientSettings, GuardedResolver, Request, Route, SystemLookup, UrlPolicy,
    public_tls,
};
use http::{Method, StatusCode, header};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use crate::DeliveryError;

/// An answer of a gateway has at most this many bytes.
const MOST_BYTES: usize = 256 * 1024;
/// Idle connections to one gateway that are kept.
const IDLE_CONNECTIONS: usize = 4;
/// Requests to one gateway at the same time: one that is slow takes no places from the others.
const AT_ONCE_EACH: usize = 10;
/// Gateways that are remembered while nothing is sent to them.
const MOST_HOSTS: usize = 1_000;
/// What a gateway answers about a notification that it will never take. Anything else may pass.
const FINAL: [StatusCode; 3] =
    [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY];

/// Speaks to gateways.
pub(crate) struct Gateways {
    policy: PushPolicy,
    allowed: Vec<String>,
    /// Hosts that may be anywhere, without TLS, at any port.
    internal: Vec<String>,
    urls: UrlPolicy,
    public: Client,
    private: Client,
    /// Places for requests, by host and port.
    places: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// What a gateway says.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    rejected: Vec<String>,
}

/// Why a gateway did not take a notification.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayError {
    /// It will never take it.
    #[error("the gateway refuses it with status {0}")]
    Refused(u16),
    /// It may take it later.
    #[error("{reason}")]
    Later {
        /// What is wrong.
        reason: String,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
}

impl Gateways {
    /// Gateways of the public internet are reached by this route, those inside the network directly.
    pub(crate) fn new(settings: &Push, route: Route) -> Result<Self, DeliveryError> {
        let public = Arc::new(AddressPolicy::public_internet());
        let anywhere = Arc::new(AddressPolicy::public_internet().with_private_addresses(true));
        let make = |policy: &Arc<AddressPolicy>, route: Route| {
            let requests = ClientSettings {
                user_agent: format!("Entente/{}", env!("CARGO_PKG_VERSION")),
                connect_timeout: settings.timeout.duration(),
                request_timeout: settings.timeout.duration(),
                idle_connections: IDLE_CONNECTIONS,
                route,
            };
            let resolver = GuardedResolver::new(Arc::clone(policy), Arc::new(SystemLookup));
            let made = public_tls(b"").and_then(|tls| Client::new(&requests, resolver, tls));
            made.map_err(|error| DeliveryError::Client(error.to_string()))
        };
        Ok(Self {
            policy: settings.policy,
            allowed: settings.allow.clone(),
            internal: settings.internal.clone(),
            public: make(&public, route)?,
            private: make(&anywhere, Route::direct())?,
            urls: UrlPolicy::new(public, &[]),
            places: Mutex::new(HashMap::new()),
        })
    }

    /// Refuses a gateway that this server does not speak to.
    pub(crate) fn check(&self, url: &Url) -> Result<(), DeliveryError> {
        let host = url.host_str().unwrap_or_default();
        if self.is_internal(url) {
            return match url.scheme() {
                "http" | "https" => Ok(()),
                _ => Err(DeliveryError::InvalidParameter(String::from("a gateway speaks http or https"))),
            };
        }
        let is_named = self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(host));
        match self.policy {
            PushPolicy::Disabled => {
                return Err(DeliveryError::Refused(String::from("push is disabled on this server")));
            }
            PushPolicy::Closed if !is_named => {
                return Err(DeliveryError::Refused(format!(
                    "this server does not speak to the gateway {host}"
                )));
            }
            PushPolicy::Closed | PushPolicy::Open => {}
        }
        if url.scheme() != "https" {
            return Err(DeliveryError::InvalidParameter(String::from("a gateway speaks https")));
        }
        self.urls.check(url).map_err(|refused| DeliveryError::Refused(refused.to_string()))
    }

    fn is_internal(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        self.policy != PushPolicy::Disabled
            && self.internal.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    /// A place among the requests to a gateway. `None`: the server is stopping.
    pub(crate) async fn place(&self, url: &Url) -> Option<OwnedSemaphorePermit> {
        let host = url.host_str().unwrap_or_default();
        let host = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        let places = {
            let mut hosts = self.places.lock();
            if hosts.len() >= MOST_HOSTS {
                hosts.retain(|_, places| Arc::strong_count(places) > 1);
            }
            Arc::clone(hosts.entry(host).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE_EACH))))
        };
        places.acquire_owned().await.ok()
    }

    /// Hands a notification over. Answers the pushkeys that are not anybody's any more.
    pub(crate) async fn notify(&self, url: &Url, body: &Value) -> Result<Vec<String>, GatewayError> {
        if let Err(error) = self.check(url) {
            // The operator may change that.
            return Err(GatewayError::Later { reason: error.to_string(), after: None });
        }
        let client = if self.is_internal(url) { &self.private } else { &self.public };
        let later = |reason: String| GatewayError::Later { reason, after: None };
        let json = serde_json::to_vec(body).map_err(|error| later(error.to_string()))?;
        let request = Request::new(Method::POST, url.clone(), MOST_BYTES).with_json(json.into());
        // A pushkey may be in the URL, which the error does not name.
        let answer = client.ask(request).await.map_err(|error| later(error.to_string()))?;
        let status = answer.status;
        if FINAL.contains(&status) {
            return Err(GatewayError::Refused(status.as_u16()));
        }
        if !status.is_success() {
            let after = answer.headers.get(header::RETRY_AFTER);
            let after = after.and_then(|after| after.to_str().ok()?.parse().ok()).map(Duration::from_secs);
            return Err(GatewayError::Later { reason: format!("status {status}"), after });
        }
        if answer.is_cut_short {
            return Err(later(String::from("its answer is too long")));
        }
        let answer: Answer = serde_json::from_slice(&answer.body).unwrap_or_default();
        Ok(answer.rejected)
    }
}
