//! Reading what is in a room: events, their surroundings, the state, the members.

use axum::extract::State;
use entente_accounts::Session;
use entente_rooms::{
    Direction, Event, EventFilter, Membership, ObjectWriter, Reader, RelatedBy, RoomError, RoomView, Seen,
    Shape, TimelinePage, TimelinePlace, Unsigned, state::StateRoot,
};
use http::request::Parts;
use ruma::{
    RoomId,
    api::{
        auth_scheme::AccessToken,
        client::{
            context::get_context,
            filter::{LazyLoadOptions, RoomEventFilter},
            membership::{get_member_events, joined_members},
            message::get_message_events,
            room::get_room_event,
            state::{get_state_event_for_key, get_state_events},
        },
    },
    events::room::member::MembershipState,
};

use crate::{
    ApiState, MatrixError,
    endpoint::{Caller, Json},
};

/// A page has at most this many events.
const MOST_EVENTS: usize = 1_000;

/// Whoever reads a timeline.
#[derive(Debug)]
pub(super) struct TimelineReader {
    session: Session,
    /// What `ruma` leaves out of their filter.
    related_by: RelatedBy,
}

impl Caller<AccessToken> for TimelineReader {
    async fn identify(state: &ApiState, parts: &Parts, rate_limited: bool) -> Result<Self, MatrixError> {
        let session = <Session as Caller<AccessToken>>::identify(state, parts, rate_limited).await?;
        let mut pairs = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let related_by = match pairs.find(|(name, _)| name == "filter") {
            Some((_, filter)) => serde_json::from_str(&filter)
                .map_err(|error| MatrixError::invalid_param(&format!("the filter: {error}")))?,
            None => RelatedBy::default(),
        };
        Ok(Self { session, related_by })
    }
}

impl TimelineReader {
    /// Which events of a room are wanted.
    fn filter(&self, filter: &RoomEventFilter, room_id: &RoomId) -> EventFilter {
        EventFilter::from(filter).in_room(room_id).related_by(self.related_by.clone())
    }
}

/// `GET /rooms/{roomId}/messages`.
pub(super) async fn messages(
    State(state): State<ApiState>,
    reader: TimelineReader,
    request: get_message_events::v3::Request,
) -> Result<Json, MatrixError> {
    let session = &reader.session;
    let view = state.rooms.view(&request.room_id).await?;
    view.require_reader(&session.user_id).await?;
    let direction = match request.dir {
        ruma::api::Direction::Forward => Direction::Forward,
        ruma::api::Direction::Backward => Direction::Backward,
    };
    let from = match &request.from {
        Some(token) => place(&view, token).await?,
        None if direction == Direction::Backward => view.timeline_end().await?,
        None => TimelinePlace(entente_rooms::state::EventNumber(i64::MIN)),
    };
    let to = match &request.to {
        Some(token) => Some(place(&view, token).await?),
        None => None,
    };
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(MOST_EVENTS).clamp(1, MOST_EVENTS);
    let filter = reader.filter(&request.filter, &request.room_id);
    let mut view = view;
    if direction == Direction::Backward && view.gap_before(from).await?.is_some() {
        // What was said while this server was out of the room is fetched when somebody reads so far.
        match state.federation.rooms.fill_gap(&request.room_id, from, limit).await {
            Ok(false) => {}
            Ok(true) => view = state.rooms.view(&request.room_id).await?,
            Err(error) => tracing::info!(room_id = %request.room_id, %error, "a gap cannot be filled"),
        }
    }
    let mut page = view.timeline(&session.user_id, from, to, direction, limit, &filter).await?;
    if page.end.is_none() && direction == Direction::Backward && page.events.len() < limit {
        // So is what came before the room's beginning here.
        match state.federation.rooms.fetch_past(&request.room_id, limit).await {
            Ok(0) => {}
            Ok(_) => {
                view = state.rooms.view(&request.room_id).await?;
                page = view.timeline(&session.user_id, from, to, direction, limit, &filter).await?;
            }
            Err(error) => tracing::info!(room_id = %request.room_id, %error, "a room's past cannot be had"),
        }
    }
    let members = lazy_members(&view, &request.filter, &page.events, view.current_state().await?).await?;
    let page_writer = PageWriter::new(&view, session, &[&page.events]).await?;
    let mut json = Vec::with_capacity(1_024 * (page.events.len() + 1));
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("start", from_token(request.from.as_deref(), from));
    if let Some(end) = page.end {
        writer.value("end", end.to_string());
    }
    page_writer.write_events(&mut writer, "chunk", &page.events);
    if !members.is_empty() {
        page_writer.write_state(&mut writer, "state", &members);
    }
    writer.end();
    Ok(Json(json))
}

