use axum::extract::State;
use entente_accounts::{AccountStatus, Session};
use ruma::{
    UserId,
    api::client::admin::{is_user_locked, is_user_suspended, lock_user, suspend_user},
};

use crate::{ApiState, MatrixError};

/// `GET /admin/lock/{userId}`.
pub(super) async fn is_locked(
    State(state): State<ApiState>,
    session: Session,
    request: is_user_locked::v1::Request,
) -> Result<is_user_locked::v1::Response, MatrixError> {
    let status = status_for_admin(&state, &session, &request.user_id).await?;
    Ok(is_user_locked::v1::Response::new(status.locked))
}

/// `PUT /admin/lock/{userId}`.
pub(super) async fn lock(
    State(state): State<ApiState>,
    session: Session,
    request: lock_user::v1::Request,
) -> Result<lock_user::v1::Response, MatrixError> {
    check_may_restrict(&state, &session, &request.user_id).await?;
    state.accounts.set_locked(&request.user_id, request.locked).await?;
    tracing::info!(user.id = %request.user_id, by = %session.user_id, locked = request.locked, "lock changed");
    Ok(lock_user::v1::Response::new(request.locked))
}

/// `GET /admin/suspend/{userId}`.
pub(super) async fn is_suspended(
    State(state): State<ApiState>,
    session: Session,
    request: is_user_suspended::v1::Request,
) -> Result<is_user_suspended::v1::Response, MatrixError> {
    let status = status_for_admin(&state, &session, &request.user_id).await?;
    Ok(is_user_suspended::v1::Response::new(status.suspended))
}

/// `PUT /admin/suspend/{userId}`.
pub(super) async fn suspend(
    State(state): State<ApiState>,
    session: Session,
    request: suspend_user::v1::Request,
) -> Result<suspend_user::v1::Response, MatrixError> {
    check_may_restrict(&state, &session, &request.user_id).await?;
    state.accounts.set_suspended(&request.user_id, request.suspended).await?;
    let suspended = request.suspended;
    tracing::info!(user.id = %request.user_id, by = %session.user_id, suspended, "suspension changed");
    Ok(suspend_user::v1::Response::new(suspended))
}

async fn status_for_admin(
    state: &ApiState,
    session: &Session,
    user_id: &UserId,
) -> Result<AccountStatus, MatrixError> {
    if !session.admin {
        return Err(MatrixError::forbidden("only administrators of this server may do this"));
    }
    if user_id.server_name() != state.accounts.server_name() {
        return Err(MatrixError::invalid_param("that user is on another server"));
    }
    Ok(state.accounts.status(user_id).await?)
}

/// An administrator may restrict neither himself nor another administrator (C-S API, "Account moderation").
async fn check_may_restrict(
    state: &ApiState,
    session: &Session,
    user_id: &UserId,
) -> Result<(), MatrixError> {
    let status = status_for_admin(state, session, user_id).await?;
    if status.admin { Err(MatrixError::forbidden("administrators cannot be restricted")) } else { Ok(()) }
}
