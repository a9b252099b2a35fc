//! The keyspaces of this crate and their rows. Users are named by their localparts.

use std::collections::BTreeMap;

use entente_storage::{Bytes, Keyspace, KeyspaceInfo, LogPosition, cbor_value};
use minicbor::{Decode, Encode};

/// Key backups, by localpart and version. A row is never deleted, so that no version is ever given twice.
pub(crate) const BACKUPS: Keyspace<(String, u64), BackupRow> = Keyspace::new(0x0301, "encryption.backups");
/// Backed-up keys, by localpart, version, room id and session id: JSON objects.
pub(crate) const BACKUP_KEYS: Keyspace<(String, u64, String, String), Bytes> =
    Keyspace::new(0x0302, "encryption.backup_keys");
/// Identity keys of devices, by localpart and device id: JSON objects.
pub(crate) const DEVICE_KEYS: Keyspace<(String, String), Bytes> =
    Keyspace::new(0x0303, "encryption.device_keys");
/// How many keys a device has left, by localpart and device id.
pub(crate) const KEY_COUNTS: Keyspace<(String, String), KeyCountsRow> =
    Keyspace::new(0x0304, "encryption.key_counts");
/// One-time keys, by localpart, device id, algorithm and number: the oldest first.
pub(crate) const ONE_TIME_KEYS: Keyspace<(String, String, String, u64), OneTimeKeyRow> =
    Keyspace::new(0x0305, "encryption.one_time_keys");
/// Fallback keys, by localpart, device id and algorithm.
pub(crate) const FALLBACK_KEYS: Keyspace<(String, String, String), FallbackKeyRow> =
    Keyspace::new(0x0306, "encryption.fallback_keys");
/// Cross-signing keys, by localpart and usage: JSON objects.
pub(crate) const CROSS_SIGNING_KEYS: Keyspace<(String, String), Bytes> =
    Keyspace::new(0x0307, "encryption.cross_signing_keys");
/// Signatures that were added to keys, by the owner's user id, the key, the signer's user id and the signing key.
pub(crate) const SIGNATURES: Keyspace<(String, String, String, String), String> =
    Keyspace::new(0x0308, "encryption.signatures");
/// Who changed their devices when, by position and user id.
pub(crate) const DEVICE_LIST_CHANGES: Keyspace<(LogPosition, String), ()> =
    Keyspace::new(0x0309, "encryption.device_list_changes");
/// Whose keys a user signed when, by the signer's localpart, position and the owner's user id.
pub(crate) const SIGNED_OTHERS: Keyspace<(String, LogPosition, String), ()> =
    Keyspace::new(0x030e, "encryption.signed_others");
/// Messages to devices, by localpart, device id, position and place within the request: JSON objects.
pub(crate) const TO_DEVICE: Keyspace<(String, String, LogPosition, u32), Bytes> =
    Keyspace::new(0x030a, "encryption.to_device");
/// When a request to send messages came, by localpart, device id and transaction id: ms since 1970.
pub(crate) const SENT: Keyspace<(String, String, String), u64> = Keyspace::new(0x030b, "encryption.sent");

/// When a one-time key was handed out, by localpart, device id, algorithm and key id: ms since 1970. It is not taken in again.
pub(crate) const CLAIMED_KEYS: Keyspace<(String, String, String, String), u64> =
    Keyspace::new(0x030d, "encryption.claimed_keys");

/// Dehydrated devices, by localpart.
pub(crate) const DEHYDRATED: Keyspace<String, DehydratedRow> = Keyspace::new(0x030f, "encryption.dehydrated");

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 14] = [
    BACKUPS.info(),
    BACKUP_KEYS.info(),
    DEVICE_KEYS.info(),
    KEY_COUNTS.info(),
    ONE_TIME_KEYS.info(),
    FALLBACK_KEYS.info(),
    CROSS_SIGNING_KEYS.info(),
    SIGNATURES.info(),
    DEVICE_LIST_CHANGES.info(),
    SIGNED_OTHERS.info(),
    TO_DEVICE.info(),
    SENT.info(),
    CLAIMED_KEYS.info(),
    DEHYDRATED.info(),
];

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

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct KeyCountsRow {
    /// One-time keys that are left, by algorithm.
    #[n(0)]
    pub(crate) one_time_keys: BTreeMap<String, u64>,
    /// Algorithms whose fallback key nobody got yet.
    #[n(1)]
    pub(crate) unused_fallback: Vec<String>,
    /// The number of the next one-time key.
    #[n(2)]
    pub(crate) next: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct OneTimeKeyRow {
    #[n(0)]
    pub(crate) key_id: String,
    /// JSON, as the client sent it.
    #[n(1)]
    pub(crate) key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct FallbackKeyRow {
    #[n(0)]
    pub(crate) key_id: String,
    /// JSON, as the client sent it.
    #[n(1)]
    pub(crate) key: String,
    /// Whether anybody got it.
    #[n(2)]
    pub(crate) used: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct DehydratedRow {
    #[n(0)]
    pub(crate) device_id: String,
    /// The encrypted private halves of its keys: JSON, as the client sent it.
    #[n(1)]
    pub(crate) device_data: String,
    #[n(2)]
    pub(crate) display_name: Option<String>,
    /// Milliseconds since 1970.
    #[n(3)]
    pub(crate) uploaded_at: u64,
}

cbor_value!(BackupRow, KeyCountsRow, OneTimeKeyRow, FallbackKeyRow, DehydratedRow);
