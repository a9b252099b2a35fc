use axum::extract::State;
use entente_accounts::Session;
use entente_rooms::{ObjectWriter, Reader, Shape, TimelinePlace};
use ruma::api::client::threads::get_threads::v1::{IncludeThreads, Request};

use super::relations::page_size;
use crate::{ApiState, MatrixError, endpoint::Json};

/// `GET /rooms/{roomId}/threads`.
pub(super) async fn list(
    State(state): State<ApiState>,
    session: Session,
    request: Request,
) -> Result<Json, MatrixError> {
    let view = state.rooms.view(&request.room_id).await?;
    view.require_reader(&session.user_id).await?;
    let participated = match request.include {
        IncludeThreads::All => false,
        IncludeThreads::Participated => true,
        _ => return Err(MatrixError::invalid_param("include is \"all\" or \"participated\"")),
    };
    let from: Option<TimelinePlace> = request.from.as_deref().map(str::parse).transpose()?;
    let page = view.threads(&session.user_id, from, participated, page_size(request.limit)).await?;
    let reader = Reader { user_id: &session.user_id, device_id: session.device_id.as_str() };
    let roots = view.client_events(reader, &page.roots, Shape::WithRoom).await?;
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.list("chunk", &roots, |json, event| json.extend_from_slice(event));
    if let Some(next) = page.next {
        writer.value("next_batch", next.to_string());
    }
    writer.end();
    Ok(Json(json))
}
