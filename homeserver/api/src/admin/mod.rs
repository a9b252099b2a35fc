//! What administrators do over HTTP that the Matrix specification has no endpoints for. What it has is with the others of clients.

mod appservices;

use axum::{Router, extract::FromRequestParts, routing::get};
use entente_accounts::Session;
use http::request::Parts;
use ruma::api::auth_scheme::AccessToken;

use crate::{ApiState, MatrixError, endpoint::Caller};

/// An administrator of this server, by a session of their own: an application service that acts as one is none.
struct Administrator(Session);

impl FromRequestParts<ApiState> for Administrator {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, MatrixError> {
        let session = Box::pin(<Session as Caller<AccessToken>>::identify(state, parts, true)).await?;
        if session.admin && session.service.is_none() {
            Ok(Self(session))
        } else {
            Err(MatrixError::forbidden("only administrators of this server may do this"))
        }
    }
}

pub(crate) fn routes() -> Router<ApiState> {
    let one = get(appservices::one).put(appservices::put).delete(appservices::delete);
    Router::new()
        .route("/_entente/admin/v1/appservices", get(appservices::all))
        .route("/_entente/admin/v1/appservices/{id}", one)
}
