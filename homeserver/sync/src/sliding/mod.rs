//! Sliding sync (MSC4186): the part of a user's rooms that a client looks at, in two dialects over one engine.
//!
//! `lists` finds the rooms that a request asks for, `room` makes each of them, `extensions` what comes beside, and `connection` keeps
//! how far the client is with every room.

pub(crate) mod connection;
mod extensions;
pub(crate) mod lists;
mod request;
mod required_state;
mod room;
mod sticky;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use entente_rooms::{Membership, ObjectWriter};
use entente_storage::Position;
use tokio::{sync::Mutex, time::timeout_at};

use self::{
    connection::{Connection, ConnectionKey, Sent, SlidingToken},
    extensions::{Extending, Given},
    lists::{Selection, Wanted, left_behind, select},
    room::{Known, MadeRoom},
};
pub use self::{
    request::{
        Dialect, RoomConfig, RoomsOfExtension, SlidingExtensions, SlidingFilters, SlidingList,
        SlidingRequest, StickyEventsExtension, ToDeviceExtension,
    },
    required_state::{RequiredState, StateSelector},
};
use crate::{StateMode, Sync, SyncError, SyncRequest, SyncToken, response::Making, rows};

/// Connections of one device.
const MOST_CONNECTIONS: usize = 16;

/// A connection that several requests may come for, one after the other.
pub(crate) type SharedConnection = Arc<Mutex<Connection>>;

/// An answer that is being put together.
struct Answer<'r> {
    selection: Selection<'r>,
    rooms: BTreeMap<u64, MadeRoom>,
    given: Given,
    /// What it changes on the connection.
    changes: Vec<(u64, Sent)>,
}

impl Sync {
    /// Answers a request of sliding sync: the body of the answer.
    pub async fn sliding_sync(&self, request: &SlidingRequest) -> Result<Vec<u8>, SyncError> {
        let (connection, token) = self.connect(request).await?;
        self.acknowledge_sliding(request).await?;
        let deadline = self.deadline(request.timeout);
        let localpart = request.user_id.localpart();
        let fingerprint = fingerprint(request);
        loop {
            let waker = self.inner.news.attend(localpart);
            let woken = timeout_at(deadline, waker.notified());
            if let Some(token) = &token
                && self.found_nothing_yet(&connection, fingerprint, localpart).await
            {
                match woken.await {
                    Ok(()) => continue,
                    Err(_) => return self.answer(request, &connection, Some(token), None).await,
                }
            }
            let until = token.is_some().then_some(fingerprint);
            // On the heap, so that whoever waits does not hold the place for it.
            match Box::pin(self.try_to_answer(request, &connection, token.as_ref(), until)).await? {
                Some(json) => return Ok(json),
                None if woken.await.is_err() => {
                    return self.answer(request, &connection, token.as_ref(), None).await;
                }
                None => {}
            }
        }
    }

    /// The devices of a user that have connections.
    pub async fn devices_with_connections(&self, localpart: &str) -> Result<BTreeSet<String>, SyncError> {
        let snapshot = self.inner.store.snapshot().await?;
        let rows = snapshot.scan_all(rows::CONNECTIONS.scan((localpart,))).await?;
        Ok(rows.into_iter().map(|((_, device_id, _), _)| device_id).collect())
    }

    /// Deletes what is kept of the connections of a device that is gone. Done again, it does nothing.
    pub async fn forget_device(&self, localpart: &str, device_id: &str) -> Result<(), SyncError> {
        let snapshot = self.inner.store.snapshot().await?;
        let mut transaction = entente_storage::Transaction::new();
        for (key, _) in snapshot.scan_all(rows::CONNECTIONS.scan((localpart, device_id))).await? {
            transaction.delete(&rows::CONNECTIONS, &key);
            self.inner.connections.remove(&key);
        }
        for (key, _) in snapshot.scan_all(rows::CONNECTION_ROOMS.scan((localpart, device_id))).await? {
            transaction.delete(&rows::CONNECTION_ROOMS, &key);
        }
        if !transaction.is_empty() {
            self.inner.store.commit(transaction).await?;
        }
        Ok(())
    }

