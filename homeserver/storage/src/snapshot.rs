use std::{marker::PhantomData, sync::Arc};

use bytes::Bytes;

use crate::{
    Keyspace, KeyspaceInfo, Page, Position, Scan, StorageError,
    codec::{EncodesAs, Key},
    engine::EngineSnapshot,
    keyspace::RowKey,
    scan::{RowPage, RowRange},
    value::Value,
};

/// A consistent view of the store: no commit becomes visible in it after it was taken, and none is visible in part.
///
/// Cheap to clone. Meant to be short-lived: some engines keep a connection or old data for as long as it lives.
#[derive(Clone)]
pub struct Snapshot {
    engine: Arc<dyn EngineSnapshot>,
}

impl Snapshot {
    pub(crate) fn new(engine: Arc<dyn EngineSnapshot>) -> Self {
        Self { engine }
    }

    /// The place in the log up to which commits are visible here.
    pub async fn position(&self) -> Result<Position, StorageError> {
        self.engine.position().await
    }

    /// One row.
    pub async fn get<K: Key, V: Value>(
        &self,
        keyspace: &Keyspace<K, V>,
        key: impl EncodesAs<K>,
    ) -> Result<Option<V>, StorageError> {
        let values = self.engine.get_many(vec![keyspace.row_key(key)]).await?;
        let value = values.into_iter().next().flatten();
        value.map(|bytes| Keyspace::<K, V>::decode_value(keyspace.info(), &bytes)).transpose()
    }

    /// The rows under `keys`, in their order, in one round trip.
    pub async fn get_many<K: Key, V: Value>(
        &self,
        keyspace: &Keyspace<K, V>,
        keys: impl IntoIterator<Item: EncodesAs<K>>,
    ) -> Result<Vec<Option<V>>, StorageError> {
        let keys = keys.into_iter().map(|key| keyspace.row_key(key)).collect();
        let values = self.engine.get_many(keys).await?;
        let decode = |bytes: Bytes| Keyspace::<K, V>::decode_value(keyspace.info(), &bytes);
        values.into_iter().map(|value| value.map(decode).transpose()).collect()
    }

    /// Collects look-ups in several keyspaces for one round trip.
    pub fn batch(&self) -> ReadBatch<'_> {
        ReadBatch { snapshot: self, keys: Vec::new() }
    }

    /// One page of a scan.
    pub async fn scan<K: Key, V: Value>(&self, scan: &Scan<K, V>) -> Result<Page<K, V>, StorageError> {
        if scan.range.is_empty() {
            return Ok(Page { rows: Vec::new(), next: None });
        }
        scan.page(self.engine.scan(scan.range.clone()).await?)
    }

    /// All rows of a scan, page by page. Only for ranges that are known to be short.
    pub async fn scan_all<K: Key, V: Value>(&self, scan: Scan<K, V>) -> Result<Vec<(K, V)>, StorageError> {
        let mut rows = Vec::new();
        let mut next = Some(scan);
        while let Some(scan) = next {
            let page = self.scan(&scan).await?;
            rows.extend(page.rows);
            next = page.next.map(|at| scan.resume(at));
        }
        Ok(rows)
    }

    pub(crate) async fn scan_rows(&self, range: RowRange) -> Result<RowPage, StorageError> {
        if range.is_empty() { Ok(RowPage::default()) } else { self.engine.scan(range).await }
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

/// Look-ups in several keyspaces that are answered in one round trip. Made by [`Snapshot::batch`].
#[derive(Debug)]
pub struct ReadBatch<'a> {
    snapshot: &'a Snapshot,
    keys: Vec<RowKey>,
}

/// A place in the answer to a [`ReadBatch`].
#[derive(Debug)]
pub struct Pending<V> {
    index: usize,
    info: KeyspaceInfo,
    value: PhantomData<fn() -> V>,
}

/// The answer to a [`ReadBatch`].
#[derive(Debug)]
pub struct BatchRows(Vec<Option<Bytes>>);

impl ReadBatch<'_> {
    /// Asks for one row.
    pub fn get<K: Key, V: Value>(&mut self, keyspace: &Keyspace<K, V>, key: impl EncodesAs<K>) -> Pending<V> {
        self.keys.push(keyspace.row_key(key));
        Pending { index: self.keys.len() - 1, info: keyspace.info(), value: PhantomData }
    }

    /// Reads all of them.
    pub async fn read(self) -> Result<BatchRows, StorageError> {
        self.snapshot.engine.get_many(self.keys).await.map(BatchRows)
    }
}

impl BatchRows {
    /// The row that was asked for; `None` if there is none, or if it was taken already.
    pub fn take<V: Value>(&mut self, pending: &Pending<V>) -> Result<Option<V>, StorageError> {
        let value = self.0.get_mut(pending.index).and_then(Option::take);
        let decode = |bytes: Bytes| {
            V::decode(&bytes).map_err(|reason| StorageError::Corrupt { keyspace: pending.info.name, reason })
        };
        value.map(decode).transpose()
    }
}
