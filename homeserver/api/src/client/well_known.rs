use axum::extract::State;
use ruma::api::client::discovery::{
    discover_homeserver,
    discover_support::{self, Contact},
};

use serde_json::json;

use crate::{
    ApiState, MatrixError, SupportContact,
    endpoint::{Anonymous, Json},
    rtc,
};

/// `GET /.well-known/matrix/client`.
pub(super) async fn client(
    State(state): State<ApiState>,
    _: Anonymous,
    _: discover_homeserver::Request,
) -> Result<Json, MatrixError> {
    let base_url = state.identity.public_base_url.as_str().trim_end_matches('/');
    let mut body = json!({ "m.homeserver": { "base_url": base_url } });
    if let Some(calls) = &state.calls {
        body["org.matrix.msc4143.rtc_foci"] = rtc::foci(calls);
    }
    Ok(Json(body.to_string().into_bytes()))
}

/// `GET /.well-known/matrix/support`.
pub(super) async fn support(
    State(state): State<ApiState>,
    _: Anonymous,
    _: discover_support::Request,
) -> Result<discover_support::Response, MatrixError> {
    let support = &state.identity.support;
    if support.contacts.is_empty() && support.page.is_none() {
        return Err(MatrixError::not_found("the operator of this server names no contact"));
    }
    let mut response =
        discover_support::Response::with_contacts(support.contacts.iter().map(render).collect());
    response.support_page.clone_from(&support.page);
    Ok(response)
}

fn render(contact: &SupportContact) -> Contact {
    let role = contact.role.as_str().into();
    let mut rendered = match (&contact.email_address, &contact.matrix_id) {
        (Some(email_address), _) => Contact::with_email_address(role, email_address.clone()),
        (None, Some(matrix_id)) => Contact::with_matrix_id(role, matrix_id.clone()),
        (None, None) => Contact::with_email_address(role, String::new()),
    };
    rendered.matrix_id.clone_from(&contact.matrix_id);
    rendered
}
