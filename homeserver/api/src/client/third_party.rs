//! What application services know of the networks that they bridge to (C-S API, "Third-party Networks").

use std::collections::BTreeMap;

use axum::extract::State;
use entente_accounts::Session;
use entente_appservices::ThirdPartyKind;
use ruma::api::client::thirdparty::{
    get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols,
    get_user_for_protocol, get_user_for_user_id,
};
use serde_json::Value;

use crate::{ApiState, MatrixError, endpoint::Json, masquerading::is_masquerading};

/// Fields of one look-up.
const MOST_FIELDS: usize = 50;

/// `GET /thirdparty/protocols`.
pub(super) async fn protocols(
    State(state): State<ApiState>,
    _: Session,
    _: get_protocols::v3::Request,
) -> Result<Json, MatrixError> {
    json(&Value::Object(state.appservices.protocols(None).await))
}

/// `GET /thirdparty/protocol/{protocol}`.
pub(super) async fn protocol(
    State(state): State<ApiState>,
    _: Session,
    request: get_protocol::v3::Request,
) -> Result<Json, MatrixError> {
    match state.appservices.protocols(Some(&request.protocol)).await.remove(&request.protocol) {
        Some(protocol) => json(&protocol),
        None => Err(MatrixError::not_found("no application service here bridges to that network")),
    }
}

/// `GET /thirdparty/location/{protocol}`.
pub(super) async fn locations(
    State(state): State<ApiState>,
    _: Session,
    request: get_location_for_protocol::v3::Request,
) -> Result<Json, MatrixError> {
    find(&state, ThirdPartyKind::Location, &request.protocol, request.fields).await
}

/// `GET /thirdparty/user/{protocol}`.
pub(super) async fn users(
    State(state): State<ApiState>,
    _: Session,
    request: get_user_for_protocol::v3::Request,
) -> Result<Json, MatrixError> {
    find(&state, ThirdPartyKind::User, &request.protocol, request.fields).await
}

/// `GET /thirdparty/location`.
pub(super) async fn locations_of_alias(
    State(state): State<ApiState>,
    _: Session,
    request: get_location_for_room_alias::v3::Request,
) -> Result<Json, MatrixError> {
    let alias = request.alias.as_str();
    json(&Value::Array(state.appservices.third_party_of(ThirdPartyKind::Location, alias).await))
}

/// `GET /thirdparty/user`.
pub(super) async fn users_of_user(
    State(state): State<ApiState>,
    _: Session,
    request: get_user_for_user_id::v3::Request,
) -> Result<Json, MatrixError> {
    let user_id = request.userid.as_str();
    json(&Value::Array(state.appservices.third_party_of(ThirdPartyKind::User, user_id).await))
}

async fn find(
    state: &ApiState,
    kind: ThirdPartyKind,
    protocol: &str,
    fields: BTreeMap<String, String>,
) -> Result<Json, MatrixError> {
    if fields.len() > MOST_FIELDS {
        return Err(MatrixError::invalid_param("a look-up has at most 50 fields"));
    }
    let is_field = |(name, _): &(String, String)| name != "access_token" && !is_masquerading(name);
    let fields: Vec<(String, String)> = fields.into_iter().filter(is_field).collect();
    json(&Value::Array(state.appservices.third_party(kind, protocol, &fields).await))
}

fn json(value: &Value) -> Result<Json, MatrixError> {
    serde_json::to_vec(value).map(Json).map_err(MatrixError::internal)
}
