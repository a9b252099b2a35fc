use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use entente_environment::Randomness;
use foldhash::fast::RandomState;

use super::{Sink, peers::RoomKey};
use crate::{
    CallFigures, Claims, Settings,
    proto::{self, DisconnectReason, leave_request::Action},
    room::{ConnectionKey, Moment, Newcomer, ParticipantKey, Refusal, Room, RoomOptions},
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
    /// All places in the room are taken, or all that one user may have.
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

    /// Why the holder of a token cannot join a room; `None` if it can.
    pub(crate) fn obstacle(&self, name: &str, claims: &Claims, may_create: bool) -> Option<Obstacle> {
        let room = self.by_name.get(name).and_then(|key| self.entries.get(key)).map(|entry| &entry.room);
        match room {
            None if !may_create => Some(Obstacle::NoRoom),
            None if self.is_full() => Some(Obstacle::TooManyRooms),
            room => {
                let has_place = room.is_none_or(|room| room.has_place_for(claims));
                (!has_place || !self.has_place_for(name, claims)).then_some(Obstacle::Full)
            }
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

    /// Lets somebody into a room, which is made if it is not there.
    pub(super) fn join(
        &mut self,
        name: &str,
        newcomer: Newcomer,
        now: Moment,
    ) -> Result<ParticipantKey, Refusal> {
        // Before the room is made: it would stay for a while.
        if !self.has_place_for(name, &newcomer.claims) {
            return Err(Refusal::Full);
        }
        let room = self.make(name, RoomOptions::default(), now).map_err(|_| Refusal::Full)?;
        room.join(now, newcomer)
    }

    /// Whether the user whom a token names has fewer places here than one may have. Who comes again or goes on takes its own.
    fn has_place_for(&self, name: &str, claims: &Claims) -> bool {
        if claims.quota_user.is_empty() {
            return true;
        }
        let places = self.entries.values().map(|entry| {
            let replaced = (*entry.name == *name).then_some(claims.sub.as_str());
            entry.room.places_of(&claims.quota_user, replaced)
        });
        places.sum::<usize>() < self.settings.maximum_of_user
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

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, ManualClock, Timestamp};

    use super::*;
    use crate::{
        ApiKey,
        session::{JoinParameters, V0Query},
    };

    const ALICE: &str = "@alice:a";

    struct Scene {
        rooms: Rooms,
        now: Moment,
        connections: u64,
    }

    impl Scene {
        fn new(maximum_of_user: usize) -> Self {
            let clock = ManualClock::new(Timestamp(1_000_000));
            let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
            let settings = Settings { maximum_of_user, ..Settings::new(key, 0, Vec::new()) };
            let rooms = Rooms::new(Arc::new(settings), Randomness::from_seed(7));
            Self { rooms, now: Moment { at: clock.monotonic(), time: clock.now() }, connections: 0 }
        }

        fn join(&mut self, room: &str, user: &str) -> Result<ParticipantKey, Refusal> {
            self.come(room, user, None)
        }

        fn come(
            &mut self,
            room: &str,
            user: &str,
            resume: Option<String>,
        ) -> Result<ParticipantKey, Refusal> {
            self.connections += 1;
            let claims =
                Claims { sub: "identity".to_owned(), quota_user: user.to_owned(), ..Claims::default() };
            let parameters = JoinParameters { resume, ..JoinParameters::from(V0Query::default()) };
            let newcomer = Newcomer { connection: ConnectionKey(self.connections), claims, parameters };
            self.rooms.join(room, newcomer, self.now)
        }
    }

    #[test]
    fn a_user_has_so_many_places_in_all_rooms_together() {
        let mut scene = Scene::new(2);
        for room in ["a", "b"] {
            scene.join(room, ALICE).unwrap();
        }
        assert_eq!(scene.join("c", ALICE), Err(Refusal::Full));
        assert!(!scene.rooms.contains("c"), "a room that nobody is in would stay for a while");
        let replaced = scene.join("b", ALICE).expect("it replaces itself");
        let sid = scene.rooms.room("b").unwrap().get_participant("identity").unwrap().sid;
        assert_eq!(scene.come("b", ALICE, Some(sid)), Ok(replaced), "it goes on");
        scene.join("c", "@bob:b").expect("another has places of their own");
        for room in ["d", "e", "f"] {
            scene.join(room, "").expect("a token that names no user");
        }
    }

    #[test]
    fn a_room_that_is_there_stays_as_it_was_made() {
        let mut scene = Scene::new(2);
        let small = RoomOptions { maximum_participants: 2, empty_timeout: 7, ..RoomOptions::default() };
        let made = scene.rooms.make("a", small, scene.now).unwrap().info();
        let other =
            RoomOptions { maximum_participants: 3, metadata: "m".to_owned(), ..RoomOptions::default() };
        assert_eq!(scene.rooms.make("a", other, scene.now).unwrap().info(), made);
        assert_eq!((made.max_participants, made.empty_timeout), (2, 7));
    }

    #[test]
    fn a_room_that_a_user_left_is_theirs_until_it_ends() {
        let mut scene = Scene::new(2);
        for room in ["a", "b"] {
            scene.join(room, ALICE).unwrap();
            scene.rooms.room(room).unwrap().remove_participant(scene.now, "identity").unwrap();
        }
        assert_eq!(scene.join("c", ALICE), Err(Refusal::Full));
        scene.join("a", ALICE).expect("back in its place");
        let key = scene.rooms.key("b").unwrap();
        scene.rooms.drop_room(key);
        scene.join("c", ALICE).expect("one of the rooms has ended");
    }
}
