//! The directory of rooms, summaries, spaces, and events by time.

use axum::extract::State;
use entente_accounts::Session;
use entente_rooms::{
    Direction, DirectoryPage, DirectoryQuery, HierarchyQuery, HierarchyRoom, ObjectWriter, RoomError,
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedServerName, RoomOrAliasId,
    UInt,
    api::client::{
        directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility},
        room::{Visibility, get_event_by_timestamp, get_summary},
        space::get_hierarchy,
    },
    directory::Filter,
};
use serde_json::{Value, json};

use super::remote;
use crate::{
    ApiState, MatrixError,
    endpoint::{Anonymous, Json},
};

/// `GET /publicRooms`.
pub(super) async fn public_rooms(
    State(state): State<ApiState>,
    _: Anonymous,
    request: get_public_rooms::v3::Request,
) -> Result<Json, MatrixError> {
    let query =
        DirectoryQuery { limit: request.limit.map(count), since: request.since, ..DirectoryQuery::default() };
    // Whoever is not logged in has this server ask no other.
    if request.server.is_some_and(|server| server != state.rooms.server_name()) {
        return Err(MatrixError::forbidden(
            "the rooms of another server are shown to those who are logged in",
        ));
    }
    written(&state.rooms.public_rooms(&query).await?)
}

/// `POST /publicRooms`.
pub(super) async fn filtered_public_rooms(
    State(state): State<ApiState>,
    _: Session,
    request: get_public_rooms_filtered::v3::Request,
) -> Result<Json, MatrixError> {
    if let Some(server) = request.server.as_ref().filter(|server| **server != state.rooms.server_name()) {
        return of_server(&state, server, &request).await;
    }
    let Filter { generic_search_term, room_types, .. } = request.filter;
    let room_types: Vec<Option<String>> = room_types
        .into_iter()
        .map(|room_type| {
            serde_json::to_value(room_type).ok().and_then(|room_type| room_type.as_str().map(str::to_owned))
        })
        .collect();
    let query = DirectoryQuery {
        term: generic_search_term,
        room_types: Some(room_types).filter(|room_types| !room_types.is_empty()),
        limit: request.limit.map(count),
        since: request.since,
    };
    written(&state.rooms.public_rooms(&query).await?)
}

/// The directory of another server.
async fn of_server(
    state: &ApiState,
    server: &OwnedServerName,
    request: &get_public_rooms_filtered::v3::Request,
) -> Result<Json, MatrixError> {
    let mut body = CanonicalJsonObject::new();
    if let Some(limit) = request.limit {
        body.insert(String::from("limit"), CanonicalJsonValue::Integer(limit.into()));
    }
    if let Some(since) = &request.since {
        body.insert(String::from("since"), CanonicalJsonValue::String(since.clone()));
    }
    let filter = serde_json::to_value(&request.filter).map_err(MatrixError::internal)?;
    let filter = CanonicalJsonValue::try_from(filter).map_err(MatrixError::bad_json)?;
    body.insert(String::from("filter"), filter);
    let answer = state.federation.client.public_rooms(server, &body).await?;
    if answer.get("chunk").is_none_or(|chunk| !chunk.is_array()) {
        return Err(MatrixError::not_found("that server shows no rooms"));
    }
    Ok(Json(serde_json::to_vec(&answer).map_err(MatrixError::internal)?))
}

fn count(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(usize::MAX)
}

fn written(page: &DirectoryPage) -> Result<Json, MatrixError> {
    Ok(Json(serde_json::to_vec(&directory_body(page)).map_err(MatrixError::internal)?))
}

/// A page of the directory as clients and servers get it.
pub(crate) fn directory_body(page: &DirectoryPage) -> Value {
    let mut body = json!({ "chunk": page.rooms, "total_room_count_estimate": page.total });
    for (name, token) in [("next_batch", &page.next), ("prev_batch", &page.previous)] {
        if let Some(token) = token {
            body[name] = json!(token);
        }
    }
    body
}

