//! One room of an answer.

use std::{collections::BTreeSet, sync::Arc};

use entente_rooms::{
    Event, Membership, ObjectWriter, Profile, Reader, RoomError, RoomView, Shape, TimelinePlace,
    state::{EventNumber, StateRoot},
};
use entente_storage::Position;
use serde::{Deserialize, Serialize};

use super::{connection::Sent, lists::Wanted, request::Dialect, required_state::CombinedState};
use crate::{
    SyncError,
    joined::{Span, Timeline, is_member, was_joined},
    others::{Stripped, stripped_state},
    response::Making,
    summary::heroes,
    unread::{Counts, unread},
};

/// What a client knows of a room.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Up to where; `None`: nothing, or only its stripped state.
    pub(crate) up_to: Option<Position>,
    pub(crate) sent: Option<Sent>,
    /// The demands under which it was given.
    pub(crate) required_state: CombinedState,
}

/// A room as it goes into the answer.
#[derive(Debug)]
pub(crate) struct MadeRoom {
    pub(crate) room_id: String,
    pub(crate) json: Vec<u8>,
    /// The demands under which it was given.
    pub(crate) required_state: CombinedState,
    pub(crate) timeline_limit: usize,
    /// Whether the client has not seen it before, or begins with it anew.
    pub(crate) initial: bool,
    pub(crate) in_full: bool,
    /// The ids of the events in its timeline, for receipts.
    pub(crate) timeline: BTreeSet<String>,
}

/// Everything about a room that goes into an answer.
struct Update<'a> {
    making: &'a Making<'a>,
    wanted: &'a Wanted<'a>,
    view: &'a RoomView,
    dialect: Dialect,
    /// The state that the client knows; `None`: it knows nothing.
    known_state: Option<StateRoot>,
    state: StateRoot,
    timeline: Timeline,
    expanded: bool,
    live_events: usize,
    required: Vec<Arc<Event>>,
    is_dm: Option<bool>,
    lists: bool,
    counts: Option<Counts>,
}

