//! The keyspaces of this crate. Everything of a room is under its number, so that purging a room is a range delete.

use entente_storage::{Bytes, Keyspace, KeyspaceInfo};

/// A room's number in this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomNumber(pub u64);

/// Nodes of state trees, by room and name, in their own encoding.
pub(crate) const STATE_NODES: Keyspace<(u64, [u8; 16]), Bytes> = Keyspace::new(0x0201, "rooms.state_nodes");

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 1] = [STATE_NODES.info()];