/// `GET /directory/list/room/{roomId}`.
pub(super) async fn visibility(
    State(state): State<ApiState>,
    _: Anonymous,
    request: get_room_visibility::v3::Request,
) -> Result<get_room_visibility::v3::Response, MatrixError> {
    let published = state.rooms.is_published(&request.room_id).await?;
    let visibility = if published { Visibility::Public } else { Visibility::Private };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

/// `PUT /directory/list/room/{roomId}`.
pub(super) async fn set_visibility(
    State(state): State<ApiState>,
    session: Session,
    request: set_room_visibility::v3::Request,
) -> Result<set_room_visibility::v3::Response, MatrixError> {
    let published = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(MatrixError::invalid_param("visibility is \"public\" or \"private\"")),
    };
    state.rooms.publish(&request.room_id, &session.user_id, session.admin, published).await?;
    Ok(set_room_visibility::v3::Response::new())
}

/// `GET /room_summary/{roomIdOrAlias}`.
pub(super) async fn summary(
    State(state): State<ApiState>,
    session: Option<Session>,
    request: get_summary::v1::Request,
) -> Result<Json, MatrixError> {
    summarise(&state, session, &request.room_id_or_alias, &request.via).await
}

async fn summarise(
    state: &ApiState,
    session: Option<Session>,
    named: &RoomOrAliasId,
    via: &[OwnedServerName],
) -> Result<Json, MatrixError> {
    let (room_id, _) = remote::resolve(state, named, via).await?;
    let view = state.rooms.view(&room_id).await?;
    if !view.is_resident().await? {
        return Err(RoomError::RoomNotFound.into());
    }
    let summary = view.summary().await?;
    let reader = session.as_ref().map(|session| &*session.user_id);
    if !view.may_see_summary(&summary, reader).await? {
        return Err(RoomError::RoomNotFound.into());
    }
    let mut body = serde_json::to_value(&summary).map_err(MatrixError::internal)?;
    if let Some(reader) = reader {
        let own = view.membership(reader).await?;
        body["membership"] = json!(own.map_or("leave", |membership| membership.as_str()));
    }
    Ok(Json(serde_json::to_vec(&body).map_err(MatrixError::internal)?))
}

/// `GET /rooms/{roomId}/hierarchy`.
pub(super) async fn hierarchy(
    State(state): State<ApiState>,
    session: Session,
    request: get_hierarchy::v1::Request,
) -> Result<Json, MatrixError> {
    let query = HierarchyQuery {
        suggested_only: request.suggested_only,
        max_depth: request.max_depth.map(count),
        limit: request.limit.map(count),
        from: request.from,
    };
    let page = state.rooms.hierarchy(&session.user_id, &request.room_id, &query).await?;
    let rooms = page.rooms.iter().map(hierarchy_room).collect::<Result<Vec<_>, _>>()?;
    let mut body = json!({ "rooms": rooms });
    if let Some(next) = page.next {
        body["next_batch"] = json!(next);
    }
    Ok(Json(serde_json::to_vec(&body).map_err(MatrixError::internal)?))
}

/// A room of a space as clients and servers get it.
pub(crate) fn hierarchy_room(room: &HierarchyRoom) -> Result<Value, MatrixError> {
    let mut body = serde_json::to_value(&room.summary).map_err(MatrixError::internal)?;
    let children = room.children.iter().map(|event| {
        json!({
            "type": "m.space.child",
            "state_key": event.state_key,
            "content": event.content(),
            "sender": event.sender,
            "origin_server_ts": event.origin_server_ts,
        })
    });
    body["children_state"] = Value::Array(children.collect());
    Ok(body)
}

/// `GET /rooms/{roomId}/timestamp_to_event`.
pub(super) async fn event_at(
    State(state): State<ApiState>,
    session: Session,
    request: get_event_by_timestamp::v1::Request,
) -> Result<Json, MatrixError> {
    let view = state.rooms.view(&request.room_id).await?;
    view.require_reader(&session.user_id).await?;
    let direction = match request.dir {
        ruma::api::Direction::Forward => Direction::Forward,
        ruma::api::Direction::Backward => Direction::Backward,
    };
    let MilliSecondsSinceUnixEpoch(at) = request.ts;
    let event = view.event_at(&session.user_id, at.into(), direction).await?;
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("event_id", event.event_id.as_str());
    writer.value("origin_server_ts", event.origin_server_ts);
    writer.end();
    Ok(Json(json))
}
