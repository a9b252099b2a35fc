//! Events, states and their authority (S-S API, "Retrieving events", "Backfilling and retrieving missing events").

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};
use entente_rooms::RoomError;
use entente_storage::Bytes;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId};
use serde_json::{Value, json, value::RawValue};

use super::{
    membership::raw,
    peer::{Peer, all_of, one_of, parsed, required},
};
use crate::{ApiState, MatrixError, client::resolve_here};

/// Events of one answer.
const MOST_EVENTS: usize = 100;
/// Events that are told to close a gap.
const MOST_MISSING: usize = 50;
/// Events that a request may name.
const MOST_NAMED: usize = 100;

/// `GET /v1/event/{eventId}`.
pub(super) async fn event(
    State(state): State<ApiState>,
    Path(event_id): Path<String>,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let event_id: OwnedEventId = parsed(&event_id)?;
    let found = state.rooms.event_anywhere(&event_id).await?;
    let (view, event) = found.ok_or(RoomError::EventNotFound)?;
    let view = state.federation.rooms.readable_view(&peer.origin, &view.room.room_id).await?;
    let shown = view.shown_to(&peer.origin, &[event]).await?;
    Ok(Json(answer(&state, &shown)?))
}

/// `GET /v1/backfill/{roomId}`.
pub(super) async fn backfill(
    State(state): State<ApiState>,
    Path(room_id): Path<String>,
    RawQuery(query): RawQuery,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let room_id: OwnedRoomId = parsed(&room_id)?;
    let from: Vec<OwnedEventId> = all_of(query.as_deref(), "v")
        .iter()
        .take(MOST_NAMED)
        .map(|id| parsed(id))
        .collect::<Result<_, _>>()?;
    let limit: usize = required(query.as_deref(), "limit")?
        .parse()
        .map_err(|_| MatrixError::invalid_param("limit is a number"))?;
    let view = state.federation.rooms.readable_view(&peer.origin, &room_id).await?;
    let events = view.history_before(&from, limit.clamp(1, MOST_EVENTS)).await?;
    Ok(Json(answer(&state, &view.shown_to(&peer.origin, &events).await?)?))
}

/// `POST /v1/get_missing_events/{roomId}`.
pub(super) async fn missing(
    State(state): State<ApiState>,
    Path(room_id): Path<String>,
    mut peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let room_id: OwnedRoomId = parsed(&room_id)?;
    let body = peer.object()?;
    let (earliest, latest) = (named(&body, "earliest_events")?, named(&body, "latest_events")?);
    let limit = usize::try_from(whole(&body, "limit").unwrap_or(10)).unwrap_or(MOST_MISSING);
    let view = state.federation.rooms.readable_view(&peer.origin, &room_id).await?;
    let least_depth = whole(&body, "min_depth").unwrap_or_default();
    let events = view.events_between(&earliest, &latest, least_depth, limit.clamp(1, MOST_MISSING)).await?;
    Ok(Json(json!({ "events": raw_all(&view.shown_to(&peer.origin, &events).await?)? })))
}

/// `GET /v1/state/{roomId}`.
pub(super) async fn state(
    State(state): State<ApiState>,
    Path(room_id): Path<String>,
    RawQuery(query): RawQuery,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let room_id: OwnedRoomId = parsed(&room_id)?;
    let event_id: OwnedEventId = parsed(&required(query.as_deref(), "event_id")?)?;
    let view = state.federation.rooms.readable_view(&peer.origin, &room_id).await?;
    let (events, chain) = view.state_before(&event_id).await?;
    let jsons = |events: &[std::sync::Arc<entente_rooms::Event>]| -> Vec<Bytes> {
        events.iter().map(|event| event.json().clone()).collect()
    };
    Ok(Json(json!({ "pdus": raw(&jsons(&events))?, "auth_chain": raw(&jsons(&chain))? })))
}

/// `GET /v1/state_ids/{roomId}`.
pub(super) async fn state_ids(
    State(state): State<ApiState>,
    Path(room_id): Path<String>,
    RawQuery(query): RawQuery,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let room_id: OwnedRoomId = parsed(&room_id)?;
    let event_id: OwnedEventId = parsed(&required(query.as_deref(), "event_id")?)?;
    let view = state.federation.rooms.readable_view(&peer.origin, &room_id).await?;
    let ids = view.state_ids_before(&event_id).await?;
    Ok(Json(json!({ "pdu_ids": ids.state, "auth_chain_ids": ids.auth_chain })))
}

/// `GET /v1/event_auth/{roomId}/{eventId}`.
pub(super) async fn event_auth(
    State(state): State<ApiState>,
    Path((room_id, event_id)): Path<(String, String)>,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let (room_id, event_id): (OwnedRoomId, OwnedEventId) = (parsed(&room_id)?, parsed(&event_id)?);
    let view = state.federation.rooms.readable_view(&peer.origin, &room_id).await?;
    let chain = view.auth_chain_of(&event_id).await?;
    let chain: Vec<Bytes> = chain.iter().map(|event| event.json().clone()).collect();
    Ok(Json(json!({ "auth_chain": raw(&chain)? })))
}

/// `GET /v1/query/directory`.
pub(super) async fn directory(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
    _: Peer,
) -> Result<Json<Value>, MatrixError> {
    let alias = required(query.as_deref(), "room_alias")?;
    let alias: ruma::OwnedRoomAliasId = parsed(&alias)?;
    if alias.server_name() != state.rooms.server_name() {
        return Err(MatrixError::not_found("that alias is another server's"));
    }
    let room_id = resolve_here(&state, &alias, || Ok(())).await?;
    let mut servers = state.rooms.view(&room_id).await?.servers().await?;
    servers.insert(0, state.rooms.server_name().to_string());
    Ok(Json(json!({ "room_id": room_id, "servers": servers })))
}

/// `GET /v1/query/profile`.
pub(super) async fn profile(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
    _: Peer,
) -> Result<Json<Value>, MatrixError> {
    let user_id: ruma::OwnedUserId = parsed(&required(query.as_deref(), "user_id")?)?;
    if user_id.server_name() != state.rooms.server_name() {
        return Err(MatrixError::invalid_param("that user is not of this server"));
    }
    let mut fields = state.accounts.profile(&user_id).await?;
    if let Some(field) = one_of(query.as_deref(), "field") {
        fields.retain(|name, _| *name == field);
    }
    Ok(Json(json!(fields)))
}

fn answer(state: &ApiState, events: &[Vec<u8>]) -> Result<Value, MatrixError> {
    let now = state.federation.now().millis();
    Ok(json!({ "origin": state.rooms.server_name(), "origin_server_ts": now, "pdus": raw_all(events)? }))
}

fn raw_all(events: &[Vec<u8>]) -> Result<Vec<Box<RawValue>>, MatrixError> {
    events.iter().map(|json| serde_json::from_slice(json).map_err(MatrixError::internal)).collect()
}

fn named(body: &CanonicalJsonObject, field: &str) -> Result<Vec<OwnedEventId>, MatrixError> {
    let list = body.get(field).and_then(CanonicalJsonValue::as_array).unwrap_or_default();
    let ids = list.iter().take(MOST_NAMED).filter_map(CanonicalJsonValue::as_str);
    ids.map(parsed).collect()
}

fn whole(body: &CanonicalJsonObject, field: &str) -> Option<u64> {
    let number = body.get(field).and_then(CanonicalJsonValue::as_integer)?;
    u64::try_from(i64::from(number)).ok()
}
