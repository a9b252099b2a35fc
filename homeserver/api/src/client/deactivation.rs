use axum::extract::State;
use entente_accounts::{Operation, Session};
use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus,
    deactivate::v3::{Request, Response},
};

use super::interactive::prove;
use crate::{ApiState, MatrixError};

/// `POST /account/deactivate`.
pub(super) async fn deactivate(
    State(state): State<ApiState>,
    session: Option<Session>,
    request: Request,
) -> Result<Response, MatrixError> {
    let session = session.ok_or_else(MatrixError::missing_token)?;
    prove(&state, Operation::Deactivate, &session, request.auth.as_ref()).await?;
    state.accounts.deactivate(&session.user_id, request.erase).await?;
    state.accounts.end_interactive_session(request.auth.as_ref()).await?;
    // No third-party identifier was ever bound here, so none is left behind.
    Ok(Response::new(ThirdPartyIdRemovalStatus::Success))
}
