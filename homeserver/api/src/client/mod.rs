//! The client-server API: one endpoint or one tight family a file. A handler parses, asks for proof, calls one use case, and
//! renders; decisions live below it.

mod account_data;
mod administration;
mod capabilities;
mod deactivation;
mod devices;
mod fallback;
mod filters;
mod interactive;
mod key_backup;
mod login;
mod login_token;
mod logout;
mod openid;
mod password;
mod profiles;
mod refresh;
mod registration;
mod versions;
mod well_known;
mod whoami;

use axum::Router;

use crate::{ApiState, endpoint::Endpoints};

/// How clients find this server, and whom users can turn to.
pub(crate) fn discovery() -> Router<ApiState> {
    Router::new().endpoint(well_known::client).endpoint(well_known::support)
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
        .endpoint(devices::update)
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
        .endpoint(filters::create)
        .endpoint(filters::get)
        .endpoint(openid::request_token)
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
        .merge(fallback::routes())
}
