use std::{collections::HashMap, net::SocketAddr, sync::mpsc::Sender, time::Instant};

use super::datagrams::{Route, user_name};
use crate::{
    room::{ParticipantKey, PeerKind},
    transport::{Guarded, Peer},
};

/// Tells rooms of a worker apart; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RoomKey(pub(super) u64);

/// Tells peer connections of a worker apart; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerKey(u64);

/// Addresses of one client: it may change networks, and be behind several translators. The oldest is forgotten.
const MAXIMUM_ADDRESSES: usize = 8;

/// Whose peer connection.
pub(super) type Owner = (RoomKey, ParticipantKey, PeerKind);

/// A peer connection and how datagrams find it.
pub(super) struct PeerEntry {
    pub(super) peer: Guarded<Peer>,
    pub(super) owner: Owner,
    pub(super) scheduled: Option<Instant>,
    /// Something was handed in that it has not worked off.
    pub(super) dirty: bool,
    addresses: Vec<SocketAddr>,
    names: Vec<String>,
}

/// The peer connections of a worker.
pub(super) struct Peers {
    entries: HashMap<PeerKey, PeerEntry>,
    by_owner: HashMap<Owner, PeerKey>,
    by_name: HashMap<String, PeerKey>,
    by_address: HashMap<SocketAddr, PeerKey>,
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
        let entry =
            PeerEntry { peer, owner, scheduled: None, dirty: true, addresses: Vec::new(), names: Vec::new() };
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
    pub(super) fn addressee(&self, source: SocketAddr, datagram: &[u8]) -> Option<PeerKey> {
        match user_name(datagram) {
            Some(name) => self.by_name.get(name),
            None => self.by_address.get(&source),
        }
        .copied()
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
    pub(super) fn reached(&mut self, key: PeerKey, address: SocketAddr) {
        if self.by_address.get(&address) == Some(&key) {
            return;
        }
        let Some(entry) = self.entries.get_mut(&key) else { return };
        self.by_address.insert(address, key);
        entry.addresses.retain(|known| *known != address);
        entry.addresses.push(address);
        let forgotten = (entry.addresses.len() > MAXIMUM_ADDRESSES).then(|| entry.addresses.remove(0));
        self.announce(address, true);
        if let Some(address) = forgotten {
            self.forget(key, address);
        }
    }

    fn forget(&mut self, key: PeerKey, address: SocketAddr) {
        if self.by_address.get(&address) == Some(&key) {
            self.by_address.remove(&address);
            self.announce(address, false);
        }
    }

    fn announce(&self, address: SocketAddr, add: bool) {
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