fn from_token(given: Option<&str>, from: TimelinePlace) -> String {
    given.map_or_else(|| from.to_string(), str::to_owned)
}

/// A token of `/messages`, or one of `/sync` in any form.
pub(super) async fn place(view: &RoomView, token: &str) -> Result<TimelinePlace, MatrixError> {
    if token.starts_with('t') {
        return Ok(token.parse()?);
    }
    let position = entente_sync::position_of_token(token)
        .ok_or_else(|| MatrixError::invalid_param("that is none of this server's tokens"))?;
    Ok(view.place_at(&position).await?)
}

/// `GET /rooms/{roomId}/context/{eventId}`.
pub(super) async fn context(
    State(state): State<ApiState>,
    reader: TimelineReader,
    request: get_context::v3::Request,
) -> Result<Json, MatrixError> {
    let session = &reader.session;
    let view = state.rooms.view(&request.room_id).await?;
    let events = [view.visible_event(&session.user_id, &request.event_id).await?];
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(MOST_EVENTS).min(MOST_EVENTS);
    let filter = reader.filter(&request.filter, &request.room_id);
    let (before, after) = view.around(&session.user_id, &events[0].event, limit, &filter).await?;
    let newest = after.events.last().unwrap_or(&events[0]);
    let root = newest.event.state_after();
    let all: Vec<Seen> = before.events.iter().chain(&events).chain(&after.events).cloned().collect();
    let shown_state = if request.filter.lazy_load_options.is_disabled() {
        view.full_state(root).await?
    } else {
        let mut settings = view.state_of(root, entente_rooms::state::Partition::Settings).await?;
        settings.extend(lazy_members(&view, &request.filter, &all, root).await?);
        settings
    };
    let page_writer = PageWriter::new(&view, session, &[&all]).await?;
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    let oldest = before.events.last().unwrap_or(&events[0]);
    writer.value("start", end_of(&before, TimelinePlace(oldest.event.number)));
    let behind = entente_rooms::state::EventNumber(newest.event.number.0.saturating_add(1));
    writer.value("end", end_of(&after, TimelinePlace(behind)));
    page_writer.write_events(&mut writer, "events_before", &before.events);
    writer.key("event");
    page_writer.write_one(writer.json, &events[0]);
    page_writer.write_events(&mut writer, "events_after", &after.events);
    page_writer.write_state(&mut writer, "state", &shown_state);
    writer.end();
    Ok(Json(json))
}

fn end_of(page: &TimelinePage, otherwise: TimelinePlace) -> String {
    page.end.unwrap_or(otherwise).to_string()
}

/// `GET /rooms/{roomId}/event/{eventId}`.
pub(super) async fn event(
    State(state): State<ApiState>,
    session: Session,
    request: get_room_event::v3::Request,
) -> Result<Json, MatrixError> {
    let view = state.rooms.view(&request.room_id).await?;
    let events = [view.visible_event(&session.user_id, &request.event_id).await?];
    let page_writer = PageWriter::new(&view, &session, &[&events]).await?;
    let mut json = Vec::new();
    page_writer.write_one(&mut json, &events[0]);
    Ok(Json(json))
}

/// `GET /rooms/{roomId}/state`.
pub(super) async fn state_events(
    State(state): State<ApiState>,
    session: Session,
    request: get_state_events::v3::Request,
) -> Result<Json, MatrixError> {
    let view = state.rooms.view(&request.room_id).await?;
    let root = view.readable_state(&session.user_id).await?;
    let events = view.full_state(root).await?;
    let mut json = Vec::with_capacity(512 * events.len());
    write_array(&mut json, &events, |json, event| view.write_state_event(json, event, Shape::WithRoom));
    Ok(Json(json))
}

/// `GET /rooms/{roomId}/state/{eventType}/{stateKey}`.
pub(super) async fn state_event(
    State(state): State<ApiState>,
    session: Session,
    request: get_state_event_for_key::v3::Request,
) -> Result<Json, MatrixError> {
    let view = state.rooms.view(&request.room_id).await?;
    let root = view.readable_state(&session.user_id).await?;
    let event_type = request.event_type.to_string();
    let event = view.state_event(root, &event_type, &request.state_key).await?;
    let event = event.ok_or(RoomError::NotFound("the room has no such state"))?;
    let mut json = Vec::new();
    if request.format == get_state_event_for_key::v3::StateEventFormat::Event {
        view.write_state_event(&mut json, &event, Shape::WithRoom);
    } else {
        json.extend_from_slice(event.content().get().as_bytes());
    }
    Ok(Json(json))
}

