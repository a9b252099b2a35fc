use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use entente_config::ThumbnailMethod;
use entente_media::{MediaFile, Thumbnail, ThumbnailRequest};
use serde::Deserialize;

use super::{
    download::{Patience, find, find_frozen, give},
    headers::{Described, respond},
};
use crate::{
    ApiState, LimitKind, MatrixError,
    endpoint::{Anonymous, SessionOf},
};

/// The parameters that say what picture is wanted.
#[derive(Deserialize)]
pub(super) struct Wanted {
    width: u32,
    height: u32,
    method: Option<ThumbnailMethod>,
    animated: Option<bool>,
}

impl Wanted {
    /// Without a method it is one that shows all of the picture (C-S API).
    pub(super) fn request(&self) -> ThumbnailRequest {
        ThumbnailRequest {
            width: self.width,
            height: self.height,
            method: self.method.unwrap_or(ThumbnailMethod::Scale),
            animated: self.animated.unwrap_or(false),
        }
    }
}

/// `GET /client/v1/media/thumbnail/{serverName}/{mediaId}`.
pub(super) async fn thumbnail(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    Path((server, media_id)): Path<(String, String)>,
    Query(patience): Query<Patience>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, MatrixError> {
    state.limits.take(LimitKind::RequestsByUser, session.user_id.as_str())?;
    let Query(wanted) = wanted.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
    let file = find(&state, &server, &media_id, &patience).await?;
    draw(&state, &file, &wanted, &headers, false).await
}

/// `GET /media/v3/thumbnail/{serverName}/{mediaId}`, without a token.
pub(super) async fn frozen(
    State(state): State<ApiState>,
    _: Anonymous,
    Path((server, media_id)): Path<(String, String)>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, MatrixError> {
    let Query(wanted) = wanted.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
    let file = find_frozen(&state, &server, &media_id).await?;
    draw(&state, &file, &wanted, &headers, true).await
}

async fn draw(
    state: &ApiState,
    file: &MediaFile,
    wanted: &Wanted,
    headers: &HeaderMap,
    public: bool,
) -> Result<Response, MatrixError> {
    match state.media.thumbnail(file, wanted.request()).await? {
        Thumbnail::Original => give(state, file, None, headers, public).await,
        Thumbnail::Drawn { picture, content_type, name } => {
            let etag = format!("\"{}-{name}\"", file.digest);
            let described =
                Described { content_type: Some(content_type), filename: None, etag: &etag, public };
            if let Some(known) = described.known(headers) {
                return Ok(known);
            }
            let size = u64::try_from(picture.len()).unwrap_or(u64::MAX);
            Ok(respond(StatusCode::OK, described.headers(), size, Body::from(picture)))
        }
    }
}
