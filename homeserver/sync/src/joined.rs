//! A room that the user is in, or was in: what is new in it.

use std::{collections::HashSet, sync::Arc};

use entente_accounts::AccountDataEntry;
use entente_rooms::{
    Event, Membership, ObjectWriter, Reader, RoomView, Seen, Shape, TimelinePlace, UserRoom,
    state::{EventNumber, Partition, StateRoot},
};
use entente_storage::Position;
use serde_json::Value;

use crate::{
    SyncError,
    event_form::EventForm,
    news::RoomHints,
    request::{StateMode, room_part_wants},
    response::{Making, write_account_data, write_list},
    summary::Summary,
    unread::{Counted, unread},
};

/// Events that are looked through for those that a filter lets through.
const MOST_LOOKED_AT: usize = 2_000;
/// So many of them at once, if the newest were not enough.
const PAGE: usize = 100;

/// What a client gets of a room.
struct RoomUpdate {
    view: RoomView,
    mode: StateMode,
    form: Arc<EventForm>,
    state: Vec<Arc<Event>>,
    /// The newest events, as they are sent.
    timeline: Vec<Vec<u8>>,
    /// Which they are.
    in_timeline: HashSet<EventNumber>,
    limited: bool,
    prev_batch: TimelinePlace,
    summary: Option<Summary>,
    /// Sticky events that are not in the timeline, as they are sent.
    sticky: Vec<Vec<u8>>,
    ephemeral: Vec<Value>,
    account_data: Vec<AccountDataEntry>,
    unread: Option<Arc<Counted>>,
    /// Whether unread events are counted for each thread.
    by_thread: bool,
}

/// The part of a room's timeline that is new to a client.
pub(crate) struct Span {
    /// Where it begins; `None`: the client knows nothing of the room.
    pub(crate) since: Option<Position>,
    pub(crate) end: TimelinePlace,
    pub(crate) state_at_end: StateRoot,
}

/// The newest events of a span.
pub(crate) struct Timeline {
    pub(crate) events: Vec<Seen>,
    pub(crate) limited: bool,
    /// The place before its first event.
    pub(crate) start: TimelinePlace,
    /// The state there.
    state_at_start: StateRoot,
    /// The state where the span begins, if the timeline was read back to there.
    pub(crate) state_at_since: Option<StateRoot>,
}

/// A room that the user is in, as it stands in the object of rooms: its id, and what is new. `None`: nothing is.
pub(crate) async fn joined(
    making: &mut Making<'_>,
    room: &UserRoom,
    membership_changed: bool,
    hints: Option<RoomHints>,
) -> Result<Option<Vec<u8>>, SyncError> {
    let rooms = &making.sync.inner.rooms;
    let view = rooms.view_in(&making.snapshot, room.number, making.redactions).await?;
    if !making.request.filter.wants_room(&view.room.room_id) {
        return Ok(None);
    }
    let account_data = making.take_account_data(&view.room.room_id);
    let mut hints = hints.filter(|_| !making.request.full_state);
    let mut since = making.since().filter(|_| !making.request.full_state).cloned();
    let state_at_end = view.current_state().await?;
    if membership_changed
        && let Some(known) = &since
        && !was_joined(&view, making, known).await?
    {
        making.company.came_into(&view, state_at_end).await?;
        since = None;
        hints = None;
    }
    let span = Span { since, end: view.timeline_end().await?, state_at_end };
    let mut update = if membership_changed || hints.is_none_or(|hints| hints.events) {
        RoomUpdate::of_span(making, view, &span).await?
    } else {
        RoomUpdate::without_events(making, view, &span)
    };
    update.account_data = account_data;
    update.sticky = find_sticky(making, &update, span.since.as_ref(), hints).await?;
    update.ephemeral = find_ephemeral(making, &update.view, span.since.as_ref(), hints).await?;
    if span.since.is_some() && !update.has_content() {
        return Ok(None);
    }
    update.unread = Some(unread(making, &update.view).await?);
    Ok(Some(update.to_json()))
}

