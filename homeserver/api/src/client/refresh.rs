use axum::extract::State;
use ruma::api::client::session::refresh_token::v3::{Request, Response};

use crate::{ApiState, MatrixError, endpoint::Anonymous};

/// `POST /refresh`.
pub(super) async fn refresh(
    State(state): State<ApiState>,
    _: Anonymous,
    request: Request,
) -> Result<Response, MatrixError> {
    let session = state.accounts.refresh(&request.refresh_token).await?;
    let mut response = Response::new(session.access_token);
    response.refresh_token = session.refresh_token;
    response.expires_in_ms = session.expires_in;
    Ok(response)
}