#[derive(Serialize)]
struct Hero {
    user_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

/// Makes a room that the user is in, or was in. `since` is what the client's token says, whatever it knows of this room.
/// `None`: there is nothing new in it.
pub(crate) async fn in_full(
    making: &Making<'_>,
    wanted: &Wanted<'_>,
    known: &Known,
    since: Option<&Position>,
    dialect: Dialect,
    is_dm: bool,
) -> Result<Option<MadeRoom>, SyncError> {
    let view = making.view(wanted.room.number).await?;
    let (end, state) = end_of(&view, wanted).await?;
    let known = match &known.up_to {
        // Who comes back begins anew: they were not told what happened without them.
        Some(up_to)
            if wanted.room.membership == Membership::Join
                && !up_to.includes(wanted.room.position)
                && !was_joined(&view, making, up_to).await? =>
        {
            &Known { up_to: None, required_state: CombinedState::default(), ..known.clone() }
        }
        _ => known,
    };
    let initial = known.up_to.is_none();
    let mut required_state = known.required_state.clone();
    required_state.add_all(&wanted.required_state);
    let sent_limit = known.sent.as_ref().map_or(0, |sent| usize::try_from(sent.timeline_limit).unwrap_or(0));
    let expanded = !initial && wanted.timeline_limit > sent_limit;
    let span = Span { since: known.up_to.clone().filter(|_| !expanded), end, state_at_end: state };
    let timeline = Timeline::read(making, &view, &span, wanted.timeline_limit).await?;
    let known_state = match (&known.up_to, timeline.state_at_since) {
        (None, _) => None,
        (Some(_), Some(state)) => Some(state),
        (Some(up_to), None) => Some(view.state_at(up_to).await?),
    };
    let is_live = |event: &Event| since.is_some_and(|since| !since.includes(event.position));
    let live_events = timeline.events.iter().filter(|seen| is_live(&seen.event)).count();
    let new_demands = known.required_state.missing_of(&wanted.required_state);
    let required =
        required(making, &view, &timeline, known_state, state, &required_state, &new_demands).await?;
    let mut update = Update {
        making,
        wanted,
        view: &view,
        dialect,
        known_state,
        state,
        timeline,
        expanded,
        live_events,
        required,
        is_dm: known.sent.as_ref().is_none_or(|sent| initial || sent.is_dm != is_dm).then_some(is_dm),
        lists: known.sent.as_ref().is_none_or(|sent| initial || sent.lists != wanted.lists),
        counts: None,
    };
    if !update.has_news(known.up_to.as_ref()).await? {
        return Ok(None);
    }
    if wanted.room.membership == Membership::Join && dialect == Dialect::Simplified {
        update.counts = Some(unread(making, &view).await?.all());
    }
    let timeline_limit = match (initial, update.timeline.limited && !expanded) {
        (true, _) | (_, true) => wanted.timeline_limit,
        _ => wanted.timeline_limit.max(sent_limit),
    };
    Ok(Some(MadeRoom {
        room_id: view.room.room_id.to_string(),
        json: update.to_json().await?,
        required_state,
        timeline_limit,
        initial,
        in_full: true,
        timeline: update.timeline.events.iter().map(|seen| seen.event.event_id.to_string()).collect(),
    }))
}

/// Makes a room to which the user is invited, or at which they knocked; or were and did.
pub(crate) async fn stripped(
    making: &Making<'_>,
    wanted: &Wanted<'_>,
    dialect: Dialect,
    is_dm: bool,
) -> Result<Option<MadeRoom>, SyncError> {
    let view = making.view(wanted.room.number).await?;
    let Some(own) = view.event(wanted.room.event).await? else { return Ok(None) };
    let events = stripped_state(making, &view, &own).await?;
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("initial", true);
    writer.value("bump_stamp", wanted.facts.bump_stamp);
    let is_over = !matches!(wanted.room.membership, Membership::Invite | Membership::Knock);
    let write_stripped = |json: &mut Vec<u8>, event: &Stripped| event.write(&view, json);
    match dialect {
        // Clients of this form take whatever has this for an invite.
        Dialect::Simplified if is_over => writer.list("required_state", &[own], |json, event| {
            view.write_state_event(json, event, Shape::WithoutRoom);
        }),
        Dialect::Simplified => writer.list("invite_state", &events, write_stripped),
        Dialect::Merged => writer.list("stripped_state", &events, write_stripped),
    }
    if is_dm {
        writer.value("is_dm", true);
    }
    if dialect == Dialect::Merged {
        writer.value("membership", wanted.room.membership.as_str());
        writer.value("lists", &wanted.lists);
    }
    writer.end();
    Ok(Some(MadeRoom {
        room_id: view.room.room_id.to_string(),
        json,
        required_state: wanted.required_state.clone(),
        timeline_limit: wanted.timeline_limit,
        initial: true,
        in_full: false,
        timeline: BTreeSet::new(),
    }))
}

/// Where what the user may see of a room ends, and the state there.
async fn end_of(view: &RoomView, wanted: &Wanted<'_>) -> Result<(TimelinePlace, StateRoot), SyncError> {
    if wanted.room.membership == Membership::Join {
        return Ok((view.timeline_end().await?, view.current_state().await?));
    }
    let left = view.event(wanted.room.event).await?;
    let left = left.ok_or_else(|| RoomError::Internal(String::from("a membership event is missing")))?;
    Ok((TimelinePlace(EventNumber(left.number.0.saturating_add(1))), left.room_state_after()))
}

/// What of the state the client gets: what changed, what it asks for the first time, and who appears in the timeline.
async fn required(
    making: &Making<'_>,
    view: &RoomView,
    timeline: &Timeline,
    known: Option<StateRoot>,
    state: StateRoot,
    demands: &CombinedState,
    new_demands: &CombinedState,
) -> Result<Vec<Arc<Event>>, SyncError> {
    let lazy = demands.lazy_members();
    let mut events = match known {
        None => demands.select(view, state).await?,
        Some(known) => {
            let mut changed = view.state_changes(known, state).await?;
            let all_members = lazy && !timeline.limited;
            changed.retain(|event| demands.matches(event) || (all_members && is_member(event)));
            if !new_demands.is_empty() {
                changed.extend(new_demands.select(view, state).await?);
            }
            changed
        }
    };
    if lazy {
        let mut users: BTreeSet<&str> = BTreeSet::new();
        for seen in &timeline.events {
            users.insert(seen.event.sender.as_str());
            if is_member(&seen.event) {
                users.extend(seen.event.state_key.as_deref());
            }
        }
        if known.is_none() && view.member_counts().await?.0 <= 2 {
            users.insert(making.request.user_id.as_str());
        }
        let users: Vec<&str> = users.into_iter().collect();
        events.extend(view.member_events(state, &users).await?);
    }
    let mut given = BTreeSet::new();
    events.retain(|event| given.insert(event.number));
    Ok(events)
}

impl Update<'_> {
    /// Whether there is anything to tell beside what the client has.
    async fn has_news(&self, known: Option<&Position>) -> Result<bool, SyncError> {
        let Some(known) = known else { return Ok(true) };
        let has = !self.timeline.events.is_empty()
            || self.expanded
            || self.timeline.limited
            || !self.required.is_empty()
            || self.is_dm.is_some()
            || (self.lists && self.dialect == Dialect::Merged)
            || self.known_state.is_none_or(|known| known != self.state);
        // Somebody who read the room elsewhere has other counts here.
        Ok(has || (self.dialect == Dialect::Simplified && self.has_read(known).await?))
    }

