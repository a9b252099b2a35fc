//! For whom there is something new: what is known in memory of the newest part of the change log.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use entente_accounts::Accounts;
use entente_rooms::{Membership, RoomNumber, Rooms, UserRoom};
use entente_storage::{LogEntry, LogPosition, Position, Store};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{SyncError, presence::Presences};

/// Records that are read at once.
const MOST_RECORDS: usize = 512;
/// Rooms and users that are remembered; beyond it all are forgotten, and looked up in the store when asked for.
const MOST_REMEMBERED: usize = 100_000;

/// What the newest part of the log told.
#[derive(Debug)]
pub(crate) struct News {
    known: Mutex<Known>,
    reached: watch::Sender<Position>,
    pub(crate) presences: Presences,
}

#[derive(Debug)]
struct Known {
    /// Up to where the log was read.
    reached: Position,
    users: HashMap<String, UserNews>,
    rooms: RoomsKnown,
    /// The newest change of anybody's devices.
    device_lists: Position,
}

#[derive(Debug)]
struct RoomsKnown {
    /// What happened in rooms behind this place is known.
    since: Position,
    rooms: HashMap<RoomNumber, RoomNews>,
    /// Local users who have joined, of rooms that were asked for.
    members: HashMap<RoomNumber, HashSet<Arc<str>>>,
    /// How many changes of memberships were heard of.
    member_changes: u64,
}

/// What is known for a user who was here lately.
#[derive(Debug)]
struct UserNews {
    /// Everything that concerns them behind this place is known.
    since: Position,
    /// The newest of it.
    newest: Position,
    /// The newest of its parts.
    account_data: Position,
    to_device: Position,
    signed_others: Position,
    /// The user's rooms, as a snapshot showed them that held all of the changes so far.
    rooms: Option<Arc<[UserRoom]>>,
    /// The newest change of the user's memberships.
    memberships: Position,
    waker: Arc<Notify>,
}

/// What happened last in a room.
#[derive(Clone, Debug, Default)]
struct RoomNews {
    events: Position,
    sticky: Position,
    receipts: Position,
    typing: Position,
}

/// What may have happened in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is news of its own")]
pub(crate) struct RoomHints {
    pub(crate) events: bool,
    /// Whether any of the events is sticky.
    pub(crate) sticky: bool,
    pub(crate) receipts: bool,
    pub(crate) typing: bool,
}

/// What may be new for a user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserHints {
    pub(crate) account_data: bool,
    pub(crate) to_device: bool,
    pub(crate) device_lists: bool,
}

impl RoomHints {
    const ALL: Self = Self { events: true, sticky: true, receipts: true, typing: true };

    pub(crate) fn any(self) -> bool {
        self.events || self.receipts || self.typing
    }
}

impl News {
    pub(crate) fn new(reached: Position) -> Self {
        let rooms = RoomsKnown {
            since: reached.clone(),
            rooms: HashMap::new(),
            members: HashMap::new(),
            member_changes: 0,
        };
        let presences = Presences::new(reached.clone());
        let known =
            Known { reached: reached.clone(), users: HashMap::new(), rooms, device_lists: reached.clone() };
        Self { known: Mutex::new(known), reached: watch::Sender::new(reached), presences }
    }

    /// Waits until the log was read up to here.
    pub(crate) async fn reached(&self, position: &Position) -> Result<(), SyncError> {
        let mut reached = self.reached.subscribe();
        let outcome = reached.wait_for(|reached| reached.covers(position)).await;
        outcome.map(drop).map_err(|_| SyncError::closed())
    }

    /// What wakes whoever waits for news of a user: everything that is told after its `notified()` was called.
    pub(crate) fn attend(&self, localpart: &str) -> Arc<Notify> {
        let mut known = self.known.lock();
        let reached = known.reached.clone();
        if known.users.len() >= MOST_REMEMBERED {
            known.users.retain(|_, user| Arc::strong_count(&user.waker) > 1);
        }
        let user = known.users.entry(localpart.to_owned()).or_insert_with(|| UserNews {
            since: reached.clone(),
            newest: reached.clone(),
            account_data: reached.clone(),
            to_device: reached.clone(),
            signed_others: reached.clone(),
            rooms: None,
            memberships: reached,
            waker: Arc::new(Notify::new()),
        });
        Arc::clone(&user.waker)
    }

