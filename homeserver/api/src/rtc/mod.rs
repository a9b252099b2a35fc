//! MatrixRTC: where calls are held (MSC4143), and the tokens with which clients get in: by the homeserver's own endpoint (MSC4195)
//! and by the older service for `LiveKit` tokens, which clients still ask first.

mod delegations;
mod identity;
mod leaves;
mod members;
mod request;
mod service;
mod tokens;
mod transports;

use axum::{
    Router,
    routing::{get, post},
};
use entente_call_bridge::{ApiKey, CallBridge, LivekitServer};

pub use self::{
    leaves::{Leaves, Witness},
    members::{CallMember, RemoteUsers, RoomMembers, Standing},
};
pub(crate) use self::{tokens::for_peer, transports::foci};
use crate::ApiState;

/// Where the service for tokens is mounted.
const SERVICE_PATH: &str = "/livekit/jwt";
/// Where the SFU's signalling is mounted, if it is ours.
const SFU_PATH: &str = "/livekit/sfu";

/// Where the homeserver's own endpoints for tokens are (MSC4195).
const HOMESERVER_PATHS: [&str; 2] =
    ["/_matrix/client/unstable/io.element.msc4195/rtc/livekit", "/_matrix/client/v1/rtc/livekit"];

/// How calls are held here.
#[derive(Clone, Debug)]
pub struct Calls {
    /// What forwards media in this process; `None` if a `LiveKit` server elsewhere does.
    pub bridge: Option<CallBridge>,
    /// That server.
    pub livekit: Option<LivekitServer>,
    /// What looks after delayed leaves.
    pub leaves: Leaves,
    /// Who may do what in them.
    pub members: RoomMembers,
    /// What tokens are signed with.
    pub key: ApiKey,
    /// Where clients reach the SFU's signalling, a `ws` or `wss` address.
    pub sfu_url: String,
    /// Where clients reach the service for tokens.
    pub service_url: String,
}

impl Calls {
    /// Calls that are forwarded by this process, for clients that reach it at `base_url`.
    pub fn embedded(
        base_url: &str,
        key: ApiKey,
        members: RoomMembers,
        bridge: CallBridge,
        leaves: Leaves,
    ) -> Self {
        let base_url = base_url.trim_end_matches('/');
        // http becomes ws, https becomes wss.
        let sfu_url = format!("{}{SFU_PATH}", base_url.replacen("http", "ws", 1));
        let service_url = format!("{base_url}{SERVICE_PATH}");
        Self { bridge: Some(bridge), livekit: None, leaves, members, key, sfu_url, service_url }
    }

    /// Calls that a `LiveKit` server forwards, which clients reach at `sfu_url`.
    pub fn elsewhere(
        base_url: &str,
        key: ApiKey,
        members: RoomMembers,
        sfu_url: &str,
        livekit: LivekitServer,
        leaves: Leaves,
    ) -> Self {
        let base_url = base_url.trim_end_matches('/');
        let sfu_url = sfu_url.trim_end_matches('/').to_owned();
        let service_url = format!("{base_url}{SERVICE_PATH}");
        Self { bridge: None, livekit: Some(livekit), leaves, members, key, sfu_url, service_url }
    }
}

/// The endpoints of calls. Where there are none, only that is told.
pub(crate) fn routes(state: &ApiState) -> Router<ApiState> {
    let mut routes = Router::new()
        .route("/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", get(transports::unstable))
        .route("/_matrix/client/v1/rtc/transports", get(transports::stable));
    for prefix in HOMESERVER_PATHS {
        // Also for those whose own server holds no calls, and who are invited to another's.
        routes = routes.route(&format!("{prefix}/get_token"), post(tokens::of_session));
    }
    let Some(calls) = &state.calls else { return routes };
    routes = routes
        .route(&format!("{SERVICE_PATH}/sfu/get"), post(service::sfu_get))
        .route(&format!("{SERVICE_PATH}/get_token"), post(service::get_token))
        .route(&format!("{SERVICE_PATH}/healthz"), get(service::health));
    // Clients take any status but 404 for yes.
    let delegate = "delegate_delayed_leave";
    routes = routes.route(&format!("{SERVICE_PATH}/{delegate}"), post(service::delegate_delayed_leave));
    for prefix in HOMESERVER_PATHS {
        routes = routes.route(&format!("{prefix}/{delegate}"), post(tokens::delegate_of_session));
    }
    match &calls.bridge {
        Some(bridge) => routes.nest_service(SFU_PATH, bridge.router()),
        None => routes.route(&format!("{SERVICE_PATH}/sfu_webhook"), post(service::sfu_webhook)),
    }
}
