//! The fallback pages for clients that do not know a stage or a login (C-S API, "Fallback" and "Login Fallback").

use axum::{
    Form, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
    routing::get,
};
use entente_accounts::AccountError;
use ruma::api::client::uiaa::AuthType;
use serde::Deserialize;

use crate::{
    ApiState, MatrixError,
    pages::{self, escape, page},
};

const LOGIN: &str = include_str!("../pages/login.html");
const AUTHENTICATION: &str = include_str!("../pages/authentication.html");
const AUTHENTICATION_DONE: &str = include_str!("../pages/authentication_done.html");
const REGISTRATION_TOKEN_FIELD: &str = include_str!("../pages/registration_token_field.html");

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/_matrix/client/v3/auth/{stage}/fallback/web", get(show).post(complete))
        .route("/_matrix/client/r0/auth/{stage}/fallback/web", get(show).post(complete))
        .route("/_matrix/static/client/login/", get(login))
        .route("/_entente/{asset}", get(asset))
}

#[derive(Deserialize)]
struct Session {
    session: String,
}

#[derive(Deserialize)]
struct Answers {
    session: String,
    token: Option<String>,
}

async fn show(Path(stage): Path<String>, Query(query): Query<Session>) -> Result<Response, MatrixError> {
    form(&stage, &query.session, "", StatusCode::OK)
}

async fn complete(
    State(api): State<ApiState>,
    Path(stage): Path<String>,
    Form(answers): Form<Answers>,
) -> Result<Response, MatrixError> {
    let auth_type = AuthType::from(stage.as_str());
    let completed =
        api.accounts.complete_fallback_stage(&answers.session, &auth_type, answers.token.as_deref()).await;
    match completed {
        Ok(true) => Ok(page(StatusCode::OK, AUTHENTICATION_DONE.to_owned())),
        Ok(false) => {
            form(&stage, &answers.session, "That was not accepted. Try again.", StatusCode::FORBIDDEN)
        }
        Err(AccountError::NotFound(problem)) => {
            form(&stage, &answers.session, problem, StatusCode::NOT_FOUND)
        }
        Err(error) => Err(error.into()),
    }
}

async fn login() -> Response {
    page(StatusCode::OK, LOGIN.to_owned())
}

async fn asset(Path(name): Path<String>) -> Result<Response, MatrixError> {
    pages::asset(&name).ok_or_else(MatrixError::unrecognized)
}

fn form(stage: &str, session: &str, problem: &str, status: StatusCode) -> Result<Response, MatrixError> {
    let fields = match AuthType::from(stage) {
        AuthType::Dummy => "",
        AuthType::RegistrationToken => REGISTRATION_TOKEN_FIELD,
        _ => return Err(MatrixError::not_found("this server has no page for that kind of authentication")),
    };
    let html = AUTHENTICATION
        .replace("{{fields}}", fields)
        .replace("{{problem}}", &escape(problem))
        .replace("{{session}}", &escape(session));
    Ok(page(status, html))
}
