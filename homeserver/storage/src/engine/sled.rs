//! [sled](https://docs.rs/sled) 0.34, to be measured against the others. **Not durable**: its log is never synced, so a power
//! cut loses commits that were acknowledged, and often the database. Never for data that anybody wants to keep.
//!
//! sled has no snapshots. They are made here: before the writer changes a row it notes the value that the row had, and a view
//! that is older than the change reads the note. Notes go with the views that need them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use sled::{Batch, Db, IVec};

use super::{
    Engine, RowKey, RowPage, RowRange,
    group::MergedWrites,
    local::{LocalEngine, LocalStore, LocalView},
};
use crate::{StorageError, scan::successor};

/// Rows that are read from sled at once before the notes are laid over them.
const CHUNK_ROWS: usize = 256;

/// A database that is locked is tried this often: sled lets go of its lock some time after it was closed.
const MOST_ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Opens or creates the database in the directory `path`, with `cache_bytes` of pages kept in memory, and warns: it does not
/// keep what it acknowledged. Only one process can have it open.
pub fn open(path: &Path, cache_bytes: u64) -> Result<Arc<dyn Engine>, StorageError> {
    tracing::warn!(
        storage.path = %path.display(),
        "the sled engine is not durable: a power cut loses acknowledged commits, and possibly the whole store; it is for measuring only"
    );
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
    let mut attempt = 1;
    let database = loop {
        match config.open() {
            Err(error) if is_locked(&error) && attempt < MOST_ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(PAUSE);
            }
            outcome => break outcome.map_err(|error| open_error(path, error))?,
        }
    };
    Ok(Arc::new(LocalStore::start(SledEngine { database, history: Arc::default() })?))
}

/// sled tells it only in words.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn open_error(path: &Path, error: sled::Error) -> StorageError {
    if is_locked(&error) {
        return StorageError::Unavailable(format!(
            "{} is in use by another process; is the server running already?",
            path.display()
        ));
    }
    StorageError::engine(error)
}

/// Rows of a range, and the key at which the next ones begin.
type Chunk = (Vec<(IVec, IVec)>, Option<IVec>);

struct SledEngine {
    database: Db,
    history: Arc<Mutex<History>>,
}

/// What rows were before they were changed, for as long as a view is older than the change.
#[derive(Default)]
struct History {
    /// The number of the newest change.
    version: u64,
    /// A row's value before the change with this number.
    before: BTreeMap<(IVec, u64), Option<IVec>>,
    /// The rows of each change that is still noted, oldest first.
    changes: VecDeque<(u64, Vec<IVec>)>,
    /// How many views there are of each version.
    views: BTreeMap<u64, usize>,
}

