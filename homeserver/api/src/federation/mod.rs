//! The server-server API, so far what needs no signing keys: finding this server, and exchanging `OpenID` tokens.

mod openid;
mod well_known;

use axum::Router;

use crate::{ApiState, endpoint::Endpoints};

/// How other servers find this one.
pub(crate) fn discovery() -> Router<ApiState> {
    Router::new().endpoint(well_known::server)
}

/// All other endpoints of the server-server API.
pub(crate) fn routes() -> Router<ApiState> {
    Router::new().endpoint(openid::userinfo)
}
