use axum::extract::State;
use ruma::api::federation::openid::get_openid_userinfo::v1::{Request, Response};

use crate::{ApiState, MatrixError, endpoint::Anonymous};

/// `GET /openid/userinfo`: whose token this is, for the third party to whom the user gave it.
pub(super) async fn userinfo(
    State(state): State<ApiState>,
    _: Anonymous,
    request: Request,
) -> Result<Response, MatrixError> {
    Ok(Response::new(state.accounts.openid_user(&request.access_token).await?))
}
