//! What a client was given on a connection, kept so that it survives restarts and retries.
//!
//! A token names the connection, the number of the state in which it left the connection, and a position of the log. The state
//! says of each room how far the client is with it; most answers leave it as it is, and then nothing is written. For each room
//! the state before the newest number is kept too: a client that never got an answer comes back with the token before.

use std::{collections::HashMap, fmt};

use entente_storage::{Position, Snapshot, StorageError, Store, Transaction, cbor_value};
use minicbor::{Decode, Encode};

use super::required_state::CombinedState;
use crate::rows;

/// Different demands on rooms that one connection may have had.
const MOST_CONFIGS: usize = 128;

/// A token of sliding sync: `c5.17_s1742`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlidingToken {
    /// Which connection of this name it is.
    pub(crate) instance: u64,
    /// The state of the connection.
    pub(crate) state: u64,
    /// Up to where everything was delivered that the state does not except.
    pub(crate) position: Position,
}

/// How far a client is with a room.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Sent {
    /// `None`: as far as the token.
    #[n(0)]
    pub(crate) up_to: Option<Position>,
    /// Events of the timeline that it was given at least.
    #[n(1)]
    pub(crate) timeline_limit: u32,
    /// The demands under which the room was given, by their number.
    #[n(2)]
    pub(crate) config: u32,
    /// Whether it was given as a room that the user is or was in, and not by its stripped state.
    #[n(3)]
    pub(crate) in_full: bool,
    /// Whether it was said to be a direct chat.
    #[n(4)]
    pub(crate) is_dm: bool,
    /// The lists in which it was said to be.
    #[n(5)]
    pub(crate) lists: Vec<String>,
}

/// The newest state of a room on a connection, and the one before.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct RoomOnConnection {
    /// From which state of the connection on `now` holds.
    #[n(0)]
    since: u64,
    #[n(1)]
    now: Option<Sent>,
    #[n(2)]
    before: Option<Sent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct ConnectionRow {
    #[n(0)]
    pub(crate) instance: u64,
    /// The newest state, and the one that the client had then.
    #[n(1)]
    pub(crate) state: u64,
    #[n(2)]
    pub(crate) confirmed: u64,
    /// Demands on rooms, as JSON.
    #[n(3)]
    pub(crate) configs: Vec<String>,
    /// When it was begun: ms since 1970.
    #[n(4)]
    pub(crate) begun_at: u64,
}

cbor_value!(ConnectionRow, RoomOnConnection);

/// Whose connection, on which device, of which name.
pub(crate) type ConnectionKey = (String, String, String);

/// A connection as it is remembered.
#[derive(Debug)]
pub(crate) struct Connection {
    key: ConnectionKey,
    row: ConnectionRow,
    /// What the store had of it when it was last looked at.
    stored: Option<ConnectionRow>,
    configs: Vec<CombinedState>,
    rooms: HashMap<u64, RoomOnConnection>,
    /// Rooms of the connection that had the name before, which go when this one is stored.
    left_over: Vec<u64>,
    /// The last request that found nothing: its fingerprint, and up to where.
    pub(crate) quiet: Option<(u64, Position)>,
}

impl SlidingToken {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (instance, rest) = text.strip_prefix('c')?.split_once('.')?;
        let (state, position) = rest.split_once('_')?;
        let instance = u64::from_str_radix(instance, 16).ok()?;
        Some(Self { instance, state: state.parse().ok()?, position: position.parse().ok()? })
    }
}

impl fmt::Display for SlidingToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "c{:x}.{}_{}", self.instance, self.state, self.position)
    }
}

impl Connection {
    /// A connection on which nothing was given yet, in place of one of the same name.
    pub(crate) async fn begin(
        snapshot: &Snapshot,
        key: ConnectionKey,
        instance: u64,
        begun_at: u64,
    ) -> Result<Self, StorageError> {
        let (localpart, device_id, name) = &key;
        let scan = rows::CONNECTION_ROOMS.scan((localpart.as_str(), device_id.as_str(), name.as_str()));
        let left_over = snapshot.scan_all(scan).await?.into_iter().map(|((_, _, _, room), _)| room).collect();
        let row = ConnectionRow { instance, state: 0, confirmed: 0, configs: Vec::new(), begun_at };
        let stored = snapshot.get(&rows::CONNECTIONS, &key).await?;
        Ok(Self { key, row, stored, configs: Vec::new(), rooms: HashMap::new(), left_over, quiet: None })
    }

    /// What is stored of a connection.
    pub(crate) async fn load(snapshot: &Snapshot, key: ConnectionKey) -> Result<Option<Self>, StorageError> {
        let Some(row) = snapshot.get(&rows::CONNECTIONS, &key).await? else { return Ok(None) };
        let (localpart, device_id, name) = &key;
        let scan = rows::CONNECTION_ROOMS.scan((localpart.as_str(), device_id.as_str(), name.as_str()));
        let stored = snapshot.scan_all(scan).await?;
        let rooms = stored.into_iter().map(|((_, _, _, room), row)| (room, row)).collect();
        let configs: Result<Vec<CombinedState>, _> =
            row.configs.iter().map(|config| serde_json::from_str(config)).collect();
        Ok(configs.ok().map(|configs| Self {
            key,
            stored: Some(row.clone()),
            row,
            configs,
            rooms,
            left_over: Vec::new(),
            quiet: None,
        }))
    }

