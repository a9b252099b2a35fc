//! The keyspaces of this crate and their rows. Users are named by their localparts.

use entente_storage::{Keyspace, KeyspaceInfo};

use crate::sliding::connection::{ConnectionRow, RoomOnConnection};

/// Connections of sliding sync, by localpart, device id and name.
pub(crate) const CONNECTIONS: Keyspace<(String, String, String), ConnectionRow> =
    Keyspace::new(0x0401, "sync.connections");
/// What was given of rooms on a connection, by localpart, device id, name and room.
pub(crate) const CONNECTION_ROOMS: Keyspace<(String, String, String, u64), RoomOnConnection> =
    Keyspace::new(0x0402, "sync.connection_rooms");

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 2] = [CONNECTIONS.info(), CONNECTION_ROOMS.info()];
