use axum::extract::State;
use entente_accounts::{Operation, Session};
use ruma::api::client::account::change_password::v3::{Request, Response};

use super::interactive::prove;
use crate::{ApiState, MatrixError};

/// `POST /account/password`.
///
/// Without an access token the spec lets a user prove who he is by a third-party identifier; this server has none of those,
/// so a token is needed.
pub(super) async fn change(
    State(state): State<ApiState>,
    session: Option<Session>,
    request: Request,
) -> Result<Response, MatrixError> {
    let session = session.ok_or_else(MatrixError::missing_token)?;
    prove(&state, Operation::ChangePassword, &session, request.auth.as_ref()).await?;
    let keep = Some(session.device_id.as_str());
    state
        .accounts
        .change_password(&session.user_id, &request.new_password, request.logout_devices, keep)
        .await?;
    state.accounts.end_interactive_session(request.auth.as_ref()).await?;
    Ok(Response::new())
}