    /// The connection that a request goes on with, or a new one.
    async fn connect(
        &self,
        request: &SlidingRequest,
    ) -> Result<(SharedConnection, Option<SlidingToken>), SyncError> {
        let key = key_of(request);
        let Some(pos) = &request.pos else {
            let connection = Arc::new(Mutex::new(self.begin(key.clone()).await?));
            self.inner.connections.insert(key, Arc::clone(&connection));
            return Ok((connection, None));
        };
        let token = SlidingToken::parse(pos).ok_or(SyncError::UnknownPosition)?;
        if let Some(connection) = self.inner.connections.get(&key)
            && connection.lock().await.knows(&token)
        {
            return Ok((connection, Some(token)));
        }
        let snapshot = self.inner.store.snapshot().await?;
        let loaded = Connection::load(&snapshot, key.clone()).await?;
        let loaded = loaded.filter(|loaded| loaded.knows(&token)).ok_or(SyncError::UnknownPosition)?;
        // Nobody can have delivered what is not there yet: the token is another store's.
        if !snapshot.position().await?.covers(&token.position) {
            return Err(SyncError::UnknownPosition);
        }
        let connection = Arc::new(Mutex::new(loaded));
        self.inner.connections.insert(key, Arc::clone(&connection));
        Ok((connection, Some(token)))
    }

    async fn begin(&self, key: ConnectionKey) -> Result<Connection, SyncError> {
        let snapshot = self.inner.store.snapshot().await?;
        let (localpart, device_id, name) = &key;
        let scan = rows::CONNECTIONS.scan((localpart.as_str(), device_id.as_str()));
        let mut others = snapshot.scan_all(scan).await?;
        others.retain(|((_, _, other), _)| other != name);
        if others.len() >= MOST_CONNECTIONS
            && let Some((oldest, _)) = others.iter().min_by_key(|(_, row)| row.begun_at)
        {
            self.drop_connection(&snapshot, oldest).await?;
        }
        let environment = &self.inner.environment;
        let instance = u64::from_be_bytes(environment.randomness().bytes());
        Ok(Connection::begin(&snapshot, key, instance, environment.now().millis()).await?)
    }

    async fn drop_connection(
        &self,
        snapshot: &entente_storage::Snapshot,
        key: &ConnectionKey,
    ) -> Result<(), SyncError> {
        let (localpart, device_id, name) = key;
        let mut transaction = entente_storage::Transaction::relaxed();
        transaction.delete(&rows::CONNECTIONS, key);
        let scan = rows::CONNECTION_ROOMS.scan((localpart.as_str(), device_id.as_str(), name.as_str()));
        for (row, _) in snapshot.scan_all(scan).await? {
            transaction.delete(&rows::CONNECTION_ROOMS, &row);
        }
        self.inner.connections.remove(key);
        self.inner.store.commit(transaction).await?;
        Ok(())
    }

    /// Deletes the to-device messages that the client says it has.
    async fn acknowledge_sliding(&self, request: &SlidingRequest) -> Result<(), SyncError> {
        let Some(since) = request.extensions.to_device.as_ref().and_then(|wanted| wanted.since.as_ref())
        else {
            return Ok(());
        };
        let since = SyncToken::parse(since).ok_or(SyncError::UnknownPosition)?;
        let device = (request.user_id.localpart().to_owned(), request.device_id.to_string());
        if self.inner.given.lock().remove(&device) {
            let (localpart, device_id) = &device;
            self.inner.encryption.acknowledge_to_device(localpart, device_id, &since.position).await?;
        }
        Ok(())
    }

    /// Whether the same request found nothing before, and nothing happened since.
    async fn found_nothing_yet(
        &self,
        connection: &SharedConnection,
        fingerprint: u64,
        localpart: &str,
    ) -> bool {
        let connection = connection.lock().await;
        connection.quiet.as_ref().is_some_and(|(of, position)| {
            *of == fingerprint && self.inner.news.is_quiet_since(localpart, position)
        })
    }

    async fn answer(
        &self,
        request: &SlidingRequest,
        connection: &SharedConnection,
        token: Option<&SlidingToken>,
        unless_quiet: Option<u64>,
    ) -> Result<Vec<u8>, SyncError> {
        let answer = Box::pin(self.try_to_answer(request, connection, token, unless_quiet)).await?;
        answer.ok_or(SyncError::UnknownPosition)
    }

