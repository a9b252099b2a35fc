//! Reading rooms without being in them, and reading everything by the endpoints from before `/sync`: web clients use the former for
//! previews, and old bots the latter.

use std::time::Duration;

use axum::{
    Router,
    extract::{Path, Query, State, rejection::PathRejection, rejection::QueryRejection},
    response::{IntoResponse, Response},
    routing::get,
};
use entente_accounts::Session;
use entente_rooms::{ObjectWriter, Reader, RoomError};
use entente_sync::SyncToken;
use ruma::{OwnedEventId, OwnedRoomId, api::client::peeking::get_current_state};
use serde::Deserialize;

use super::room_events::PageWriter;
use crate::{
    ApiState, MatrixError,
    endpoint::{Json, SessionOf},
};

/// Messages of a room's first view.
const MESSAGES: usize = 20;
/// Messages of each room, unless the client says otherwise, and at the most.
const MESSAGES_OF_EACH: usize = 10;
const MOST_MESSAGES_OF_EACH: usize = 100;

#[derive(Debug, Deserialize)]
struct EventsParameters {
    room_id: Option<OwnedRoomId>,
    from: Option<String>,
    timeout: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct InitialParameters {
    limit: Option<usize>,
    #[serde(default)]
    archived: bool,
}

pub(super) fn routes() -> Router<ApiState> {
    ["/_matrix/client/v3", "/_matrix/client/r0"].into_iter().fold(Router::new(), |router, base| {
        router
            .route(&format!("{base}/events"), get(events))
            .route(&format!("{base}/events/{{event_id}}"), get(event))
            .route(&format!("{base}/initialSync"), get(initial_sync))
    })
}

/// `GET /rooms/{roomId}/initialSync`.
pub(super) async fn room_initial_sync(
    State(state): State<ApiState>,
    session: Session,
    request: get_current_state::v3::Request,
) -> Result<Json, MatrixError> {
    Ok(Json(state.sync.room_initial_sync(reader(&session), &request.room_id, MESSAGES).await?))
}

/// `GET /initialSync`.
async fn initial_sync(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    parameters: Result<Query<InitialParameters>, QueryRejection>,
) -> Result<Response, MatrixError> {
    let Query(parameters) = parameters.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
    let limit = parameters.limit.unwrap_or(MESSAGES_OF_EACH).min(MOST_MESSAGES_OF_EACH);
    let json = state.sync.initial_sync(reader(&session), limit, parameters.archived).await?;
    Ok(Json(json).into_response())
}

/// `GET /events`, of one room or of all that the user is in.
async fn events(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    parameters: Result<Query<EventsParameters>, QueryRejection>,
) -> Result<Response, MatrixError> {
    let Query(parameters) = parameters.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
    let from = match parameters.from.as_deref() {
        None | Some("") => None,
        // Clients go on from where the first view of the room ended.
        Some(token) if token.starts_with('t') => None,
        Some(token) => Some(
            SyncToken::parse(token)
                .ok_or(RoomError::InvalidParameter(String::from("from is none of this server's tokens")))?,
        ),
    };
    let timeout = Duration::from_millis(parameters.timeout.unwrap_or_default());
    let peeked = match &parameters.room_id {
        Some(room_id) => state.sync.peek(reader(&session), room_id, from, timeout).await?,
        None => state.sync.peek_everywhere(reader(&session), from, timeout).await?,
    };
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("start", peeked.start.to_string());
    writer.value("end", peeked.end.to_string());
    writer.list("chunk", &peeked.events, |json, event| json.extend_from_slice(event));
    writer.end();
    Ok(Json(json).into_response())
}

/// `GET /events/{eventId}`. One that the user may not see is told from one that is not there by nobody.
async fn event(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    path: Result<Path<OwnedEventId>, PathRejection>,
) -> Result<Response, MatrixError> {
    let Path(event_id) = path.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
    let found = state.rooms.event_anywhere(&event_id).await?;
    let (view, _) = found.ok_or(RoomError::EventNotFound)?;
    let events = [view.visible_event(&session.user_id, &event_id).await?];
    let page_writer = PageWriter::new(&view, &session, &[&events]).await?;
    let mut json = Vec::new();
    page_writer.write_one(&mut json, &events[0]);
    Ok(Json(json).into_response())
}

fn reader(session: &Session) -> Reader<'_> {
    Reader { user_id: &session.user_id, device_id: session.device_id.as_str() }
}