    pub(crate) fn instance(&self) -> u64 {
        self.row.instance
    }

    /// Whether a token can be gone on from.
    pub(crate) fn knows(&self, token: &SlidingToken) -> bool {
        token.instance == self.row.instance
            && (token.state == self.row.state || token.state == self.row.confirmed)
    }

    /// How far the client is with a room in a state of the connection; `None`: it was never given.
    pub(crate) fn sent(&self, room: u64, state: u64) -> Option<&Sent> {
        self.rooms.get(&room)?.at(state)
    }

    /// The rooms with which the client is as far as its token.
    pub(crate) fn live_rooms(&self, state: u64) -> impl Iterator<Item = (u64, &Sent)> {
        let sent = self.rooms.iter().filter_map(move |(room, row)| Some((*room, row.at(state)?)));
        sent.filter(|(_, sent)| sent.up_to.is_none())
    }

    pub(crate) fn config(&self, sent: &Sent) -> Option<&CombinedState> {
        self.configs.get(usize::try_from(sent.config).ok()?)
    }

    /// The number of these demands; `None`: there were too many different ones.
    pub(crate) fn number_of(&mut self, config: &CombinedState) -> Option<u32> {
        let place = match self.configs.iter().position(|known| known == config) {
            Some(place) => place,
            None if self.configs.len() >= MOST_CONFIGS => return None,
            None => {
                self.row.configs.push(serde_json::to_string(config).ok()?);
                self.configs.push(config.clone());
                self.configs.len() - 1
            }
        };
        u32::try_from(place).ok()
    }

    /// Notes what an answer to a request in `state` changes. Answers the state in which it leaves the connection. Fails with a
    /// conflict if somebody else went on with it.
    pub(crate) async fn save(
        &mut self,
        store: &Store,
        state: u64,
        changes: Vec<(u64, Sent)>,
    ) -> Result<u64, StorageError> {
        let is_new = self.row.state == 0;
        // What an answer changed that the client never got.
        let undone: Vec<u64> =
            self.rooms.iter().filter(|(_, row)| row.since > state).map(|(room, _)| *room).collect();
        let changes: Vec<(u64, Sent)> =
            changes.into_iter().filter(|(room, sent)| self.sent(*room, state) != Some(sent)).collect();
        if changes.is_empty() && undone.is_empty() && !is_new {
            return Ok(state);
        }
        let next = self.row.state + 1;
        let mut touched = Vec::with_capacity(changes.len() + undone.len());
        for room in undone {
            let before = self.sent(room, state).cloned();
            self.rooms.insert(room, RoomOnConnection { since: next, now: before.clone(), before });
            touched.push(room);
        }
        for (room, sent) in changes {
            let before = self.sent_now_or(room, state, next);
            self.rooms.insert(room, RoomOnConnection { since: next, now: Some(sent), before });
            touched.push(room);
        }
        self.row.state = next;
        self.row.confirmed = state;
        let (localpart, device_id, name) = &self.key;
        // Lost, it costs the client a new connection.
        let mut transaction = Transaction::relaxed();
        transaction.check_unchanged(&rows::CONNECTIONS, &self.key, self.stored.as_ref());
        transaction.put(&rows::CONNECTIONS, &self.key, &self.row);
        touched.extend(std::mem::take(&mut self.left_over));
        for room in touched {
            let key = (localpart.as_str(), device_id.as_str(), name.as_str(), room);
            match self.rooms.get(&room) {
                Some(row) => transaction.put(&rows::CONNECTION_ROOMS, key, row),
                None => transaction.delete(&rows::CONNECTION_ROOMS, key),
            }
        }
        store.commit(transaction).await?;
        self.stored = Some(self.row.clone());
        Ok(next)
    }

    /// What stood in `state`, also if it was put back there just now.
    fn sent_now_or(&self, room: u64, state: u64, next: u64) -> Option<Sent> {
        let row = self.rooms.get(&room)?;
        if row.since == next { row.before.clone() } else { row.at(state).cloned() }
    }
}

impl RoomOnConnection {
    fn at(&self, state: u64) -> Option<&Sent> {
        if self.since <= state { self.now.as_ref() } else { self.before.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_or_refused() {
        let token = SlidingToken::parse("cff.3_s17").unwrap();
        assert_eq!((token.instance, token.state, token.to_string().as_str()), (255, 3, "cff.3_s17"));
        for text in ["", "c", "c1", "c1.2", "c1.2_", "c.2_s1", "s17", "c1.x_s1", "cg.1_s1"] {
            assert_eq!(SlidingToken::parse(text), None, "{text}");
        }
    }
}
