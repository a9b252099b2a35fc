//! Who sees whom come and go. What is told of presence is known in memory, of everybody, other servers' users included; who shares
//! rooms with whom is found from what is remembered of rooms. Those who wait are woken some seconds late, for all that happened meanwhile, and never more of them in
//! a second than the server bears: a large room costs time, not work.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use entente_accounts::{Accounts, Presence, PresenceState};
use entente_rooms::{Membership, ObjectWriter, RoomNumber, Rooms, UserRoom};
use entente_storage::{LogPosition, Position, Store};
use parking_lot::Mutex;
use ruma::UserId;

use crate::{
    Sync, SyncError, SyncRequest, SyncToken,
    news::News,
    request::{SyncFilter, global_wants},
    response::{Making, Response},
};

/// Those who wait are woken this often.
const TICK: Duration = Duration::from_secs(2);
/// Users who are woken at once, at the most.
const MOST_WOKEN: usize = 1_000;
/// Changes that are remembered. What came before them is looked for among the members of rooms.
const MOST_RECENT: usize = 4_096;
/// Rooms of all remembered changes.
const MOST_RECENT_ROOMS: usize = 500_000;
/// Events of one answer. Whoever is beyond them is seen when they come or go next.
const MOST_EVENTS: usize = 5_000;

/// What is known of everybody's presence.
#[derive(Debug)]
pub(crate) struct Presences {
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// Local users of whom something is known.
    users: HashMap<Arc<str>, Shown>,
    /// The same of other servers' users, by their whole ids, with the rooms in which they are.
    elsewhere: HashMap<Arc<str>, (Shown, BTreeSet<RoomNumber>)>,
    /// The newest changes, the newest last.
    recent: VecDeque<Recent>,
    recent_rooms: usize,
    /// All changes behind this place are among them.
    recent_since: Position,
    /// Rooms whose members are to be told.
    dirty: HashSet<RoomNumber>,
    /// Users who are to be told, in their order.
    due: VecDeque<Arc<str>>,
    is_due: HashSet<Arc<str>>,
}

#[derive(Clone, Debug)]
struct Shown {
    presence: Arc<Presence>,
    position: LogPosition,
}

/// Somebody who came, went, or came into a room.
#[derive(Debug)]
struct Recent {
    position: LogPosition,
    name: Name,
    /// The rooms in which that is seen, in their order.
    rooms: Vec<RoomNumber>,
}

/// What there is for a client to which nothing happened for which it would be woken at once.
pub(crate) enum Quiet {
    /// Nothing, up to here.
    Nothing(Position),
    /// Others' presence, up to here.
    Presence(Position, Vec<Seen>),
    /// Perhaps others' presence: it is to be looked for.
    Unknown,
}

/// Somebody as others see them.
pub(crate) type Seen = (Name, Arc<Presence>);

/// The localpart of a user of this server, or the whole id of another one's, which begins with a sigil that no localpart has.
pub(crate) type Name = Arc<str>;

fn is_elsewhere(name: &str) -> bool {
    name.starts_with('@')
}

impl Presences {
    pub(crate) fn new(reached: Position) -> Self {
        Self {
            known: Mutex::new(Known {
                users: HashMap::new(),
                elsewhere: HashMap::new(),
                recent: VecDeque::new(),
                recent_rooms: 0,
                recent_since: reached,
                dirty: HashSet::new(),
                due: VecDeque::new(),
                is_due: HashSet::new(),
            }),
        }
    }

    /// Notes a change that is seen in these rooms.
    fn note(&self, name: &Name, position: LogPosition, presence: Option<Presence>, rooms: Vec<RoomNumber>) {
        let mut known = self.known.lock();
        // Whoever is forgotten is gone.
        let shown = Shown { presence: Arc::new(presence.unwrap_or_default()), position };
        if is_elsewhere(name) {
            known.elsewhere.insert(Arc::clone(name), (shown, rooms.iter().copied().collect()));
        } else {
            known.users.insert(Arc::clone(name), shown);
        }
        known.remember(Recent { position, name: Arc::clone(name), rooms });
    }

