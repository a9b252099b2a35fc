use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{ApiState, LimitKind, MatrixError, endpoint::SessionOf};

#[derive(Deserialize)]
pub(super) struct Wanted {
    url: String,
}

/// `GET /client/v1/media/preview_url`.
pub(super) async fn preview_url(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Value>, MatrixError> {
    if session.guest {
        return Err(MatrixError::guest_access_forbidden("guests have no pages asked for them"));
    }
    state.limits.take_of(LimitKind::PreviewsByUser, &session)?;
    let Query(wanted) = wanted.map_err(|error| MatrixError::missing_param(&error.body_text()))?;
    let preview = state.media.preview(&wanted.url, state.accounts.server_name()).await?;
    Ok(Json(Value::Object(preview)))
}
