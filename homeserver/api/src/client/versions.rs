use std::collections::BTreeMap;

use axum::extract::State;
use entente_accounts::Session;
use ruma::api::client::discovery::get_supported_versions::{Request, Response};

use crate::{ApiState, MatrixError};

/// The versions of the spec that clients may take this server to follow. Clients refuse a server that names none of v1.1
/// to v1.13.
const VERSIONS: [&str; 19] = [
    "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12",
    "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];

/// Features that are named by their unstable identifiers because clients ask for them so. Exactly those that work.
const UNSTABLE_FEATURES: [&str; 13] = [
    "org.matrix.msc2918",
    "org.matrix.msc3814",
    "org.matrix.msc3881",
    "org.matrix.msc4140",
    "org.matrix.msc4354",
    "org.matrix.msc4380",
    "org.matrix.msc4380.stable",
    "org.matrix.simplified_msc3575",
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "uk.tcpip.msc4133",
    "uk.tcpip.msc4133.stable",
    "uk.timedout.msc4323",
];

/// Tokens by which a device logs in another one: a password is needed for one (MSC3882).
const LOGIN_TOKENS: &str = "org.matrix.msc3882";

/// `GET /versions`.
pub(super) async fn versions(
    State(state): State<ApiState>,
    _: Option<Session>,
    _: Request,
) -> Result<Response, MatrixError> {
    let mut response = Response::new(VERSIONS.map(String::from).to_vec());
    let login_tokens = state.accounts.settings().password_login.then_some(LOGIN_TOKENS);
    let features = UNSTABLE_FEATURES.into_iter().chain(login_tokens);
    response.unstable_features =
        features.map(|feature| (feature.to_owned(), true)).collect::<BTreeMap<_, _>>();
    Ok(response)
}
