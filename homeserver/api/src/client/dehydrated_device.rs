//! Dehydrated devices (MSC3814).

use axum::{
    Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
    routing::get,
};
use entente_accounts::{AccountError, Session};
use entente_encryption::{KeyUpload, MessagePage, NewDehydratedDevice};
use entente_rooms::ObjectWriter;
use entente_storage::Position;
use ruma::{
    api::client::dehydrated_device::{
        delete_dehydrated_device, get_dehydrated_device, get_events, put_dehydrated_device,
    },
    serde::Raw,
};
use serde::Deserialize;

use crate::{
    ApiState, MatrixError,
    endpoint::{Json, SessionOf},
};

/// `PUT /dehydrated_device`.
pub(super) async fn put(
    State(state): State<ApiState>,
    session: Session,
    request: put_dehydrated_device::unstable::Request,
) -> Result<put_dehydrated_device::unstable::Response, MatrixError> {
    let device_id = request.device_id.as_str();
    match state.accounts.device(&session.user_id, device_id).await {
        Err(AccountError::NotFound(_)) => {}
        Ok(_) => return Err(MatrixError::invalid_param("somebody is logged in on a device with that id")),
        Err(error) => return Err(error.into()),
    }
    let keys = KeyUpload {
        device_keys: Some(request.device_keys.json()),
        one_time_keys: request.one_time_keys.iter().map(|(id, key)| (id.as_str(), key.json())).collect(),
        fallback_keys: request.fallback_keys.iter().map(|(id, key)| (id.as_str(), key.json())).collect(),
    };
    let device = NewDehydratedDevice {
        device_id,
        device_data: request.device_data.json(),
        display_name: request.initial_device_display_name.as_deref(),
        keys,
    };
    let now = state.limits.clock().now();
    state.encryption.put_dehydrated_device(&session.user_id, &device, now).await?;
    Ok(put_dehydrated_device::unstable::Response::new(request.device_id))
}

/// `GET /dehydrated_device`.
pub(super) async fn get_device(
    State(state): State<ApiState>,
    session: Session,
    _: get_dehydrated_device::unstable::Request,
) -> Result<get_dehydrated_device::unstable::Response, MatrixError> {
    let device = state.encryption.dehydrated_device(session.user_id.localpart()).await?;
    let device_data = Raw::from_json(device.device_data);
    Ok(get_dehydrated_device::unstable::Response::new(device.device_id.into(), device_data))
}

/// `DELETE /dehydrated_device`.
pub(super) async fn delete(
    State(state): State<ApiState>,
    session: Session,
    _: delete_dehydrated_device::unstable::Request,
) -> Result<delete_dehydrated_device::unstable::Response, MatrixError> {
    let device_id = state.encryption.delete_dehydrated_device(&session.user_id).await?;
    Ok(delete_dehydrated_device::unstable::Response::new(device_id.into()))
}

/// `POST /dehydrated_device/{device_id}/events`, the older form, in which the end is a page without events.
pub(super) async fn post_events(
    State(state): State<ApiState>,
    session: Session,
    request: get_events::unstable::Request,
) -> Result<Json, MatrixError> {
    let device_id = request.device_id.as_str();
    let page = read(&state, &session, device_id, request.next_batch.as_deref()).await?;
    Ok(render(&page, true))
}

/// The newer form, which `ruma` does not have.
pub(super) fn routes() -> Router<ApiState> {
    let path = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events";
    Router::new().route(path, get(get_messages))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    from: Option<String>,
}

/// `GET /dehydrated_device/{device_id}/events`, in which the end is a page without `next_batch`.
async fn get_messages(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    Path(device_id): Path<String>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, MatrixError> {
    let Query(parameters) = parameters.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
    let page = read(&state, &session, &device_id, parameters.from.as_deref()).await?;
    Ok(render(&page, page.more).into_response())
}

async fn read(
    state: &ApiState,
    session: &Session,
    device_id: &str,
    from: Option<&str>,
) -> Result<MessagePage, MatrixError> {
    let after = match from {
        None => Position::start(),
        Some(token) => {
            let none_of_ours = |_| MatrixError::invalid_param("that is none of this server's tokens");
            token.parse().map_err(none_of_ours)?
        }
    };
    Ok(state.encryption.dehydrated_messages(session.user_id.localpart(), device_id, &after).await?)
}

fn render(page: &MessagePage, with_token: bool) -> Json {
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.list("events", &page.messages, |json, message| json.extend_from_slice(message));
    if with_token {
        writer.value("next_batch", page.end.to_string());
    }
    writer.end();
    Json(json)
}
