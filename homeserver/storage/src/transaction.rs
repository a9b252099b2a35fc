use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::{
    Keyspace, LogEntry, LogPosition, StorageError, Topic,
    codec::{EncodesAs, Key},
    keyspace::RowKey,
    value::Value,
};

/// Encoded keys are no longer: PostgreSQL cannot index one of 2700 bytes, fjall cannot store one of 64 KiB, and either would
/// fail everybody's transactions that are in the same group.
pub(crate) const MOST_KEY_BYTES: usize = 2_560;

/// Names a transaction within this process, so that one whose outcome is unknown (its caller was cancelled, the database
/// went away) can be handed in again: it is applied once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransactionId(u64);

impl TransactionId {
    /// A name that no other transaction of this process has.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for TransactionId {
    fn default() -> Self {
        Self::new()
    }
}

/// The version of a row: a digest of its value. A row that returns to an earlier value returns to that version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version([u8; 16]);

impl Version {
    /// The version of a row with this value.
    pub fn of(value: &[u8]) -> Self {
        let mut version = [0; 16];
        version.copy_from_slice(&blake3::hash(value).as_bytes()[..16]);
        Self(version)
    }
}

/// What must hold of a row for the transaction to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// There is no such row.
    Absent,
    /// There is such a row, whatever its value.
    Present,
    /// The row has this value.
    Equals(Bytes),
    /// The row has this version.
    HasVersion(Version),
}

impl Check {
    /// Whether it holds of a row with this value (`None`: there is no row).
    pub fn holds(&self, value: Option<&Bytes>) -> bool {
        match (self, value) {
            (Self::Absent, value) => value.is_none(),
            (_, None) => false,
            (Self::Present, Some(_)) => true,
            (Self::Equals(expected), Some(value)) => expected == value,
            (Self::HasVersion(version), Some(value)) => *version == Version::of(value),
        }
    }
}

/// Where the commit's position is to be filled in, as offsets in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// In the key.
    pub key_at: Option<usize>,
    /// In the value.
    pub value_at: Option<usize>,
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The row gets this value.
    Put {
        /// Which row.
        key: RowKey,
        /// Its new value.
        value: Bytes,
        /// Where the commit's position belongs in either.
        stamps: Stamps,
    },
    /// The row goes, if it is there.
    Delete {
        /// Which row.
        key: RowKey,
    },
}

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It survives `kill -9` and power loss before it is acknowledged.
    #[default]
    Durable,
    /// It survives a crash of the process at the latest with the next durable commit or after a second, whichever comes
    /// first; until then it may be lost, as a whole. Such a transaction may not append to the log.
    Relaxed,
}

/// A transaction as data: applied as a whole if all its checks hold, otherwise not at all.
///
/// Writes are applied in their order. A read that the decision depended on belongs into a check: that is what makes
/// concurrent transactions serialisable.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub(crate) id: TransactionId,
    pub(crate) checks: Vec<(RowKey, Check)>,
    pub(crate) writes: Vec<Write>,
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) durability: Durability,
}

impl Transaction {
    /// An empty, durable transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty transaction that need not be on disk when it is acknowledged.
    pub fn relaxed() -> Self {
        Self { durability: Durability::Relaxed, ..Self::default() }
    }

    /// Requires that there is no row under `key`.
    pub fn check_absent<K: Key, V: Value>(&mut self, keyspace: &Keyspace<K, V>, key: impl EncodesAs<K>) {
        self.checks.push((keyspace.row_key(key), Check::Absent));
    }

    /// Requires that there is a row under `key`.
    pub fn check_present<K: Key, V: Value>(&mut self, keyspace: &Keyspace<K, V>, key: impl EncodesAs<K>) {
        self.checks.push((keyspace.row_key(key), Check::Present));
    }

    /// Requires that the row under `key` still is what was read (`None`: that there was none).
    pub fn check_unchanged<K: Key, V: Value>(
        &mut self,
        keyspace: &Keyspace<K, V>,
        key: impl EncodesAs<K>,
        read: Option<&V>,
    ) {
        let check = read.map_or(Check::Absent, |value| Check::Equals(value.encode()));
        self.checks.push((keyspace.row_key(key), check));
    }

    /// Requires that the row under `key` has this version.
    pub fn check_version<K: Key, V: Value>(
        &mut self,
        keyspace: &Keyspace<K, V>,
        key: impl EncodesAs<K>,
        version: Version,
    ) {
        self.checks.push((keyspace.row_key(key), Check::HasVersion(version)));
    }

    /// Writes a row. A [`LogPosition::AT_COMMIT`] in the key or in a [`Stamped`](crate::value::Stamped) value becomes the
    /// commit's own position.
    pub fn put<K: Key, V: Value>(&mut self, keyspace: &Keyspace<K, V>, key: impl EncodesAs<K>, value: &V) {
        let (key, key_at) = keyspace.row_key_with_stamp(key);
        let stamps = Stamps { key_at, value_at: value.stamp_at() };
        self.writes.push(Write::Put { key, value: value.encode(), stamps });
    }

    /// Deletes a row, if it is there.
    pub fn delete<K: Key, V: Value>(&mut self, keyspace: &Keyspace<K, V>, key: impl EncodesAs<K>) {
        self.writes.push(Write::Delete { key: keyspace.row_key(key) });
    }

    /// Tells the followers of the log. All entries of one transaction share one position.
    pub fn log(&mut self, topic: Topic, payload: impl Into<Bytes>) {
        self.entries.push(LogEntry { topic, payload: payload.into() });
    }

    /// Takes over everything that `other` checks, writes and logs, behind what is here already. The result is durable if
    /// either is.
    pub fn append(&mut self, other: Self) {
        self.checks.extend(other.checks);
        self.writes.extend(other.writes);
        self.entries.extend(other.entries);
        if other.durability == Durability::Durable {
            self.durability = Durability::Durable;
        }
    }

    /// Whether it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.entries.is_empty()
    }

    /// Its name.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    pub(crate) fn validate(&self) -> Result<(), StorageError> {
        if self.durability == Durability::Relaxed && !self.entries.is_empty() {
            return Err(StorageError::InvalidTransaction("a relaxed transaction cannot append to the log"));
        }
        let checked = self.checks.iter().map(|(key, _)| key);
        let written = self.writes.iter().map(|write| match write {
            Write::Put { key, .. } | Write::Delete { key } => key,
        });
        if checked.chain(written).any(|key| key.key.len() > MOST_KEY_BYTES) {
            return Err(StorageError::InvalidTransaction("an encoded key is longer than 2560 bytes"));
        }
        let is_stamped =
            |write: &Write| matches!(write, Write::Put { stamps, .. } if *stamps != Stamps::default());
        if self.entries.is_empty() && self.writes.iter().any(is_stamped) {
            return Err(StorageError::InvalidTransaction(
                "a row with the commit's position needs a log entry, from which the position comes",
            ));
        }
        Ok(())
    }
}

/// What came of a transaction that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where it stands in the log; `None` if it had no entries.
    pub position: Option<LogPosition>,
}
