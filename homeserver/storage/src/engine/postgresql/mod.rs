//! PostgreSQL, and whatever speaks its protocol as exactly: for those who outgrow a machine. Several processes can share one
//! database; each is a writer of its own.
//!
//! All rows are in one table under the number of their keyspace. Waiting transactions are merged into group commits like
//! everywhere (`engine/group.rs`), one SERIALIZABLE transaction each (`writer.rs`). Snapshots are REPEATABLE READ
//! transactions on pooled connections (`snapshot.rs`). `NOTIFY` tells the other processes how far the log reaches
//! (`listener.rs`).

mod connect;
mod listener;
mod snapshot;
mod statements;
mod writer;

use std::{num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use self::{
    connect::{Connector, Tls, unavailable},
    snapshot::PostgresSnapshot,
    writer::{Command, Writer},
};
use super::{Engine, EngineSnapshot};
use crate::{Commit, Position, StorageError, Transaction};

/// Transactions that wait at the most before callers wait to hand theirs in.
const QUEUE_LENGTH: usize = 4_096;
/// The longest that a snapshot waits for a connection.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);
/// A snapshot that finds its connection broken is tried this often, each time on another connection.
const MOST_ATTEMPTS: u32 = 3;
/// Connections that are not for snapshots: the writer's and the listener's.
const OWN_CONNECTIONS: usize = 2;

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the database is: `postgresql://user:password@host:port/database`, or `host=… user=…` as libpq has it. With
    /// `sslmode=require` or `sslmode=verify-full` the connection is encrypted, and the server's certificate and name verified.
    pub url: String,
    /// The most connections held at once, at least 3: one writes, one listens, the others read.
    pub max_connections: NonZeroU32,
    /// Roots in PEM form that a server's certificate may lead to, besides the public ones.
    pub ca_file: Option<PathBuf>,
}

/// Connects, and makes the tables when the database has none.
///
/// Refused are servers before PostgreSQL 14. If the process loses its connection later, what it is asked meanwhile waits or
/// is answered with [`StorageError::Unavailable`], and it connects again by itself.
pub async fn open(options: Options) -> Result<Arc<dyn Engine>, StorageError> {
    let connector = Connector::new(&options)?;
    connector.prepare_database().await?;
    let pool = build_pool(&connector, options.max_connections)?;
    let (positions, watched) = watch::channel(Position::start());
    let positions = Arc::new(positions);
    let (commands, queue) = mpsc::channel(QUEUE_LENGTH);
    let writer = Writer::start(connector.clone(), Arc::clone(&positions)).await?;
    // Nothing can fail from here on: a task would go on for ever.
    let writer = tokio::spawn(writer.run(queue));
    let listener = tokio::spawn(listener::listen(connector, positions));
    let tasks = Mutex::new(Some(Tasks { writer, listener }));
    Ok(Arc::new(PostgresEngine { commands, pool, watched, tasks }))
}

fn build_pool(connector: &Connector, max_connections: NonZeroU32) -> Result<Pool, StorageError> {
    let size =
        usize::try_from(max_connections.get()).unwrap_or(usize::MAX).saturating_sub(OWN_CONNECTIONS).max(1);
    let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match connector.tls() {
        Tls::Off(tls) => Manager::from_config(connector.config().clone(), *tls, config),
        Tls::Verified(tls) => Manager::from_config(connector.config().clone(), tls.clone(), config),
    };
    let set_up = Hook::async_fn(|client, _| {
        async move { client.batch_execute(statements::SESSION).await.map_err(HookError::Backend) }.boxed()
    });
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECTION_PATIENCE))
        .create_timeout(Some(CONNECTION_PATIENCE))
        .recycle_timeout(Some(CONNECTION_PATIENCE))
        .post_create(set_up)
        .build()
        .map_err(StorageError::engine)
}

struct PostgresEngine {
    commands: mpsc::Sender<Command>,
    pool: Pool,
    watched: watch::Receiver<Position>,
    tasks: Mutex<Option<Tasks>>,
}

struct Tasks {
    writer: JoinHandle<()>,
    listener: JoinHandle<()>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // The writer ends by itself when nobody can hand anything in any more.
        self.listener.abort();
    }
}

fn closed() -> StorageError {
    StorageError::Unavailable(String::from("the store was closed"))
}

fn pool_error(error: PoolError) -> StorageError {
    match error {
        PoolError::Closed => closed(),
        PoolError::Timeout(TimeoutType::Wait) => {
            StorageError::Unavailable(String::from("all connections to the database are in use"))
        }
        PoolError::Timeout(_) => StorageError::Unavailable(String::from("the database does not answer")),
        PoolError::Backend(error) => unavailable(&error),
        error => StorageError::Unavailable(error.to_string()),
    }
}

impl Engine for PostgresEngine {
    fn name(&self) -> &'static str {
        "postgresql"
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Arc<dyn EngineSnapshot>, StorageError>> {
        async move {
            let mut attempt = 1;
            loop {
                let client = self.pool.get().await.map_err(pool_error)?;
                match PostgresSnapshot::begin(client).await {
                    Ok(snapshot) => return Ok(Arc::new(snapshot) as Arc<dyn EngineSnapshot>),
                    // The connection broke while it was idle, perhaps; the pool soon knows and makes another.
                    Err(StorageError::Unavailable(_)) if attempt < MOST_ATTEMPTS => attempt += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        .boxed()
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Commit, StorageError>> {
        async move {
            let (answer, outcome) = oneshot::channel();
            let command = Command::Commit(Box::new(transaction), answer);
            self.commands.send(command).await.map_err(|_| closed())?;
            outcome.await.unwrap_or_else(|_| Err(closed()))
        }
        .boxed()
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.watched.clone()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        async move {
            let (answer, outcome) = oneshot::channel();
            if self.commands.send(Command::Close(answer)).await.is_ok() {
                let _ = outcome.await;
            }
            let tasks = self.tasks.lock().take();
            if let Some(mut tasks) = tasks
                && (&mut tasks.writer).await.is_err()
            {
                return Err(StorageError::Unavailable(String::from("the writer panicked")));
            }
            self.pool.close();
            Ok(())
        }
        .boxed()
    }
}