    /// Whether nothing that concerns a user happened behind this place, as far as the log was read.
    pub(crate) fn is_quiet_since(&self, localpart: &str, since: &Position) -> bool {
        let known = self.known.lock();
        known.users.get(localpart).is_some_and(|user| since.covers(&user.since) && since.covers(&user.newest))
    }

    /// Up to where the log was read, and a user's rooms, if nothing that concerns the user happened behind this place.
    pub(crate) fn quiet_until(
        &self,
        localpart: &str,
        since: &Position,
    ) -> Option<(Position, Arc<[UserRoom]>)> {
        let known = self.known.lock();
        let user = known.users.get(localpart)?;
        let is_quiet = since.covers(&user.since) && since.covers(&user.newest);
        let rooms = user.rooms.clone().filter(|_| is_quiet && since.covers(&user.memberships))?;
        let mut reached = since.clone();
        reached.join(&known.reached);
        Some((reached, rooms))
    }

    /// The local users in a room who wait for news, as far as the room's members are known.
    pub(crate) fn waiting_in(&self, room: RoomNumber) -> Vec<Arc<str>> {
        let known = self.known.lock();
        let waits = |localpart: &&Arc<str>| {
            known.users.get(&***localpart).is_some_and(|user| Arc::strong_count(&user.waker) > 1)
        };
        known.rooms.members.get(&room).into_iter().flatten().filter(waits).cloned().collect()
    }

    /// Wakes a user who waits.
    pub(crate) fn wake(&self, localpart: &str) {
        let waker = self.known.lock().users.get(localpart).map(|user| Arc::clone(&user.waker));
        if let Some(waker) = waker {
            waker.notify_waiters();
        }
    }

    /// What may be new for a user behind this place, their rooms aside.
    pub(crate) fn of_user(&self, localpart: &str, since: &Position) -> UserHints {
        let known = self.known.lock();
        match known.users.get(localpart).filter(|user| since.covers(&user.since)) {
            Some(user) => UserHints {
                account_data: !since.covers(&user.account_data),
                to_device: !since.covers(&user.to_device),
                device_lists: !since.covers(&known.device_lists) || !since.covers(&user.signed_others),
            },
            None => UserHints { account_data: true, to_device: true, device_lists: true },
        }
    }

    /// A user's rooms, if they are known as they stand at `position`.
    pub(crate) fn rooms_of(&self, localpart: &str, position: &Position) -> Option<Arc<[UserRoom]>> {
        let known = self.known.lock();
        let user = known.users.get(localpart).filter(|user| position.covers(&user.memberships))?;
        user.rooms.clone()
    }

    /// Remembers a user's rooms as they stand at `position`.
    pub(crate) fn remember_rooms(&self, localpart: &str, position: &Position, rooms: &Arc<[UserRoom]>) {
        let mut known = self.known.lock();
        if let Some(user) = known.users.get_mut(localpart)
            && position.covers(&user.memberships)
        {
            user.rooms = Some(Arc::clone(rooms));
        }
    }

    /// What may have happened in a room behind this place.
    pub(crate) fn of_room(&self, room: RoomNumber, since: &Position) -> RoomHints {
        let known = self.known.lock();
        if !since.covers(&known.rooms.since) {
            return RoomHints::ALL;
        }
        match known.rooms.rooms.get(&room) {
            None => RoomHints { events: false, sticky: false, receipts: false, typing: false },
            Some(news) => RoomHints {
                events: !since.covers(&news.events),
                sticky: !since.covers(&news.sticky),
                receipts: !since.covers(&news.receipts),
                typing: !since.covers(&news.typing),
            },
        }
    }

    /// Reads the log and wakes, until something fails.
    pub(crate) async fn follow(
        &self,
        store: &Store,
        accounts: &Accounts,
        rooms: &Rooms,
    ) -> Result<std::convert::Infallible, SyncError> {
        self.load_presences(store, accounts, rooms).await?;
        let mut watch = store.watch();
        loop {
            let at = self.known.lock().reached.clone();
            watch.beyond(&at).await?;
            let (records, reached) = store.read_log(&at, MOST_RECORDS).await?;
            let mut awake = HashSet::new();
            for record in &records {
                for entry in &record.entries {
                    self.hear(store, accounts, rooms, record.position, entry, &mut awake).await?;
                }
            }
            let mut known = self.known.lock();
            known.reached.clone_from(&reached);
            let wakers: Vec<Arc<Notify>> = awake
                .iter()
                .filter_map(|localpart| known.users.get(&**localpart))
                .map(|user| Arc::clone(&user.waker))
                .collect();
            drop(known);
            self.reached.send_replace(reached);
            for waker in wakers {
                waker.notify_waiters();
            }
        }
    }

