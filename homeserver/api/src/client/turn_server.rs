use axum::extract::State;
use entente_accounts::Session;
use entente_turn::TurnCredentials;
use ruma::api::client::voip::get_turn_server_info;

use crate::{ApiState, MatrixError};

/// `GET /voip/turnServer`. An answer has to name a server, so 404 says that there is none (MSC4166).
pub(super) async fn get(
    State(state): State<ApiState>,
    session: Session,
    _: get_turn_server_info::v3::Request,
) -> Result<get_turn_server_info::v3::Response, MatrixError> {
    let Some(service) = &state.turn_service else {
        return Err(MatrixError::not_found("this server has no TURN server to offer"));
    };
    let user = session.user_id.as_str();
    let TurnCredentials { username, password, lifetime } =
        service.credentials(user, state.limits.clock().now());
    Ok(get_turn_server_info::v3::Response::new(username, password, service.uris().to_vec(), lifetime))
}
