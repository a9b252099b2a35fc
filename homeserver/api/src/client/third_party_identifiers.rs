//! E-mail addresses and telephone numbers (C-S API, "Adding Account Administrative Contact Information"), of which this server keeps
//! none: each endpoint says so in the spec's words for it.

use axum::{Router, extract::State, routing::post};
use entente_accounts::Session;
use ruma::api::client::account::{
    add_3pid, bind_3pid, delete_3pid, get_3pids, request_3pid_management_token_via_email,
    request_3pid_management_token_via_msisdn, request_password_change_token_via_email,
    request_password_change_token_via_msisdn, request_registration_token_via_email,
    request_registration_token_via_msisdn, unbind_3pid,
};

use crate::{
    ApiState, MatrixError,
    endpoint::{Anonymous, Endpoints, Json, SessionOf},
};

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .json_endpoint(list)
        .route("/_matrix/client/v3/account/3pid", post(add_validated))
        .route("/_matrix/client/r0/account/3pid", post(add_validated))
        .endpoint(add)
        .endpoint(bind)
        .endpoint(delete)
        .endpoint(unbind)
        .endpoint(email_token)
        .endpoint(telephone_token)
        .endpoint(password_email_token)
        .endpoint(password_telephone_token)
        .endpoint(registration_email_token)
        .endpoint(registration_telephone_token)
}

/// `GET /account/3pid`. The list is written out though it is empty: clients go through it without asking.
async fn list(State(_): State<ApiState>, _: Session, _: get_3pids::v3::Request) -> Result<Json, MatrixError> {
    Ok(Json(br#"{"threepids":[]}"#.to_vec()))
}

/// `POST /account/3pid`, which is deprecated.
async fn add_validated(State(_): State<ApiState>, SessionOf(_): SessionOf) -> MatrixError {
    MatrixError::third_party_identifiers_denied()
}

/// `POST /account/3pid/add`.
async fn add(
    State(_): State<ApiState>,
    _: Session,
    _: add_3pid::v3::Request,
) -> Result<add_3pid::v3::Response, MatrixError> {
    Err(MatrixError::third_party_identifiers_denied())
}

/// `POST /account/3pid/bind`.
async fn bind(
    State(_): State<ApiState>,
    _: Session,
    _: bind_3pid::v3::Request,
) -> Result<bind_3pid::v3::Response, MatrixError> {
    Err(MatrixError::identity_server_not_trusted())
}

/// `POST /account/3pid/delete`.
async fn delete(
    State(_): State<ApiState>,
    _: Session,
    _: delete_3pid::v3::Request,
) -> Result<delete_3pid::v3::Response, MatrixError> {
    Err(MatrixError::third_party_identifier_not_found())
}

/// `POST /account/3pid/unbind`.
async fn unbind(
    State(_): State<ApiState>,
    _: Session,
    _: unbind_3pid::v3::Request,
) -> Result<unbind_3pid::v3::Response, MatrixError> {
    Err(MatrixError::third_party_identifier_not_found())
}

/// `POST /account/3pid/email/requestToken`.
async fn email_token(
    State(_): State<ApiState>,
    _: Anonymous,
    _: request_3pid_management_token_via_email::v3::Request,
) -> Result<request_3pid_management_token_via_email::v3::Response, MatrixError> {
    Err(MatrixError::third_party_identifiers_denied())
}

/// `POST /account/3pid/msisdn/requestToken`.
async fn telephone_token(
    State(_): State<ApiState>,
    _: Anonymous,
    _: request_3pid_management_token_via_msisdn::v3::Request,
) -> Result<request_3pid_management_token_via_msisdn::v3::Response, MatrixError> {
    Err(MatrixError::third_party_identifiers_denied())
}

/// `POST /account/password/email/requestToken`.
async fn password_email_token(
    State(_): State<ApiState>,
    _: Anonymous,
    _: request_password_change_token_via_email::v3::Request,
) -> Result<request_password_change_token_via_email::v3::Response, MatrixError> {
    Err(MatrixError::third_party_identifiers_denied())
}

/// `POST /account/password/msisdn/requestToken`.
async fn password_telephone_token(
    State(_): State<ApiState>,
    _: Anonymous,
    _: request_password_change_token_via_msisdn::v3::Request,
) -> Result<request_password_change_token_via_msisdn::v3::Response, MatrixError> {
    Err(MatrixError::third_party_identifiers_denied())
}

/// `POST /register/email/requestToken`.
async fn registration_email_token(
    State(_): State<ApiState>,
    _: Anonymous,
    _: request_registration_token_via_email::v3::Request,
) -> Result<request_registration_token_via_email::v3::Response, MatrixError> {
    Err(MatrixError::third_party_identifiers_denied())
}

/// `POST /register/msisdn/requestToken`.
async fn registration_telephone_token(
    State(_): State<ApiState>,
    _: Anonymous,
    _: request_registration_token_via_msisdn::v3::Request,
) -> Result<request_registration_token_via_msisdn::v3::Response, MatrixError> {
    Err(MatrixError::third_party_identifiers_denied())
}