/// `GET /rooms/{roomId}/members`.
pub(super) async fn members(
    State(state): State<ApiState>,
    session: Session,
    request: get_member_events::v3::Request,
) -> Result<Json, MatrixError> {
    let view = state.rooms.view(&request.room_id).await?;
    let readable = view.readable_state(&session.user_id).await?;
    let root = match &request.at {
        // Nobody sees a later state than they may read.
        Some(token) if readable == view.current_state().await? => {
            view.state_at_place(place(&view, token).await?).await?
        }
        _ => readable,
    };
    let parse = |membership: &MembershipState| Membership::parse(membership.as_str());
    let (wanted, unwanted) = (request.membership.as_ref(), request.not_membership.as_ref());
    let events = view
        .members(root, |membership| {
            wanted.is_none_or(|wanted| parse(wanted) == Some(membership))
                && unwanted.is_none_or(|unwanted| parse(unwanted) != Some(membership))
        })
        .await?;
    let mut json = Vec::with_capacity(512 * events.len());
    let mut writer = ObjectWriter::begin(&mut json);
    writer.key("chunk");
    write_array(writer.json, &events, |json, event| view.write_state_event(json, event, Shape::WithRoom));
    writer.end();
    Ok(Json(json))
}

/// `GET /rooms/{roomId}/joined_members`.
pub(super) async fn joined(
    State(state): State<ApiState>,
    session: Session,
    request: joined_members::v3::Request,
) -> Result<Json, MatrixError> {
    let view = state.rooms.view(&request.room_id).await?;
    view.require_joined(&session.user_id).await?;
    let members = view.joined_members().await?;
    let mut json = Vec::with_capacity(128 * members.len());
    let mut writer = ObjectWriter::begin(&mut json);
    writer.key("joined");
    let mut joined = ObjectWriter::begin(writer.json);
    for (user_id, profile) in &members {
        joined.key(user_id.as_str());
        let mut member = ObjectWriter::begin(joined.json);
        if let Some(name) = &profile.displayname {
            member.value("display_name", name);
        }
        if let Some(avatar) = &profile.avatar_url {
            member.value("avatar_url", avatar);
        }
        member.end();
    }
    joined.end();
    writer.end();
    Ok(Json(json))
}

/// The membership events of those who sent the events, if the filter asks for no others.
async fn lazy_members(
    view: &RoomView,
    filter: &RoomEventFilter,
    events: &[Seen],
    root: StateRoot,
) -> Result<Vec<std::sync::Arc<Event>>, MatrixError> {
    if filter.lazy_load_options == LazyLoadOptions::Disabled {
        return Ok(Vec::new());
    }
    let mut senders: Vec<&str> = events.iter().map(|seen| seen.event.sender.as_str()).collect();
    senders.sort_unstable();
    senders.dedup();
    Ok(view.member_events(root, &senders).await?)
}

/// Writes the events of one answer.
pub(super) struct PageWriter<'a> {
    view: &'a RoomView,
    reader: Reader<'a>,
    unsigned: Unsigned,
}

impl<'a> PageWriter<'a> {
    pub(super) async fn new(
        view: &'a RoomView,
        session: &'a Session,
        events: &[&[Seen]],
    ) -> Result<Self, MatrixError> {
        let reader = Reader { user_id: &session.user_id, device_id: session.device_id.as_str() };
        let unsigned = view.unsigned(reader, &events.concat()).await?;
        Ok(Self { view, reader, unsigned })
    }

    pub(super) fn write_one(&self, json: &mut Vec<u8>, seen: &Seen) {
        self.view.write_event(json, self.reader, seen, &self.unsigned, Shape::WithRoom);
    }

    fn write_events(&self, writer: &mut ObjectWriter<'_>, key: &str, events: &[Seen]) {
        writer.key(key);
        write_array(writer.json, events, |json, seen| self.write_one(json, seen));
    }

    fn write_state(&self, writer: &mut ObjectWriter<'_>, key: &str, events: &[std::sync::Arc<Event>]) {
        writer.key(key);
        write_array(writer.json, events, |json, event| {
            self.view.write_state_event(json, event, Shape::WithRoom);
        });
    }
}

fn write_array<T>(json: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    json.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write(json, item);
    }
    json.push(b']');
}
