use axum::extract::State;
use entente_accounts::Session;
use ruma::api::client::account::whoami::v3::{Request, Response};

use crate::{ApiState, MatrixError};

/// `GET /account/whoami`.
pub(super) async fn whoami(
    State(_): State<ApiState>,
    session: Session,
    _: Request,
) -> Result<Response, MatrixError> {
    let mut response = Response::new(session.user_id, session.guest);
    response.device_id = Some(session.device_id).filter(|device_id| !device_id.as_str().is_empty());
    Ok(response)
}
