//! The tags by which users sort their rooms (C-S API, "Room Tagging"): account data of type `m.tag`, changed one at a time. What clients
//! keep in a tag beside its order stays there.

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, put},
};
use entente_accounts::{AccountDataScope, AccountError, Session};
use entente_storage::Bytes;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Map, Value, json};

use super::account_data::check_own;
use crate::{
    ApiState, MatrixError,
    endpoint::{Json, JsonBody, SessionOf},
};

const EVENT_TYPE: &str = "m.tag";
/// A tag's name has at most this many bytes (C-S API, "Room Tagging").
const MOST_NAME_BYTES: usize = 255;

type TagPath = Result<Path<(OwnedUserId, OwnedRoomId, String)>, axum::extract::rejection::PathRejection>;

pub(super) fn routes() -> Router<ApiState> {
    let list = "/user/{user_id}/rooms/{room_id}/tags";
    ["/_matrix/client/v3", "/_matrix/client/r0"].into_iter().fold(Router::new(), |router, base| {
        router
            .route(&format!("{base}{list}"), get(all))
            .route(&format!("{base}{list}/{{tag}}"), put(set).delete(delete))
    })
}

/// `GET /user/{userId}/rooms/{roomId}/tags`.
async fn all(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    path: Result<Path<(OwnedUserId, OwnedRoomId)>, axum::extract::rejection::PathRejection>,
) -> Result<Response, MatrixError> {
    let Path((user_id, room_id)) = path.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
    check_own(&session, &user_id)?;
    let content = state.accounts.account_data(&user_id, AccountDataScope::Room(&room_id), EVENT_TYPE).await;
    let tags = match content {
        Ok(content) => tags_of(Some(&content)),
        Err(AccountError::NotFound(_)) => Map::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(Json(json!({ "tags": tags }).to_string().into_bytes()).into_response())
}

/// `PUT /user/{userId}/rooms/{roomId}/tags/{tag}`.
async fn set(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    path: TagPath,
    JsonBody(body): JsonBody,
) -> Result<Response, MatrixError> {
    let (room_id, tag) = own_tag(&session, path)?;
    let info: Map<String, Value> = serde_json::from_slice(&body).map_err(MatrixError::bad_json)?;
    if info.get("order").is_some_and(|order| !order.is_number()) {
        return Err(MatrixError::bad_json("the order of a tag is a number"));
    }
    change(&state, &session, &room_id, |tags| {
        tags.insert(tag.clone(), Value::Object(info.clone())) != Some(Value::Object(info.clone()))
    })
    .await
}

/// `DELETE /user/{userId}/rooms/{roomId}/tags/{tag}`.
async fn delete(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    path: TagPath,
) -> Result<Response, MatrixError> {
    let (room_id, tag) = own_tag(&session, path)?;
    change(&state, &session, &room_id, |tags| tags.remove(&tag).is_some()).await
}

fn own_tag(session: &Session, path: TagPath) -> Result<(OwnedRoomId, String), MatrixError> {
    let Path((user_id, room_id, tag)) =
        path.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
    check_own(session, &user_id)?;
    if tag.len() > MOST_NAME_BYTES {
        return Err(MatrixError::invalid_param("the name of a tag has at most 255 bytes"));
    }
    Ok((room_id, tag))
}

/// Changes the tags of a room; `by` says whether it changed anything.
async fn change(
    state: &ApiState,
    session: &Session,
    room_id: &OwnedRoomId,
    by: impl Fn(&mut Map<String, Value>) -> bool,
) -> Result<Response, MatrixError> {
    let changed = |content: Option<&Bytes>| {
        let mut tags = tags_of(content);
        Ok(by(&mut tags).then(|| Bytes::from(json!({ "tags": tags }).to_string())))
    };
    let scope = AccountDataScope::Room(room_id);
    state.accounts.change_account_data(&session.user_id, scope, EVENT_TYPE, changed).await?;
    Ok((StatusCode::OK, Json(b"{}".to_vec())).into_response())
}

/// The tags in the content of `m.tag`. Clients can also set it as a whole: what is no list of tags is none.
fn tags_of(content: Option<&Bytes>) -> Map<String, Value> {
    let content: Option<Map<String, Value>> =
        content.and_then(|content| serde_json::from_slice(content).ok());
    match content.and_then(|mut content| content.remove("tags")) {
        Some(Value::Object(tags)) => tags,
        _ => Map::new(),
    }
}