impl History {
    /// Notes the rows that are about to be changed.
    fn begin(&mut self, rows: Vec<(IVec, Option<IVec>)>) {
        self.version += 1;
        let mut keys = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            self.before.insert((key.clone(), self.version), value);
            keys.push(key);
        }
        self.changes.push_back((self.version, keys));
    }

    /// What a view of `version` finds under `key` if the row was changed since.
    fn value_at(&self, key: &IVec, version: u64) -> Option<&Option<IVec>> {
        let changes = self.before.range((key.clone(), version + 1)..=(key.clone(), u64::MAX));
        changes.map(|(_, value)| value).next()
    }

    /// What a view of `version` finds in a range where rows were changed since.
    fn values_at(
        &self,
        lower: Bound<IVec>,
        upper: Bound<IVec>,
        version: u64,
    ) -> BTreeMap<IVec, Option<IVec>> {
        let lower = match lower {
            Bound::Included(key) => Bound::Included((key, 0)),
            Bound::Excluded(key) => Bound::Excluded((key, u64::MAX)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let upper = match upper {
            Bound::Included(key) => Bound::Included((key, u64::MAX)),
            Bound::Excluded(key) => Bound::Excluded((key, 0)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let mut values = BTreeMap::new();
        for ((key, change), value) in self.before.range((lower, upper)) {
            if *change > version {
                // The first change behind the view is the one that counts.
                values.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        values
    }

    /// Forgets changes that no view is older than.
    fn prune(&mut self) {
        let oldest_view = self.views.keys().next().copied().unwrap_or(self.version);
        while self.changes.front().is_some_and(|&(change, _)| change <= oldest_view) {
            let Some((change, keys)) = self.changes.pop_front() else { break };
            for key in keys {
                self.before.remove(&(key, change));
            }
        }
    }
}

struct SledView {
    database: Db,
    history: Arc<Mutex<History>>,
    version: u64,
}

impl LocalEngine for SledEngine {
    type View = SledView;
    const NAME: &'static str = "sled";

    fn get(&mut self, key: &RowKey) -> Result<Option<Bytes>, StorageError> {
        let value = self.database.get(key.prefixed()).map_err(StorageError::engine)?;
        Ok(value.as_ref().map(bytes_of))
    }

    fn apply(&mut self, merged: &MergedWrites) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        let mut before = Vec::with_capacity(merged.rows.len());
        for (key, value) in &merged.rows {
            let key = IVec::from(key.prefixed());
            before.push((key.clone(), self.database.get(&key).map_err(StorageError::engine)?));
            match value {
                Some(value) => batch.insert(key, value.as_ref()),
                None => batch.remove(key),
            }
        }
        // Before the rows change: a reader that finds a changed row must find the note, too.
        self.history.lock().begin(before);
        self.database.apply_batch(batch).map_err(StorageError::engine)?;
        if merged.durable { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.database.flush().map(|_| ()).map_err(StorageError::engine)
    }

    fn view(&mut self) -> SledView {
        let mut history = self.history.lock();
        let version = history.version;
        *history.views.entry(version).or_default() += 1;
        SledView { database: self.database.clone(), history: Arc::clone(&self.history), version }
    }
}

impl LocalView for SledView {
    const BLOCKS: bool = true;

    fn get(&self, key: &RowKey) -> Result<Option<Bytes>, StorageError> {
        let key = IVec::from(key.prefixed());
        // The row before the notes: the writer takes them in the other order.
        let newest = self.database.get(&key).map_err(StorageError::engine)?;
        let history = self.history.lock();
        Ok(history.value_at(&key, self.version).unwrap_or(&newest).as_ref().map(bytes_of))
    }

    fn scan(&self, range: &RowRange) -> Result<RowPage, StorageError> {
        let prefix = range.info.id.0.to_be_bytes();
        let mut lower = lower_bound(prefix, &range.lower);
        let mut upper = upper_bound(prefix, &range.upper);
        let mut page = RowPage::default();
        loop {
            let (rows, last) = self.chunk(&lower, &upper, range.reverse)?;
            for (key, value) in rows {
                if page.push(bytes_of(&key).slice(prefix.len()..), bytes_of(&value), range.limit) {
                    return Ok(page);
                }
            }
            match last {
                None => return Ok(page),
                Some(last) if range.reverse => upper = Bound::Excluded(last),
                Some(last) => lower = Bound::Excluded(last),
            }
        }
    }
}

impl SledView {
    /// Some rows from one end of the range, as they were at this view's version, and up to where they reach; `None` if to
    /// the other end.
    fn chunk(&self, lower: &Bound<IVec>, upper: &Bound<IVec>, reverse: bool) -> Result<Chunk, StorageError> {
        let mut newest = self.database.range::<IVec, _>((lower.clone(), upper.clone()));
        let mut rows = BTreeMap::new();
        let mut last = None;
        while let Some(row) = if reverse { newest.next_back() } else { newest.next() } {
            let (key, value) = row.map_err(StorageError::engine)?;
            rows.insert(key.clone(), value);
            if rows.len() == CHUNK_ROWS {
                last = Some(key);
                break;
            }
        }
        let (lower, upper) = match &last {
            None => (lower.clone(), upper.clone()),
            Some(last) if reverse => (Bound::Included(last.clone()), upper.clone()),
            Some(last) => (lower.clone(), Bound::Included(last.clone())),
        };
        for (key, value) in self.history.lock().values_at(lower, upper, self.version) {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        let rows = rows.into_iter();
        Ok((if reverse { rows.rev().collect() } else { rows.collect() }, last))
    }
}

impl Drop for SledView {
    fn drop(&mut self) {
        let mut history = self.history.lock();
        if let Some(count) = history.views.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                history.views.remove(&self.version);
                history.prune();
            }
        }
    }
}

fn bytes_of(value: &IVec) -> Bytes {
    Bytes::copy_from_slice(value)
}

fn lower_bound(prefix: [u8; 2], bound: &Bound<Bytes>) -> Bound<IVec> {
    match bound {
        Bound::Unbounded => Bound::Included(IVec::from(&prefix)),
        bound => bound.as_ref().map(|key| prefixed(prefix, key)),
    }
}

fn upper_bound(prefix: [u8; 2], bound: &Bound<Bytes>) -> Bound<IVec> {
    match bound {
        Bound::Unbounded => successor(&prefix).map_or(Bound::Unbounded, |end| Bound::Excluded(end.into())),
        bound => bound.as_ref().map(|key| prefixed(prefix, key)),
    }
}

fn prefixed(prefix: [u8; 2], key: &[u8]) -> IVec {
    IVec::from([&prefix, key].concat())
}