    /// Notes that somebody came into a room, where they are seen from now on.
    pub(crate) fn note_join(&self, name: &Name, position: LogPosition, room: RoomNumber) {
        let mut known = self.known.lock();
        if let Some((_, rooms)) = known.elsewhere.get_mut(name) {
            rooms.insert(room);
        }
        let is_here = known.shown(name).is_some_and(|shown| shown.presence.state != PresenceState::Offline);
        if is_here {
            known.remember(Recent { position, name: Arc::clone(name), rooms: vec![room] });
        }
    }

    /// Notes that a user of another server is not in a room any more.
    pub(crate) fn note_leave_elsewhere(&self, user_id: &str, room: RoomNumber) {
        if let Some((_, rooms)) = self.known.lock().elsewhere.get_mut(user_id) {
            rooms.remove(&room);
        }
    }

    /// Who changed behind `since` in one of these rooms, which are in their order. `None`: that is not remembered.
    fn changed_in(&self, rooms: &[RoomNumber], since: &Position) -> Option<Vec<Seen>> {
        let known = self.known.lock();
        if !since.covers(&known.recent_since) {
            return None;
        }
        let mut met = HashSet::new();
        let mut seen = Vec::new();
        // Positions of one writer grow, those of several are mixed.
        for recent in known.recent.iter().filter(|recent| !since.includes(recent.position)) {
            let is_seen = recent.rooms.iter().any(|room| rooms.binary_search(room).is_ok());
            if is_seen
                && met.insert(&recent.name)
                && let Some(shown) = known.shown(&recent.name)
            {
                seen.push((Arc::clone(&recent.name), Arc::clone(&shown.presence)));
            }
        }
        Some(seen)
    }

    /// Those of these users who changed behind `since`; without it, those who are here.
    fn among(&self, names: &BTreeSet<Name>, since: Option<&Position>) -> Vec<Seen> {
        let known = self.known.lock();
        let shown = names.iter().filter_map(|name| Some((name, known.shown(name)?)));
        shown
            .filter(|(_, shown)| shown.is_wanted(since))
            .map(|(name, shown)| (Arc::clone(name), Arc::clone(&shown.presence)))
            .collect()
    }

    /// The same of other servers' users in these rooms, which are in their order.
    fn elsewhere_in(&self, rooms: &[RoomNumber], since: Option<&Position>) -> Vec<Seen> {
        let known = self.known.lock();
        let shown = known.elsewhere.iter().filter(|(_, (shown, their_rooms))| {
            shown.is_wanted(since) && their_rooms.iter().any(|room| rooms.binary_search(room).is_ok())
        });
        shown.map(|(user_id, (shown, _))| (Arc::clone(user_id), Arc::clone(&shown.presence))).collect()
    }

    fn take_dirty(&self) -> HashSet<RoomNumber> {
        std::mem::take(&mut self.known.lock().dirty)
    }

    /// Notes that users are to be told when it is their turn.
    fn add_due(&self, localparts: impl IntoIterator<Item = Arc<str>>) {
        let mut known = self.known.lock();
        for localpart in localparts {
            if known.is_due.insert(Arc::clone(&localpart)) {
                known.due.push_back(localpart);
            }
        }
    }

    /// Those whose turn it is.
    fn take_due(&self) -> Vec<Arc<str>> {
        let mut known = self.known.lock();
        let count = known.due.len().min(MOST_WOKEN);
        let due: Vec<Arc<str>> = known.due.drain(..count).collect();
        for localpart in &due {
            known.is_due.remove(localpart);
        }
        due
    }
}

impl Shown {
    /// Whether it changed behind `since`; without it, whether they are here.
    fn is_wanted(&self, since: Option<&Position>) -> bool {
        match since {
            Some(since) => !since.includes(self.position),
            None => self.presence.state != PresenceState::Offline,
        }
    }
}

