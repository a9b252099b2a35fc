//! Rooms: events and what follows from them.
//!
//! [`Rooms`] is the entry to all of it; each file adds one family of operations. Whoever changes a room makes events with a
//! `compose::Composer`, which turns them into one transaction: the events, the state, every index and the log entries. Whoever
//! reads uses a [`RoomView`]: one room in one snapshot. Everything that others must learn is logged under [`TOPIC`] as a
//! [`Change`].

pub mod auth_chain;
pub mod resolution;
pub mod state;

mod aliases;
mod chain_store;
mod changes;
mod client_event;
mod compose;
mod content;
mod create;
mod delayed;
mod directory;
mod error;
mod event;
mod filter;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guests;
mod hierarchy;
mod incoming;
mod members;
mod membership;
mod peers;
mod people;
mod policy_server;
mod powers;
#[cfg(test)]
mod property_tests;
mod receipts;
mod related;
mod relations;
mod reports;
mod room;
mod rows;
mod send;
mod server_acl;
mod signing;
mod state_store;
mod sticky;
mod succession;
mod summary;
mod threads;
mod timeline;
mod timestamps;
mod typing;
mod upgrade;
mod user_rooms;
mod visibility;

use std::sync::{Arc, OnceLock, atomic::AtomicU64};

use entente_environment::Environment;
use entente_storage::Store;
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedRoomId, OwnedServerName, RoomVersionId, ServerName, UserId, serde::Base64};
use tokio::sync::Notify;

use self::typing::Typists;
pub use self::{
    changes::{Change, TOPIC},
    client_event::{ObjectWriter, Reader, Shape, Unsigned},
    compose::{Draft, SendingDevice},
    content::{Profile, object},
    create::{NewRoom, Preset},
    delayed::{Delayed, DelayedAction, Delegation, Finalised, LONGEST_DELAY, MOST_DELAYED},
    directory::{DirectoryNetwork, DirectoryPage, DirectoryQuery},
    error::RoomError,
    event::{Event, LONGEST_STICKY},
    filter::{EventFilter, RelatedBy, matches_pattern},
    hierarchy::{HierarchyPage, HierarchyQuery, HierarchyRoom, RoomElsewhere, RoomsElsewhere, SpaceChild},
    incoming::{
        Chapter, INEXACT, JoinAnswer, JoinedRoom, OutsideInvite, OutsideMembership, Pdu, Received, ToldState,
        VerifiedPdu,
    },
    membership::MembershipRequest,
    peers::{Gap, StateIds},
    people::FoundUsers,
    policy_server::{PolicyInquiry, PolicyRefusal, PolicyServers},
    powers::Powers,
    receipts::{NewReceipt, ReadMarkers, Receipt, ReceiptType, receipt_content},
    related::{RECURSION_DEPTH, RelatedFilter, RelatedPage, TimelineSpan},
    relations::Relation,
    reports::{Report, Reported},
    room::{Room, RoomView, StateKey},
    rows::{KEYSPACES, Membership, RoomNumber},
    server_acl::server_is_allowed,
    signing::{RetiredKey, SigningKeys},
    state_store::{StateReader, StateStore, StateStoreError},
    succession::Succession,
    summary::RoomSummary,
    threads::ThreadsPage,
    timeline::{Direction, TimelinePage, TimelinePlace},
    upgrade::RoomUpgrade,
    user_rooms::UserRoom,
    visibility::Seen,
};

/// Events that are remembered take at most this many bytes.
const MOST_EVENT_BYTES: u64 = 24 * 1024 * 1024;
/// State nodes that are remembered.
const MOST_STATE_NODES: usize = 50_000;
/// Rooms that are remembered.
const MOST_ROOMS: usize = 10_000;

/// The room versions that this server has.
pub const ROOM_VERSIONS: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// What operators decide about rooms.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The version of rooms for which their creator asks none.
    pub default_room_version: RoomVersionId,
}

impl Default for Settings {
    fn default() -> Self {
        Self { default_room_version: RoomVersionId::V12 }
    }
}

/// The rooms of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rooms {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    environment: Environment,
    signing_keys: SigningKeys,
    settings: Settings,
    states: StateStore,
    rooms_by_id: Cache<OwnedRoomId, Arc<Room>>,
    rooms_by_number: Cache<RoomNumber, Arc<Room>>,
    events: Cache<(RoomNumber, i64), Arc<Event>, EventWeight>,
    redactions: AtomicU64,
    typists: Typists,
    policy_servers: OnceLock<Arc<dyn PolicyServers>>,
    /// Told when a delayed event was put down, or is due at another time.
    delayed: Notify,
}

#[derive(Clone, Debug)]
struct EventWeight;

impl Weighter<(RoomNumber, i64), Arc<Event>> for EventWeight {
    fn weight(&self, _: &(RoomNumber, i64), event: &Arc<Event>) -> u64 {
        // What the parsed view takes beside the JSON.
        event.json().len() as u64 + 600
    }
}

impl Rooms {
    /// The rooms in `store`, of the server `server_name`. Makes the server's signing key if it has none.
    pub async fn open(
        store: Store,
        environment: Environment,
        server_name: OwnedServerName,
        settings: Settings,
    ) -> Result<Self, RoomError> {
        let signing_keys = SigningKeys::load(store.clone(), environment.clone(), server_name).await?;
        let inner = Inner {
            store,
            environment,
            signing_keys,
            settings,
            states: StateStore::new(MOST_STATE_NODES),
            rooms_by_id: Cache::new(MOST_ROOMS),
            rooms_by_number: Cache::new(MOST_ROOMS),
            events: Cache::with_weighter(20_000, MOST_EVENT_BYTES, EventWeight),
            redactions: AtomicU64::new(0),
            typists: Typists::new(),
            policy_servers: OnceLock::new(),
            delayed: Notify::new(),
        };
        let rooms = Self { inner: Arc::new(inner) };
        rooms.watch_typing().await?;
        Ok(rooms)
    }

    /// The server's name.
    pub fn server_name(&self) -> &ServerName {
        self.inner.signing_keys.server_name()
    }

    /// The keys with which the server signs.
    pub fn signing_keys(&self) -> &SigningKeys {
        &self.inner.signing_keys
    }

    /// The name and the public half of the key with which this server signs.
    pub fn public_key(&self) -> (String, Base64) {
        self.inner.signing_keys.public_key()
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The localpart of a user of this server.
    pub(crate) fn localpart<'a>(&self, user_id: &'a UserId) -> Option<&'a str> {
        (user_id.server_name() == self.server_name()).then(|| user_id.localpart())
    }
}
