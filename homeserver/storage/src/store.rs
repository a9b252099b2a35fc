use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    Catalogue, Commit, LogRecord, Position, Schema, Snapshot, StorageError, Transaction, engine::Engine, log,
    schema,
};

/// A use case that meets conflicts is tried this often before its caller hears of it.
const MOST_ATTEMPTS: u32 = 64;
/// From this attempt on there is a pause before the next, so that writers of other nodes get through.
const PATIENT_ATTEMPTS: u32 = 8;

/// The store that everything above holds. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) catalogue: Arc<Catalogue>,
}

impl Store {
    /// Opens a store on an engine: creates its schema when it is empty, migrates an older one forward, refuses a newer one.
    pub async fn open(engine: Arc<dyn Engine>, schema: Schema) -> Result<Self, StorageError> {
        let store = Self { engine, catalogue: Arc::new(schema.catalogue) };
        schema::prepare(&store, schema.version, &schema.migrations).await?;
        Ok(store)
    }

    /// The newest consistent view. Everything that was acknowledged before the call is visible in it.
    pub async fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.engine.snapshot().await.map(Snapshot::new)
    }

    /// Commits one transaction. When this returns, it is as durable as it asked to be.
    ///
    /// Cancelling the future does not withdraw the transaction. Handing in a clone again applies it once.
    pub async fn commit(&self, transaction: Transaction) -> Result<Commit, StorageError> {
        transaction.validate()?;
        self.engine.commit(transaction).await
    }

    /// Runs a use case: it reads from the snapshot and says what to write, with checks on what it read. On a conflict it
    /// is run again from a fresh snapshot, up to 64 times.
    ///
    /// An empty transaction is not committed; the answer then has no position.
    pub async fn run<T, E, F, Fut>(&self, use_case: F) -> Result<(T, Commit), E>
    where
        F: Fn(Snapshot) -> Fut,
        Fut: Future<Output = Result<(Transaction, T), E>>,
        E: From<StorageError>,
    {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let snapshot = self.snapshot().await?;
            let (transaction, answer) = use_case(snapshot).await?;
            if transaction.is_empty() {
                return Ok((answer, Commit { position: None }));
            }
            match self.commit(transaction).await {
                Ok(commit) => return Ok((answer, commit)),
                Err(error) if error.is_conflict() && attempt < MOST_ATTEMPTS => pause_before(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Wakes when the log grows. A hint: readers look for themselves from their own position.
    pub fn watch(&self) -> Watch {
        Watch { positions: self.engine.watch() }
    }

    /// The place up to which commits have been published. Costs no read.
    pub fn published(&self) -> Position {
        self.engine.watch().borrow().clone()
    }

    /// The log behind `after`, in the order of each writer, at most `limit` records, and the place up to which they reach.
    pub async fn read_log(
        &self,
        after: &Position,
        limit: usize,
    ) -> Result<(Vec<LogRecord>, Position), StorageError> {
        log::read(&self.snapshot().await?, after, limit).await
    }

    /// All keyspaces of this store.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The engine's name, as the configuration spells it.
    pub fn engine_name(&self) -> &'static str {
        self.engine.name()
    }

    /// Finishes what was handed in, writes it to disk, and closes. Later commits answer [`StorageError::Unavailable`].
    pub async fn close(&self) -> Result<(), StorageError> {
        self.engine.close().await
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("engine", &self.engine.name()).finish_non_exhaustive()
    }
}

async fn pause_before(attempt: u32) {
    if attempt >= PATIENT_ATTEMPTS {
        let millis = 1 << (attempt - PATIENT_ATTEMPTS).min(6);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

/// Wakes when the log grows. Made by [`Store::watch`].
#[derive(Clone, Debug)]
pub struct Watch {
    positions: watch::Receiver<Position>,
}

impl Watch {
    /// Waits until the log reaches beyond `known`, and answers how far. Returns at once if it already does.
    pub async fn beyond(&mut self, known: &Position) -> Result<Position, StorageError> {
        let reached = self.positions.wait_for(|position| !known.covers(position)).await;
        reached
            .map(|position| position.clone())
            .map_err(|_| StorageError::Unavailable(String::from("closed")))
    }
}
