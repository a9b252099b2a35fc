//! The directory of rooms, summaries, spaces, and events by time.

use axum::extract::{Path, RawQuery, State};
use entente_accounts::Session;
use entente_rooms::{
    Direction, DirectoryNetwork, DirectoryPage, DirectoryQuery, HierarchyQuery, ObjectWriter, RoomError,
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedServerName, RoomOrAliasId,
    ServerName, UInt,
    api::client::{
        directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility},
        room::{Visibility, get_event_by_timestamp, get_summary},
        space::get_hierarchy,
    },
    directory::{Filter, RoomNetwork},
};
use serde_json::{Value, json};

use super::remote;
use crate::{
    ApiState, MatrixError,
    endpoint::{Anonymous, Json, Visitor},
};

/// `GET /publicRooms`.
pub(super) async fn public_rooms(
    State(state): State<ApiState>,
    visitor: Visitor,
    request: get_public_rooms::v3::Request,
) -> Result<Json, MatrixError> {
    if let Some(server) = request.server.as_ref().filter(|server| **server != state.rooms.server_name()) {
        // Whoever is not logged in has this server ask no other.
        if visitor.user().is_none() {
            return Err(MatrixError::forbidden(
                "the rooms of another server are shown to those who are logged in",
            ));
        }
        let mut filtered = get_public_rooms_filtered::v3::Request::new();
        filtered.limit = request.limit;
        filtered.since.clone_from(&request.since);
        return of_server(&state, server, &filtered).await;
    }
    let query =
        DirectoryQuery { limit: request.limit.map(count), since: request.since, ..DirectoryQuery::default() };
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
        network: network(request.room_network),
    };
    written(&state.rooms.public_rooms(&query).await?)
}

fn network(named: RoomNetwork) -> DirectoryNetwork {
    match named {
        RoomNetwork::All => DirectoryNetwork::All,
        RoomNetwork::ThirdParty(instance) => DirectoryNetwork::Instance(instance),
        _ => DirectoryNetwork::Matrix,
    }
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
    match &request.room_network {
        RoomNetwork::All => {
            body.insert(String::from("include_all_networks"), CanonicalJsonValue::Bool(true));
        }
        RoomNetwork::ThirdParty(instance) => {
            let instance = CanonicalJsonValue::String(instance.clone());
            body.insert(String::from("third_party_instance_id"), instance);
        }
        _ => {}
    }
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
    visitor: Visitor,
    request: get_summary::v1::Request,
) -> Result<Json, MatrixError> {
    summarise(&state, &visitor, &request.room_id_or_alias, &request.via).await
}

/// The same under a path from before it was in the spec (MSC3266), which some clients still ask.
pub(super) async fn unstable_summary(
    State(state): State<ApiState>,
    Path(named): Path<String>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Result<Json, MatrixError> {
    let not_an_id = |_| MatrixError::invalid_param("that is neither the id of a room nor an alias");
    let named = RoomOrAliasId::parse(named).map_err(not_an_id)?;
    let pairs = url::form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
    let via =
        pairs.filter(|(name, _)| name == "via").filter_map(|(_, server)| ServerName::parse(server).ok());
    let via: Vec<OwnedServerName> = via.collect();
    summarise(&state, &visitor, &named, &via).await
}

async fn summarise(
    state: &ApiState,
    visitor: &Visitor,
    named: &RoomOrAliasId,
    via: &[OwnedServerName],
) -> Result<Json, MatrixError> {
    let (room_id, servers) = remote::resolve_for(state, visitor, named, via).await?;
    let reader = visitor.user().map(|session| &*session.user_id);
    let (summary, own) = if state.federation.rooms.is_resident(&room_id).await? {
        let view = state.rooms.view(&room_id).await?;
        let summary = view.summary().await?;
        if !view.may_see_summary(&summary, reader).await? {
            return Err(RoomError::RoomNotFound.into());
        }
        let own = match reader {
            Some(reader) => view.membership(reader).await?,
            None => None,
        };
        (summary, own)
    } else {
        // Whoever is not logged in has this server ask no other.
        let reader = reader.ok_or(RoomError::RoomNotFound)?;
        let elsewhere = state.federation.previews.for_request();
        state.rooms.summary_elsewhere(&room_id, &servers, reader, &elsewhere).await?
    };
    let mut body = serde_json::to_value(&summary).map_err(MatrixError::internal)?;
    if reader.is_some() {
        body["membership"] = json!(own.map_or("leave", |membership| membership.as_str()));
    }
    // Their names from before they were in the spec (MSC3266), which some clients still read.
    for (name, older) in [
        ("room_version", "im.nheko.summary.room_version"),
        ("room_version", "im.nheko.summary.version"),
        ("encryption", "im.nheko.summary.encryption"),
    ] {
        if let Some(value) = body.get(name).cloned() {
            body[older] = value;
        }
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
    let elsewhere = state.federation.previews.for_request();
    let page = state.rooms.hierarchy(&session.user_id, &request.room_id, &query, &elsewhere).await?;
    let mut body = json!({ "rooms": page.rooms });
    if let Some(next) = page.next {
        body["next_batch"] = json!(next);
    }
    Ok(Json(serde_json::to_vec(&body).map_err(MatrixError::internal)?))
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
    let (room_id, user_id, at) = (&request.room_id, &session.user_id, u64::from(at));
    let known = view.event_at(user_id, at, direction).await;
    // What is closest here may not be what is closest: this server knows a room from some time on.
    let may_be_closer = match &known {
        Ok(event) => direction == Direction::Forward && at < event.origin_server_ts,
        Err(error) => matches!(error, RoomError::NotFound(_)),
    };
    let forward = direction == Direction::Forward;
    let fetched = may_be_closer && state.federation.rooms.fetch_event_at(room_id, at, forward).await?;
    let event = if fetched {
        state.rooms.view(room_id).await?.event_at(user_id, at, direction).await
    } else {
        known
    }?;
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("event_id", event.event_id.as_str());
    writer.value("origin_server_ts", event.origin_server_ts);
    writer.end();
    Ok(Json(json))
}