impl Known {
    fn shown(&self, name: &str) -> Option<&Shown> {
        if is_elsewhere(name) {
            self.elsewhere.get(name).map(|(shown, _)| shown)
        } else {
            self.users.get(name)
        }
    }

    fn remember(&mut self, recent: Recent) {
        self.dirty.extend(recent.rooms.iter().copied());
        self.recent_rooms += recent.rooms.len();
        self.recent.push_back(recent);
        while self.recent.len() > MOST_RECENT || self.recent_rooms > MOST_RECENT_ROOMS {
            let Some(forgotten) = self.recent.pop_front() else { break };
            self.recent_rooms -= forgotten.rooms.len();
            self.recent_since.include(forgotten.position);
        }
    }
}

impl News {
    /// Reads what is known of everybody, before anything newer is heard.
    pub(crate) async fn load_presences(
        &self,
        store: &Store,
        accounts: &Accounts,
        rooms: &Rooms,
    ) -> Result<(), SyncError> {
        if !accounts.settings().presence {
            return Ok(());
        }
        let snapshot = store.snapshot().await?;
        let all = accounts.all_presences(&snapshot).await?;
        let mut elsewhere = HashMap::new();
        for (user_id, presence, position) in accounts.all_presences_elsewhere(&snapshot).await? {
            let rooms = rooms.joined_rooms(&snapshot, &user_id).await?.into_iter().collect();
            let shown = Shown { presence: Arc::new(presence), position };
            elsewhere.insert(Arc::from(user_id), (shown, rooms));
        }
        let mut known = self.presences.known.lock();
        known.elsewhere = elsewhere;
        for (localpart, presence, position) in all {
            let shown = Shown { presence: Arc::new(presence), position };
            known.users.insert(Arc::from(localpart), shown);
        }
        Ok(())
    }

    /// Hears that local users came or went.
    pub(crate) async fn hear_of_presence(
        &self,
        store: &Store,
        accounts: &Accounts,
        rooms: &Rooms,
        position: LogPosition,
        localparts: &[String],
    ) -> Result<(), SyncError> {
        if !accounts.settings().presence {
            return Ok(());
        }
        let snapshot = store.snapshot().await?;
        let found = accounts.presences(&snapshot, localparts).await?;
        for (localpart, presence) in localparts.iter().zip(found) {
            accounts.hear_presence(
                localpart,
                presence.as_ref().map(|presence| presence.state).unwrap_or_default(),
            );
            let mut seen_in: Vec<RoomNumber> = Vec::new();
            for room in rooms.user_rooms(&snapshot, localpart).await? {
                if room.membership == Membership::Join {
                    self.know_members(store, rooms, room.number).await?;
                    seen_in.push(room.number);
                }
            }
            self.presences.note(&Arc::from(localpart.as_str()), position, presence, seen_in);
        }
        Ok(())
    }

    /// Hears that users of other servers came or went.
    pub(crate) async fn hear_of_presence_elsewhere(
        &self,
        store: &Store,
        accounts: &Accounts,
        rooms: &Rooms,
        position: LogPosition,
        user_ids: &[String],
    ) -> Result<(), SyncError> {
        if !accounts.settings().presence {
            return Ok(());
        }
        let snapshot = store.snapshot().await?;
        let found = accounts.presences_elsewhere(&snapshot, user_ids).await?;
        for (user_id, presence) in user_ids.iter().zip(found) {
            let seen_in = rooms.joined_rooms(&snapshot, user_id).await?;
            for room in &seen_in {
                self.know_members(store, rooms, *room).await?;
            }
            self.presences.note(&Arc::from(user_id.as_str()), position, presence, seen_in);
        }
        Ok(())
    }

