use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use entente_environment::Randomness;
use foldhash::fast::RandomState;

use super::{Sink, peers::RoomKey};
use crate::{
    CallFigures, Settings,
    proto::{self, DisconnectReason, leave_request::Action},
    room::{ConnectionKey, Moment, ParticipantKey, Room, RoomOptions},
};

/// The rooms of a worker, and who is connected to them by signalling.
pub(crate) struct Rooms {
    settings: Arc<Settings>,
    randomness: Randomness,
    entries: HashMap<RoomKey, RoomEntry, RandomState>,
    by_name: HashMap<Arc<str>, RoomKey>,
    connections: HashMap<ConnectionKey, (RoomKey, ParticipantKey)>,
    /// Rooms that something was asked of.
    touched: HashSet<RoomKey, RandomState>,
    last_key: u64,
}

pub(super) struct RoomEntry {
    pub(super) room: Room,
    name: Arc<str>,
    pub(super) sinks: HashMap<ParticipantKey, (ConnectionKey, Sink)>,
    pub(super) scheduled: Option<Instant>,
}

/// There are too many rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are too many rooms")]
pub(crate) struct TooManyRooms;

/// Why somebody cannot join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The room is not there, and is not made for everybody.
    NoRoom,
    /// It would have to be made.
    TooManyRooms,
    /// All places in the room are taken.
    Full,
}

impl Rooms {
    pub(super) fn new(settings: Arc<Settings>, randomness: Randomness) -> Self {
        Self {
            settings,
            randomness,
            entries: HashMap::default(),
            by_name: HashMap::new(),
            connections: HashMap::new(),
            touched: HashSet::default(),
            last_key: 0,
        }
    }

