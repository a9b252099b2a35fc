//! Rooms that may be found: the directory, spaces, events by time (S-S API, "Published Room Directory", "Spaces").

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};
use entente_rooms::{Direction, DirectoryQuery, RoomError};
use ruma::OwnedRoomId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::peer::{Peer, one_of, parsed, required};
use crate::{ApiState, MatrixError, client::directory_body};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    limit: Option<usize>,
    since: Option<String>,
    filter: Filter,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Filter {
    generic_search_term: Option<String>,
    room_types: Option<Vec<Option<String>>>,
}

/// `GET /v1/publicRooms`.
pub(super) async fn list(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
    _: Peer,
) -> Result<Json<Value>, MatrixError> {
    let limit = one_of(query.as_deref(), "limit").and_then(|limit| limit.parse().ok());
    let since = one_of(query.as_deref(), "since");
    let page =
        state.rooms.public_rooms(&DirectoryQuery { limit, since, ..DirectoryQuery::default() }).await?;
    Ok(Json(directory_body(&page)))
}

/// `POST /v1/publicRooms`.
pub(super) async fn filtered(State(state): State<ApiState>, peer: Peer) -> Result<Json<Value>, MatrixError> {
    let Body { limit, since, filter } =
        serde_json::from_value(peer.json()?).map_err(MatrixError::bad_json)?;
    let Filter { generic_search_term: term, room_types } = filter;
    let query = DirectoryQuery { term, room_types, limit, since, ..DirectoryQuery::default() };
    let page = state.rooms.public_rooms(&query).await?;
    Ok(Json(directory_body(&page)))
}

/// `GET /v1/hierarchy/{roomId}`: the room, and those in it that the asking server's users could come into.
pub(super) async fn hierarchy(
    State(state): State<ApiState>,
    Path(room_id): Path<String>,
    RawQuery(query): RawQuery,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let room_id: OwnedRoomId = parsed(&room_id)?;
    let suggested_only = one_of(query.as_deref(), "suggested_only").as_deref() == Some("true");
    let view = state.federation.rooms.resident_view(&peer.origin, &room_id).await?;
    let found = state.rooms.hierarchy_for(&peer.origin, &view, suggested_only).await?;
    Ok(Json(json!(found.ok_or(RoomError::RoomNotFound)?)))
}

/// `GET /v1/timestamp_to_event/{roomId}`.
pub(super) async fn event_at(
    State(state): State<ApiState>,
    Path(room_id): Path<String>,
    RawQuery(query): RawQuery,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let room_id: OwnedRoomId = parsed(&room_id)?;
    let at = required(query.as_deref(), "ts")?;
    let at = at.parse().map_err(|_| MatrixError::invalid_param("ts is a time in ms"))?;
    let direction = match required(query.as_deref(), "dir")?.as_str() {
        "f" => Direction::Forward,
        "b" => Direction::Backward,
        _ => return Err(MatrixError::invalid_param("dir is \"f\" or \"b\"")),
    };
    let view = state.federation.rooms.readable_view(&peer.origin, &room_id).await?;
    let event = view.event_at_for_server(&peer.origin, at, direction).await?;
    Ok(Json(json!({ "event_id": event.event_id, "origin_server_ts": event.origin_server_ts })))
}
