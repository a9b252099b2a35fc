use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use entente_environment::Timestamp;
use entente_storage::{Position, Snapshot};
use ruma::{
    EventId, OwnedRoomId, RoomId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};
use tokio::sync::{Mutex, OnceCell};

use crate::{
    Event, Membership, RoomError, RoomNumber, Rooms,
    rows::{self, HeadRow, MemberRow},
    state::{self, EventNumber, Partition, StateKeyId, StateRoot},
};

/// A room that this server knows: what never changes about it, and where it stands for whoever adds to it.
#[derive(Debug)]
pub struct Room {
    /// Its number.
    pub number: RoomNumber,
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// What its version says.
    pub rules: RoomVersionRules,
    /// Held while an event is made; `None` if it has to be read first. What is here can be ahead of the store by
    /// transactions that wait to be committed, and is never trusted: every transaction checks what it was built on.
    pub(crate) head: Mutex<Option<Head>>,
}

/// Where a room stands.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) row: HeadRow,
    /// Parts of the present state that were asked for.
    pub(crate) current: HashMap<StateKey, Option<Arc<Event>>>,
}

/// An event type and a state key.
pub type StateKey = (StateEventType, String);

/// So many parts of a room's present state are remembered.
const MOST_REMEMBERED: usize = 2_000;

impl Head {
    pub(crate) fn new(row: HeadRow) -> Self {
        Self { row, current: HashMap::new() }
    }

    pub(crate) fn state(&self) -> StateRoot {
        StateRoot::decode(&self.row.state).unwrap_or_default()
    }

    pub(crate) fn remember(&mut self, key: StateKey, event: Option<Arc<Event>>) {
        if self.current.len() >= MOST_REMEMBERED {
            self.current.clear();
        }
        self.current.insert(key, event);
    }
}

impl Room {
    pub(crate) fn new(
        number: RoomNumber,
        room_id: OwnedRoomId,
        version: RoomVersionId,
    ) -> Result<Self, RoomError> {
        let rules =
            version.rules().ok_or_else(|| RoomError::UnsupportedRoomVersion(version.as_str().to_owned()))?;
        Ok(Self { number, room_id, version, rules, head: Mutex::new(None) })
    }
}

/// A room as one snapshot of the store shows it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RoomView {
    pub(crate) rooms: Rooms,
    pub(crate) snapshot: Snapshot,
    /// The room.
    pub room: Arc<Room>,
    /// How many redactions there had been when the snapshot was taken: a reader of an older one must not put an event
    /// that was redacted meanwhile back among the remembered ones.
    redactions: u64,
    /// Where the room stands, once somebody asked.
    head: Arc<OnceCell<HeadRow>>,
}

impl Rooms {
    /// The room with this id.
    pub async fn room(&self, snapshot: &Snapshot, room_id: &RoomId) -> Result<Arc<Room>, RoomError> {
        if let Some(room) = self.inner.rooms_by_id.get(room_id) {
            return Ok(room);
        }
        let number = snapshot.get(&rows::ROOM_IDS, room_id.as_str()).await?.ok_or(RoomError::RoomNotFound)?;
        self.room_by_number(snapshot, RoomNumber(number)).await
    }

    /// The room with this number.
    pub async fn room_by_number(
        &self,
        snapshot: &Snapshot,
        number: RoomNumber,
    ) -> Result<Arc<Room>, RoomError> {
        if let Some(room) = self.inner.rooms_by_number.get(&number) {
            return Ok(room);
        }
        let row = snapshot.get(&rows::ROOMS, number.0).await?.ok_or(RoomError::RoomNotFound)?;
        let damaged = |_| RoomError::Internal(String::from("a stored room id"));
        let room_id: OwnedRoomId = row.room_id.as_str().try_into().map_err(damaged)?;
        let version: RoomVersionId = row.version.as_str().try_into().map_err(damaged)?;
        Ok(self.remember(Room::new(number, room_id, version)?))
    }

