//! The registrations of application services. Their tokens are taken and never shown.

use axum::{
    Json,
    extract::{Path, State},
};
use entente_appservices::{AppServiceError, Namespace, Registration};
use serde_json::{Map, Value, json};

use super::Administrator;
use crate::{ApiState, MatrixError, endpoint::JsonBody};

/// `GET /_entente/admin/v1/appservices`.
pub(super) async fn all(State(state): State<ApiState>, _: Administrator) -> Result<Json<Value>, MatrixError> {
    let stored = state.appservices.stored().await?;
    let registry = state.appservices.registry();
    let services: Vec<Value> =
        registry.services().iter().map(|service| described(service, &stored)).collect();
    Ok(Json(json!({ "appservices": services })))
}

/// `GET /_entente/admin/v1/appservices/{id}`.
pub(super) async fn one(
    State(state): State<ApiState>,
    _: Administrator,
    Path(id): Path<String>,
) -> Result<Json<Value>, MatrixError> {
    let stored = state.appservices.stored().await?;
    let registry = state.appservices.registry();
    let service = registry.by_id(&id).ok_or(AppServiceError::Unknown(id))?;
    Ok(Json(described(service, &stored)))
}

/// `PUT /_entente/admin/v1/appservices/{id}`: adds a service, or replaces its registration. The body is that registration, as bridges
/// write it: YAML, or JSON, which is YAML too.
pub(super) async fn put(
    State(state): State<ApiState>,
    Administrator(session): Administrator,
    Path(id): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    let registration =
        std::str::from_utf8(&body).map_err(|_| MatrixError::invalid_param("a registration is UTF-8 text"))?;
    state.appservices.put(&id, registration).await?;
    tracing::info!(service = id, by = %session.user_id, "an administrator added an application service");
    Ok(Json(json!({})))
}

/// `DELETE /_entente/admin/v1/appservices/{id}`: removes a service that was added so or on the command line, and what waits for it.
pub(super) async fn delete(
    State(state): State<ApiState>,
    Administrator(session): Administrator,
    Path(id): Path<String>,
) -> Result<Json<Value>, MatrixError> {
    state.appservices.remove(&id).await?;
    tracing::info!(service = id, by = %session.user_id, "an administrator removed an application service");
    Ok(Json(json!({})))
}

fn described(service: &Registration, stored: &[String]) -> Value {
    let list = |namespaces: &[Namespace]| -> Vec<Value> {
        let one = |namespace: &Namespace| json!({ "exclusive": namespace.is_exclusive(), "regex": namespace.expression() });
        namespaces.iter().map(one).collect()
    };
    let namespaces: Map<String, Value> =
        service.namespaces().into_iter().map(|(kind, found)| (kind.to_owned(), list(found).into())).collect();
    json!({
        "id": service.id,
        "source": if stored.contains(&service.id) { "stored" } else { "file" },
        "url": service.url,
        "sender": service.sender,
        "rate_limited": service.rate_limited,
        "receive_ephemeral": service.receive_ephemeral,
        "encryption": service.encryption,
        "device_management": service.device_management,
        "protocols": service.protocols,
        "namespaces": namespaces,
    })
}
