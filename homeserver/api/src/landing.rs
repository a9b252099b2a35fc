//! The page at `/`: what this server is, and how to sign in.

use axum::{Router, extract::State, http::StatusCode, response::Response, routing::get};

use crate::{
    ApiState,
    pages::{escape, page},
};

const PAGE: &str = include_str!("pages/landing.html");

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/", get(landing))
}

async fn landing(State(state): State<ApiState>) -> Response {
    let address = state.identity.public_base_url.as_str().trim_end_matches('/');
    let html = PAGE
        .replace("{{server_name}}", &escape(state.accounts.server_name().as_str()))
        .replace("{{address}}", &escape(address));
    page(StatusCode::OK, html)
}