    /// Puts down the members of rooms in which somebody came or went, and wakes those whose turn it is.
    fn wake_for_presence(&self) {
        for room in self.presences.take_dirty() {
            self.presences.add_due(self.waiting_in(room));
        }
        for localpart in self.presences.take_due() {
            self.wake(&localpart);
        }
    }
}

impl Sync {
    /// Wakes those who wait for others' presence, for as long as it is polled.
    pub(crate) async fn tell_presence(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            self.inner.news.wake_for_presence();
        }
    }

    /// What is new for a client to which nothing else happened.
    pub(crate) fn look_for_presence(&self, request: &SyncRequest, since: &SyncToken) -> Quiet {
        let news = &self.inner.news;
        let Some((reached, rooms)) = news.quiet_until(request.user_id.localpart(), &since.position) else {
            return Quiet::Nothing(since.position.clone());
        };
        if !self.inner.accounts.settings().presence || !wants_presence(&request.filter) {
            return Quiet::Nothing(reached);
        }
        match news.presences.changed_in(&joined(&rooms), &since.position) {
            Some(seen) if seen.is_empty() => Quiet::Nothing(reached),
            Some(seen) => Quiet::Presence(reached, seen),
            None => Quiet::Unknown,
        }
    }

    /// Has a client told of others' presence in its turn.
    pub(crate) fn await_turn(&self, request: &SyncRequest) {
        self.inner.news.presences.add_due([Arc::from(request.user_id.localpart())]);
    }

    /// The answer to a client for which nothing is new but others' presence. It costs no look at any room.
    pub(crate) async fn presence_alone(
        &self,
        request: &SyncRequest,
        since: &SyncToken,
        reached: Position,
        seen: Vec<Seen>,
    ) -> Result<Response, SyncError> {
        let snapshot = self.inner.store.snapshot().await?;
        let localpart = request.user_id.localpart();
        let ignored = self.inner.accounts.ignored_users(&snapshot, localpart).await?;
        let mut response = Response::new(SyncToken { position: reached, ..since.clone() });
        response.presence = self.render_presences(seen, &request.filter, &ignored);
        self.add_key_counts(&mut response, &snapshot, request).await?;
        Ok(response)
    }

    fn render_presences(&self, seen: Vec<Seen>, filter: &SyncFilter, ignored: &[String]) -> Vec<Vec<u8>> {
        let server_name = self.inner.rooms.server_name();
        let mut events = Vec::new();
        for (name, presence) in seen {
            let user_id = if is_elsewhere(&name) {
                UserId::parse(&*name)
            } else {
                UserId::parse_with_server_name(&*name, server_name)
            };
            let Ok(user_id) = user_id else { continue };
            let is_ignored = ignored.iter().any(|ignored| ignored == user_id.as_str());
            if is_ignored || !wants_sender(filter, &user_id) {
                continue;
            }
            let presence = self.inner.accounts.refreshed(&name, Presence::clone(&presence));
            events.push(self.render_presence(&user_id, &presence));
            if events.len() >= MOST_EVENTS {
                break;
            }
        }
        events
    }

    fn render_presence(&self, user_id: &UserId, presence: &Presence) -> Vec<u8> {
        let mut json = Vec::new();
        let mut event = ObjectWriter::begin(&mut json);
        event.value("type", "m.presence");
        event.value("sender", user_id.as_str());
        event.key("content");
        let mut content = ObjectWriter::begin(event.json);
        content.value("presence", presence.state.as_str());
        if let Some(ago) = self.inner.accounts.last_active_ago(presence) {
            content.raw("last_active_ago", ago.to_string().as_bytes());
        }
        content.value("currently_active", presence.state == PresenceState::Online);
        if let Some(status_msg) = &presence.status_msg {
            content.value("status_msg", status_msg);
        }
        content.end();
        event.end();
        json
    }
}

