//! Media for other servers (S-S API, "Content Repository"): one answer with a JSON object and the file.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use entente_media::{Content, MediaFile, Thumbnail};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;

use super::{
    extract::{InPath, InQuery},
    headers::{Described, respond},
    thumbnail::Wanted,
};
use crate::{ApiState, MatrixError, federation::Peer};

#[derive(Deserialize)]
pub(super) struct Patience {
    timeout_ms: Option<u64>,
}

const DEFAULT_WAIT: Duration = Duration::from_secs(20);

/// `GET /federation/v1/media/download/{mediaId}`.
pub(super) async fn download(
    State(state): State<ApiState>,
    InPath(media_id): InPath<String>,
    InQuery(patience): InQuery<Patience>,
    _: Peer,
) -> Result<Response, MatrixError> {
    let file = find(&state, &media_id, &patience).await?;
    whole(&state, &file).await
}

/// `GET /federation/v1/media/thumbnail/{mediaId}`.
pub(super) async fn thumbnail(
    State(state): State<ApiState>,
    InPath(media_id): InPath<String>,
    InQuery(patience): InQuery<Patience>,
    InQuery(wanted): InQuery<Wanted>,
    _: Peer,
) -> Result<Response, MatrixError> {
    let file = find(&state, &media_id, &patience).await?;
    match state.media.thumbnail(&file, wanted.request()).await? {
        Thumbnail::Original => whole(&state, &file).await,
        Thumbnail::Drawn { picture, content_type, .. } => {
            let described =
                Described { content_type: Some(content_type), filename: None, etag: "", public: false };
            let size = u64::try_from(picture.len()).unwrap_or(u64::MAX);
            multipart(&state, &described, size, stream::iter([Ok(picture)]).boxed())
        }
    }
}

async fn find(state: &ApiState, media_id: &str, patience: &Patience) -> Result<MediaFile, MatrixError> {
    let wait = patience.timeout_ms.map_or(DEFAULT_WAIT, Duration::from_millis);
    Ok(state.media.file(None, media_id, wait, false).await?)
}

async fn whole(state: &ApiState, file: &MediaFile) -> Result<Response, MatrixError> {
    let (content_type, filename) = (file.content_type.as_deref(), file.filename.as_deref());
    let described = Described { content_type, filename, etag: "", public: false };
    let content = state.media.read(file, 0..file.size).await?;
    multipart(state, &described, file.size, content)
}

/// A `multipart/mixed` answer (RFC 2046): an empty JSON object, and the file.
fn multipart(
    state: &ApiState,
    described: &Described<'_>,
    size: u64,
    content: Content,
) -> Result<Response, MatrixError> {
    let boundary = state.media.boundary();
    let mut head =
        format!("\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n")
            .into_bytes();
    for (name, value) in
        [("Content-Type", described.content_type()), ("Content-Disposition", described.content_disposition())]
    {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let tail = format!("\r\n--{boundary}--\r\n").into_bytes();
    let around = u64::try_from(head.len() + tail.len()).unwrap_or(u64::MAX);
    let content = content.inspect_err(|error| tracing::warn!(%error, "a download is cut off"));
    let body =
        stream::iter([Ok(Bytes::from(head))]).chain(content).chain(stream::iter([Ok(Bytes::from(tail))]));
    let content_type = HeaderValue::from_str(&format!("multipart/mixed; boundary={boundary}"));
    let content_type = content_type.map_err(MatrixError::internal)?;
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]);
    Ok(respond(StatusCode::OK, headers, size.saturating_add(around), Body::from_stream(body)))
}
