use axum::extract::State;
use entente_accounts::{AccountError, SessionRequest};
use ruma::{
    UserId,
    api::client::{
        session::{
            get_login_types::v3 as get_login_types,
            login::v3::{LoginInfo, Password, Request, Response, Token},
        },
        uiaa::UserIdentifier,
    },
};

use crate::{ApiState, LimitKind, MatrixError, endpoint::Anonymous, masquerading::Newcomer};

/// `GET /login`.
pub(super) async fn flows(
    State(state): State<ApiState>,
    _: Anonymous,
    _: get_login_types::Request,
) -> Result<get_login_types::Response, MatrixError> {
    let mut flows = Vec::new();
    if state.accounts.settings().password_login {
        flows.push(get_login_types::LoginType::Password(get_login_types::PasswordLoginType::new()));
    }
    let mut token = get_login_types::TokenLoginType::new();
    token.get_login_token = state.accounts.settings().password_login;
    flows.push(get_login_types::LoginType::Token(token));
    flows.push(get_login_types::LoginType::ApplicationService(
        get_login_types::ApplicationServiceLoginType::new(),
    ));
    Ok(get_login_types::Response::new(flows))
}

/// `POST /login`.
pub(super) async fn login(
    State(state): State<ApiState>,
    caller: Newcomer,
    request: Request,
) -> Result<Response, MatrixError> {
    if !matches!(request.login_info, LoginInfo::ApplicationService(_)) {
        state.limits.take(LimitKind::LoginByAddress, &caller.anonymous.address_key())?;
    }
    let localpart = match &request.login_info {
        LoginInfo::ApplicationService(named) => service_user(&state, &caller, named.identifier.as_ref())?,
        LoginInfo::Password(password) => verify_password(&state, password).await?,
        LoginInfo::Token(Token { token, .. }) => state.accounts.take_login_token(token).await?,
        _ => return Err(MatrixError::unknown_login_type()),
    };
    let session_request = SessionRequest {
        device_id: request.device_id,
        initial_device_display_name: request.initial_device_display_name,
        refresh_token: request.refresh_token,
    };
    let session = state.accounts.create_session(&localpart, &session_request).await?;
    let user_id = UserId::parse_with_server_name(localpart, state.accounts.server_name())
        .map_err(|_| AccountError::WrongCredentials)?;
    let mut response = Response::new(user_id, session.access_token, session.device_id);
    response.refresh_token = session.refresh_token;
    response.expires_in = session.expires_in;
    Ok(response)
}

/// The user whom an application service logs in (A-S API, "Server admin style permissions").
fn service_user(
    state: &ApiState,
    caller: &Newcomer,
    identifier: Option<&UserIdentifier>,
) -> Result<String, MatrixError> {
    let service = caller.service()?;
    let identifier = identifier.ok_or_else(MatrixError::missing_identifier)?;
    let localpart = state.accounts.identified_localpart(identifier)?;
    let user_id = UserId::parse_with_server_name(localpart.as_str(), state.accounts.server_name())
        .map_err(|_| AccountError::WrongCredentials)?;
    if !service.may_be(&user_id) {
        return Err(MatrixError::exclusive("that user is not in a namespace of this application service"));
    }
    if service.device_management {
        return Err(MatrixError::service_login_unsupported());
    }
    Ok(localpart)
}

/// Counts a try of an account's password, and a failure twice: guessing is slowed down more than logging in.
pub(super) async fn count_try<T>(
    state: &ApiState,
    localpart: &str,
    attempt: impl Future<Output = Result<T, AccountError>>,
) -> Result<T, MatrixError> {
    state.limits.take(LimitKind::LoginByAccount, localpart)?;
    state.limits.check(LimitKind::FailedLoginByAccount, localpart)?;
    let outcome = attempt.await;
    if matches!(outcome, Err(AccountError::WrongCredentials | AccountError::Interactive(_))) {
        // The next try meets the limit; this one is told why it failed.
        let _ = state.limits.take(LimitKind::FailedLoginByAccount, localpart);
    }
    Ok(outcome?)
}

/// Verifies a name and a password; a name that is tried too often is refused for a while, whoever tries.
async fn verify_password(state: &ApiState, given: &Password) -> Result<String, MatrixError> {
    let identifier = given.identifier.as_ref().ok_or_else(MatrixError::missing_identifier)?;
    let localpart = state.accounts.identified_localpart(identifier)?;
    count_try(state, &localpart, state.accounts.verify_password(&localpart, &given.password)).await?;
    Ok(localpart)
}
