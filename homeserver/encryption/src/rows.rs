//! The keyspaces of this crate and their rows. Users are named by their localparts.

use entente_storage::{Bytes, Keyspace, KeyspaceInfo, cbor_value};
use minicbor::{Decode, Encode};

/// Key backups, by localpart and version. A row is never deleted, so that no version is ever given twice.
pub(crate) const BACKUPS: Keyspace<(String, u64), BackupRow> = Keyspace::new(0x0301, "encryption.backups");
/// Backed-up keys, by localpart, version, room id and session id: JSON objects.
pub(crate) const BACKUP_KEYS: Keyspace<(String, u64, String, String), Bytes> =
    Keyspace::new(0x0302, "encryption.backup_keys");

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 2] = [BACKUPS.info(), BACKUP_KEYS.info()];

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct BackupRow {
    #[n(0)]
    pub(crate) deleted: bool,
    /// The name of the algorithm.
    #[n(1)]
    pub(crate) algorithm: String,
    /// What the client sent when it made or changed it: a JSON object with `algorithm` and `auth_data`. Empty once deleted.
    #[n(2)]
    pub(crate) description: String,
    /// How many keys there are.
    #[n(3)]
    pub(crate) count: u64,
    /// How often its keys were changed.
    #[n(4)]
    pub(crate) changes: u64,
}

cbor_value!(BackupRow);
