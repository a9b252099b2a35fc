//! The keyspaces of this crate.

use entente_storage::KeyspaceInfo;

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 0] = [];
