use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use entente_config::ThumbnailMethod;
use entente_media::{MediaFile, Thumbnail, ThumbnailRequest};
use serde::Deserialize;

use super::{
    download::{Patience, find, find_frozen, give},
    extract::{InPath, InQuery},
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
    InPath((server, media_id)): InPath<(String, String)>,
    InQuery(patience): InQuery<Patience>,
    InQuery(wanted): InQuery<Wanted>,
    headers: HeaderMap,
) -> Result<Response, MatrixError> {
    state.limits.take_of(LimitKind::MediaByUser, &session)?;
    let file = find(&state, &server, &media_id, &patience).await?;
    draw(&state, &file, &wanted, &headers, false).await
}

/// `GET /media/v3/thumbnail/{serverName}/{mediaId}`, without a token.
pub(super) async fn frozen(
    State(state): State<ApiState>,
    _: Anonymous,
    InPath((server, media_id)): InPath<(String, String)>,
    InQuery(wanted): InQuery<Wanted>,
    headers: HeaderMap,
) -> Result<Response, MatrixError> {
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