    /// Keeps one object for each room: it carries the lock under which the room is written.
    pub(crate) fn remember(&self, room: Room) -> Arc<Room> {
        let number = room.number;
        let room = Arc::new(room);
        let room = match self.inner.rooms_by_number.get_value_or_guard(&number, None) {
            quick_cache::sync::GuardResult::Value(known) => known,
            quick_cache::sync::GuardResult::Guard(guard) => {
                let _ = guard.insert(Arc::clone(&room));
                room
            }
            quick_cache::sync::GuardResult::Timeout => room,
        };
        self.inner.rooms_by_id.insert(room.room_id.clone(), Arc::clone(&room));
        room
    }

    /// A room as it is now.
    pub async fn view(&self, room_id: &RoomId) -> Result<RoomView, RoomError> {
        let redactions = self.redactions();
        let snapshot = self.inner.store.snapshot().await?;
        let room = self.room(&snapshot, room_id).await?;
        Ok(RoomView::new(self.clone(), snapshot, room, redactions))
    }

    /// The event with this id, in whatever room, and its room as it is now. Who may see it is not decided.
    pub async fn event_anywhere(
        &self,
        event_id: &EventId,
    ) -> Result<Option<(RoomView, Arc<Event>)>, RoomError> {
        let redactions = self.redactions();
        let snapshot = self.inner.store.snapshot().await?;
        let place = snapshot.get(&rows::EVENT_IDS, event_id.as_str()).await?;
        let Some(place) = place else { return Ok(None) };
        let view = self.view_in(&snapshot, RoomNumber(place.room), redactions).await?;
        let event = view.event(EventNumber(place.number)).await?;
        Ok(event.map(|event| (view, event)))
    }

    /// The room with this number as it is now.
    pub async fn view_of(&self, room: u64) -> Result<RoomView, RoomError> {
        let redactions = self.redactions();
        let snapshot = self.inner.store.snapshot().await?;
        self.view_in(&snapshot, RoomNumber(room), redactions).await
    }

    /// An event by its numbers, and its room as it is now; `None` if it is gone, alone or with its room.
    pub async fn event_by_number(
        &self,
        room: u64,
        number: i64,
    ) -> Result<Option<(RoomView, Arc<Event>)>, RoomError> {
        let redactions = self.redactions();
        let snapshot = self.inner.store.snapshot().await?;
        let view = match self.view_in(&snapshot, RoomNumber(room), redactions).await {
            Err(RoomError::RoomNotFound) => return Ok(None),
            view => view?,
        };
        let event = view.event(EventNumber(number)).await?;
        Ok(event.map(|event| (view, event)))
    }

    /// A room as a snapshot shows it. `redactions` was asked for before the snapshot was taken.
    pub async fn view_in(
        &self,
        snapshot: &Snapshot,
        number: RoomNumber,
        redactions: u64,
    ) -> Result<RoomView, RoomError> {
        let room = self.room_by_number(snapshot, number).await?;
        Ok(RoomView::new(self.clone(), snapshot.clone(), room, redactions))
    }

    /// How many events have been redacted since the start. To be asked for before a snapshot is taken.
    pub fn redactions(&self) -> u64 {
        self.inner.redactions.load(Ordering::Acquire)
    }

    /// Forgets the remembered form of an event that was redacted.
    pub fn forget_redacted(&self, room: RoomNumber, number: EventNumber) {
        self.inner.redactions.fetch_add(1, Ordering::AcqRel);
        self.inner.events.remove(&(room, number.0));
    }
}

impl RoomView {
    pub(crate) fn new(rooms: Rooms, snapshot: Snapshot, room: Arc<Room>, redactions: u64) -> Self {
        Self { rooms, snapshot, room, redactions, head: Arc::default() }
    }

    /// The place in the log up to which the view shows everything.
    pub async fn position(&self) -> Result<Position, RoomError> {
        Ok(self.snapshot.position().await?)
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.rooms.inner.environment.now()
    }