    async fn hear(
        &self,
        store: &Store,
        accounts: &Accounts,
        rooms: &Rooms,
        position: LogPosition,
        entry: &LogEntry,
        awake: &mut HashSet<Arc<str>>,
    ) -> Result<(), SyncError> {
        let unreadable = |error: String| {
            tracing::error!(%error, topic = entry.topic.0, "a log entry cannot be read");
        };
        match entry.topic {
            entente_rooms::TOPIC => match entente_rooms::Change::from_payload(&entry.payload) {
                Ok(change) => self.hear_of_room(store, rooms, position, &change, awake).await?,
                Err(error) => unreadable(error),
            },
            entente_accounts::TOPIC => match entente_accounts::Change::from_payload(&entry.payload) {
                Ok(entente_accounts::Change::AccountData { localpart, .. }) => {
                    self.tell(position, [Arc::from(localpart)], awake, |user| {
                        user.account_data.include(position);
                    });
                }
                Ok(entente_accounts::Change::Presence { localparts }) => {
                    self.hear_of_presence(store, accounts, rooms, position, &localparts).await?;
                }
                Ok(entente_accounts::Change::PresenceElsewhere { user_ids }) => {
                    self.hear_of_presence_elsewhere(store, accounts, rooms, position, &user_ids).await?;
                }
                Ok(_) => {}
                Err(error) => unreadable(error),
            },
            entente_encryption::TOPIC => match entente_encryption::Change::from_payload(&entry.payload) {
                Ok(change) => self.hear_of_keys(store, rooms, position, change, awake).await?,
                Err(error) => unreadable(error),
            },
            _ => {}
        }
        Ok(())
    }

    async fn hear_of_room(
        &self,
        store: &Store,
        rooms: &Rooms,
        position: LogPosition,
        change: &entente_rooms::Change,
        awake: &mut HashSet<Arc<str>>,
    ) -> Result<(), SyncError> {
        use entente_rooms::Change;
        match change {
            Change::Event { room, member, redacted, .. } => {
                let room = RoomNumber(*room);
                if let Some(number) = redacted {
                    rooms.forget_redacted(room, entente_rooms::state::EventNumber(*number));
                }
                self.note_room(room, |news| news.events.include(position));
                let concerned = self.local_members(store, rooms, room).await?;
                if let Some((user_id, membership)) = member {
                    let local = rooms.local(user_id);
                    let name: Arc<str> = Arc::from(local.unwrap_or(user_id));
                    if *membership == Membership::Join {
                        self.presences.note_join(&name, position, room);
                    } else if local.is_none() {
                        self.presences.note_leave_elsewhere(user_id, room);
                    }
                    if local.is_some() {
                        self.note_member(room, &name, *membership);
                        self.tell(position, [name], awake, |user| {
                            user.rooms = None;
                            user.memberships.include(position);
                        });
                    }
                }
                self.tell(position, concerned, awake, |_| ());
            }
            Change::Sticky { room, number } => {
                let room = RoomNumber(*room);
                self.note_room(room, |news| news.sticky.include(position));
                // Else the event itself is told of too, and wakes.
                if let Some(number) = number {
                    rooms.forget_redacted(room, entente_rooms::state::EventNumber(*number));
                    let members = self.local_members(store, rooms, room).await?;
                    self.tell(position, members, awake, |_| ());
                }
            }
            Change::Receipt { room, user_id, private } => {
                let room = RoomNumber(*room);
                self.note_room(room, |news| news.receipts.include(position));
                // The reader's own counts change with it too.
                let concerned = match private {
                    true => rooms.local(user_id).map(Arc::from).into_iter().collect(),
                    false => self.local_members(store, rooms, room).await?,
                };
                self.tell(position, concerned, awake, |_| ());
            }
            Change::Typing { room } => {
                let room = RoomNumber(*room);
                self.note_room(room, |news| news.typing.include(position));
                let concerned = self.local_members(store, rooms, room).await?;
                self.tell(position, concerned, awake, |_| ());
            }
            Change::Membership { room, user_id, membership } => {
                if let Some(localpart) = rooms.local(user_id) {
                    let localpart: Arc<str> = Arc::from(localpart);
                    self.note_member(RoomNumber(*room), &localpart, *membership);
                    self.tell(position, [localpart], awake, |user| {
                        user.rooms = None;
                        user.memberships.include(position);
                    });
                }
            }
            Change::Forgotten { localpart, .. } => {
                self.tell(position, [Arc::from(localpart.as_str())], awake, |user| {
                    user.rooms = None;
                    user.memberships.include(position);
                });
            }
            _ => {}
        }
        Ok(())
    }

