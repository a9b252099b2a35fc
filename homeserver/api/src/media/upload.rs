use std::time::Duration;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, header},
};
use entente_accounts::Session;
use entente_media::NewMedia;
use futures_util::{Stream, StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{InPath, InQuery};
use crate::{ApiState, MatrixError, client::active, endpoint::SessionOf};

/// Of an upload that is refused, so much is read and thrown away,
const MOST_THROWN_AWAY: usize = 16 * 1024 * 1024;
/// for so long.
const LONGEST_DRAIN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
pub(super) struct Named {
    filename: Option<String>,
}

/// `GET /media/config`.
pub(super) async fn config(State(state): State<ApiState>, _: SessionOf) -> Result<Json<Value>, MatrixError> {
    Ok(Json(json!({ "m.upload.size": state.media.settings().max_upload_size.as_u64() })))
}

/// `POST /media/v3/upload`.
pub(super) async fn upload(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    InQuery(Named { filename }): InQuery<Named>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, MatrixError> {
    let mut body = body.into_data_stream().map_err(in_words);
    let uploaded = async {
        let new = described(&state, &session, &headers, filename)?;
        Ok::<_, MatrixError>(state.media.upload(&new, &mut body).await?)
    };
    let media_id = heard(uploaded.await, body).await?;
    Ok(Json(json!({ "content_uri": address(&state, &media_id) })))
}

/// `POST /media/v1/create`.
pub(super) async fn promise(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
) -> Result<Json<Value>, MatrixError> {
    active(&session)?;
    state.limits.take_for(&session)?;
    let promised = state.media.promise(session.user_id.localpart()).await?;
    Ok(Json(json!({
        "content_uri": address(&state, &promised.media_id),
        "unused_expires_at": promised.lapses_at.millis(),
    })))
}

/// `PUT /media/v3/upload/{serverName}/{mediaId}`.
pub(super) async fn upload_promised(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    InPath((server, media_id)): InPath<(String, String)>,
    InQuery(Named { filename }): InQuery<Named>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, MatrixError> {
    if server != state.accounts.server_name().as_str() {
        return Err(MatrixError::not_found("media of other servers are uploaded there"));
    }
    let mut body = body.into_data_stream().map_err(in_words);
    let uploaded = async {
        let new = described(&state, &session, &headers, filename)?;
        Ok::<_, MatrixError>(state.media.upload_promised(&media_id, &new, &mut body).await?)
    };
    heard(uploaded.await, body).await?;
    Ok(Json(json!({})))
}

fn described(
    state: &ApiState,
    session: &Session,
    headers: &HeaderMap,
    filename: Option<String>,
) -> Result<NewMedia, MatrixError> {
    active(session)?;
    state.limits.take_for(session)?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Ok(NewMedia {
        localpart: session.user_id.localpart().to_owned(),
        content_type: text(header::CONTENT_TYPE).map(str::to_owned),
        filename: filename.filter(|filename| !filename.is_empty()),
        announced_size: text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
    })
}

/// A client that still sends does not hear why not: what it sends is thrown away, for a while.
async fn heard<T>(
    outcome: Result<T, MatrixError>,
    mut rest: impl Stream<Item = Result<Bytes, String>> + Unpin,
) -> Result<T, MatrixError> {
    if outcome.is_err() {
        let mut thrown_away = 0;
        let drain = async {
            while let Some(Ok(bytes)) = rest.next().await {
                thrown_away += bytes.len();
                if thrown_away > MOST_THROWN_AWAY {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(LONGEST_DRAIN, drain).await;
    }
    outcome
}

/// Axum's errors say little themselves.
fn in_words(error: axum::Error) -> String {
    let error = error.into_inner();
    let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
    format!("{error}{cause}")
}

fn address(state: &ApiState, media_id: &str) -> String {
    format!("mxc://{}/{media_id}", state.accounts.server_name())
}
