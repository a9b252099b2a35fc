use std::{collections::BTreeMap, marker::PhantomData};

use bytes::Bytes;

use crate::{
    StorageError,
    codec::{EncodesAs, Key, KeyWriter, PrefixOf},
    scan::Scan,
    value::Value,
};

/// The number of a keyspace: the first two bytes of each of its rows on disk, for ever. 0 to 15 are this crate's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(pub u16);

/// How an engine should lay out a keyspace's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Small rows, found and scanned by key.
    Rows,
    /// Values of some hundred bytes and more that seldom change: kept apart from the keys, so that compaction need not
    /// rewrite them.
    Blobs,
}

/// What a [`Catalogue`] knows of a keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyspaceInfo {
    /// Its number.
    pub id: KeyspaceId,
    /// Its name, led by the crate that owns it: `accounts.users`.
    pub name: &'static str,
    /// How its rows are laid out.
    pub layout: Layout,
}

/// A typed table: rows of `V` under keys of `K`. Declared once, as a constant, by the crate that owns it.
#[derive(Debug)]
pub struct Keyspace<K, V> {
    info: KeyspaceInfo,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Value> Keyspace<K, V> {
    /// Declares a keyspace of small rows.
    pub const fn new(id: u16, name: &'static str) -> Self {
        Self { info: KeyspaceInfo { id: KeyspaceId(id), name, layout: Layout::Rows }, types: PhantomData }
    }

    /// Declares a keyspace of large values.
    pub const fn blobs(id: u16, name: &'static str) -> Self {
        Self { info: KeyspaceInfo { id: KeyspaceId(id), name, layout: Layout::Blobs }, types: PhantomData }
    }

    /// Its entry for the catalogue.
    pub const fn info(&self) -> KeyspaceInfo {
        self.info
    }

    /// All rows whose keys begin with `prefix`; `()` for all rows.
    pub fn scan(&self, prefix: impl PrefixOf<K>) -> Scan<K, V> {
        let mut writer = KeyWriter::new();
        prefix.encode_prefix(&mut writer);
        Scan::new(self.info, writer.finish().0)
    }

    pub(crate) fn row_key(&self, key: impl EncodesAs<K>) -> RowKey {
        self.row_key_with_stamp(key).0
    }

    pub(crate) fn row_key_with_stamp(&self, key: impl EncodesAs<K>) -> (RowKey, Option<usize>) {
        let mut writer = KeyWriter::new();
        key.encode_as(&mut writer);
        let (bytes, stamp_at) = writer.finish();
        (RowKey { info: self.info, key: bytes.into() }, stamp_at)
    }

    pub(crate) fn decode_key(info: KeyspaceInfo, bytes: &[u8]) -> Result<K, StorageError> {
        K::decode_all(bytes)
            .map_err(|error| StorageError::Corrupt { keyspace: info.name, reason: error.to_string() })
    }

    pub(crate) fn decode_value(info: KeyspaceInfo, bytes: &Bytes) -> Result<V, StorageError> {
        V::decode(bytes).map_err(|reason| StorageError::Corrupt { keyspace: info.name, reason })
    }
}

/// The key of a row: its keyspace and its encoded key. What engines see.
#[derive(Clone, Debug)]
pub struct RowKey {
    /// The keyspace.
    pub info: KeyspaceInfo,
    /// The encoded key within the keyspace.
    pub key: Bytes,
}

impl RowKey {
    /// The key with its keyspace's number before it: unique in the store, in the order of (keyspace, key).
    pub fn prefixed(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 + self.key.len());
        bytes.extend_from_slice(&self.info.id.0.to_be_bytes());
        bytes.extend_from_slice(&self.key);
        bytes
    }

    fn order(&self) -> (KeyspaceId, &Bytes) {
        (self.info.id, &self.key)
    }
}

impl PartialEq for RowKey {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for RowKey {}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl std::hash::Hash for RowKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.order().hash(state);
    }
}

/// Every keyspace of a store, each once.
#[derive(Clone, Debug)]
pub struct Catalogue {
    keyspaces: BTreeMap<KeyspaceId, KeyspaceInfo>,
}

impl Catalogue {
    /// Collects this crate's own keyspaces and those of its users.
    ///
    /// # Panics
    ///
    /// If two keyspaces have the same number or the same name: a mistake in the program, found at its first start.
    pub fn new(keyspaces: impl IntoIterator<Item = KeyspaceInfo>) -> Self {
        let mut by_id = BTreeMap::new();
        let mut names = BTreeMap::new();
        for info in crate::schema::OWN_KEYSPACES.into_iter().chain(keyspaces) {
            let id_taken = by_id.insert(info.id, info).is_some();
            let name_taken = names.insert(info.name, info.id).is_some();
            assert!(!id_taken && !name_taken, "keyspace {info:?} is declared twice");
        }
        Self { keyspaces: by_id }
    }

    /// The keyspaces in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = KeyspaceInfo> + '_ {
        self.keyspaces.values().copied()
    }

    /// The keyspace with this number.
    pub fn get(&self, id: KeyspaceId) -> Option<KeyspaceInfo> {
        self.keyspaces.get(&id).copied()
    }
}
