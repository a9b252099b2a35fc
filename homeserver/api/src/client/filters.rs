use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use entente_accounts::Session;
use entente_sync::SyncFilter;
use ruma::UserId;
use serde_json::{Value, json, value::RawValue};

use crate::{
    ApiState, MatrixError,
    endpoint::{JsonBody, SessionOf},
};

pub(super) fn routes() -> Router<ApiState> {
    let mut routes = Router::new();
    for version in ["v3", "r0"] {
        let base = format!("/_matrix/client/{version}/user/{{user_id}}/filter");
        routes = routes.route(&base, post(create)).route(&format!("{base}/{{filter_id}}"), get(one));
    }
    routes
}

/// `POST /user/{userId}/filter`. It is kept as it is, with what this server does not know.
async fn create(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    Path(user_id): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    check_own(&session, &user_id)?;
    let filter: Value = serde_json::from_slice(&body).map_err(MatrixError::not_json)?;
    SyncFilter::from_json(&body).map_err(MatrixError::bad_json)?;
    let user_id: &UserId = &session.user_id;
    let filter_id = state.accounts.create_filter(user_id, filter.to_string().into()).await?;
    Ok(Json(json!({ "filter_id": filter_id })))
}

/// `GET /user/{userId}/filter/{filterId}`.
async fn one(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    Path((user_id, filter_id)): Path<(String, String)>,
) -> Result<Json<Box<RawValue>>, MatrixError> {
    check_own(&session, &user_id)?;
    let filter = state.accounts.filter(&session.user_id, &filter_id).await?;
    Ok(Json(serde_json::from_slice(&filter).map_err(MatrixError::internal)?))
}

fn check_own(session: &Session, user_id: &str) -> Result<(), MatrixError> {
    if session.user_id == user_id {
        Ok(())
    } else {
        Err(MatrixError::forbidden("only the user's own filters can be read or made"))
    }
}
