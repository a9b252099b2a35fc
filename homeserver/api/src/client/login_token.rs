use axum::extract::State;
use entente_accounts::{Operation, Session};
use ruma::api::client::session::get_login_token::v1::{Request, Response};

use super::interactive::prove;
use crate::{ApiState, MatrixError};

/// `POST /login/get_token`: lets a user log in on another device without the password.
pub(super) async fn create(
    State(state): State<ApiState>,
    session: Session,
    request: Request,
) -> Result<Response, MatrixError> {
    prove(&state, Operation::CreateLoginToken, &session, request.auth.as_ref()).await?;
    let (token, lifetime) = state.accounts.create_login_token(&session.user_id).await?;
    state.accounts.end_interactive_session(request.auth.as_ref()).await?;
    Ok(Response::new(lifetime, token))
}
