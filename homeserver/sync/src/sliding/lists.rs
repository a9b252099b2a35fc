//! Which of a user's rooms a request asks for.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use entente_rooms::{Membership, RoomNumber, RoomView, UserRoom, state::StateRoot};
use entente_storage::Position;
use ruma::OwnedRoomId;
use serde::Deserialize;
use serde_json::Value;

use super::{SlidingRequest, connection::Connection, request::SlidingFilters, required_state::CombinedState};
use crate::{SyncError, response::Making};

/// Events that are looked through for the newest that counts as activity.
const MOST_LOOKED_AT: usize = 200;
/// Events that are read at once.
const PAGE: usize = 10;
/// What counts as activity in a room (MSC4186, `bump_stamp`).
const ACTIVITIES: [&str; 8] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
];

/// What lists ask of a room.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Up to where this is known to be true; `None`: for ever.
    at: Option<Position>,
    /// When its newest event came: ms since 1970.
    newest: u64,
    /// When something happened in it that counts as activity.
    pub(crate) bump_stamp: u64,
    is_encrypted: bool,
    room_type: Option<String>,
    pub(crate) room_id: OwnedRoomId,
}

/// A room that a request asks for.
#[derive(Debug)]
pub(crate) struct Wanted<'r> {
    pub(crate) room: UserRoom,
    pub(crate) facts: Arc<Facts>,
    pub(crate) timeline_limit: usize,
    pub(crate) required_state: CombinedState,
    /// The lists in whose ranges it is.
    pub(crate) lists: Vec<&'r str>,
    pub(crate) is_subscribed: bool,
}

/// What a request asks for: rooms by number, and how many each list has.
#[derive(Debug, Default)]
pub(crate) struct Selection<'r> {
    pub(crate) rooms: BTreeMap<u64, Wanted<'r>>,
    /// Rooms that the user is in, of all that pass a list's filter or are subscribed to, whether the client looks at them or not.
    pub(crate) matched: BTreeMap<u64, (UserRoom, Arc<Facts>)>,
    pub(crate) counts: BTreeMap<&'r str, usize>,
}

/// A room of the user, with what lists ask of it.
struct Candidate {
    room: UserRoom,
    facts: Arc<Facts>,
}

impl Candidate {
    /// The room by its number, if the user is in it.
    fn matched(&self) -> Option<(u64, (UserRoom, Arc<Facts>))> {
        let is_joined = self.room.membership == Membership::Join;
        is_joined.then(|| (self.room.number.0, (self.room, Arc::clone(&self.facts))))
    }
}

/// Finds what a request asks for.
pub(crate) async fn select<'r>(
    making: &Making<'_>,
    request: &'r SlidingRequest,
    connection: &Connection,
    state: u64,
    direct: &HashSet<String>,
) -> Result<Selection<'r>, SyncError> {
    let mut selection = Selection::default();
    let mut candidates = Vec::new();
    for room in making.user_rooms().await?.iter() {
        if is_listed(making, room, connection, state).await? {
            candidates.push(Candidate { room: *room, facts: facts_of(making, room).await? });
        }
    }
    candidates.sort_by_key(|candidate| std::cmp::Reverse((candidate.facts.newest, candidate.room.number)));
    for (name, list) in &request.lists {
        let mut filter = Filter::new(making, &list.filters, direct);
        filter.find_children(&candidates).await?;
        let mut passing = Vec::new();
        for candidate in &candidates {
            if filter.passes(candidate).await? {
                passing.push(candidate);
            }
        }
        selection.counts.insert(name.as_str(), passing.len());
        if request.extensions.sticky_events.is_some() {
            selection.matched.extend(passing.iter().filter_map(|candidate| candidate.matched()));
        }
        let in_range = |place: usize| match &list.ranges {
            None => true,
            Some(ranges) => {
                let place = place as u64;
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&place))
            }
        };
        for (_, candidate) in passing.into_iter().enumerate().filter(|(place, _)| in_range(*place)) {
            let wanted = selection.want(candidate);
            wanted.lists.push(name.as_str());
            wanted.ask(&list.config);
        }
    }
    let by_id: HashMap<&OwnedRoomId, &Candidate> =
        candidates.iter().map(|candidate| (&candidate.facts.room_id, candidate)).collect();
    for (room_id, config) in &request.subscriptions {
        if let Some(candidate) = by_id.get(room_id) {
            selection.matched.extend(candidate.matched());
            let wanted = selection.want(candidate);
            wanted.is_subscribed = true;
            wanted.ask(config);
        }
    }
    Ok(selection)
}

