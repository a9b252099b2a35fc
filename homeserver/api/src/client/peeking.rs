//! Reading rooms without being in them, by the endpoints that web clients use for previews.

use axum::extract::State;
use entente_accounts::Session;
use entente_rooms::{
    Direction, EventFilter, Membership, ObjectWriter, Reader, RoomError, Shape, state::EventNumber,
};
use entente_sync::SyncToken;
use ruma::api::client::peeking::{get_current_state, listen_to_new_events};

use crate::{ApiState, MatrixError, endpoint::Json};

/// Messages of a room's first view.
const MESSAGES: usize = 20;

/// `GET /rooms/{roomId}/initialSync`.
pub(super) async fn room_initial_sync(
    State(state): State<ApiState>,
    session: Session,
    request: get_current_state::v3::Request,
) -> Result<Json, MatrixError> {
    let user_id = &session.user_id;
    let view = state.rooms.view(&request.room_id).await?;
    let root = view.readable_state(user_id).await?;
    let end = view.timeline_end().await?;
    let filter = EventFilter::default();
    let page = view.timeline(user_id, end, None, Direction::Backward, MESSAGES, &filter).await?;
    let reader = Reader { user_id, device_id: session.device_id.as_str() };
    let mut messages = view.client_events(reader, &page.events, Shape::WithRoom).await?;
    messages.reverse();
    let events = view.full_state(root).await?;
    let membership = view.membership(user_id).await?;
    let account_data = state.accounts.room_account_data(user_id, &request.room_id).await?;
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("room_id", &request.room_id);
    if let Some(membership) = membership.filter(|membership| *membership != Membership::Knock) {
        writer.value("membership", membership.as_str());
    }
    writer.key("messages");
    let mut chunk = ObjectWriter::begin(writer.json);
    let start = page.events.last().map_or(EventNumber(0), |oldest| oldest.event.number);
    chunk.value("start", entente_rooms::TimelinePlace(start).to_string());
    chunk.value("end", end.to_string());
    chunk.list("chunk", &messages, |json, event| json.extend_from_slice(event));
    chunk.end();
    writer.list("state", &events, |json, event| view.write_state_event(json, event, Shape::WithRoom));
    writer.list("account_data", &account_data, |json, entry| {
        let mut event = ObjectWriter::begin(json);
        event.value("type", &entry.event_type);
        event.raw("content", &entry.content);
        event.end();
    });
    writer.end();
    Ok(Json(json))
}

/// `GET /events` of one room.
pub(super) async fn events(
    State(state): State<ApiState>,
    session: Session,
    request: listen_to_new_events::v3::Request,
) -> Result<Json, MatrixError> {
    let from = match request.from.as_deref() {
        None | Some("") => None,
        // Clients go on from where the first view of the room ended.
        Some(token) if token.starts_with('t') => None,
        Some(token) => Some(
            SyncToken::parse(token)
                .ok_or(RoomError::InvalidParameter(String::from("from is none of this server's tokens")))?,
        ),
    };
    let reader = Reader { user_id: &session.user_id, device_id: session.device_id.as_str() };
    let timeout = request.timeout.unwrap_or_default();
    let peeked = state.sync.peek(reader, &request.room_id, from, timeout).await?;
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("start", peeked.start.to_string());
    writer.value("end", peeked.end.to_string());
    writer.list("chunk", &peeked.events, |json, event| json.extend_from_slice(event));
    writer.end();
    Ok(Json(json))
}