/// A room that the user has left.
pub(crate) async fn left(making: &mut Making<'_>, room: &UserRoom) -> Result<Option<Vec<u8>>, SyncError> {
    let rooms = &making.sync.inner.rooms;
    let view = rooms.view_in(&making.snapshot, room.number, making.redactions).await?;
    if !making.request.filter.wants_room(&view.room.room_id) {
        return Ok(None);
    }
    let Some(left) = view.event(room.event).await? else { return Ok(None) };
    let mut since = making.since().cloned();
    if let Some(known) = &since {
        if was_joined(&view, making, known).await? {
            making.company.went_from(&view, left.state_before()).await?;
        } else {
            since = None;
        }
    }
    let end = TimelinePlace(EventNumber(left.number.0.saturating_add(1)));
    let span = Span { since, end, state_at_end: left.room_state_after() };
    let account_data = making.take_account_data(&view.room.room_id);
    let mut update = if room.was_joined {
        RoomUpdate::of_span(making, view, &span).await?
    } else {
        // Somebody who never was in the room sees that they are not invited any more, and nothing else.
        RoomUpdate::of_events(making, view, vec![Seen { event: left, membership: room.membership }]).await?
    };
    update.summary = None;
    update.account_data = account_data;
    Ok(Some(update.to_json()))
}

/// Whether the user was in the room at a position.
pub(crate) async fn was_joined(
    view: &RoomView,
    making: &Making<'_>,
    position: &Position,
) -> Result<bool, SyncError> {
    let state = view.state_at(position).await?;
    let member = view.state_event(state, "m.room.member", making.request.user_id.as_str()).await?;
    Ok(member.as_deref().and_then(Event::membership) == Some(Membership::Join))
}

impl RoomUpdate {
    async fn of_span(making: &mut Making<'_>, view: RoomView, span: &Span) -> Result<Self, SyncError> {
        let request = making.request;
        let timeline = Timeline::read(making, &view, span, request.filter.limit).await?;
        let known = match (&span.since, timeline.state_at_since) {
            (None, _) => None,
            (Some(_), Some(state)) => Some(state),
            (Some(since), None) => Some(view.state_at(since).await?),
        };
        let state = find_state(making, &view, span, &timeline, known).await?;
        if let Some(known) = known {
            making.company.note_changes(&view, known, span.state_at_end).await?;
        }
        let members_changed = known.is_none_or(|known| !known.same_members(span.state_at_end));
        let summary = if members_changed {
            Some(Summary::of(&view, &request.user_id, span.state_at_end, request.filter.lazy_loads()).await?)
        } else {
            None
        };
        Ok(Self {
            mode: request.state_mode,
            form: Arc::clone(&request.filter.form),
            state,
            timeline: written(making, &view, &timeline.events).await?,
            in_timeline: timeline.events.iter().map(|seen| seen.event.number).collect(),
            limited: timeline.limited,
            prev_batch: timeline.start,
            summary,
            sticky: Vec::new(),
            ephemeral: Vec::new(),
            account_data: Vec::new(),
            unread: None,
            by_thread: making.request.filter.definition.room.timeline.unread_thread_notifications,
            view,
        })
    }

    async fn of_events(making: &Making<'_>, view: RoomView, events: Vec<Seen>) -> Result<Self, SyncError> {
        let timeline = written(making, &view, &events).await?;
        let start = events.first().map_or(EventNumber(0), |first| first.event.number);
        Ok(Self { timeline, ..Self::empty(making, view, TimelinePlace(start)) })
    }

    fn without_events(making: &Making<'_>, view: RoomView, span: &Span) -> Self {
        Self::empty(making, view, span.end)
    }

    fn empty(making: &Making<'_>, view: RoomView, prev_batch: TimelinePlace) -> Self {
        Self {
            view,
            mode: making.request.state_mode,
            form: Arc::clone(&making.request.filter.form),
            state: Vec::new(),
            timeline: Vec::new(),
            in_timeline: HashSet::new(),
            limited: false,
            prev_batch,
            summary: None,
            sticky: Vec::new(),
            ephemeral: Vec::new(),
            account_data: Vec::new(),
            unread: None,
            by_thread: making.request.filter.definition.room.timeline.unread_thread_notifications,
        }
    }

    fn has_content(&self) -> bool {
        !self.timeline.is_empty()
            || self.limited
            || !self.state.is_empty()
            || !self.sticky.is_empty()
            || !self.ephemeral.is_empty()
            || !self.account_data.is_empty()
            || self.summary.is_some()
    }