    async fn has_read(&self, known: &Position) -> Result<bool, SyncError> {
        if !self.making.sync.inner.news.of_room(self.wanted.room.number, known).receipts {
            return Ok(false);
        }
        let user_id = &self.making.request.user_id;
        let receipts = self.view.receipts(user_id, Some(known)).await?;
        Ok(receipts.iter().any(|receipt| receipt.user_id == user_id.as_str()))
    }

    async fn to_json(&self) -> Result<Vec<u8>, SyncError> {
        let request = self.making.request;
        let reader = Reader { user_id: &request.user_id, device_id: request.device_id.as_str() };
        let events = self.view.client_events(reader, &self.timeline.events, Shape::WithoutRoom).await?;
        let size = events.iter().map(Vec::len).sum::<usize>() + 512 * self.required.len() + 512;
        let mut json = Vec::with_capacity(size);
        let mut writer = ObjectWriter::begin(&mut json);
        if self.known_state.is_none() {
            writer.value("initial", true);
        }
        self.write_names(&mut writer).await?;
        if let Some(is_dm) = self.is_dm {
            writer.value("is_dm", is_dm);
        }
        if self.expanded {
            let key = match self.dialect {
                Dialect::Simplified => "unstable_expanded_timeline",
                Dialect::Merged => "expanded_timeline",
            };
            writer.value(key, true);
        }
        if !self.required.is_empty() {
            writer.list("required_state", &self.required, |json, event| {
                self.view.write_state_event(json, event, Shape::WithoutRoom);
            });
        }
        if !events.is_empty() {
            let key = match self.dialect {
                Dialect::Simplified => "timeline",
                Dialect::Merged => "timeline_events",
            };
            writer.list(key, &events, |json, event| json.extend_from_slice(event));
        }
        if !events.is_empty() || self.timeline.limited {
            writer.value("prev_batch", self.timeline.start.to_string());
            writer.value("num_live", self.live_events);
        }
        if self.timeline.limited {
            writer.value("limited", true);
        }
        if let Some(counts) = &self.counts {
            writer.value("notification_count", counts.notify);
            writer.value("highlight_count", counts.highlight);
        }
        writer.value("bump_stamp", self.wanted.facts.bump_stamp);
        if self.dialect == Dialect::Merged {
            writer.value("membership", self.wanted.room.membership.as_str());
            if !self.wanted.lists.is_empty() {
                writer.value("lists", &self.wanted.lists);
            }
        }
        writer.end();
        Ok(json)
    }

    /// The room's name, avatar, members by whom it is called, and how many it has: what of it changed.
    async fn write_names(&self, writer: &mut ObjectWriter<'_>) -> Result<(), SyncError> {
        #[derive(Default, Deserialize)]
        struct Content {
            #[serde(default)]
            name: Option<String>,
            #[serde(default)]
            url: Option<String>,
        }
        if self.known_state == Some(self.state) {
            return Ok(());
        }
        let keys = [("m.room.name", ""), ("m.room.avatar", "")];
        let now = self.view.state_events(self.state, &keys).await?;
        let before = match self.known_state {
            Some(known) => Some(self.view.state_events(known, &keys).await?),
            None => None,
        };
        let content = |events: &[Option<Arc<Event>>], place: usize| {
            let event = events.get(place).and_then(Option::as_deref);
            event.and_then(Event::content_as::<Content>).unwrap_or_default()
        };
        let name = content(&now, 0).name.filter(|name| !name.is_empty());
        let avatar = content(&now, 1).url.filter(|url| !url.is_empty());
        let number = |events: &[Option<Arc<Event>>], place: usize| {
            events.get(place).and_then(|event| event.as_ref().map(|event| event.number))
        };
        let changed =
            |place| before.as_ref().is_none_or(|before| number(before, place) != number(&now, place));
        for (key, place, value) in [("name", 0, &name), ("avatar", 1, &avatar)] {
            if changed(place) && (value.is_some() || before.is_some()) {
                writer.value(key, value);
            }
        }
        let members_changed = self.known_state.is_none_or(|known| !known.same_members(self.state));
        if self.wanted.room.membership == Membership::Join && members_changed {
            let (joined, invited) = self.view.member_counts().await?;
            writer.value("joined_count", joined);
            writer.value("invited_count", invited);
        }
        if name.is_none() && (members_changed || changed(0)) {
            writer.value("heroes", self.heroes().await?);
        }
        Ok(())
    }

    async fn heroes(&self) -> Result<Vec<Hero>, SyncError> {
        let names = heroes(self.view, &self.making.request.user_id).await?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let events = self.view.member_events(self.state, &names).await?;
        let hero = |event: Arc<Event>| {
            let Profile { displayname, avatar_url } = Profile::of(&event);
            Some(Hero { user_id: event.state_key.clone()?, displayname, avatar_url })
        };
        Ok(events.into_iter().filter_map(hero).collect())
    }
}
