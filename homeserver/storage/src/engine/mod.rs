//! Engines: what keeps the rows.
//!
//! Above them nobody knows which one is in use. The embedded ones share a group committer (`local`); all of them decide
//! transactions by the same rules (`group`).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::{Commit, Position, StorageError, Transaction};
pub use crate::{
    keyspace::RowKey,
    scan::{RowPage, RowRange},
};

pub mod fjall;
pub mod memory;
pub mod postgresql;
#[cfg(feature = "engine-sled")]
pub mod sled;

mod group;
mod local;

/// A storage engine.
pub trait Engine: Send + Sync + 'static {
    /// Its name, as the configuration spells it.
    fn name(&self) -> &'static str;

    /// The newest consistent view: everything that was acknowledged before the call is visible.
    fn snapshot(&self) -> BoxFuture<'_, Result<Arc<dyn EngineSnapshot>, StorageError>>;

    /// Applies a transaction as a whole, or says why not. Dropping the future does not withdraw it; one that is handed in
    /// twice, by its id, is applied once.
    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Commit, StorageError>>;

    /// How far the log has been published. Never ahead of what [`Engine::snapshot`] shows.
    fn watch(&self) -> watch::Receiver<Position>;

    /// Finishes what was handed in, makes it durable, and refuses what comes later.
    fn close(&self) -> BoxFuture<'_, Result<(), StorageError>>;
}

/// A consistent view of an engine's rows.
pub trait EngineSnapshot: Send + Sync + 'static {
    /// The place in the log up to which commits are visible.
    fn position(&self) -> BoxFuture<'_, Result<Position, StorageError>>;

    /// The values of the rows under `keys`, in their order.
    fn get_many(&self, keys: Vec<RowKey>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StorageError>>;

    /// The first rows of the range, up to its limit. The range is not empty by its bounds.
    fn scan(&self, range: RowRange) -> BoxFuture<'_, Result<RowPage, StorageError>>;
}
