//! Delayed events (MSC4140), as clients know them today: put down by a parameter of `/send` and `/state`, managed here.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::request::Parts,
    routing::{get, post, put},
};
use entente_rooms::{Delayed, DelayedAction, Draft};
use ruma::{OwnedRoomId, TransactionId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::time::Duration;

use super::{create_room::canonical, membership::active, room_send::sending_device};
use crate::{
    ApiState, LimitKind, MatrixError,
    address::{ClientAddress, address_key},
    endpoint::{JsonBody, SessionOf, sticky_duration},
    guests,
};

#[derive(Deserialize)]
struct Body {
    action: String,
}

/// An event that is to be sent later.
#[derive(Deserialize)]
struct NewDelayed {
    /// Milliseconds. The MSC's name changed on its way.
    #[serde(alias = "delay_ms")]
    delay: u64,
    state_key: Option<String>,
    content: Box<RawValue>,
}

pub(super) fn routes() -> Router<ApiState> {
    let base = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
    Router::new()
        .route(base, get(list))
        .route(&format!("{base}/{{delay_id}}"), get(one).post(manage))
        .route(&format!("{base}/{{delay_id}}/{{action}}"), post(manage_by_path))
        .route(
            "/_matrix/client/unstable/org.matrix.msc4140/rooms/{room_id}/delayed_event/{event_type}/{txn_id}",
            put(delay),
        )
}

/// `PUT /rooms/{roomId}/delayed_event/{eventType}/{txnId}`.
async fn delay(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    Path((room_id, event_type, transaction_id)): Path<(String, String, String)>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    active(&session)?;
    state.limits.take_for(&session)?;
    let room_id = OwnedRoomId::try_from(room_id)
        .map_err(|_| MatrixError::invalid_param("that is not the id of a room"))?;
    let new: NewDelayed = serde_json::from_slice(&body).map_err(MatrixError::bad_json)?;
    let content = canonical(new.content.get())?;
    if let Some(state_key) = &new.state_key {
        guests::check_state(&state, &session, &room_id, (&event_type, state_key), &content, true).await?;
    }
    let event_type = TimelineEventType::from(event_type);
    let draft = Draft {
        state_key: new.state_key,
        sticky: sticky_duration(&parts)?,
        device: Some(sending_device(&session, <&TransactionId>::from(transaction_id.as_str()))),
        ..Draft::message(&session.user_id, event_type, content)
    };
    let delay_id = state.rooms.delay(&room_id, &draft, Duration::from_millis(new.delay)).await?;
    Ok(Json(json!({ "delay_id": delay_id })))
}

/// `GET /delayed_events`.
async fn list(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
) -> Result<Json<Value>, MatrixError> {
    state.limits.take_for(&session)?;
    let delayed = state.rooms.delayed_events(&session.user_id).await?;
    let delayed = delayed.into_iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(json!({ "delayed_events": delayed })))
}

/// `GET /delayed_events/{delay_id}`.
async fn one(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    Path(delay_id): Path<String>,
) -> Result<Json<Value>, MatrixError> {
    state.limits.take_for(&session)?;
    Ok(Json(shown(state.rooms.delayed_event(&session.user_id, &delay_id).await?)?))
}

/// With the names of fields that the MSC had before, which clients know, and those that it has now.
fn shown(delayed: Delayed) -> Result<Value, MatrixError> {
    let content = RawValue::from_string(delayed.content).map_err(MatrixError::internal)?;
    let mut shown = json!({
        "delay_id": delayed.delay_id,
        "room_id": delayed.room_id,
        "type": delayed.event_type,
        "delay": delayed.delay.as_millis(),
        "delay_ms": delayed.delay.as_millis(),
        "running_since": delayed.running_since.millis(),
        "delayed_since_ts": delayed.running_since.millis(),
        "content": content,
    });
    if let Some(state_key) = delayed.state_key {
        shown["state_key"] = json!(state_key);
    }
    if let Some(finalised) = delayed.finalised {
        shown["finalised_ts"] = json!(finalised.at.millis());
        if let Some(event_id) = finalised.event_id {
            shown["event_id"] = json!(event_id);
        }
        if let Some(error) = finalised.error {
            shown["error"] = json!({ "errcode": "M_FORBIDDEN", "error": error });
        }
    }
    Ok(shown)
}

/// `POST /delayed_events/{delay_id}`: what to do stands in the body. Whoever knows the id may.
async fn manage(
    State(state): State<ApiState>,
    Path(delay_id): Path<String>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    let Body { action } = serde_json::from_slice(&body).map_err(MatrixError::bad_json)?;
    act(&state, &parts, &delay_id, &action).await
}

/// `POST /delayed_events/{delay_id}/{action}`.
async fn manage_by_path(
    State(state): State<ApiState>,
    Path((delay_id, action)): Path<(String, String)>,
    parts: Parts,
) -> Result<Json<Value>, MatrixError> {
    act(&state, &parts, &delay_id, &action).await
}

async fn act(
    state: &ApiState,
    parts: &Parts,
    delay_id: &str,
    action: &str,
) -> Result<Json<Value>, MatrixError> {
    // By the id, and not by the address: a whole office restarts its events every few seconds. Guessing ids is another matter.
    if state.rooms.has_delayed(delay_id).await? {
        state.limits.take(LimitKind::RequestsByUser, delay_id)?;
    } else {
        state.limits.take(LimitKind::RequestsByAddress, &address_key(ClientAddress::of(parts)))?;
    }
    let action = match action {
        "restart" => DelayedAction::Restart,
        "send" => DelayedAction::Send,
        "cancel" => DelayedAction::Cancel,
        _ => return Err(MatrixError::invalid_param("the action is \"restart\", \"send\" or \"cancel\"")),
    };
    state.rooms.manage_delayed(delay_id, action).await?;
    Ok(Json(json!({})))
}
