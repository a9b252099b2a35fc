use axum::extract::State;
use entente_accounts::{AccountStatus, Session};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt, UserId,
    api::client::admin::{get_user_info, is_user_locked, is_user_suspended, lock_user, suspend_user},
};

use crate::{ApiState, MatrixError};

/// `GET /admin/whois/{userId}`: where a user's devices were seen last. For the user, and for administrators.
pub(super) async fn whois(
    State(state): State<ApiState>,
    session: Session,
    request: get_user_info::v3::Request,
) -> Result<get_user_info::v3::Response, MatrixError> {
    if session.user_id != request.user_id && !session.admin {
        return Err(MatrixError::forbidden("only administrators learn where others were seen"));
    }
    let mut response = get_user_info::v3::Response::new();
    for device in state.accounts.devices(&request.user_id).await? {
        let mut connection = get_user_info::v3::ConnectionInfo::new();
        connection.ip = device.last_seen_address;
        let seen_at = device.last_seen_at.and_then(|at| UInt::try_from(at).ok());
        connection.last_seen = seen_at.map(MilliSecondsSinceUnixEpoch);
        let mut info = get_user_info::v3::DeviceInfo::new();
        let mut session = get_user_info::v3::SessionInfo::new();
        session.connections.push(connection);
        info.sessions.push(session);
        response.devices.insert(device.device_id.to_string(), info);
    }
    response.user_id = Some(request.user_id);
    Ok(response)
}

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
