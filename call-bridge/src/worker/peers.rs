use std::{collections::HashMap, net::SocketAddr, sync::mpsc::Sender, time::Instant};

use bytes::Bytes;

use super::datagrams::{Datagram, Route, Stream, user_name};
use crate::{
    room::{ParticipantKey, PeerKind},
    transport::{Carrier, Guarded, Peer},
};

/// Tells rooms of a worker apart; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RoomKey(pub(super) u64);

/// Tells peer connections of a worker apart; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerKey(u64);

/// Addresses of one client: it may change networks, and be behind several translators. The oldest is forgotten.
const MAXIMUM_ADDRESSES: usize = 8;

/// Where packets come from, and how.
type Path = (Carrier, SocketAddr);

/// Whose peer connection.
pub(super) type Owner = (RoomKey, ParticipantKey, PeerKind);

/// A peer connection and how datagrams find it.
pub(super) struct PeerEntry {
    pub(super) peer: Guarded<Peer>,
    pub(super) owner: Owner,
    pub(super) scheduled: Option<Instant>,
    /// Something was handed in that it has not worked off.
    pub(super) dirty: bool,
    addresses: Vec<Path>,
    names: Vec<String>,
    /// Its connections, by where they come from.
    streams: Vec<(SocketAddr, Stream)>,
}

impl PeerEntry {
    /// Sends by a connection. What does not fit is lost, as on any network.
    pub(super) fn send_by_stream(&self, destination: SocketAddr, bytes: Vec<u8>) {
        if let Some((_, stream)) = self.streams.iter().find(|(address, _)| *address == destination) {
            let _ = stream.try_send(Bytes::from(bytes));
        }
    }
}

/// The peer connections of a worker.
pub(super) struct Peers {
    entries: HashMap<PeerKey, PeerEntry>,
    by_owner: HashMap<Owner, PeerKey>,
    by_name: HashMap<String, PeerKey>,
    by_address: HashMap<Path, PeerKey>,
    routes: Vec<Sender<Route>>,
    worker: usize,
    last_key: u64,
}

impl Peers {
    pub(super) fn new(worker: usize, routes: Vec<Sender<Route>>) -> Self {
        Self {
            entries: HashMap::new(),
            by_owner: HashMap::new(),
            by_name: HashMap::new(),
            by_address: HashMap::new(),
            routes,
            worker,
            last_key: 0,
        }
    }

    pub(super) fn add(&mut self, owner: Owner, peer: Guarded<Peer>) -> PeerKey {
        self.last_key += 1;
        let key = PeerKey(self.last_key);
        self.by_owner.insert(owner, key);
        let entry = PeerEntry {
            peer,
            owner,
            scheduled: None,
            dirty: true,
            addresses: Vec::new(),
            names: Vec::new(),
            streams: Vec::new(),
        };
        self.entries.insert(key, entry);
        self.rename(key);
        key
    }

    pub(super) fn get(&mut self, key: PeerKey) -> Option<&mut PeerEntry> {
        self.entries.get_mut(&key)
    }

    pub(super) fn of(&self, owner: Owner) -> Option<PeerKey> {
        self.by_owner.get(&owner).copied()
    }

    /// The peer connection that a datagram is for: by its ICE user name, else by where it comes from.
    pub(super) fn addressee(&mut self, datagram: &Datagram) -> Option<PeerKey> {
        let key = match user_name(&datagram.bytes) {
            Some(name) => self.by_name.get(name),
            None => self.by_address.get(&(datagram.carrier(), datagram.source)),
        };
        let key = *key?;
        if let Some(stream) = &datagram.stream
            && let Some(entry) = self.entries.get_mut(&key)
            && !entry.streams.iter().any(|(address, _)| *address == datagram.source)
        {
            if entry.streams.len() >= MAXIMUM_ADDRESSES {
                entry.streams.remove(0);
            }
            entry.streams.push((datagram.source, stream.clone()));
        }
        Some(key)
    }

    /// Negotiating may have changed under which names it is known.
    pub(super) fn rename(&mut self, key: PeerKey) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let Some(peer) = entry.peer.inner() else { return };
        let names: Vec<String> = peer.user_names().map(str::to_owned).collect();
        for old in std::mem::replace(&mut entry.names, names.clone()) {
            self.by_name.remove(&old);
        }
        for name in names {
            self.by_name.insert(name, key);
        }
    }

    /// The stack sends to an address, so it has proven to know the password: what comes from there is for it.
    pub(super) fn reached(&mut self, key: PeerKey, carrier: Carrier, address: SocketAddr) {
        let path = (carrier, address);
        if self.by_address.get(&path) == Some(&key) {
            return;
        }
        let Some(entry) = self.entries.get_mut(&key) else { return };
        self.by_address.insert(path, key);
        entry.addresses.retain(|known| *known != path);
        entry.addresses.push(path);
        let forgotten = (entry.addresses.len() > MAXIMUM_ADDRESSES).then(|| entry.addresses.remove(0));
        self.announce(path, true);
        if let Some(path) = forgotten {
            self.forget(key, path);
        }
    }

    fn forget(&mut self, key: PeerKey, path: Path) {
        if self.by_address.get(&path) == Some(&key) {
            self.by_address.remove(&path);
            self.announce(path, false);
        }
    }

    /// A connection's packets come to its worker anyway.
    fn announce(&self, (carrier, address): Path, add: bool) {
        if carrier == Carrier::Stream {
            return;
        }
        for routes in &self.routes {
            // A receiver that ended needs no routes.
            let _ = routes.send(Route { address, worker: self.worker, add });
        }
    }

    pub(super) fn remove(&mut self, key: PeerKey) -> Option<PeerEntry> {
        let entry = self.entries.remove(&key)?;
        self.by_owner.remove(&entry.owner);
        for name in &entry.names {
            self.by_name.remove(name);
        }
        for address in &entry.addresses {
            self.forget(key, *address);
        }
        Some(entry)
    }
}
