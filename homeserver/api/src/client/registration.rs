use axum::extract::State;
use entente_accounts::{AccountError, NewAccount, SessionRequest};
use ruma::api::client::account::{
    check_registration_token_validity, get_username_availability,
    register::{
        LoginType, RegistrationKind,
        v3::{Request, Response},
    },
};

use crate::{ApiState, LimitKind, MatrixError, endpoint::Anonymous};

/// `POST /register`.
pub(super) async fn register(
    State(state): State<ApiState>,
    caller: Anonymous,
    request: Request,
) -> Result<Response, MatrixError> {
    if request.kind == RegistrationKind::Guest {
        return Err(AccountError::GuestsRefused.into());
    }
    if matches!(request.login_type, Some(LoginType::ApplicationService)) {
        return Err(MatrixError::unknown_login_type());
    }
    // A client that asks for a name nobody can have hears of it before it goes through the stages.
    if let Some(username) = &request.username {
        state.accounts.check_available(username).await?;
    }
    let proof = state.accounts.prove_registration(request.auth.as_ref()).await?;
    state.limits.take(LimitKind::RegistrationByAddress, &caller.address_key())?;
    let session = (!request.inhibit_login).then_some(SessionRequest {
        device_id: request.device_id,
        initial_device_display_name: request.initial_device_display_name,
        refresh_token: request.refresh_token,
    });
    let account =
        NewAccount { username: request.username, password: request.password, session, admin: false };
    let registered = state.accounts.register(&account, &proof).await?;
    state.accounts.end_interactive_session(request.auth.as_ref()).await?;
    let mut response = Response::new(registered.user_id);
    if let Some(session) = registered.session {
        response.access_token = Some(session.access_token);
        response.device_id = Some(session.device_id);
        response.refresh_token = session.refresh_token;
        response.expires_in = session.expires_in;
    }
    Ok(response)
}

/// `GET /register/available`.
pub(super) async fn available(
    State(state): State<ApiState>,
    _: Anonymous,
    request: get_username_availability::v3::Request,
) -> Result<get_username_availability::v3::Response, MatrixError> {
    state.accounts.check_available(&request.username).await?;
    Ok(get_username_availability::v3::Response::new(true))
}

/// `GET /register/m.login.registration_token/validity`.
pub(super) async fn token_validity(
    State(state): State<ApiState>,
    _: Anonymous,
    request: check_registration_token_validity::v1::Request,
) -> Result<check_registration_token_validity::v1::Response, MatrixError> {
    let valid = state.accounts.is_registration_token_valid(&request.token).await?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}
