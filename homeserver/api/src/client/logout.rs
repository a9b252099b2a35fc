use axum::extract::State;
use ruma::api::client::session::{logout, logout_all};

use crate::{ApiState, MatrixError, endpoint::LoggingOut};

/// `POST /logout`: the device goes, and its tokens with it.
pub(super) async fn logout(
    State(state): State<ApiState>,
    LoggingOut(session): LoggingOut,
    _: logout::v3::Request,
) -> Result<logout::v3::Response, MatrixError> {
    state.accounts.delete_devices(&session.user_id, &[session.device_id.as_str()]).await?;
    Ok(logout::v3::Response::new())
}

/// `POST /logout/all`.
pub(super) async fn logout_all(
    State(state): State<ApiState>,
    LoggingOut(session): LoggingOut,
    _: logout_all::v3::Request,
) -> Result<logout_all::v3::Response, MatrixError> {
    state.accounts.delete_all_devices(&session.user_id).await?;
    Ok(logout_all::v3::Response::new())
}