    /// This server's name.
    pub fn server_name(&self) -> &ServerName {
        self.rooms.server_name()
    }

    pub(crate) async fn head(&self) -> Result<&HeadRow, RoomError> {
        self.head
            .get_or_try_init(async || {
                let head = self.snapshot.get(&rows::HEADS, self.room.number.0).await?;
                head.ok_or(RoomError::RoomNotFound)
            })
            .await
    }

    /// The present state.
    pub async fn current_state(&self) -> Result<StateRoot, RoomError> {
        Ok(StateRoot::decode(&self.head().await?.state).unwrap_or_default())
    }

    /// The number that the next new event gets.
    pub async fn next_event(&self) -> Result<EventNumber, RoomError> {
        Ok(EventNumber(self.head().await?.next_event))
    }

    /// How many have joined, and how many are invited.
    pub async fn member_counts(&self) -> Result<(u64, u64), RoomError> {
        let head = self.head().await?;
        Ok((head.joined, head.invited))
    }

    /// The events with these numbers, in their order. Those that are not there are left out.
    pub async fn events(&self, numbers: &[EventNumber]) -> Result<Vec<Arc<Event>>, RoomError> {
        let remembered = &self.rooms.inner.events;
        let mut found: Vec<Option<Arc<Event>>> =
            numbers.iter().map(|number| remembered.get(&(self.room.number, number.0))).collect();
        let missing: Vec<i64> = numbers
            .iter()
            .zip(&found)
            .filter(|(_, event)| event.is_none())
            .map(|(number, _)| number.0)
            .collect();
        if !missing.is_empty() {
            let keys = missing.iter().map(|&number| (self.room.number.0, number));
            let stored = self.snapshot.get_many(&rows::EVENTS, keys).await?;
            let mut loaded = Vec::with_capacity(missing.len());
            for (number, stored) in missing.into_iter().zip(stored) {
                loaded.push(match stored {
                    Some(stored) => Some(self.remember(Event::new(self.room.number, number, stored)?)),
                    None => None,
                });
            }
            let mut loaded = loaded.into_iter();
            for place in found.iter_mut().filter(|place| place.is_none()) {
                *place = loaded.next().flatten();
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// One event.
    pub async fn event(&self, number: EventNumber) -> Result<Option<Arc<Event>>, RoomError> {
        Ok(self.events(&[number]).await?.pop())
    }

    pub(crate) fn remember(&self, event: Event) -> Arc<Event> {
        let event = Arc::new(event);
        if self.rooms.redactions() == self.redactions {
            let key = (self.room.number, event.number.0);
            self.rooms.inner.events.insert(key, Arc::clone(&event));
            // A redaction between the check and the insertion takes it out again, or is seen here.
            if self.rooms.redactions() != self.redactions {
                self.rooms.inner.events.remove(&key);
            }
        }
        event
    }

    /// The event of this room with this id. One of another room is not found.
    pub async fn event_by_id(&self, event_id: &EventId) -> Result<Option<Arc<Event>>, RoomError> {
        match self.number_of(event_id).await? {
            Some(number) => self.event(number).await,
            None => Ok(None),
        }
    }

    /// The number of the event of this room with this id.
    pub async fn number_of(&self, event_id: &EventId) -> Result<Option<EventNumber>, RoomError> {
        let place = self.snapshot.get(&rows::EVENT_IDS, event_id.as_str()).await?;
        let here = place.filter(|place| place.room == self.room.number.0);
        Ok(here.map(|place| EventNumber(place.number)))
    }

    /// The numbers of state keys; `None` for those that never stood in the room.
    pub(crate) async fn state_key_ids(
        &self,
        keys: &[(&str, &str)],
    ) -> Result<Vec<Option<StateKeyId>>, RoomError> {
        let room = self.room.number.0;
        let rows = keys.iter().map(|&(event_type, state_key)| (room, event_type, state_key));
        let stored = self.snapshot.get_many(&rows::STATE_KEYS, rows).await?;
        Ok(stored.into_iter().map(|id| id.and_then(rows::state_key::decode)).collect())
    }

    /// The numbers of the events under these keys of a state.
    pub async fn state_numbers(
        &self,
        root: StateRoot,
        keys: &[(&str, &str)],
    ) -> Result<Vec<Option<EventNumber>>, RoomError> {
        let ids = self.state_key_ids(keys).await?;
        let known: Vec<StateKeyId> = ids.iter().flatten().copied().collect();
        let reader = self.rooms.inner.states.reader(&self.snapshot, self.room.number);
        let mut found = state::get_many(&reader, root, &known).await?.into_iter();
        Ok(ids.into_iter().map(|id| id.and_then(|_| found.next().flatten())).collect())
    }

    /// The events under these keys of a state, in the keys' order.
    pub async fn state_events(
        &self,
        root: StateRoot,
        keys: &[(&str, &str)],
    ) -> Result<Vec<Option<Arc<Event>>>, RoomError> {
        let numbers = self.state_numbers(root, keys).await?;
        let present: Vec<EventNumber> = numbers.iter().flatten().copied().collect();
        let mut events = self.events(&present).await?.into_iter().peekable();
        let in_place = numbers.into_iter().map(|number| {
            let number = number?;
            events.next_if(|event| event.number == number)
        });
        Ok(in_place.collect())
    }

    /// The event under one key of a state.
    pub async fn state_event(
        &self,
        root: StateRoot,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<Event>>, RoomError> {
        Ok(self.state_events(root, &[(event_type, state_key)]).await?.pop().flatten())
    }

    /// All events of one partition of a state.
    pub async fn state_of(
        &self,
        root: StateRoot,
        partition: Partition,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let reader = self.rooms.inner.states.reader(&self.snapshot, self.room.number);
        let numbers = state::entries(&reader, root, partition).await?;
        let numbers: Vec<EventNumber> = numbers.into_iter().map(|(_, number)| number).collect();
        self.events(&numbers).await
    }

    /// A whole state: settings, then memberships.
    pub async fn full_state(&self, root: StateRoot) -> Result<Vec<Arc<Event>>, RoomError> {
        let mut events = self.state_of(root, Partition::Settings).await?;
        events.extend(self.state_of(root, Partition::Members).await?);
        Ok(events)
    }

    /// What stands in one state and not in the other: the events of `after` that differ from `before`.
    pub async fn state_changes(
        &self,
        before: StateRoot,
        after: StateRoot,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let reader = self.rooms.inner.states.reader(&self.snapshot, self.room.number);
        let changes = state::difference(&reader, before, after).await?;
        let numbers: Vec<EventNumber> = changes.into_iter().filter_map(|change| change.after).collect();
        self.events(&numbers).await
    }

    pub(crate) async fn member_row(&self, user_id: &UserId) -> Result<Option<MemberRow>, RoomError> {
        Ok(self.snapshot.get(&rows::MEMBERS, (self.room.number.0, user_id.as_str())).await?)
    }

    /// A user's present membership; `None`: never had any.
    pub async fn membership(&self, user_id: &UserId) -> Result<Option<Membership>, RoomError> {
        Ok(self.member_row(user_id).await?.map(|row| row.membership))
    }

    /// Refuses those who are not in the room; a room that they have nothing to do with is told from one that does not exist
    /// by nobody.
    pub async fn require_joined(&self, user_id: &UserId) -> Result<(), RoomError> {
        match self.membership(user_id).await? {
            Some(Membership::Join) => Ok(()),
            _ => Err(RoomError::Forbidden("you are not in this room")),
        }
    }
}

/// The state event type of an event type.
pub(crate) fn state_type(event_type: &TimelineEventType) -> StateEventType {
    StateEventType::from(event_type.to_string())
}