    /// The room's id, and what is new, as they stand in an object.
    fn to_json(&self) -> Vec<u8> {
        let written = self.timeline.iter().map(Vec::len).sum::<usize>();
        let mut json = Vec::with_capacity(written + 512 * self.state.len() + 512);
        json.extend_from_slice(Value::from(self.view.room.room_id.as_str()).to_string().as_bytes());
        json.push(b':');
        let mut writer = ObjectWriter::begin(&mut json);
        if let Some(summary) = &self.summary {
            writer.value("summary", summary);
        }
        writer.key(self.mode.key());
        write_events(writer.json, &self.state, |json, event| {
            self.form.write_state(&self.view, json, event);
        });
        writer.key("timeline");
        let mut timeline = ObjectWriter::begin(writer.json);
        timeline.key("events");
        write_list(timeline.json, &self.timeline, |json, event| json.extend_from_slice(event));
        timeline.value("limited", self.limited);
        timeline.value("prev_batch", self.prev_batch.to_string());
        timeline.end();
        if !self.sticky.is_empty() {
            writer.key("msc4354_sticky");
            write_events(writer.json, &self.sticky, |json, event| json.extend_from_slice(event));
        }
        if !self.ephemeral.is_empty() {
            writer.key("ephemeral");
            write_events(writer.json, &self.ephemeral, |json, event| {
                json.extend_from_slice(event.to_string().as_bytes());
            });
        }
        if !self.account_data.is_empty() {
            writer.key("account_data");
            write_account_data(writer.json, &self.account_data);
        }
        if let Some(unread) = &self.unread {
            self.write_unread(&mut writer, unread);
        }
        writer.end();
        json
    }

    fn write_unread(&self, writer: &mut ObjectWriter<'_>, unread: &Counted) {
        if self.by_thread {
            let (main, threads) = unread.by_thread();
            writer.value("unread_notifications", main);
            if !threads.is_empty() {
                writer.value("unread_thread_notifications", threads);
            }
        } else {
            writer.value("unread_notifications", unread.all());
        }
    }
}

/// Events as the client gets them.
async fn written(making: &Making<'_>, view: &RoomView, events: &[Seen]) -> Result<Vec<Vec<u8>>, SyncError> {
    let request = making.request;
    let form = &request.filter.form;
    let written = if form.of_federation {
        events.iter().map(|seen| seen.event.json().to_vec()).collect()
    } else {
        let reader = Reader { user_id: &request.user_id, device_id: request.device_id.as_str() };
        view.client_events(reader, events, Shape::WithoutRoom).await?
    };
    Ok(written.into_iter().map(|event| form.pick(event)).collect())
}

/// `{"events": […]}`.
pub(crate) fn write_events<T>(json: &mut Vec<u8>, events: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    let mut writer = ObjectWriter::begin(json);
    writer.key("events");
    write_list(writer.json, events, write);
    writer.end();
}

impl Timeline {
    /// The newest events of a span that the user wants and may see.
    pub(crate) async fn read(
        making: &Making<'_>,
        view: &RoomView,
        span: &Span,
        limit: usize,
    ) -> Result<Self, SyncError> {
        let request = making.request;
        let filter = request.filter.timeline_of(&view.room.room_id).without_messages_of(&making.ignored);
        let mut place = span.end;
        let mut newest_first: Vec<Seen> = Vec::new();
        let mut looked_at = 0;
        let mut limited = false;
        let mut state_at_since = None;
        let mut oldest_new = span.state_at_end;
        'pages: while looked_at < MOST_LOOKED_AT {
            let missing = limit + 1 - newest_first.len();
            let page =
                view.newest_before(place, if looked_at == 0 { missing } else { PAGE.max(missing) }).await?;
            let Some(oldest) = page.first() else { break };
            place = TimelinePlace(oldest.number);
            looked_at += page.len();
            let reached_known = span.since.as_ref().is_some_and(|since| since.includes(oldest.position));
            let mut new = page;
            new.retain(|event| is_new(event, span.since.as_ref()));
            oldest_new = new.first().map_or(oldest_new, |oldest| oldest.room_state_before());
            let wanted = view.passing(&filter, new).await?;
            for seen in view.seen_by(&request.user_id, wanted).await?.into_iter().rev() {
                if newest_first.len() == limit {
                    limited = true;
                    break 'pages;
                }
                newest_first.push(seen);
            }
            if reached_known {
                state_at_since = Some(oldest_new);
                break;
            }
        }
        limited |= looked_at >= MOST_LOOKED_AT;
        newest_first.reverse();
        let first = newest_first.first().map(|first| &first.event);
        Ok(Self {
            start: first.map_or(span.end, |first| TimelinePlace(first.number)),
            state_at_start: first.map_or(span.state_at_end, |first| first.room_state_before()),
            events: newest_first,
            limited,
            state_at_since,
        })
    }
}

