use axum::extract::State;
use entente_accounts::Session;
use ruma::{
    api::client::account::request_openid_token::v3::{Request, Response},
    authentication::TokenType,
};

use crate::{ApiState, MatrixError};

/// `POST /user/{userId}/openid/request_token`.
pub(super) async fn request_token(
    State(state): State<ApiState>,
    session: Session,
    request: Request,
) -> Result<Response, MatrixError> {
    if session.user_id != request.user_id {
        return Err(MatrixError::forbidden("a token can only be had for oneself"));
    }
    let token = state.accounts.create_openid_token(&request.user_id).await?;
    let server_name = state.accounts.server_name().to_owned();
    Ok(Response::new(token.access_token, TokenType::Bearer, server_name, token.expires_in))
}
