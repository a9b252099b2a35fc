//! The events that relate to an event: all, those with one `rel_type`, those that have one event type too.

use axum::extract::State;
use entente_accounts::Session;
use entente_rooms::{
    Direction, ObjectWriter, RECURSION_DEPTH, Reader, RelatedFilter, RelatedPage, RoomView, Shape,
    TimelinePlace, TimelineSpan,
};
use ruma::{
    EventId, RoomId, UInt,
    api::client::relations::{
        get_relating_events, get_relating_events_with_rel_type,
        get_relating_events_with_rel_type_and_event_type,
    },
};

use super::room_events::place;
use crate::{ApiState, MatrixError, endpoint::Json};

/// Events of a page unless the client says otherwise.
const DEFAULT_LIMIT: usize = 50;
/// Events of a page at the most.
const MOST_EVENTS: usize = 200;

/// `GET /rooms/{roomId}/relations/{eventId}`.
pub(super) async fn all(
    State(state): State<ApiState>,
    session: Session,
    request: get_relating_events::v1::Request,
) -> Result<Json, MatrixError> {
    let filter = RelatedFilter { rel_type: None, event_type: None, recurse: request.recurse };
    let list = List { from: request.from, to: request.to, dir: request.dir, limit: request.limit, filter };
    list.answer(&state, &session, &request.room_id, &request.event_id).await
}

/// `GET /rooms/{roomId}/relations/{eventId}/{relType}`.
pub(super) async fn of_type(
    State(state): State<ApiState>,
    session: Session,
    request: get_relating_events_with_rel_type::v1::Request,
) -> Result<Json, MatrixError> {
    let rel_type = Some(request.rel_type.to_string());
    let filter = RelatedFilter { rel_type, event_type: None, recurse: request.recurse };
    let list = List { from: request.from, to: request.to, dir: request.dir, limit: request.limit, filter };
    list.answer(&state, &session, &request.room_id, &request.event_id).await
}

/// `GET /rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`.
pub(super) async fn of_type_and_event_type(
    State(state): State<ApiState>,
    session: Session,
    request: get_relating_events_with_rel_type_and_event_type::v1::Request,
) -> Result<Json, MatrixError> {
    let (rel_type, event_type) = (Some(request.rel_type.to_string()), Some(request.event_type.to_string()));
    let filter = RelatedFilter { rel_type, event_type, recurse: request.recurse };
    let list = List { from: request.from, to: request.to, dir: request.dir, limit: request.limit, filter };
    list.answer(&state, &session, &request.room_id, &request.event_id).await
}

/// What the three endpoints have in common.
struct List {
    from: Option<String>,
    to: Option<String>,
    dir: ruma::api::Direction,
    limit: Option<UInt>,
    filter: RelatedFilter,
}

impl List {
    async fn answer(
        &self,
        state: &ApiState,
        session: &Session,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Json, MatrixError> {
        let view = state.rooms.view(room_id).await?;
        let target = view.visible_event(&session.user_id, event_id).await?.event;
        let direction = match self.dir {
            ruma::api::Direction::Forward => Direction::Forward,
            ruma::api::Direction::Backward => Direction::Backward,
        };
        let from = optional_place(&view, self.from.as_deref()).await?;
        let to = optional_place(&view, self.to.as_deref()).await?;
        let span = TimelineSpan { from, to, direction };
        let limit = page_size(self.limit);
        let page = view.related(&session.user_id, &target, &self.filter, span, limit).await?;
        self.write(&view, session, &page).await
    }

    async fn write(
        &self,
        view: &RoomView,
        session: &Session,
        page: &RelatedPage,
    ) -> Result<Json, MatrixError> {
        let reader = Reader { user_id: &session.user_id, device_id: session.device_id.as_str() };
        let events = view.client_events(reader, &page.events, Shape::WithRoom).await?;
        let mut json = Vec::new();
        let mut writer = ObjectWriter::begin(&mut json);
        writer.list("chunk", &events, |json, event| json.extend_from_slice(event));
        if let Some(next) = page.next {
            writer.value("next_batch", next.to_string());
        }
        if let Some(from) = &self.from {
            writer.value("prev_batch", from);
        }
        if self.filter.recurse {
            writer.value("recursion_depth", RECURSION_DEPTH);
        }
        writer.end();
        Ok(Json(json))
    }
}

/// Events of a page.
pub(super) fn page_size(limit: Option<UInt>) -> usize {
    let limit = limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(u64::from(limit)).unwrap_or(MOST_EVENTS));
    limit.clamp(1, MOST_EVENTS)
}

async fn optional_place(view: &RoomView, token: Option<&str>) -> Result<Option<TimelinePlace>, MatrixError> {
    match token {
        Some(token) => Ok(Some(place(view, token).await?)),
        None => Ok(None),
    }
}
