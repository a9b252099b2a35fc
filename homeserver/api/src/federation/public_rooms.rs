//! Rooms that may be found: the directory, spaces, events by time (S-S API, "Published Room Directory", "Spaces").

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};
use entente_rooms::{Direction, DirectoryNetwork, DirectoryQuery, RoomError};
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
    include_all_networks: bool,
    third_party_instance_id: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Filter {
    generic_search_term: Option<String>,
    room_types: Option<Vec<Option<String>>>,
}

/// Whose rooms a server looks for: this one's own, unless it says something else.
fn network(all: bool, instance: Option<String>) -> Result<DirectoryNetwork, MatrixError> {
    match (all, instance) {
        (true, Some(_)) => {
            Err(MatrixError::invalid_param("all networks are asked for, or one of them, and not both"))
        }
        (true, None) => Ok(DirectoryNetwork::All),
        (false, Some(instance)) => Ok(DirectoryNetwork::Instance(instance)),
        (false, None) => Ok(DirectoryNetwork::Matrix),
    }
}

/// `GET /v1/publicRooms`.
pub(super) async fn list(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
    _: Peer,
) -> Result<Json<Value>, MatrixError> {
    let limit = one_of(query.as_deref(), "limit").and_then(|limit| limit.parse().ok());
    let since = one_of(query.as_deref(), "since");
    let all = one_of(query.as_deref(), "include_all_networks").as_deref() == Some("true");
    let network = network(all, one_of(query.as_deref(), "third_party_instance_id"))?;
    let query = DirectoryQuery { limit, since, network, ..DirectoryQuery::default() };
    Ok(Json(directory_body(&state.rooms.public_rooms(&query).await?)))
}

/// `POST /v1/publicRooms`.
pub(super) async fn filtered(State(state): State<ApiState>, peer: Peer) -> Result<Json<Value>, MatrixError> {
    let body: Body = serde_json::from_value(peer.json()?).map_err(MatrixError::bad_json)?;
    let Body { limit, since, filter, include_all_networks, third_party_instance_id } = body;
    let network = network(include_all_networks, third_party_instance_id)?;
    let Filter { generic_search_term: term, room_types } = filter;
    let query = DirectoryQuery { term, room_types, limit, since, network };
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
