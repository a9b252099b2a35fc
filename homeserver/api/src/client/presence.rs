use axum::extract::State;
use entente_accounts::{AccountError, PresenceState, Session};
use ruma::{
    api::client::presence::{get_presence, set_presence},
    presence::PresenceState as NamedState,
};

use super::membership::active;
use crate::{ApiState, MatrixError};

/// `GET /presence/{userId}/status`.
pub(super) async fn get(
    State(state): State<ApiState>,
    session: Session,
    request: get_presence::v3::Request,
) -> Result<get_presence::v3::Response, MatrixError> {
    if !state.accounts.settings().presence {
        return Err(MatrixError::not_found("this server does not tell who is here"));
    }
    if !state.rooms.meets(&session.user_id, &request.user_id).await? {
        return Err(MatrixError::forbidden("only those who share a room with a user see their presence"));
    }
    let presence = match state.accounts.presence(&request.user_id).await {
        Err(AccountError::UserNotFound) => {
            return Err(MatrixError::not_found("nothing is known of the presence of that user"));
        }
        presence => presence?,
    };
    let mut response = get_presence::v3::Response::new(NamedState::from(presence.state.as_str()));
    response.last_active_ago =
        state.accounts.last_active_ago(&presence).map(std::time::Duration::from_millis);
    response.currently_active = Some(presence.state == PresenceState::Online);
    response.status_msg = presence.status_msg;
    Ok(response)
}

/// `PUT /presence/{userId}/status`.
pub(super) async fn set(
    State(state): State<ApiState>,
    session: Session,
    request: set_presence::v3::Request,
) -> Result<set_presence::v3::Response, MatrixError> {
    active(&session)?;
    if request.user_id != session.user_id {
        return Err(MatrixError::forbidden("only the user's own presence can be set"));
    }
    let presence = named(request.presence.as_str())?;
    let device_id = session.device_id.as_str();
    state.accounts.set_presence(&session.user_id, device_id, presence, request.status_msg.as_deref()).await?;
    Ok(set_presence::v3::Response::new())
}

/// What a request for news makes of its user: online, unless it says something else.
pub(super) fn wanted(set_presence: Option<&str>) -> Result<PresenceState, MatrixError> {
    match set_presence {
        None | Some("") => Ok(PresenceState::Online),
        Some(name) => named(name),
    }
}

/// The presence of this name.
fn named(name: &str) -> Result<PresenceState, MatrixError> {
    PresenceState::from_name(name)
        .ok_or_else(|| MatrixError::invalid_param("presence is online, unavailable or offline"))
}
