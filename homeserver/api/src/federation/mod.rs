//! The server-server API.

mod calls;
mod events;
mod intake;
mod membership;
mod messages;
mod openid;
mod peer;
mod policy_server;
mod public_rooms;
mod server_keys;
mod third_party_invites;
mod transactions;
mod user_keys;
mod well_known;

use axum::{
    Router,
    routing::{get, post, put},
};

pub use self::intake::Intake;
pub(crate) use self::peer::Peer;
use crate::{ApiState, endpoint::Endpoints};

/// Where transactions come in.
const SEND: &str = "/_matrix/federation/v1/send/{txn}";

/// How other servers find this one.
pub(crate) fn discovery() -> Router<ApiState> {
    Router::new()
        .endpoint(well_known::server)
        .route("/.well-known/matrix/policy_server", get(policy_server::public_keys))
}

/// All other endpoints of the server-server API.
pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .endpoint(openid::userinfo)
        .route("/_matrix/key/v2/server", get(server_keys::own))
        .route("/_matrix/key/v2/query", post(server_keys::of_servers))
        .route("/_matrix/key/v2/query/{server}", get(server_keys::of_server))
        .route("/_matrix/federation/unstable/io.element.msc4195/rtc/livekit/get_token", post(calls::token))
        .route("/_matrix/federation/v1/rtc/livekit/get_token", post(calls::token))
        .merge(rooms())
        .merge(users())
}

fn rooms() -> Router<ApiState> {
    Router::new()
        .route(SEND, put(transactions::send))
        .route("/_matrix/federation/v1/event/{event}", get(events::event))
        .route("/_matrix/federation/v1/backfill/{room}", get(events::backfill))
        .route("/_matrix/federation/v1/get_missing_events/{room}", post(events::missing))
        .route("/_matrix/federation/v1/state/{room}", get(events::state))
        .route("/_matrix/federation/v1/state_ids/{room}", get(events::state_ids))
        .route("/_matrix/federation/v1/event_auth/{room}/{event}", get(events::event_auth))
        .route("/_matrix/federation/v1/make_join/{room}/{user}", get(membership::make_join))
        .route("/_matrix/federation/v1/make_leave/{room}/{user}", get(membership::make_leave))
        .route("/_matrix/federation/v1/make_knock/{room}/{user}", get(membership::make_knock))
        .route("/_matrix/federation/v1/send_join/{room}/{event}", put(membership::send_join_v1))
        .route("/_matrix/federation/v2/send_join/{room}/{event}", put(membership::send_join))
        .route("/_matrix/federation/v1/send_leave/{room}/{event}", put(membership::send_leave_v1))
        .route("/_matrix/federation/v2/send_leave/{room}/{event}", put(membership::send_leave))
        .route("/_matrix/federation/v1/send_knock/{room}/{event}", put(membership::send_knock))
        .route("/_matrix/federation/v1/invite/{room}/{event}", put(membership::invite_v1))
        .route("/_matrix/federation/v2/invite/{room}/{event}", put(membership::invite))
        .route(
            "/_matrix/federation/v1/exchange_third_party_invite/{room}",
            put(third_party_invites::exchange),
        )
        .route("/_matrix/federation/v1/3pid/onbind", put(third_party_invites::bound))
        .route("/_matrix/policy/v1/sign", post(policy_server::sign))
}

fn users() -> Router<ApiState> {
    Router::new()
        .route("/_matrix/federation/v1/version", get(server_keys::version))
        .route("/_matrix/federation/v1/publicRooms", get(public_rooms::list).post(public_rooms::filtered))
        .route("/_matrix/federation/v1/hierarchy/{room}", get(public_rooms::hierarchy))
        .route("/_matrix/federation/v1/timestamp_to_event/{room}", get(public_rooms::event_at))
        .route("/_matrix/federation/v1/query/directory", get(events::directory))
        .route("/_matrix/federation/v1/query/profile", get(events::profile))
        .route("/_matrix/federation/v1/user/devices/{user}", get(user_keys::devices))
        .route("/_matrix/federation/v1/user/keys/query", post(user_keys::query))
        .route("/_matrix/federation/v1/user/keys/claim", post(user_keys::claim))
}
