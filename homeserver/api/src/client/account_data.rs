use axum::extract::State;
use entente_accounts::{AccountDataScope, Session};
use entente_storage::Bytes;
use ruma::{
    UserId,
    api::client::config::{
        get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data,
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{ApiState, MatrixError};

/// Types that have endpoints of their own and cannot be set as account data (C-S API, "Client Config").
const MANAGED_TYPES: [&str; 2] = ["m.fully_read", "m.push_rules"];

/// `GET /user/{userId}/account_data/{type}`.
pub(super) async fn get_global(
    State(state): State<ApiState>,
    session: Session,
    request: get_global_account_data::v3::Request,
) -> Result<get_global_account_data::v3::Response, MatrixError> {
    let event_type = request.event_type.to_string();
    let content = get(&state, &session, &request.user_id, AccountDataScope::Global, &event_type).await?;
    Ok(get_global_account_data::v3::Response::new(Raw::from_json(content)))
}

/// `PUT /user/{userId}/account_data/{type}`.
pub(super) async fn set_global(
    State(state): State<ApiState>,
    session: Session,
    request: set_global_account_data::v3::Request,
) -> Result<set_global_account_data::v3::Response, MatrixError> {
    let event_type = request.event_type.to_string();
    let content = request.data.json();
    set(&state, &session, &request.user_id, AccountDataScope::Global, &event_type, content).await?;
    Ok(set_global_account_data::v3::Response::new())
}

/// `GET /user/{userId}/rooms/{roomId}/account_data/{type}`.
pub(super) async fn get_room(
    State(state): State<ApiState>,
    session: Session,
    request: get_room_account_data::v3::Request,
) -> Result<get_room_account_data::v3::Response, MatrixError> {
    let event_type = request.event_type.to_string();
    let scope = AccountDataScope::Room(&request.room_id);
    let content = get(&state, &session, &request.user_id, scope, &event_type).await?;
    Ok(get_room_account_data::v3::Response::new(Raw::from_json(content)))
}

/// `PUT /user/{userId}/rooms/{roomId}/account_data/{type}`.
pub(super) async fn set_room(
    State(state): State<ApiState>,
    session: Session,
    request: set_room_account_data::v3::Request,
) -> Result<set_room_account_data::v3::Response, MatrixError> {
    let event_type = request.event_type.to_string();
    let scope = AccountDataScope::Room(&request.room_id);
    set(&state, &session, &request.user_id, scope, &event_type, request.data.json()).await?;
    Ok(set_room_account_data::v3::Response::new())
}

async fn get(
    state: &ApiState,
    session: &Session,
    user_id: &UserId,
    scope: AccountDataScope<'_>,
    event_type: &str,
) -> Result<Box<RawValue>, MatrixError> {
    check_own(session, user_id)?;
    let content = state.accounts.account_data(user_id, scope, event_type).await?;
    serde_json::from_slice(&content).map_err(MatrixError::internal)
}

async fn set(
    state: &ApiState,
    session: &Session,
    user_id: &UserId,
    scope: AccountDataScope<'_>,
    event_type: &str,
    content: &RawValue,
) -> Result<(), MatrixError> {
    check_own(session, user_id)?;
    if MANAGED_TYPES.contains(&event_type) {
        return Err(MatrixError::managed_type(event_type));
    }
    if !content.get().trim_start().starts_with('{') {
        return Err(MatrixError::bad_json("account data is a JSON object"));
    }
    let content = Bytes::copy_from_slice(content.get().as_bytes());
    state.accounts.set_account_data(user_id, scope, event_type, content).await?;
    Ok(())
}

/// Refuses other users' account data.
pub(super) fn check_own(session: &Session, user_id: &UserId) -> Result<(), MatrixError> {
    if session.user_id == user_id {
        Ok(())
    } else {
        Err(MatrixError::forbidden("only the user's own account data can be read or changed"))
    }
}
