//! The embedded default: [fjall](https://docs.rs/fjall), a log-structured merge tree with a journal.
//!
//! Two trees: small rows, and large values kept apart from their keys ([`Layout`]). Rows of all keyspaces share a tree, each
//! led by its keyspace's number, so that an idle keyspace holds back no journal file and costs no memory.

mod journal;

use std::{ops::Bound, path::Path, sync::Arc};

use bytes::Bytes;
use fjall::{
    Database, Guard, Keyspace as Tree, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, Readable,
};

use super::{
    Engine, RowKey, RowPage, RowRange,
    group::MergedWrites,
    local::{LocalEngine, LocalStore, LocalView},
};
use crate::{Layout, StorageError, keyspace::KeyspaceInfo, scan::successor, transaction::MOST_KEY_BYTES};

/// Settings of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of decompressed blocks kept in memory.
    pub cache_bytes: u64,
    /// Bytes of journal files on disk before tables must be flushed: what a restart after a crash has to read again. At
    /// least 64 MiB.
    pub journal_bytes: u64,
    /// Bytes of fresh writes kept in memory for each of the two trees before they are written as a table.
    pub memtable_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 * 1024 * 1024,
            journal_bytes: 128 * 1024 * 1024,
            memtable_bytes: 8 * 1024 * 1024,
        }
    }
}

/// Values of this size and more are kept apart from their keys in the tree of [`Layout::Blobs`].
const SEPARATE_FROM_BYTES: u32 = 256;

/// Opens or creates the database in the directory `path`. Only one process can have it open.
pub fn open(path: &Path, options: Options) -> Result<Arc<dyn Engine>, StorageError> {
    let database = match open_database(path, options) {
        Err(fjall::Error::JournalRecovery(damage)) => open_without_torn_batch(path, options, damage)?,
        outcome => outcome.map_err(|error| open_error(path, error))?,
    };
    let tree = || KeyspaceCreateOptions::default().max_memtable_size(options.memtable_bytes);
    let separation = KvSeparationOptions::default().separation_threshold(SEPARATE_FROM_BYTES);
    let trees = Trees {
        rows: database.keyspace("rows", tree).map_err(StorageError::engine)?,
        blobs: database
            .keyspace("blobs", || tree().with_kv_separation(Some(separation)))
            .map_err(StorageError::engine)?,
    };
    Ok(Arc::new(LocalStore::start(FjallEngine { database, trees })?))
}

fn open_database(path: &Path, options: Options) -> fjall::Result<Database> {
    Database::builder(path)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes.max(64 * 1024 * 1024))
        .manual_journal_persist(true)
        .worker_threads(2)
        .open()
}

/// Opens the database without the newest batch of its journal, provided that this is the damaged one.
fn open_without_torn_batch(
    path: &Path,
    options: Options,
    damage: fjall::JournalRecoveryError,
) -> Result<Database, StorageError> {
    let Some(end) = journal::cut_newest_end(path)? else { return Err(StorageError::engine(damage)) };
    match open_database(path, options) {
        Ok(database) => {
            tracing::warn!(
                storage.path = %path.display(),
                %damage,
                "the newest write was torn by a power cut before it was acknowledged, and is discarded"
            );
            Ok(database)
        }
        Err(error) => {
            end.put_back()?;
            Err(open_error(path, error))
        }
    }
}

fn open_error(path: &Path, error: fjall::Error) -> StorageError {
    match error {
        fjall::Error::Locked => StorageError::Unavailable(format!(
            "{} is in use by another process; is the server running already?",
            path.display()
        )),
        error => StorageError::engine(error),
    }
}

#[derive(Clone)]
struct Trees {
    rows: Tree,
    blobs: Tree,
}

impl Trees {
    fn of(&self, info: KeyspaceInfo) -> &Tree {
        match info.layout {
            Layout::Rows => &self.rows,
            Layout::Blobs => &self.blobs,
        }
    }
}

struct FjallEngine {
    database: Database,
    trees: Trees,
}

struct FjallView {
    snapshot: fjall::Snapshot,
    trees: Trees,
}

impl LocalEngine for FjallEngine {
    type View = FjallView;
    const NAME: &'static str = "fjall";

    fn get(&mut self, key: &RowKey) -> Result<Option<Bytes>, StorageError> {
        let value = self.trees.of(key.info).get(key.prefixed()).map_err(StorageError::engine)?;
        Ok(value.map(Bytes::from))
    }

    fn apply(&mut self, merged: &MergedWrites) -> Result<(), StorageError> {
        let mut batch = self.database.batch();
        if merged.durable {
            batch = batch.durability(Some(PersistMode::SyncData));
        }
        for (key, value) in &merged.rows {
            let tree = self.trees.of(key.info);
            match value {
                Some(value) => batch.insert(tree, key.prefixed(), value.clone()),
                None => batch.remove(tree, key.prefixed()),
            }
        }
        batch.commit().map_err(StorageError::engine)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.database.persist(PersistMode::SyncData).map_err(StorageError::engine)
    }

    fn view(&mut self) -> FjallView {
        FjallView { snapshot: self.database.snapshot(), trees: self.trees.clone() }
    }
}

impl LocalView for FjallView {
    const BLOCKS: bool = true;

    fn get(&self, key: &RowKey) -> Result<Option<Bytes>, StorageError> {
        // fjall panics over a key that it could not have stored.
        if key.key.len() > MOST_KEY_BYTES {
            return Ok(None);
        }
        let value =
            self.snapshot.get(self.trees.of(key.info), key.prefixed()).map_err(StorageError::engine)?;
        Ok(value.map(Bytes::from))
    }

    fn scan(&self, range: &RowRange) -> Result<RowPage, StorageError> {
        let prefix = range.info.id.0.to_be_bytes();
        let bounds = (lower_bound(prefix, &range.lower), upper_bound(prefix, &range.upper));
        let mut rows = self.snapshot.range::<Vec<u8>, _>(self.trees.of(range.info), bounds);
        let mut page = RowPage::default();
        while let Some(row) = if range.reverse { rows.next_back() } else { rows.next() } {
            let (key, value) = Guard::into_inner(row).map_err(StorageError::engine)?;
            if page.push(Bytes::from(key).slice(prefix.len()..), value.into(), range.limit) {
                break;
            }
        }
        Ok(page)
    }
}

/// The part of a key that a stored key can have. fjall panics over bounds that it could not have stored.
fn storable(key: &Bytes) -> &[u8] {
    key.get(..MOST_KEY_BYTES).unwrap_or(key)
}

fn prefixed(prefix: [u8; 2], key: &[u8]) -> Vec<u8> {
    [&prefix, key].concat()
}

fn lower_bound(prefix: [u8; 2], bound: &Bound<Bytes>) -> Bound<Vec<u8>> {
    match bound {
        Bound::Unbounded => Bound::Included(prefix.to_vec()),
        // No stored key lies between the longest part of the bound that can be stored and the bound itself.
        Bound::Included(key) | Bound::Excluded(key) if key.len() > MOST_KEY_BYTES => {
            Bound::Excluded(prefixed(prefix, storable(key)))
        }
        bound => bound.as_ref().map(|key| prefixed(prefix, key)),
    }
}

fn upper_bound(prefix: [u8; 2], bound: &Bound<Bytes>) -> Bound<Vec<u8>> {
    match bound {
        Bound::Unbounded => successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded),
        Bound::Included(key) | Bound::Excluded(key) if key.len() > MOST_KEY_BYTES => {
            Bound::Included(prefixed(prefix, storable(key)))
        }
        bound => bound.as_ref().map(|key| prefixed(prefix, key)),
    }
}