impl Making<'_> {
    /// Adds whom the user saw come and go since the request's token, and who is in rooms that they came into.
    pub(crate) async fn add_presence(&self, response: &mut Response) -> Result<(), SyncError> {
        let inner = &self.sync.inner;
        let filter = &self.request.filter;
        if !inner.accounts.settings().presence || !wants_presence(filter) {
            return Ok(());
        }
        let since = self.since().filter(|_| !self.request.full_state);
        let rooms = self.user_rooms().await?;
        let remembered = since.and_then(|since| inner.news.presences.changed_in(&joined(&rooms), since));
        let is_new = |room: &UserRoom| since.is_none_or(|since| !since.includes(room.position));
        let is_remembered = remembered.is_some();
        let mut seen = remembered.unwrap_or_default();
        if !is_remembered {
            seen = inner.news.presences.among(&self.people_in(&rooms, |_| true).await?, since);
            seen.extend(inner.news.presences.elsewhere_in(&joined(&rooms), since));
        }
        if since.is_some() {
            let mut met: HashSet<Name> = seen.iter().map(|(name, _)| Arc::clone(name)).collect();
            let mut people = self.people_in(&rooms, is_new).await?;
            if let Some(since) = since.filter(|_| !is_remembered) {
                people.extend(self.people_since(&rooms, since).await?);
            }
            let mut new = inner.news.presences.among(&people, None);
            let new_rooms: Vec<UserRoom> = rooms.iter().filter(|room| is_new(room)).copied().collect();
            new.extend(inner.news.presences.elsewhere_in(&joined(&new_rooms), None));
            seen.extend(new.into_iter().filter(|(name, _)| met.insert(Arc::clone(name))));
        }
        response.presence = self.sync.render_presences(seen, filter, &self.ignored);
        Ok(())
    }

    /// Who came into these rooms, as their states tell it.
    async fn people_since(&self, rooms: &[UserRoom], since: &Position) -> Result<BTreeSet<Name>, SyncError> {
        let inner = &self.sync.inner;
        let mut people = BTreeSet::new();
        for room in rooms.iter().filter(|room| room.membership == Membership::Join) {
            if !inner.news.of_room(room.number, since).events {
                continue;
            }
            let view = self.view(room.number).await?;
            let (before, after) = (view.state_at(since).await?, view.current_state().await?);
            for event in view.state_changes(before, after).await? {
                let joined = event.membership().filter(|membership| *membership == Membership::Join);
                let user_id = event.state_key.as_deref().filter(|_| joined.is_some());
                people.extend(
                    user_id.map(|user_id| inner.rooms.local(user_id).unwrap_or(user_id)).map(Arc::from),
                );
            }
        }
        Ok(people)
    }

    /// Who is in some of these rooms.
    async fn people_in(
        &self,
        rooms: &[UserRoom],
        is_chosen: impl Fn(&UserRoom) -> bool,
    ) -> Result<BTreeSet<Arc<str>>, SyncError> {
        let inner = &self.sync.inner;
        let mut people = BTreeSet::new();
        for room in rooms.iter().filter(|room| room.membership == Membership::Join && is_chosen(room)) {
            people.extend(inner.news.local_members(&inner.store, &inner.rooms, room.number).await?);
        }
        Ok(people)
    }
}

/// The rooms that the user is in, in their order.
fn joined(rooms: &[UserRoom]) -> Vec<RoomNumber> {
    let mut joined: Vec<RoomNumber> =
        rooms.iter().filter(|room| room.membership == Membership::Join).map(|room| room.number).collect();
    joined.sort_unstable();
    joined
}

fn wants_presence(filter: &SyncFilter) -> bool {
    let filter = &filter.definition.presence;
    global_wants(filter, "m.presence") && filter.senders.as_ref().is_none_or(|senders| !senders.is_empty())
}

fn wants_sender(filter: &SyncFilter, user_id: &UserId) -> bool {
    let filter = &filter.definition.presence;
    let has = |senders: &[ruma::OwnedUserId]| senders.iter().any(|sender| sender == user_id);
    filter.senders.as_deref().is_none_or(has) && !has(&filter.not_senders)
}