    /// Answers; `None`: there is nothing new, and the request, whose fingerprint is given, would rather wait.
    async fn try_to_answer(
        &self,
        request: &SlidingRequest,
        connection: &SharedConnection,
        token: Option<&SlidingToken>,
        unless_quiet: Option<u64>,
    ) -> Result<Option<Vec<u8>>, SyncError> {
        let _place = self.inner.at_once.acquire().await.map_err(|_| SyncError::closed())?;
        let mut connection = connection.lock().await;
        if token.is_some_and(|token| !connection.knows(token)) {
            return Err(SyncError::UnknownPosition);
        }
        let redactions = self.inner.rooms.redactions();
        let snapshot = self.inner.store.snapshot().await?;
        let position = snapshot.position().await?;
        self.inner.news.reached(&position).await?;
        let since = token.map(|token| token.position.clone());
        let inner_request = SyncRequest {
            user_id: request.user_id.clone(),
            device_id: request.device_id.clone(),
            since: since.clone().map(SyncToken::new),
            timeout: request.timeout,
            full_state: false,
            state_mode: StateMode::After,
            filter: Arc::default(),
        };
        let mut making = Making::new(self, &inner_request, snapshot, position.clone(), redactions);
        making.find_ignored().await?;
        let state = token.map_or(0, |token| token.state);
        let answer = Answer::make(&mut making, request, &mut connection, state, since.as_ref()).await?;
        let has_news = !answer.rooms.is_empty() || answer.given.has_news;
        if let Some(fingerprint) = unless_quiet
            && !has_news
            && !request.timeout.is_zero()
        {
            connection.quiet = Some((fingerprint, position));
            return Ok(None);
        }
        let Answer { changes, .. } = &answer;
        let state = match connection.save(&self.inner.store, state, changes.clone()).await {
            Ok(state) => state,
            Err(error) => {
                // What is remembered is not what is stored.
                self.inner.connections.remove(&key_of(request));
                let is_conflict = error.is_conflict();
                return Err(if is_conflict { SyncError::UnknownPosition } else { error.into() });
            }
        };
        let next = SlidingToken { instance: connection.instance(), state, position };
        connection.quiet = None;
        Ok(Some(answer.into_json(request, &next)))
    }
}

impl<'r> Answer<'r> {
    async fn make(
        making: &mut Making<'_>,
        request: &'r SlidingRequest,
        connection: &mut Connection,
        state: u64,
        since: Option<&Position>,
    ) -> Result<Self, SyncError> {
        let localpart = request.user_id.localpart();
        let direct = making.sync.inner.accounts.direct_rooms(&making.snapshot, localpart).await?;
        let selection = select(making, request, connection, state, &direct).await?;
        let mut rooms = BTreeMap::new();
        let mut changes = Vec::new();
        for (number, wanted) in &selection.rooms {
            let known = known(connection, *number, state, since);
            let is_dm = direct.contains(wanted.facts.room_id());
            let Some(made) = make_room(making, request, wanted, &known, since, is_dm).await? else {
                continue;
            };
            let config = connection.number_of(&made.required_state).ok_or(SyncError::UnknownPosition)?;
            changes.push((
                *number,
                Sent {
                    up_to: None,
                    timeline_limit: u32::try_from(made.timeline_limit).unwrap_or(u32::MAX),
                    config,
                    in_full: made.in_full,
                    is_dm,
                    lists: lists_of(request, wanted),
                },
            ));
            rooms.insert(*number, made);
        }
        let extending = Extending {
            request,
            since,
            connection: &*connection,
            state,
            selection: &selection,
            made: &rooms,
        };
        let given = extending.all(making).await?;
        if let Some(since) = since {
            let mut behind: HashSet<u64> =
                left_behind(making, &selection, connection, state, since).into_iter().collect();
            behind.extend(with_account_data(making, &selection, connection, state, since).await?);
            for room in behind {
                if let Some(sent) = connection.sent(room, state) {
                    changes.push((room, Sent { up_to: Some(since.clone()), ..sent.clone() }));
                }
            }
        }
        Ok(Self { selection, rooms, given, changes })
    }

    fn into_json(self, request: &SlidingRequest, next: &SlidingToken) -> Vec<u8> {
        let size = self.rooms.values().map(|room| room.json.len() + 64).sum::<usize>();
        let mut json = Vec::with_capacity(size + 1_024);
        let mut writer = ObjectWriter::begin(&mut json);
        writer.value("pos", next.to_string());
        if let Some(txn_id) = request.txn_id.as_ref().filter(|_| request.dialect == Dialect::Simplified) {
            writer.value("txn_id", txn_id);
        }
        writer.key("lists");
        let mut lists = ObjectWriter::begin(writer.json);
        for (name, count) in &self.selection.counts {
            lists.value(name, serde_json::json!({ "count": count }));
        }
        lists.end();
        writer.key("rooms");
        let mut rooms = ObjectWriter::begin(writer.json);
        for room in self.rooms.values() {
            rooms.raw(&room.room_id, &room.json);
        }
        rooms.end();
        self.given.write(&mut writer);
        writer.end();
        json
    }
}

