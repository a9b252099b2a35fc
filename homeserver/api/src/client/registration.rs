use axum::extract::State;
use entente_accounts::{AccountError, NewAccount, Registered, SessionRequest};
use ruma::{
    OwnedUserId, UserId,
    api::client::account::{
        check_registration_token_validity, get_username_availability,
        register::{
            LoginType, RegistrationKind,
            v3::{Request, Response},
        },
    },
};

use crate::{ApiState, LimitKind, MatrixError, endpoint::Anonymous, masquerading::Newcomer};

/// `POST /register`.
pub(super) async fn register(
    State(state): State<ApiState>,
    caller: Newcomer,
    request: Request,
) -> Result<Response, MatrixError> {
    if request.kind == RegistrationKind::Guest {
        return register_guest(&state, &caller, request).await;
    }
    if matches!(request.login_type, Some(LoginType::ApplicationService)) {
        return register_for_service(&state, &caller, request).await;
    }
    // A client that asks for a name nobody can have hears of it before it goes through the stages.
    if let Some(username) = &request.username {
        check_not_exclusive(&state, username)?;
        state.accounts.check_available(username).await?;
    }
    let proof = state.accounts.prove_registration(request.auth.as_ref()).await?;
    state.limits.take(LimitKind::RegistrationByAddress, &caller.anonymous.address_key())?;
    let session = (!request.inhibit_login).then_some(SessionRequest {
        device_id: request.device_id,
        initial_device_display_name: request.initial_device_display_name,
        refresh_token: request.refresh_token,
    });
    let account = NewAccount {
        username: request.username,
        password: request.password,
        session,
        ..NewAccount::default()
    };
    let registered = state.accounts.register(&account, &proof).await?;
    state.accounts.end_interactive_session(request.auth.as_ref()).await?;
    Ok(render(registered))
}

/// Registers a user of an application service, which needs no proof but the service's token.
async fn register_for_service(
    state: &ApiState,
    caller: &Newcomer,
    request: Request,
) -> Result<Response, MatrixError> {
    let service = caller.service()?;
    let username = request.username.ok_or_else(|| MatrixError::missing_param("the user needs a name"))?;
    let user_id = user_id_of(state, &username)?;
    if !service.may_be(&user_id) || state.appservices.registry().is_reserved_user(&user_id, Some(&service.id))
    {
        return Err(MatrixError::exclusive("that name is not in a namespace of this application service"));
    }
    if service.device_management && !request.inhibit_login {
        return Err(MatrixError::service_login_unsupported());
    }
    let session = (!request.inhibit_login).then_some(SessionRequest {
        device_id: request.device_id,
        initial_device_display_name: request.initial_device_display_name,
        refresh_token: request.refresh_token,
    });
    Ok(render(state.accounts.create_service_user(&username, session).await?))
}

fn user_id_of(state: &ApiState, username: &str) -> Result<OwnedUserId, MatrixError> {
    let user_id = UserId::parse_with_server_name(username.to_lowercase(), state.accounts.server_name());
    Ok(user_id.map_err(|_| AccountError::InvalidUsername)?)
}

/// Refuses names that an application service has for itself.
fn check_not_exclusive(state: &ApiState, username: &str) -> Result<(), MatrixError> {
    if state.appservices.registry().is_reserved_user(&user_id_of(state, username)?, None) {
        return Err(MatrixError::exclusive("that name is kept for an application service"));
    }
    Ok(())
}

/// A guest has a name of the server's choice, no password, and nothing to prove.
async fn register_guest(
    state: &ApiState,
    caller: &Newcomer,
    request: Request,
) -> Result<Response, MatrixError> {
    state.limits.take(LimitKind::RegistrationByAddress, &caller.anonymous.address_key())?;
    let session = SessionRequest {
        initial_device_display_name: request.initial_device_display_name,
        refresh_token: request.refresh_token,
        ..SessionRequest::default()
    };
    Ok(render(state.accounts.register_guest(session).await?))
}

fn render(registered: Registered) -> Response {
    let mut response = Response::new(registered.user_id);
    if let Some(session) = registered.session {
        response.access_token = Some(session.access_token);
        response.device_id = Some(session.device_id);
        response.refresh_token = session.refresh_token;
        response.expires_in = session.expires_in;
    }
    response
}

/// `GET /register/available`.
pub(super) async fn available(
    State(state): State<ApiState>,
    _: Anonymous,
    request: get_username_availability::v3::Request,
) -> Result<get_username_availability::v3::Response, MatrixError> {
    check_not_exclusive(&state, &request.username)?;
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
