//! Signing keys (S-S API, "Retrieving server keys") and the server's version.

use axum::{
    Json,
    extract::{Path, RawQuery, State},
    http::request::Parts,
};
use entente_environment::Timestamp;
use ruma::{OwnedServerName, ServerName};
use serde_json::{Value, json};

use super::peer::{one_of, parsed};
use crate::{
    ApiState, LimitKind, MatrixError,
    address::{ClientAddress, address_key},
    endpoint::JsonBody,
};

/// Servers of one query.
const MOST_SERVERS: usize = 50;

/// `GET /_matrix/key/v2/server`.
pub(super) async fn own(State(state): State<ApiState>) -> Result<Json<Value>, MatrixError> {
    Ok(Json(json!(state.federation.keys.own().await?)))
}

/// `GET /_matrix/federation/v1/version`.
pub(super) async fn version() -> Json<Value> {
    Json(json!({ "server": { "name": "Entente", "version": env!("CARGO_PKG_VERSION") } }))
}

/// `GET /_matrix/key/v2/query/{serverName}`.
pub(super) async fn of_server(
    State(state): State<ApiState>,
    Path(server): Path<String>,
    RawQuery(query): RawQuery,
    parts: Parts,
) -> Result<Json<Value>, MatrixError> {
    limit(&state, &parts)?;
    let server: OwnedServerName = parsed(&server)?;
    let until = one_of(query.as_deref(), "minimum_valid_until_ts").and_then(|until| until.parse().ok());
    let keys = notarised(&state, &server, until).await?;
    Ok(Json(json!({ "server_keys": keys })))
}

/// `POST /_matrix/key/v2/query`.
pub(super) async fn of_servers(
    State(state): State<ApiState>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    limit(&state, &parts)?;
    let body: Value = serde_json::from_slice(&body).map_err(MatrixError::bad_json)?;
    let wanted = body.get("server_keys").and_then(Value::as_object);
    let wanted = wanted.ok_or_else(|| MatrixError::missing_param("there is no server_keys"))?;
    if wanted.len() > MOST_SERVERS {
        return Err(MatrixError::invalid_param("the keys of at most 50 servers can be asked for at once"));
    }
    let mut found = Vec::new();
    for (server, criteria) in wanted {
        let Ok(server) = ServerName::parse(server) else { continue };
        let until = criteria.as_object().and_then(|keys| {
            let until = |key: &Value| key.get("minimum_valid_until_ts").and_then(Value::as_u64);
            keys.values().filter_map(until).max()
        });
        found.extend(notarised(&state, &server, until).await.unwrap_or_default());
    }
    Ok(Json(json!({ "server_keys": found })))
}

fn limit(state: &ApiState, parts: &Parts) -> Result<(), MatrixError> {
    state.limits.take(LimitKind::RequestsByAddress, &address_key(ClientAddress::of(parts)))
}

async fn notarised(
    state: &ApiState,
    server: &ServerName,
    until: Option<u64>,
) -> Result<Vec<Value>, MatrixError> {
    let until = until.map_or_else(|| state.federation.now(), Timestamp);
    let keys = state.federation.keys.notarised(server, until).await?;
    Ok(keys.into_iter().map(|keys| json!(keys)).collect())
}