    /// Why `identity` cannot join a room; `None` if it can.
    pub(crate) fn obstacle(&self, name: &str, identity: &str, may_create: bool) -> Option<Obstacle> {
        let room = self.by_name.get(name).and_then(|key| self.entries.get(key)).map(|entry| &entry.room);
        match room {
            Some(room) => (!room.has_place_for(identity)).then_some(Obstacle::Full),
            None if !may_create => Some(Obstacle::NoRoom),
            None => self.is_full().then_some(Obstacle::TooManyRooms),
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= (self.settings.maximum_rooms / self.settings.workers.get()).max(1)
    }

    /// Whether a room is there.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// A room that something is asked of.
    pub(crate) fn room(&mut self, name: &str) -> Option<&mut Room> {
        let key = *self.by_name.get(name)?;
        self.touched.insert(key);
        self.entries.get_mut(&key).map(|entry| &mut entry.room)
    }

    /// A room, made if it is not there.
    pub(crate) fn make(
        &mut self,
        name: &str,
        options: RoomOptions,
        now: Moment,
    ) -> Result<&mut Room, TooManyRooms> {
        let key = match self.by_name.get(name) {
            Some(key) => *key,
            None if self.is_full() => return Err(TooManyRooms),
            None => self.add(name, options, now),
        };
        self.touched.insert(key);
        self.entries.get_mut(&key).map(|entry| &mut entry.room).ok_or(TooManyRooms)
    }

    fn add(&mut self, name: &str, options: RoomOptions, now: Moment) -> RoomKey {
        self.last_key += 1;
        let key = RoomKey(self.last_key);
        let name: Arc<str> = name.into();
        let room = Room::new(self.settings.clone(), self.randomness.clone(), name.clone(), options, now);
        self.by_name.insert(name.clone(), key);
        self.entries.insert(key, RoomEntry { room, name, sinks: HashMap::new(), scheduled: None });
        key
    }

    /// Ends a room for everybody in it.
    pub(crate) fn delete(&mut self, name: &str, now: Moment) -> bool {
        let Some(room) = self.room(name) else { return false };
        room.close(now, DisconnectReason::RoomDeleted, Action::Disconnect);
        // Its last outputs are carried out before it is dropped.
        self.by_name.remove(name);
        true
    }

    /// All rooms of these names, or all there are.
    pub(crate) fn list(&self, names: &[String]) -> Vec<proto::Room> {
        let wanted = |entry: &&RoomEntry| names.is_empty() || names.iter().any(|name| **name == *entry.name);
        self.entries.values().filter(wanted).map(|entry| entry.room.info()).collect()
    }

    /// How the rooms fare in which somebody is.
    pub(crate) fn figures(&self, now: Moment) -> Vec<CallFigures> {
        let all = self.entries.values().map(|entry| entry.room.figures(now));
        all.filter(|call| !call.participants.is_empty()).collect()
    }

    /// Throws all participants of an owner out; answers how many there were.
    pub(crate) fn remove_owner(&mut self, owner: &str, now: Moment) -> usize {
        let mut removed = 0;
        for (key, entry) in &mut self.entries {
            let of_room = entry.room.remove_owner(now, owner);
            if of_room > 0 {
                self.touched.insert(*key);
                removed += of_room;
            }
        }
        removed
    }

    /// Lets all participants of an owner publish, or no longer; answers for how many that is new.
    pub(crate) fn permit_owner(&mut self, owner: &str, may_publish: bool, now: Moment) -> usize {
        let mut changed = 0;
        for (key, entry) in &mut self.entries {
            let of_room = entry.room.permit_owner(now, owner, may_publish);
            if of_room > 0 {
                self.touched.insert(*key);
                changed += of_room;
            }
        }
        changed
    }

    /// The owners of all participants, each once.
    pub(crate) fn owners(&self) -> BTreeSet<String> {
        let owners = self.entries.values().flat_map(|entry| entry.room.owners());
        owners.map(str::to_owned).collect()
    }

    pub(super) fn key(&self, name: &str) -> Option<RoomKey> {
        self.by_name.get(name).copied()
    }

    pub(super) fn keys(&self) -> Vec<RoomKey> {
        self.entries.keys().copied().collect()
    }

    pub(super) fn entry(&mut self, key: RoomKey) -> Option<&mut RoomEntry> {
        self.entries.get_mut(&key)
    }

    pub(super) fn touch(&mut self, key: RoomKey) {
        self.touched.insert(key);
    }

    pub(super) fn take_touched(&mut self) -> Vec<RoomKey> {
        self.touched.drain().collect()
    }

    /// Signalling of a participant goes by this connection from now on.
    pub(super) fn connect(
        &mut self,
        key: RoomKey,
        participant: ParticipantKey,
        connection: ConnectionKey,
        sink: Sink,
    ) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        self.connections.insert(connection, (key, participant));
        if let Some((old, _)) = entry.sinks.insert(participant, (connection, sink)) {
            self.connections.remove(&old);
        }
    }

    pub(super) fn of_connection(&self, connection: ConnectionKey) -> Option<(RoomKey, ParticipantKey)> {
        self.connections.get(&connection).copied()
    }

    pub(super) fn disconnect(&mut self, connection: ConnectionKey) -> Option<(RoomKey, ParticipantKey)> {
        let (key, participant) = self.connections.remove(&connection)?;
        let entry = self.entries.get_mut(&key)?;
        if entry.sinks.get(&participant).is_some_and(|(current, _)| *current == connection) {
            entry.sinks.remove(&participant);
        }
        Some((key, participant))
    }

    /// Closes the signalling connection of a participant, after what was said.
    pub(super) fn hang_up(&mut self, key: RoomKey, participant: ParticipantKey) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Some((connection, _)) = entry.sinks.remove(&participant) {
            self.connections.remove(&connection);
        }
    }

    pub(super) fn drop_room(&mut self, key: RoomKey) {
        if let Some(entry) = self.entries.remove(&key)
            && self.by_name.get(&entry.name) == Some(&key)
        {
            self.by_name.remove(&entry.name);
        }
    }
}
