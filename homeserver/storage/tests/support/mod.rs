//! What the suites share: the engines that take part, the keyspaces, and small helpers.

#![allow(dead_code, reason = "each test binary uses some of it")]

pub(crate) mod postgresql;

use std::{future::Future, num::NonZeroU32, sync::Arc, time::Duration};

use entente_storage::{
    Bytes, Catalogue, Commit, Keyspace, LogPosition, LogRecord, Migration, Position, Schema, Store, Topic,
    Transaction,
    engine::{
        Engine, fjall,
        memory::Disk,
        postgresql::{Options, open},
    },
    value::Stamped,
};
use tempfile::TempDir;

use self::postgresql::TemporaryPostgres;

pub(crate) const NUMBERS: Keyspace<u64, u64> = Keyspace::new(100, "test.numbers");
/// The next number to that of [`NUMBERS`], so that a scan that runs over its end is found out.
pub(crate) const TEXTS: Keyspace<(String, u64), Bytes> = Keyspace::new(101, "test.texts");
pub(crate) const BYTES: Keyspace<Vec<u8>, Bytes> = Keyspace::new(102, "test.bytes");
pub(crate) const SIGNED: Keyspace<i64, ()> = Keyspace::new(103, "test.signed");
pub(crate) const BLOBS: Keyspace<u64, Bytes> = Keyspace::blobs(104, "test.blobs");
pub(crate) const EVENTS: Keyspace<(String, LogPosition), Stamped<u64>> = Keyspace::new(105, "test.events");
/// The last number there is: behind it nothing ends a scan.
pub(crate) const LAST: Keyspace<u64, u64> = Keyspace::new(u16::MAX, "test.last");

pub(crate) const TOPIC: Topic = Topic(1);
pub(crate) const VERSION: u32 = 1;

pub(crate) fn schema() -> Schema {
    schema_with(VERSION, Vec::new())
}

pub(crate) fn schema_with(version: u32, migrations: Vec<Migration>) -> Schema {
    let catalogue = Catalogue::new([
        NUMBERS.info(),
        TEXTS.info(),
        BYTES.info(),
        SIGNED.info(),
        BLOBS.info(),
        EVENTS.info(),
        LAST.info(),
    ]);
    Schema { catalogue, version, migrations }
}

/// Where an engine keeps its rows: outlives the engines that are opened on it. Empty when it is made.
pub(crate) trait Home: Send + Sync + Sized + 'static {
    fn new() -> impl Future<Output = Self> + Send;

    /// Opens an engine. Embedded ones must have been closed and dropped before.
    fn engine(&self) -> impl Future<Output = Arc<dyn Engine>> + Send;

    fn store(&self) -> impl Future<Output = Store> + Send {
        async { Store::open(self.engine().await, schema()).await.unwrap() }
    }

    /// Closes a store of which no clone is left, and opens it again.
    fn reopen(&self, store: Store) -> impl Future<Output = Store> + Send {
        async {
            close(store).await;
            self.store().await
        }
    }
}

/// Closes a store of which no clone is left.
pub(crate) async fn close(store: Store) {
    store.close().await.unwrap();
    drop(store);
}

pub(crate) struct Memory(pub(crate) Disk);

impl Home for Memory {
    async fn new() -> Self {
        Self(Disk::new())
    }

    async fn engine(&self) -> Arc<dyn Engine> {
        self.0.open().unwrap()
    }
}

pub(crate) struct Fjall(TempDir);

impl Home for Fjall {
    async fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    async fn engine(&self) -> Arc<dyn Engine> {
        fjall::open(self.0.path(), fjall::Options::default()).unwrap()
    }
}

/// A database of the server that the tests of one process share.
pub(crate) struct Postgresql {
    url: String,
}

impl Home for Postgresql {
    async fn new() -> Self {
        Self { url: TemporaryPostgres::shared().create_database().await }
    }

    async fn engine(&self) -> Arc<dyn Engine> {
        let options =
            Options { url: self.url.clone(), max_connections: NonZeroU32::new(6).unwrap(), ca_file: None };
        open(options).await.unwrap()
    }
}

#[cfg(feature = "engine-sled")]
pub(crate) struct Sled(TempDir);

#[cfg(feature = "engine-sled")]
impl Home for Sled {
    async fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    async fn engine(&self) -> Arc<dyn Engine> {
        entente_storage::engine::sled::open(self.0.path(), 64 * 1024 * 1024).unwrap()
    }
}

/// No test waits longer than this for anything: a hint that was missed becomes a failure and not a hang.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it comes to an end")
}

/// Commits one row.
pub(crate) async fn put_number(store: &Store, key: u64, value: u64) {
    let mut transaction = Transaction::new();
    transaction.put(&NUMBERS, key, &value);
    store.commit(transaction).await.unwrap();
}

/// Commits one log entry, and answers where it stands.
pub(crate) async fn log_one(store: &Store, payload: impl Into<Bytes>) -> LogPosition {
    let mut transaction = Transaction::new();
    transaction.log(TOPIC, payload);
    position_of(store.commit(transaction).await.unwrap())
}

pub(crate) fn position_of(commit: Commit) -> LogPosition {
    commit.position.expect("a commit with log entries has a position")
}

/// The writer and the sequence number of a position, by its text: `w3s17` is (3, 17).
pub(crate) fn writer_and_sequence(position: LogPosition) -> (u64, u64) {
    let mut place = Position::start();
    place.include(position);
    let text = place.to_string();
    let (writer, sequence) = text.split_once('s').unwrap();
    let writer = writer.strip_prefix('w').map_or(0, |writer| writer.parse().unwrap());
    (writer, sequence.parse().unwrap())
}

/// The payloads of all entries, in their order.
pub(crate) fn payloads(records: &[LogRecord]) -> Vec<String> {
    let entries = records.iter().flat_map(|record| &record.entries);
    entries.map(|entry| String::from_utf8(entry.payload.to_vec()).unwrap()).collect()
}

/// The whole log, read in pages.
pub(crate) async fn whole_log(store: &Store) -> Vec<LogRecord> {
    let mut records = Vec::new();
    let mut after = Position::start();
    loop {
        let (page, reached) = store.read_log(&after, 100).await.unwrap();
        if page.is_empty() {
            return records;
        }
        records.extend(page);
        after = reached;
    }
}

/// Numbers that come in no order, the same ones for the same seed.
pub(crate) struct Scatter(pub(crate) u64);

impl Scatter {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Bytes that do not compress.
    pub(crate) fn bytes(&mut self, length: usize) -> Bytes {
        (0..length).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}
