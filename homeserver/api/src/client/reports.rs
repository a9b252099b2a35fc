use axum::extract::{Path, State};
use entente_accounts::Session;
use entente_rooms::Reported;
use ruma::{
    OwnedEventId, OwnedRoomId,
    api::client::{reporting::report_user, room::report_room},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    ApiState, MatrixError,
    endpoint::{JsonBody, SessionOf},
};

/// The body of a report of an event; ruma's has no score.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    reason: Option<String>,
    score: Option<i64>,
}

/// `POST /rooms/{roomId}/report/{eventId}`.
pub(super) async fn event(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    Path((room_id, event_id)): Path<(String, String)>,
    JsonBody(body): JsonBody,
) -> Result<axum::Json<Value>, MatrixError> {
    // The spec asks for no limit, but every report is kept.
    state.limits.take_for(&session)?;
    let bad = |_| MatrixError::invalid_param("an identifier in the request is none");
    let room_id = OwnedRoomId::try_from(room_id).map_err(bad)?;
    let event_id = OwnedEventId::try_from(event_id).map_err(bad)?;
    let Body { reason, score } = serde_json::from_slice(&body).map_err(MatrixError::bad_json)?;
    let reported = Reported::Event(&room_id, &event_id);
    state.rooms.report(&session.user_id, &reported, reason, score).await?;
    Ok(axum::Json(json!({})))
}

/// `POST /rooms/{roomId}/report`.
pub(super) async fn room(
    State(state): State<ApiState>,
    session: Session,
    request: report_room::v3::Request,
) -> Result<report_room::v3::Response, MatrixError> {
    let reported = Reported::Room(&request.room_id);
    state.rooms.report(&session.user_id, &reported, Some(request.reason), None).await?;
    Ok(report_room::v3::Response::new())
}

/// `POST /users/{userId}/report`.
pub(super) async fn user(
    State(state): State<ApiState>,
    session: Session,
    request: report_user::v3::Request,
) -> Result<report_user::v3::Response, MatrixError> {
    if request.user_id.server_name() == state.accounts.server_name() {
        state.accounts.profile(&request.user_id).await?;
    }
    let reported = Reported::User(&request.user_id);
    state.rooms.report(&session.user_id, &reported, Some(request.reason), None).await?;
    Ok(report_user::v3::Response::new())
}