async fn make_room(
    making: &Making<'_>,
    request: &SlidingRequest,
    wanted: &Wanted<'_>,
    known: &Known,
    since: Option<&Position>,
    is_dm: bool,
) -> Result<Option<MadeRoom>, SyncError> {
    let position = wanted.room.position;
    // Up to where the client was given the room by its stripped state.
    let given = known.sent.as_ref().filter(|sent| !sent.in_full);
    let given_up_to = given.and_then(|sent| sent.up_to.as_ref().or(since));
    match wanted.room.membership {
        Membership::Invite | Membership::Knock => {
            if given_up_to.is_some_and(|up_to| up_to.includes(position)) {
                return Ok(None);
            }
            room::stripped(making, wanted, request.dialect, is_dm).await
        }
        _ if !wanted.room.was_joined && wanted.room.membership != Membership::Join => {
            // An invite that is over: nothing of the room itself is theirs to see.
            if given_up_to.is_none_or(|up_to| up_to.includes(position)) {
                return Ok(None);
            }
            room::stripped(making, wanted, request.dialect, is_dm).await
        }
        _ => {
            if let (Some(up_to), Some(sent)) = (&known.up_to, &known.sent) {
                let hints = making.sync.inner.news.of_room(wanted.room.number, up_to);
                let is_same = sent.is_dm == is_dm
                    && (request.dialect == Dialect::Simplified || sent.lists == wanted.lists)
                    && usize::try_from(sent.timeline_limit).is_ok_and(|limit| limit >= wanted.timeline_limit)
                    && known.required_state.missing_of(&wanted.required_state).is_empty();
                if is_same && up_to.includes(position) && !hints.events && !hints.receipts {
                    return Ok(None);
                }
            }
            room::in_full(making, wanted, known, since, request.dialect, is_dm).await
        }
    }
}

fn known(connection: &Connection, room: u64, state: u64, since: Option<&Position>) -> Known {
    let sent = connection.sent(room, state).cloned();
    let in_full = sent.as_ref().filter(|sent| sent.in_full);
    let up_to = in_full.and_then(|sent| sent.up_to.clone().or_else(|| since.cloned()));
    let required_state = in_full.and_then(|sent| connection.config(sent).cloned()).unwrap_or_default();
    Known { up_to, sent, required_state }
}

fn key_of(request: &SlidingRequest) -> ConnectionKey {
    (request.user_id.localpart().to_owned(), request.device_id.to_string(), request.connection.clone())
}

/// The lists of a room, where the client is told of them.
fn lists_of(request: &SlidingRequest, wanted: &Wanted<'_>) -> Vec<String> {
    match request.dialect {
        Dialect::Simplified => Vec::new(),
        Dialect::Merged => wanted.lists.iter().map(|list| (*list).to_owned()).collect(),
    }
}

/// Rooms that the client has and does not ask for now, whose account data changed.
async fn with_account_data(
    making: &Making<'_>,
    selection: &Selection<'_>,
    connection: &Connection,
    state: u64,
    since: &Position,
) -> Result<Vec<u64>, SyncError> {
    let inner = &making.sync.inner;
    let localpart = making.request.user_id.localpart();
    if !inner.news.of_user(localpart, since).account_data {
        return Ok(Vec::new());
    }
    let changed = inner.accounts.account_data_since(&making.snapshot, localpart, Some(since)).await?;
    let changed: HashSet<&str> = changed.iter().map(|entry| entry.room_id.as_str()).collect();
    let mut rooms = Vec::new();
    for (room, _) in connection.live_rooms(state) {
        if !selection.rooms.contains_key(&room) && !changed.is_empty() {
            let view = making.view(entente_rooms::RoomNumber(room)).await?;
            if changed.contains(view.room.room_id.as_str()) {
                rooms.push(room);
            }
        }
    }
    Ok(rooms)
}

/// What tells one request from another, their tokens aside.
fn fingerprint(request: &SlidingRequest) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.lists.hash(&mut hasher);
    request.subscriptions.hash(&mut hasher);
    request.extensions.hash(&mut hasher);
    request.pos.hash(&mut hasher);
    hasher.finish()
}
