//! The HTTP surface of the homeserver: thin handlers over the domain crates, and the layers around them.
//!
//! [`router`] is what a public listener serves; [`Server`] serves it on sockets.

mod address;
mod admin;
mod client;
mod endpoint;
mod error;
mod federation;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guests;
mod health;
mod landing;
mod layers;
mod limits;
mod listener;
mod masquerading;
mod media;
mod metrics;
mod pages;
mod rtc;

use std::{ops::Deref, sync::Arc};

use axum::Router;
use entente_accounts::Accounts;
use entente_appservices::AppServices;
use entente_delivery::Delivery;
use entente_encryption::Encryption;
use entente_federation::Federation;
use entente_media::Media;
use entente_rooms::Rooms;
use entente_sync::Sync;
use entente_turn::{TurnServer, TurnService};
use ruma::OwnedUserId;
use url::Url;

pub use self::{
    error::MatrixError,
    federation::Intake,
    health::Readiness,
    layers::{HttpSettings, InFlight},
    limits::{LimitKind, Limits, RateLimit},
    listener::{Acme, ConnectionSettings, Listener, Server, ServerError, Tls},
    metrics::{Metrics, metrics_router},
    rtc::{CallMember, Calls, Leaves, RemoteUsers, RoomMembers, Standing, Witness},
};

/// What handlers work with. Every layer and handler of every request has a clone: it is one pointer.
#[derive(Clone, Debug)]
pub struct ApiState(Arc<Services>);

impl From<Services> for ApiState {
    fn from(services: Services) -> Self {
        Self(Arc::new(services))
    }
}

impl Deref for ApiState {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

/// Everything that the API stands upon.
#[derive(Debug)]
pub struct Services {
    /// The accounts.
    pub accounts: Accounts,
    /// What is kept for their encryption.
    pub encryption: Encryption,
    /// The rooms.
    pub rooms: Rooms,
    /// What users see of them.
    pub sync: Sync,
    /// Other servers.
    pub federation: Federation,
    /// Bridges and bots that act for many users.
    pub appservices: AppServices,
    /// How users are told of events while they are not looking.
    pub delivery: Delivery,
    /// What users uploaded.
    pub media: Media,
    /// How calls are held; `None`: not at all.
    pub calls: Option<Calls>,
    /// The STUN and TURN servers that clients are told of.
    pub turn_service: Option<TurnService>,
    /// The one among them that is here.
    pub turn_server: Option<TurnServer>,
    /// Whether what it needs is there.
    pub readiness: Arc<dyn Readiness>,
    /// The rate limits.
    pub limits: Limits,
    /// What the server tells about itself.
    pub identity: Arc<Identity>,
    /// What it tells Prometheus.
    pub metrics: Metrics,
    /// Bounds on requests.
    pub http: HttpSettings,
    /// The places for requests that are worked on.
    pub in_flight: InFlight,
    /// The room in memory for those of other servers.
    pub intake: Intake,
}

/// A part of what is served, so that a listener can leave the other to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The client-server API and the pages.
    Client,
    /// The server-server API.
    Federation,
}

/// What the server tells about itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Where clients reach it.
    pub public_base_url: Url,
    /// `host:port` where other servers reach it.
    pub federation_address: String,
    /// Whom to ask for help.
    pub support: Support,
}

/// Whom to ask for help (C-S API, `GET /.well-known/matrix/support`).
#[derive(Clone, Debug, Default)]
pub struct Support {
    /// People.
    pub contacts: Vec<SupportContact>,
    /// A page.
    pub page: Option<String>,
}

/// Somebody to ask for help; at least one of the two addresses is there.
#[derive(Clone, Debug)]
pub struct SupportContact {
    /// `m.role.admin`, `m.role.security`, or another.
    pub role: String,
    /// An e-mail address.
    pub email_address: Option<String>,
    /// A Matrix user.
    pub matrix_id: Option<OwnedUserId>,
}

/// What a public listener serves: the given resources, and on every listener the health checks and `/.well-known/matrix/`.
pub fn router(state: ApiState, serves: &[Resource]) -> Router {
    let mut routes =
        Router::new().merge(client::discovery()).merge(federation::discovery()).merge(health::routes());
    if serves.contains(&Resource::Client) {
        routes = routes
            .merge(client::routes())
            .merge(admin::routes())
            .merge(media::routes())
            .merge(rtc::routes(&state))
            .merge(landing::routes());
    }
    if serves.contains(&Resource::Federation) {
        routes = routes.merge(federation::routes()).merge(media::federation_routes());
    }
    let routes =
        routes.fallback(endpoint::unrecognized).method_not_allowed_fallback(endpoint::method_not_allowed);
    layers::around(routes, &state).with_state(state)
}
