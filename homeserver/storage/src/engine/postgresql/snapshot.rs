use std::ops::Bound;

use bytes::Bytes;
use deadpool_postgres::Object;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::runtime::Handle;

use super::{
    connect::{failure, read_heads},
    statements,
};
use crate::{
    Position, StorageError,
    engine::{EngineSnapshot, RowKey, RowPage, RowRange},
};

/// Rows that are fetched at once: a page may be full, by its bytes, long before its limit.
const FETCH_ROWS: usize = 256;

/// An open transaction that reads. When it is dropped, the transaction ends and the connection returns to the pool.
pub(super) struct PostgresSnapshot {
    client: Option<Object>,
    position: Position,
    /// Where the transaction is ended: a snapshot may be dropped on a thread that has no runtime.
    runtime: Handle,
}

impl PostgresSnapshot {
    /// Takes the view. PostgreSQL takes it at the first read, which is why the heads are read here.
    pub(super) async fn begin(client: Object) -> Result<Self, StorageError> {
        let mut snapshot =
            Self { client: Some(client), position: Position::start(), runtime: Handle::current() };
        let client = snapshot.client()?;
        // Both are on their way before the first is answered.
        let begun = client.batch_execute(statements::BEGIN_SNAPSHOT);
        let (begun, position) = tokio::join!(biased; begun, read_heads(client));
        begun.map_err(|error| failure(&error))?;
        snapshot.position = position?;
        Ok(snapshot)
    }

    fn client(&self) -> Result<&Object, StorageError> {
        // It is taken only when the snapshot is dropped.
        self.client.as_ref().ok_or_else(|| StorageError::Unavailable(String::from("the snapshot has ended")))
    }

    async fn fetch(&self, range: &RowRange, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let client = self.client()?;
        let space = i32::from(range.info.id.0);
        let (lower, upper) = (from_included(&range.lower), to_excluded(&range.upper));
        let statement = client
            .prepare_cached(statements::scan(upper.is_some(), range.reverse))
            .await
            .map_err(|error| failure(&error))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = match &upper {
            Some(upper) => client.query(&statement, &[&space, &lower, &limit, upper]).await,
            None => client.query(&statement, &[&space, &lower, &limit]).await,
        };
        let rows = rows.map_err(|error| failure(&error))?;
        let pair =
            |row: tokio_postgres::Row| (row.get::<_, Vec<u8>>(0).into(), row.get::<_, Vec<u8>>(1).into());
        Ok(rows.into_iter().map(pair).collect())
    }
}

/// The first key of the range.
fn from_included(lower: &Bound<Bytes>) -> Vec<u8> {
    match lower {
        Bound::Unbounded => Vec::new(),
        Bound::Included(key) => key.to_vec(),
        Bound::Excluded(key) => next_key(key),
    }
}

/// The first key behind the range.
fn to_excluded(upper: &Bound<Bytes>) -> Option<Vec<u8>> {
    match upper {
        Bound::Unbounded => None,
        Bound::Excluded(key) => Some(key.to_vec()),
        Bound::Included(key) => Some(next_key(key)),
    }
}

/// The smallest key above `key`.
fn next_key(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

impl EngineSnapshot for PostgresSnapshot {
    fn position(&self) -> BoxFuture<'_, Result<Position, StorageError>> {
        std::future::ready(Ok(self.position.clone())).boxed()
    }

    fn get_many(&self, keys: Vec<RowKey>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StorageError>> {
        async move {
            if keys.is_empty() {
                return Ok(Vec::new());
            }
            let client = self.client()?;
            let spaces: Vec<i32> = keys.iter().map(|key| i32::from(key.info.id.0)).collect();
            let keys: Vec<&[u8]> = keys.iter().map(|key| key.key.as_ref()).collect();
            let statement =
                client.prepare_cached(statements::GET_MANY).await.map_err(|error| failure(&error))?;
            let rows = client.query(&statement, &[&spaces, &keys]).await.map_err(|error| failure(&error))?;
            let value = |row: tokio_postgres::Row| row.get::<_, Option<Vec<u8>>>(0).map(Bytes::from);
            Ok(rows.into_iter().map(value).collect())
        }
        .boxed()
    }

    fn scan(&self, mut range: RowRange) -> BoxFuture<'_, Result<RowPage, StorageError>> {
        async move {
            let limit = range.limit;
            let mut page = RowPage::default();
            loop {
                let wanted = limit.saturating_sub(page.rows.len()).min(FETCH_ROWS);
                let rows = self.fetch(&range, wanted).await?;
                let is_last = rows.len() < wanted;
                for (key, value) in rows {
                    if page.push(key, value, limit) {
                        return Ok(page);
                    }
                }
                if is_last {
                    return Ok(page);
                }
                page.more = true;
                let Some(at) = page.next() else { return Ok(page) };
                page.more = false;
                range.resume(at);
                if range.is_empty() {
                    return Ok(page);
                }
            }
        }
        .boxed()
    }
}

impl Drop for PostgresSnapshot {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        self.runtime.spawn(async move {
            // A connection whose transaction cannot be ended is of no use to the next reader.
            if client.batch_execute("ROLLBACK").await.is_err() {
                drop(Object::take(client));
            }
        });
    }
}