impl<'r> Selection<'r> {
    fn want(&mut self, candidate: &Candidate) -> &mut Wanted<'r> {
        self.rooms.entry(candidate.room.number.0).or_insert_with(|| Wanted {
            room: candidate.room,
            facts: Arc::clone(&candidate.facts),
            timeline_limit: 0,
            required_state: CombinedState::default(),
            lists: Vec::new(),
            is_subscribed: false,
        })
    }
}

impl Wanted<'_> {
    fn ask(&mut self, config: &super::RoomConfig) {
        self.timeline_limit = self.timeline_limit.max(config.timeline_limit);
        self.required_state.add(&config.required_state);
    }
}

/// Whether a room is one that lists can have: one that the user left by themselves only as long as the client has it.
async fn is_listed(
    making: &Making<'_>,
    room: &UserRoom,
    connection: &Connection,
    state: u64,
) -> Result<bool, SyncError> {
    match room.membership {
        Membership::Join => Ok(true),
        Membership::Invite if making.blocks_invites().await? => Ok(false),
        Membership::Invite | Membership::Knock => {
            let view = making.view(room.number).await?;
            let own = view.event(room.event).await?;
            Ok(own.is_some_and(|own| !making.ignored.iter().any(|ignored| *ignored == own.sender.as_str())))
        }
        _ if room.forgotten => Ok(false),
        _ if connection.sent(room.number.0, state).is_some() => Ok(true),
        Membership::Ban => Ok(room.was_joined),
        Membership::Leave if room.was_joined => {
            let view = making.view(room.number).await?;
            let own = view.event(room.event).await?;
            Ok(own.is_some_and(|own| own.sender != making.request.user_id))
        }
        Membership::Leave => Ok(false),
    }
}

/// What lists ask of a room; remembered for as long as nothing happens in it.
async fn facts_of(making: &Making<'_>, room: &UserRoom) -> Result<Arc<Facts>, SyncError> {
    let inner = &making.sync.inner;
    let is_in = room.membership == Membership::Join;
    let key = (room.number, (!is_in).then_some(room.event));
    let known = inner.facts.get(&key);
    if let Some(facts) = &known {
        let is_true = match &facts.at {
            None => true,
            Some(at) => making.position.covers(at) && !inner.news.of_room(room.number, at).events,
        };
        if is_true {
            return Ok(Arc::clone(facts));
        }
    }
    let view = making.view(room.number).await?;
    let facts = if is_in {
        let floor = known.map_or(0, |facts| facts.newest);
        Facts::of_present(&view, making.position.clone(), floor).await?
    } else {
        Facts::of_past(&view, room).await?
    };
    let facts = Arc::new(facts);
    inner.facts.insert(key, Arc::clone(&facts));
    Ok(facts)
}

impl Facts {
    pub(crate) fn room_id(&self) -> &str {
        self.room_id.as_str()
    }

    /// Of a room that the user is in. Its newest event counts at least as much as the newest before.
    async fn of_present(view: &RoomView, at: Position, floor: u64) -> Result<Self, SyncError> {
        let now = view.now().millis();
        let mut place = view.timeline_end().await?;
        let (mut newest, mut bump_stamp, mut oldest) = (None, None, 0);
        let mut looked_at = 0;
        while bump_stamp.is_none() && looked_at < MOST_LOOKED_AT {
            let events = view.newest_before(place, PAGE).await?;
            let Some(first) = events.first() else { break };
            place = entente_rooms::TimelinePlace(first.number);
            looked_at += events.len();
            for event in events.iter().rev() {
                oldest = event.origin_server_ts.min(now);
                newest.get_or_insert(oldest);
                if ACTIVITIES.contains(&event.event_type.to_string().as_str()) {
                    bump_stamp = Some(oldest);
                    break;
                }
            }
        }
        let state = view.current_state().await?;
        let newest = newest.unwrap_or(0).max(floor);
        Self::of_state(view, state, Some(at), newest, bump_stamp.unwrap_or(oldest)).await
    }

    /// Of a room to which the user is invited, or which they left, as of then.
    async fn of_past(view: &RoomView, room: &UserRoom) -> Result<Self, SyncError> {
        let own = view.event(room.event).await?;
        let (state, sent_at) = match &own {
            Some(own) => (own.state_before(), own.origin_server_ts.min(view.now().millis())),
            None => (StateRoot::default(), 0),
        };
        Self::of_state(view, state, None, sent_at, sent_at).await
    }

