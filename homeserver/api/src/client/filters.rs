use axum::extract::State;
use entente_accounts::Session;
use ruma::{
    UserId,
    api::client::filter::{create_filter, get_filter},
};

use crate::{ApiState, MatrixError};

/// `POST /user/{userId}/filter`.
pub(super) async fn create(
    State(state): State<ApiState>,
    session: Session,
    request: create_filter::v3::Request,
) -> Result<create_filter::v3::Response, MatrixError> {
    check_own(&session, &request.user_id)?;
    let filter = serde_json::to_vec(&request.filter).map_err(MatrixError::internal)?;
    let filter_id = state.accounts.create_filter(&request.user_id, filter.into()).await?;
    Ok(create_filter::v3::Response::new(filter_id))
}

/// `GET /user/{userId}/filter/{filterId}`.
pub(super) async fn get(
    State(state): State<ApiState>,
    session: Session,
    request: get_filter::v3::Request,
) -> Result<get_filter::v3::Response, MatrixError> {
    check_own(&session, &request.user_id)?;
    let filter = state.accounts.filter(&request.user_id, &request.filter_id).await?;
    let filter = serde_json::from_slice(&filter).map_err(MatrixError::internal)?;
    Ok(get_filter::v3::Response::new(filter))
}

fn check_own(session: &Session, user_id: &UserId) -> Result<(), MatrixError> {
    if session.user_id == user_id {
        Ok(())
    } else {
        Err(MatrixError::forbidden("only the user's own filters can be read or made"))
    }
}