fn is_new(event: &Event, since: Option<&Position>) -> bool {
    since.is_none_or(|since| !since.includes(event.position))
}

/// The state that the client needs to make sense of the timeline.
async fn find_state(
    making: &Making<'_>,
    view: &RoomView,
    span: &Span,
    timeline: &Timeline,
    known: Option<StateRoot>,
) -> Result<Vec<Arc<Event>>, SyncError> {
    let filter = &making.request.filter;
    let target =
        if making.request.state_mode.is_after() { span.state_at_end } else { timeline.state_at_start };
    let lazy = filter.lazy_loads();
    let mut events = match known {
        Some(known) if known == target => Vec::new(),
        // Members too, also when they are loaded lazily: who was removed gets no more keys from a client that is told.
        Some(known) => view.state_changes(known, target).await?,
        None if lazy => view.state_of(target, Partition::Settings).await?,
        None => view.full_state(target).await?,
    };
    if lazy && (!timeline.events.is_empty() || known.is_none()) {
        let given: HashSet<EventNumber> = events.iter().map(|event| event.number).collect();
        let mut members = members_needed(making, view, timeline, target).await?;
        members.retain(|member| !given.contains(&member.number));
        events.extend(members);
    }
    if !making.request.state_mode.is_after() {
        // What stands in the timeline takes its effect there.
        let in_timeline: HashSet<EventNumber> =
            timeline.events.iter().map(|seen| seen.event.number).collect();
        events.retain(|event| !in_timeline.contains(&event.number));
    }
    Ok(view.passing(&filter.state_of(&view.room.room_id), events).await?)
}

/// The membership events of those who sent what is in the timeline, and the user's own.
async fn members_needed(
    making: &Making<'_>,
    view: &RoomView,
    timeline: &Timeline,
    state: StateRoot,
) -> Result<Vec<Arc<Event>>, SyncError> {
    let mut users: Vec<&str> = timeline.events.iter().map(|seen| seen.event.sender.as_str()).collect();
    users.push(making.request.user_id.as_str());
    users.sort_unstable();
    users.dedup();
    Ok(view.member_events(state, &users).await?)
}

pub(crate) fn is_member(event: &Event) -> bool {
    event.event_type == ruma::events::TimelineEventType::RoomMember
}

/// Sticky events (MSC4354) that are new to the client and did not come in the timeline, whatever its filter wants.
async fn find_sticky(
    making: &Making<'_>,
    update: &RoomUpdate,
    since: Option<&Position>,
    hints: Option<RoomHints>,
) -> Result<Vec<Vec<u8>>, SyncError> {
    if hints.is_some_and(|hints| !hints.sticky) {
        return Ok(Vec::new());
    }
    let mut events = sticky(making, &update.view, since).await?;
    events.retain(|seen| !update.in_timeline.contains(&seen.event.number));
    written(making, &update.view, &events).await
}

/// The sticky events of a room that came behind a place, those of ignored users aside.
pub(crate) async fn sticky(
    making: &Making<'_>,
    view: &RoomView,
    since: Option<&Position>,
) -> Result<Vec<Seen>, SyncError> {
    let mut events = view.sticky_events(since).await?;
    events.retain(|event| !making.ignored.iter().any(|ignored| *ignored == event.sender.as_str()));
    Ok(view.seen_by(&making.request.user_id, events).await?)
}

/// Receipts and who types.
async fn find_ephemeral(
    making: &Making<'_>,
    view: &RoomView,
    since: Option<&Position>,
    hints: Option<RoomHints>,
) -> Result<Vec<Value>, SyncError> {
    let filter = &making.request.filter.definition.room.ephemeral;
    let room_id = &view.room.room_id;
    let mut ephemeral = Vec::new();
    if hints.is_none_or(|hints| hints.receipts) && room_part_wants(filter, room_id, "m.receipt") {
        ephemeral.extend(crate::others::receipts(making, view, since).await?);
    }
    if hints.is_none_or(|hints| hints.typing) && room_part_wants(filter, room_id, "m.typing") {
        ephemeral.extend(crate::others::typing(making, view, since.is_none()).await?);
    }
    Ok(ephemeral)
}
