use axum::extract::State;
use entente_accounts::Session;
use ruma::api::client::voip::get_turn_server_info;

use crate::{ApiState, MatrixError};

/// `GET /voip/turnServer`: there is none. An answer has to name one, so this is none of its kind (MSC4166).
pub(super) async fn get(
    State(_): State<ApiState>,
    _: Session,
    _: get_turn_server_info::v3::Request,
) -> Result<get_turn_server_info::v3::Response, MatrixError> {
    Err(MatrixError::not_found("this server has no TURN server to offer"))
}
