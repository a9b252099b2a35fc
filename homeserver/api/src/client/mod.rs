//! The client-server API: one endpoint or one tight family a file. A handler parses, asks for proof, calls one use case, and
//! renders; decisions live below it.

mod account_data;
mod administration;
mod appservice;
mod capabilities;
mod create_room;
mod cross_signing;
mod deactivation;
mod dehydrated_device;
mod delayed_events;
mod devices;
mod fallback;
mod filters;
mod interactive;
mod key_backup;
mod keys;
mod login;
mod login_token;
mod logout;
mod membership;
mod openid;
mod password;
mod peeking;
mod people;
mod presence;
mod profiles;
mod push_rules;
mod pushers;
mod read_markers;
mod receipts;
mod refresh;
mod registration;
mod relations;
mod remote;
mod reports;
mod room_aliases;
mod room_directory;
mod room_events;
mod room_send;
mod room_upgrade;
mod sliding_sync;
mod sync;
mod tags;
mod third_party;
mod third_party_identifiers;
mod third_party_invites;
mod threads;
mod to_device;
mod turn_server;
mod typing;
mod versions;
mod well_known;
mod whoami;

use axum::{
    Router,
    routing::{get, post},
};

pub(crate) use self::{
    keys::add_names,
    membership::{active, profile_of},
    remote::{look_for_user, resolve_here},
    room_directory::directory_body,
    to_device::devices_of,
};
use crate::{ApiState, endpoint::Endpoints};

/// The paths under which requests wait as long as they ask to.
pub(crate) const LONG_POLLS: [&str; 6] = [
    sliding_sync::MERGED,
    sliding_sync::SIMPLIFIED,
    "/_matrix/client/v3/sync",
    "/_matrix/client/r0/sync",
    "/_matrix/client/v3/events",
    "/_matrix/client/r0/events",
];

/// How clients find this server, and whom users can turn to.
pub(crate) fn discovery() -> Router<ApiState> {
    Router::new().json_endpoint(well_known::client).endpoint(well_known::support)
}

/// All other endpoints of the client-server API.
pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .endpoint(versions::versions)
        .endpoint(capabilities::capabilities)
        .endpoint(registration::register)
        .endpoint(registration::available)
        .endpoint(registration::token_validity)
        .endpoint(login::flows)
        .endpoint(login::login)
        .endpoint(login_token::create)
        .endpoint(refresh::refresh)
        .endpoint(logout::logout)
        .endpoint(logout::logout_all)
        .endpoint(whoami::whoami)
        .endpoint(password::change)
        .endpoint(deactivation::deactivate)
        .endpoint(devices::list)
        .endpoint(devices::get)
        .json_endpoint(devices::update)
        .endpoint(devices::delete)
        .endpoint(devices::delete_many)
        .endpoint(profiles::get)
        .endpoint(profiles::get_field)
        .endpoint(profiles::set_field)
        .endpoint(profiles::delete_field)
        .endpoint(account_data::get_global)
        .endpoint(account_data::set_global)
        .endpoint(account_data::get_room)
        .endpoint(account_data::set_room)
        .merge(finding_routes())
        .merge(delayed_events::routes())
        .merge(filters::routes())
        .merge(pushers::routes())
        .merge(tags::routes())
        .merge(third_party_identifiers::routes())
        .endpoint(turn_server::get)
        .endpoint(presence::get)
        .endpoint(presence::set)
        .endpoint(push_rules::all)
        .endpoint(push_rules::global)
        .endpoint(push_rules::get)
        .endpoint(push_rules::set)
        .endpoint(push_rules::delete)
        .endpoint(push_rules::is_enabled)
        .endpoint(push_rules::enable)
        .endpoint(push_rules::actions)
        .endpoint(push_rules::set_actions)
        .endpoint(openid::request_token)
        .endpoint(administration::whois)
        .endpoint(administration::is_locked)
        .endpoint(administration::lock)
        .endpoint(administration::is_suspended)
        .endpoint(administration::suspend)
        .endpoint(key_backup::create)
        .endpoint(key_backup::latest)
        .endpoint(key_backup::get)
        .endpoint(key_backup::update)
        .endpoint(key_backup::delete)
        .endpoint(key_backup::put_keys)
        .endpoint(key_backup::put_room_keys)
        .endpoint(key_backup::put_session_key)
        .endpoint(key_backup::get_keys)
        .endpoint(key_backup::get_room_keys)
        .endpoint(key_backup::get_session_key)
        .endpoint(key_backup::delete_keys)
        .endpoint(key_backup::delete_room_keys)
        .endpoint(key_backup::delete_session_key)
        .endpoint(keys::upload)
        .json_endpoint(keys::query)
        .json_endpoint(keys::claim)
        .endpoint(keys::changes)
        .endpoint(cross_signing::upload)
        .json_endpoint(cross_signing::upload_signatures)
        .endpoint(to_device::send)
        .endpoint(dehydrated_device::put)
        .endpoint(dehydrated_device::get_device)
        .endpoint(dehydrated_device::delete)
        .json_endpoint(dehydrated_device::post_events)
        .merge(dehydrated_device::routes())
        .merge(room_routes())
        .merge(fallback::routes())
}