    async fn of_state(
        view: &RoomView,
        state: StateRoot,
        at: Option<Position>,
        newest: u64,
        bump_stamp: u64,
    ) -> Result<Self, SyncError> {
        #[derive(Deserialize)]
        struct Create {
            #[serde(rename = "type")]
            room_type: Option<String>,
        }
        let mut found =
            view.state_events(state, &[("m.room.encryption", ""), ("m.room.create", "")]).await?.into_iter();
        let is_encrypted = found.next().flatten().is_some();
        let create = found.next().flatten().and_then(|event| event.content_as::<Create>());
        let room_type = create.and_then(|create| create.room_type);
        Ok(Self { at, newest, bump_stamp, is_encrypted, room_type, room_id: view.room.room_id.clone() })
    }
}

/// A list's filter, asked about one room after the other.
struct Filter<'f> {
    making: &'f Making<'f>,
    filters: &'f SlidingFilters,
    direct: &'f HashSet<String>,
    children: Option<HashSet<String>>,
}

impl<'f> Filter<'f> {
    fn new(making: &'f Making<'_>, filters: &'f SlidingFilters, direct: &'f HashSet<String>) -> Self {
        Self { making, filters, direct, children: None }
    }

    /// The rooms of the spaces that are asked for, of those that the user is in.
    async fn find_children(&mut self, candidates: &[Candidate]) -> Result<(), SyncError> {
        let Some(spaces) = &self.filters.spaces else { return Ok(()) };
        let mut children = HashSet::new();
        for space in spaces {
            let found = candidates.iter().find(|candidate| candidate.facts.room_id == *space);
            let Some(space) = found.filter(|found| found.room.membership == Membership::Join) else {
                continue;
            };
            let view = self.making.view(space.room.number).await?;
            let state = view.current_state().await?;
            for event in view.state_of(state, entente_rooms::state::Partition::Settings).await? {
                let has_via = || event.content_as::<Value>().is_some_and(|content| content["via"].is_array());
                if event.event_type.to_string() == "m.space.child"
                    && let Some(child) = event.state_key.as_deref().filter(|_| has_via())
                {
                    children.insert(child.to_owned());
                }
            }
        }
        self.children = Some(children);
        Ok(())
    }

    async fn passes(&self, candidate: &Candidate) -> Result<bool, SyncError> {
        let (filters, facts) = (self.filters, &candidate.facts);
        let room_id = facts.room_id.as_str();
        let is_invited = candidate.room.membership == Membership::Invite;
        let passes = filters.is_dm.is_none_or(|wanted| wanted == self.direct.contains(room_id))
            && filters.is_encrypted.is_none_or(|wanted| wanted == facts.is_encrypted)
            && filters.is_invited.is_none_or(|wanted| wanted == is_invited)
            && filters.room_types.as_ref().is_none_or(|types| types.contains(&facts.room_type))
            && !filters.not_room_types.contains(&facts.room_type)
            && self.children.as_ref().is_none_or(|children| children.contains(room_id));
        if !passes || (filters.tags.is_none() && filters.not_tags.is_empty()) {
            return Ok(passes);
        }
        let tags = self.tags_of(room_id).await?;
        Ok(filters.tags.as_ref().is_none_or(|wanted| wanted.iter().any(|tag| tags.contains(tag)))
            && !filters.not_tags.iter().any(|tag| tags.contains(tag)))
    }

    async fn tags_of(&self, room_id: &str) -> Result<HashSet<String>, SyncError> {
        let accounts = &self.making.sync.inner.accounts;
        let localpart = self.making.request.user_id.localpart();
        Ok(accounts.room_tags(&self.making.snapshot, localpart, room_id).await?)
    }
}

/// Which rooms a client has that nothing asks for any more, and in which there is something new: it will need it when it asks again.
pub(crate) fn left_behind(
    making: &Making<'_>,
    selection: &Selection<'_>,
    connection: &Connection,
    state: u64,
    since: &Position,
) -> Vec<u64> {
    let news = &making.sync.inner.news;
    let live = connection.live_rooms(state).map(|(room, _)| room);
    live.filter(|room| !selection.rooms.contains_key(room))
        .filter(|room| news.of_room(RoomNumber(*room), since).any())
        .collect()
}
