use axum::extract::State;
use entente_accounts::Session;
use ruma::{
    UserId,
    api::client::profile::{delete_profile_field, get_profile, get_profile_field, set_profile_field},
    profile::ProfileFieldValue,
};

use serde_json::{Map, Value};

use super::remote;
use crate::{ApiState, MatrixError, endpoint::Visitor};

/// `GET /profile/{userId}`.
pub(super) async fn get(
    State(state): State<ApiState>,
    visitor: Visitor,
    request: get_profile::v3::Request,
) -> Result<get_profile::v3::Response, MatrixError> {
    let mut response = get_profile::v3::Response::new();
    for (field, value) in profile_of(&state, &visitor, &request.user_id).await? {
        response.set(field, value);
    }
    Ok(response)
}

async fn profile_of(
    state: &ApiState,
    visitor: &Visitor,
    user_id: &UserId,
) -> Result<Map<String, Value>, MatrixError> {
    if user_id.server_name() != state.accounts.server_name() {
        visitor.count_question(state)?;
        return remote::profile(state, user_id).await;
    }
    Ok(state.accounts.profile(user_id).await?.into_iter().collect())
}

/// `GET /profile/{userId}/{keyName}`.
pub(super) async fn get_field(
    State(state): State<ApiState>,
    visitor: Visitor,
    request: get_profile_field::v3::Request,
) -> Result<get_profile_field::v3::Response, MatrixError> {
    let field = request.field.as_str();
    let value = if request.user_id.server_name() == state.accounts.server_name() {
        state.accounts.profile_field(&request.user_id, field).await?
    } else {
        let fields = profile_of(&state, &visitor, &request.user_id).await?;
        let value = fields.get(field).cloned();
        value.ok_or_else(|| MatrixError::not_found("the user's profile has no such field"))?
    };
    let value = ProfileFieldValue::new(field, value).map_err(MatrixError::internal)?;
    Ok(get_profile_field::v3::Response::new(value))
}

/// `PUT /profile/{userId}/{keyName}`.
pub(super) async fn set_field(
    State(state): State<ApiState>,
    session: Session,
    request: set_profile_field::v3::Request,
) -> Result<set_profile_field::v3::Response, MatrixError> {
    check_own(&session, &request.user_id)?;
    let field = request.value.field_name();
    let value = request.value.value();
    state.accounts.set_profile_field(&request.user_id, field.as_str(), Some(&value)).await?;
    Ok(set_profile_field::v3::Response::new())
}

/// `DELETE /profile/{userId}/{keyName}`.
pub(super) async fn delete_field(
    State(state): State<ApiState>,
    session: Session,
    request: delete_profile_field::v3::Request,
) -> Result<delete_profile_field::v3::Response, MatrixError> {
    check_own(&session, &request.user_id)?;
    state.accounts.set_profile_field(&request.user_id, request.field.as_str(), None).await?;
    Ok(delete_profile_field::v3::Response::new())
}

fn check_own(session: &Session, user_id: &UserId) -> Result<(), MatrixError> {
    if session.user_id != user_id {
        return Err(MatrixError::forbidden("only the user's own profile can be changed"));
    }
    if session.suspended {
        return Err(entente_accounts::AccountError::UserSuspended.into());
    }
    Ok(())
}