    async fn hear_of_keys(
        &self,
        store: &Store,
        rooms: &Rooms,
        position: LogPosition,
        change: entente_encryption::Change,
        awake: &mut HashSet<Arc<str>>,
    ) -> Result<(), SyncError> {
        use entente_encryption::Change;
        match change {
            Change::ToDevice { recipients } => {
                let concerned = recipients.into_iter().map(|(localpart, _)| Arc::from(localpart));
                self.tell(position, concerned, awake, |user| user.to_device.include(position));
            }
            Change::SignedOthers { signer } => {
                self.tell(position, [Arc::from(signer)], awake, |user| user.signed_others.include(position));
            }
            Change::DeviceList { user_id } => {
                self.known.lock().device_lists.include(position);
                let snapshot = store.snapshot().await?;
                let mut concerned: Vec<Arc<str>> = rooms.local(&user_id).map(Arc::from).into_iter().collect();
                for room in rooms.joined_rooms(&snapshot, &user_id).await? {
                    concerned.extend(self.local_members(store, rooms, room).await?);
                }
                self.tell(position, concerned, awake, |_| ());
            }
            _ => {}
        }
        Ok(())
    }

    /// Notes that something concerns these users.
    fn tell(
        &self,
        position: LogPosition,
        concerned: impl IntoIterator<Item = Arc<str>>,
        awake: &mut HashSet<Arc<str>>,
        note: impl Fn(&mut UserNews),
    ) {
        let mut known = self.known.lock();
        for localpart in concerned {
            if let Some(user) = known.users.get_mut(&*localpart) {
                note(user);
                user.newest.include(position);
                awake.insert(localpart);
            }
        }
    }

    fn note_room(&self, room: RoomNumber, note: impl FnOnce(&mut RoomNews)) {
        let mut known = self.known.lock();
        let reached = known.reached.clone();
        let rooms = &mut known.rooms;
        if rooms.rooms.len() >= MOST_REMEMBERED {
            rooms.rooms.clear();
            rooms.members.clear();
            rooms.since = reached;
        }
        note(rooms.rooms.entry(room).or_default());
    }

    fn note_member(&self, room: RoomNumber, localpart: &Arc<str>, membership: Membership) {
        let mut known = self.known.lock();
        known.rooms.member_changes = known.rooms.member_changes.wrapping_add(1);
        let Some(members) = known.rooms.members.get_mut(&room) else { return };
        if membership == Membership::Join {
            members.insert(Arc::clone(localpart));
        } else {
            members.remove(localpart);
        }
    }

    /// Sees to it that the local users who have joined a room are known.
    pub(crate) async fn know_members(
        &self,
        store: &Store,
        rooms: &Rooms,
        room: RoomNumber,
    ) -> Result<(), SyncError> {
        if !self.known.lock().rooms.members.contains_key(&room) {
            self.local_members(store, rooms, room).await?;
        }
        Ok(())
    }

    /// The local users who have joined a room.
    pub(crate) async fn local_members(
        &self,
        store: &Store,
        rooms: &Rooms,
        room: RoomNumber,
    ) -> Result<Vec<Arc<str>>, SyncError> {
        let changes = {
            let known = self.known.lock();
            if let Some(members) = known.rooms.members.get(&room) {
                return Ok(members.iter().cloned().collect());
            }
            known.rooms.member_changes
        };
        // Taken now, it shows at least what the log told so far; what it shows beyond is told again.
        let snapshot = store.snapshot().await?;
        let members: HashSet<Arc<str>> =
            rooms.local_members(&snapshot, room).await?.into_iter().map(Arc::from).collect();
        let listed = members.iter().cloned().collect();
        let known = &mut self.known.lock().rooms;
        // What was heard meanwhile may lie behind the snapshot, and would be missing for ever.
        if known.member_changes == changes {
            if known.members.len() >= MOST_REMEMBERED {
                known.members.clear();
            }
            known.members.insert(room, members);
        }
        Ok(listed)
    }
}