/// Finding rooms and people, and reporting what was found.
fn finding_routes() -> Router<ApiState> {
    Router::new()
        .json_endpoint(room_directory::public_rooms)
        .json_endpoint(room_directory::filtered_public_rooms)
        .endpoint(room_directory::visibility)
        .endpoint(room_directory::set_visibility)
        .json_endpoint(room_directory::summary)
        .route(
            "/_matrix/client/unstable/im.nheko.summary/summary/{room}",
            get(room_directory::unstable_summary),
        )
        .json_endpoint(room_directory::hierarchy)
        .json_endpoint(room_directory::event_at)
        .route("/_matrix/client/v3/rooms/{room}/report/{event}", post(reports::event))
        .route("/_matrix/client/r0/rooms/{room}/report/{event}", post(reports::event))
        .endpoint(reports::room)
        .endpoint(reports::user)
        .endpoint(people::search)
        .route("/_matrix/client/v1/mutual_rooms", get(people::mutual_rooms))
        .route("/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms", get(people::mutual_rooms))
}

/// Rooms, and what users see of them.
fn room_routes() -> Router<ApiState> {
    Router::new()
        .endpoint(create_room::create_room)
        .endpoint(membership::join)
        .endpoint(membership::join_by_alias)
        .endpoint(membership::knock)
        .endpoint(membership::invite)
        .endpoint(membership::leave)
        .endpoint(membership::kick)
        .endpoint(membership::ban)
        .endpoint(membership::unban)
        .endpoint(membership::forget)
        .endpoint(membership::joined_rooms)
        .json_endpoint(room_send::send)
        .json_endpoint(room_send::send_state)
        .endpoint(room_send::redact)
        .endpoint(room_upgrade::upgrade)
        .json_endpoint(room_events::messages)
        .json_endpoint(room_events::context)
        .json_endpoint(room_events::event)
        .json_endpoint(room_events::state_events)
        .json_endpoint(room_events::state_event)
        .json_endpoint(room_events::members)
        .json_endpoint(room_events::joined)
        .json_endpoint(relations::all)
        .json_endpoint(relations::of_type)
        .json_endpoint(relations::of_type_and_event_type)
        .json_endpoint(threads::list)
        .endpoint(receipts::create)
        .endpoint(read_markers::set)
        .endpoint(typing::set)
        .json_endpoint(peeking::room_initial_sync)
        .merge(peeking::routes())
        .endpoint(appservice::ping)
        .endpoint(appservice::publish)
        .json_endpoint(third_party::protocols)
        .json_endpoint(third_party::protocol)
        .json_endpoint(third_party::locations)
        .json_endpoint(third_party::users)
        .json_endpoint(third_party::locations_of_alias)
        .json_endpoint(third_party::users_of_user)
        .endpoint(room_aliases::resolve)
        .endpoint(room_aliases::create)
        .endpoint(room_aliases::delete)
        .endpoint(room_aliases::of_room)
        .merge(sync::routes())
        .merge(sliding_sync::routes())
}
