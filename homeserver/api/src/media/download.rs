use std::time::Duration;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use entente_media::MediaFile;
use futures_util::TryStreamExt;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use super::{
    extract::{InPath, InQuery},
    headers::{Described, respond},
    range::{Asked, asked},
};
use crate::{
    ApiState, LimitKind, MatrixError,
    endpoint::{Anonymous, SessionOf},
};

/// How long an upload that was promised is waited for unless the request says otherwise (C-S API, `timeout_ms`).
const DEFAULT_WAIT: Duration = Duration::from_secs(20);

/// The parameters of downloads and thumbnails that say where from and how patiently.
#[derive(Deserialize)]
pub(super) struct Patience {
    timeout_ms: Option<u64>,
    allow_remote: Option<bool>,
}

/// `GET /client/v1/media/download/{serverName}/{mediaId}`.
pub(super) async fn download(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    InPath((server, media_id)): InPath<(String, String)>,
    InQuery(patience): InQuery<Patience>,
    headers: HeaderMap,
) -> Result<Response, MatrixError> {
    state.limits.take_of(LimitKind::MediaByUser, &session)?;
    let file = find(&state, &server, &media_id, &patience).await?;
    give(&state, &file, None, &headers, false).await
}

/// `GET /client/v1/media/download/{serverName}/{mediaId}/{fileName}`.
pub(super) async fn download_as(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    InPath((server, media_id, file_name)): InPath<(String, String, String)>,
    InQuery(patience): InQuery<Patience>,
    headers: HeaderMap,
) -> Result<Response, MatrixError> {
    state.limits.take_of(LimitKind::MediaByUser, &session)?;
    let file = find(&state, &server, &media_id, &patience).await?;
    give(&state, &file, Some(&file_name), &headers, false).await
}

/// `GET /media/v3/download/{serverName}/{mediaId}`, without a token.
pub(super) async fn frozen(
    State(state): State<ApiState>,
    _: Anonymous,
    InPath((server, media_id)): InPath<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, MatrixError> {
    let file = find_frozen(&state, &server, &media_id).await?;
    give(&state, &file, None, &headers, true).await
}

/// `GET /media/v3/download/{serverName}/{mediaId}/{fileName}`, without a token.
pub(super) async fn frozen_as(
    State(state): State<ApiState>,
    _: Anonymous,
    InPath((server, media_id, file_name)): InPath<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, MatrixError> {
    let file = find_frozen(&state, &server, &media_id).await?;
    give(&state, &file, Some(&file_name), &headers, true).await
}

pub(super) async fn find(
    state: &ApiState,
    server: &str,
    media_id: &str,
    patience: &Patience,
) -> Result<MediaFile, MatrixError> {
    let wait = patience.timeout_ms.map_or(DEFAULT_WAIT, Duration::from_millis);
    let server = elsewhere(state, server)?;
    Ok(state.media.file(server.as_deref(), media_id, wait, patience.allow_remote.unwrap_or(true)).await?)
}

/// What came before the day from which on a token is needed.
pub(super) async fn find_frozen(
    state: &ApiState,
    server: &str,
    media_id: &str,
) -> Result<MediaFile, MatrixError> {
    let refused =
        || MatrixError::not_found("this media needs an access token: GET /client/v1/media/download");
    let day = state.media.settings().unauthenticated_before.ok_or_else(refused)?;
    let server = elsewhere(state, server)?;
    let file = state.media.file(server.as_deref(), media_id, Duration::ZERO, false).await?;
    if file.came_at.millis() < day.begins_at() { Ok(file) } else { Err(refused()) }
}

/// `None` if it is this server.
fn elsewhere(state: &ApiState, server: &str) -> Result<Option<OwnedServerName>, MatrixError> {
    let server: OwnedServerName =
        server.try_into().map_err(|_| MatrixError::invalid_param("that is not the name of a server"))?;
    let own: &ServerName = state.accounts.server_name();
    Ok((server != own).then_some(server))
}

/// A file, or what of it is asked for.
pub(super) async fn give(
    state: &ApiState,
    file: &MediaFile,
    file_name: Option<&str>,
    request: &HeaderMap,
    public: bool,
) -> Result<Response, MatrixError> {
    let etag = format!("\"{}\"", file.digest);
    let described = Described {
        content_type: file.content_type.as_deref(),
        filename: file_name.or(file.filename.as_deref()),
        etag: &etag,
        public,
    };
    if let Some(response) = described.known(request) {
        return Ok(response);
    }
    let mut headers = described.headers();
    let (status, range) = match asked(request, file.size, &etag) {
        Asked::Whole => (StatusCode::OK, 0..file.size),
        Asked::Part(range) => {
            let span = format!("bytes {}-{}/{}", range.start, range.end - 1, file.size);
            headers
                .insert(header::CONTENT_RANGE, HeaderValue::from_str(&span).map_err(MatrixError::internal)?);
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Asked::Nothing => {
            let size =
                HeaderValue::from_str(&format!("bytes */{}", file.size)).map_err(MatrixError::internal)?;
            let error = MatrixError::range_not_satisfiable(file.size);
            return Ok(([(header::CONTENT_RANGE, size)], error).into_response());
        }
    };
    let size = range.end - range.start;
    let content = state.media.read(file, range).await?;
    let content = content.inspect_err(|error| tracing::warn!(%error, "a download is cut off"));
    Ok(respond(status, headers, size, Body::from_stream(content)))
}
