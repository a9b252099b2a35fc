use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::datagrams::{Route, Stream, user_name};
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

/// Who was heard of within this is there: clients are heard of more often.
const THERE_FOR: Duration = Duration::from_secs(8);

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
    entries: HashMap<PeerKey, PeerEntry, RandomState>,
    by_owner: HashMap<Owner, PeerKey, RandomState>,
    by_name: HashMap<String, PeerKey>,
    by_address: HashMap<Path, PeerKey>,
    /// To the other workers.
    routes: Vec<Sender<Route>>,
    worker: usize,
    last_key: u64,
}

impl Peers {
    pub(super) fn new(worker: usize, routes: Vec<Sender<Route>>) -> Self {
        Self {
            entries: HashMap::default(),
            by_owner: HashMap::default(),
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

    /// The peer connection that a datagram is for: by its ICE user name, else by where it comes from. It answers by the connection by
    /// which that came, if it came by one.
    pub(super) fn addressee(
        &mut self,
        source: SocketAddr,
        bytes: &[u8],
        stream: Option<&Stream>,
    ) -> Option<PeerKey> {
        let carrier = if stream.is_some() { Carrier::Stream } else { Carrier::Datagrams };
        let key = match user_name(bytes) {
            Some(name) => self.by_name.get(name),
            None => self.by_address.get(&(carrier, source)),
        };
        let key = *key?;
        if let Some(stream) = stream
            && let Some(entry) = self.entries.get_mut(&key)
            && !entry.streams.iter().any(|(address, _)| *address == source)
        {
            if entry.streams.len() >= MAXIMUM_ADDRESSES {
                entry.streams.remove(0);
            }
            entry.streams.push((source, stream.clone()));
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

    /// The stack sends to an address, so it has proven to know the password: what comes from there is for it. Unless it is the address of
    /// another one that is there: whoever can forge addresses could deafen it.
    pub(super) fn reached(&mut self, now: Instant, key: PeerKey, carrier: Carrier, address: SocketAddr) {
        let path = (carrier, address);
        let previous = self.by_address.get(&path).copied();
        if previous == Some(key) {
            return;
        }
        if let Some(previous) = previous.and_then(|previous| self.entries.get_mut(&previous)) {
            let heard = previous.peer.inner().map(Peer::heard);
            if heard.is_some_and(|heard| now.saturating_duration_since(heard) < THERE_FOR) {
                return;
            }
            previous.addresses.retain(|known| *known != path);
        }
        let Some(entry) = self.entries.get_mut(&key) else { return };
        self.by_address.insert(path, key);
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

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, Randomness, SystemClock};

    use super::*;
    use crate::transport::{Certificate, PeerSettings};

    #[test]
    fn an_address_is_taken_over_from_who_is_no_longer_there() {
        let now = SystemClock.monotonic();
        let certificate = Certificate::generate().unwrap();
        let mut peers = Peers::new(0, Vec::new());
        let mut add = |participant| {
            let settings = PeerSettings {
                certificate: &certificate,
                addresses: &[],
                prefix: "0000",
                randomness: Randomness::from_seed(participant),
            };
            let owner = (RoomKey(1), ParticipantKey(participant), PeerKind::Publisher);
            peers.add(owner, Guarded::new(Peer::new(&settings, now), now))
        };
        let (first, second) = (add(1), add(2));
        let address: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        // A packet of media.
        let packet = [0x80; 20];
        peers.reached(now, first, Carrier::Datagrams, address);
        peers.reached(now + THERE_FOR / 2, second, Carrier::Datagrams, address);
        assert_eq!(peers.addressee(address, &packet, None), Some(first));
        peers.reached(now + THERE_FOR, second, Carrier::Datagrams, address);
        assert_eq!(peers.addressee(address, &packet, None), Some(second));
        peers.remove(first);
        assert_eq!(
            peers.addressee(address, &packet, None),
            Some(second),
            "it is not the first one's any more"
        );
        peers.remove(second);
        assert_eq!(peers.addressee(address, &packet, None), None);
    }
}
