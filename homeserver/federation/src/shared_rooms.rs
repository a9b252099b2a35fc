use std::sync::Arc;

use entente_rooms::Rooms;
use quick_cache::sync::Cache;
use ruma::OwnedEventId;

use crate::{
    KeyRing, Peers,
    receiving::{TransactionAnswer, TransactionKey},
    together::Arrivals,
    turns::Turns,
};

/// Transactions whose answers are remembered, for senders that ask again.
const MOST_TRANSACTIONS: usize = 2_000;
/// Events of which it is remembered how often they were postponed.
const MOST_POSTPONED: usize = 10_000;

/// The rooms that this server shares with others: what comes in from them, and what is asked of them. Cheap to clone.
#[derive(Clone)]
pub struct SharedRooms {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) rooms: Rooms,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) keys: Arc<dyn KeyRing>,
    /// Rooms and servers whose events are being taken into them, one after the other.
    pub(crate) receiving: Turns,
    /// Events that wait to be written into their rooms, and the rooms into which some are being written.
    pub(crate) arrivals: Arrivals,
    pub(crate) writing: Turns,
    /// Rooms that are being joined, or whose past is being fetched.
    pub(crate) asking: Turns,
    pub(crate) transactions: Cache<TransactionKey, TransactionAnswer>,
    /// How often events were left to their servers to send again.
    pub(crate) postponed: Cache<OwnedEventId, u32>,
}

impl SharedRooms {
    /// The rooms of a server among others.
    pub fn new(rooms: Rooms, peers: Arc<dyn Peers>, keys: Arc<dyn KeyRing>) -> Self {
        let inner = Inner {
            rooms,
            peers,
            keys,
            receiving: Turns::default(),
            arrivals: Arrivals::default(),
            writing: Turns::default(),
            asking: Turns::default(),
            transactions: Cache::new(MOST_TRANSACTIONS),
            postponed: Cache::new(MOST_POSTPONED),
        };
        Self { inner: Arc::new(inner) }
    }
}
