//! The group committer of the embedded engines: one thread owns the engine, takes what waits, decides it in order, commits
//! once, syncs once, publishes the new view, and only then answers.
//!
//! Readers never see what is not yet on disk: [`LocalStore::snapshot`] hands out the view that the writer published last.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    Engine, EngineSnapshot, RowKey, RowPage, RowRange,
    group::{Group, MergedWrites, RecentOutcomes, position_of},
};
use crate::{Commit, Keyspace, LogPosition, Position, StorageError, Transaction, WriterId, log::HEADS};

/// Transactions that wait at the most before callers wait to hand theirs in.
const QUEUE_LENGTH: usize = 4_096;
/// Transactions in a group commit at the most.
const MOST_IN_GROUP: usize = 512;
/// Relaxed commits are on disk after this time at the latest.
const RELAXED_SYNC_AFTER: Duration = Duration::from_secs(1);

/// What an embedded engine does on the writer thread.
pub(crate) trait LocalEngine: Send + 'static {
    /// A consistent, immutable view of its rows.
    type View: LocalView;
    /// As the configuration spells it.
    const NAME: &'static str;

    /// The newest value of a row.
    fn get(&mut self, key: &RowKey) -> Result<Option<Bytes>, StorageError>;

    /// Writes all rows or none; if `durable`, they are on disk when this returns.
    fn apply(&mut self, merged: &MergedWrites) -> Result<(), StorageError>;

    /// Puts on disk what was applied without being durable.
    fn sync(&mut self) -> Result<(), StorageError>;

    /// The rows as they are now.
    fn view(&mut self) -> Self::View;
}

/// A consistent view of an embedded engine.
pub(crate) trait LocalView: Send + Sync + 'static {
    /// Whether reading can wait for the disk.
    const BLOCKS: bool;

    fn get(&self, key: &RowKey) -> Result<Option<Bytes>, StorageError>;

    fn scan(&self, range: &RowRange) -> Result<RowPage, StorageError>;
}

/// An embedded engine behind its writer thread.
pub(crate) struct LocalStore<E: LocalEngine> {
    commands: mpsc::Sender<Command>,
    published: Arc<ArcSwap<LocalSnapshot<E::View>>>,
    positions: watch::Receiver<Position>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Commit(Box<Transaction>, oneshot::Sender<Result<Commit, StorageError>>),
    Close(oneshot::Sender<Result<(), StorageError>>),
}

struct LocalSnapshot<V> {
    view: Arc<V>,
    position: Position,
    pace: Arc<Pace>,
}

/// How quick reads are. As long as rows come from memory, handing a read to another thread costs several times the read; so it
/// runs where it is asked for. Once some had to wait for the disk, the next ones go to threads that may wait.
struct Pace {
    began: Instant,
    /// Until when reads are expected to wait: microseconds after `began`.
    slow_until: AtomicU64,
    /// Until when slow reads are counted, in the same, and how many there were.
    counting_until: AtomicU64,
    slow_reads: AtomicU64,
}

/// A read that takes longer has waited for the disk, or for a processor that others had.
const QUICK_READ: Duration = Duration::from_millis(1);
/// After so many of them within [`SLOW_FOR`] it was the disk. On a busy machine one or two wait for a processor, and those that
/// come after them are better read in place.
const MOST_SLOW_READS: u64 = 4;
/// For so long after them, others are expected to wait too.
const SLOW_FOR: Duration = Duration::from_millis(50);

impl Pace {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            slow_until: AtomicU64::new(0),
            counting_until: AtomicU64::new(0),
            slow_reads: AtomicU64::new(0),
        }
    }

    /// Runs a read here if it is expected to be quick.
    fn run<T, F: FnOnce() -> T>(&self, read: F) -> Result<T, F> {
        let now = Instant::now();
        if micros(now.duration_since(self.began)) < self.slow_until.load(Ordering::Relaxed) {
            return Err(read);
        }
        let outcome = read();
        let after = Instant::now();
        if after.duration_since(now) > QUICK_READ {
            self.note_slow_read(after.duration_since(self.began));
        }
        Ok(outcome)
    }

    /// What threads that count at the same time miss of each other only makes it a little later.
    fn note_slow_read(&self, now: Duration) {
        let until = micros(now + SLOW_FOR);
        if micros(now) >= self.counting_until.load(Ordering::Relaxed) {
            self.counting_until.store(until, Ordering::Relaxed);
            self.slow_reads.store(0, Ordering::Relaxed);
        }
        if self.slow_reads.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_SLOW_READS {
            self.slow_until.fetch_max(until, Ordering::Relaxed);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl<E: LocalEngine> LocalStore<E> {
    /// Starts the writer thread. Must be called on a Tokio runtime with timers.
    pub(crate) fn start(mut engine: E) -> Result<Self, StorageError> {
        let view = engine.view();
        let position = stored_heads(&view)?;
        let pace = Arc::new(Pace::new());
        let snapshot =
            LocalSnapshot { view: Arc::new(view), position: position.clone(), pace: Arc::clone(&pace) };
        let published = Arc::new(ArcSwap::from_pointee(snapshot));
        let (publish_position, positions) = watch::channel(position.clone());
        let (commands, queue) = mpsc::channel(QUEUE_LENGTH);
        let writer = Writer {
            engine,
            queue,
            sequence: position.sequence_of(WriterId::SINGLE),
            position,
            sync_by: None,
            recent: RecentOutcomes::default(),
            published: Arc::clone(&published),
            positions: publish_position,
            runtime: Handle::current(),
            pace,
        };
        let writer =
            std::thread::Builder::new().name(String::from("storage-writer")).spawn(|| writer.run())?;
        Ok(Self { commands, published, positions, writer: Mutex::new(Some(writer)) })
    }
}

fn stored_heads(view: &impl LocalView) -> Result<Position, StorageError> {
    let mut position = Position::start();
    let mut next = Some(RowRange::all_of(HEADS.info(), usize::MAX));
    while let Some(mut range) = next {
        let page = view.scan(&range)?;
        for (key, value) in &page.rows {
            let writer = Keyspace::<WriterId, u64>::decode_key(HEADS.info(), key)?;
            let sequence = Keyspace::<WriterId, u64>::decode_value(HEADS.info(), value)?;
            position.include(LogPosition { writer, sequence });
        }
        next = page.next().map(|at| {
            range.resume(at);
            range
        });
    }
    Ok(position)
}

fn closed() -> StorageError {
    StorageError::Unavailable(String::from("the store was closed"))
}

impl<E: LocalEngine> Engine for LocalStore<E> {
    fn name(&self) -> &'static str {
        E::NAME
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Arc<dyn EngineSnapshot>, StorageError>> {
        let snapshot: Arc<dyn EngineSnapshot> = self.published.load_full();
        std::future::ready(Ok(snapshot)).boxed()
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
        self.positions.clone()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        async move {
            let (answer, outcome) = oneshot::channel();
            if self.commands.send(Command::Close(answer)).await.is_err() {
                return Ok(());
            }
            let outcome = outcome.await.unwrap_or(Ok(()));
            let writer = self.writer.lock().take();
            if let Some(writer) = writer {
                let joined = tokio::task::spawn_blocking(|| writer.join()).await;
                if !matches!(joined, Ok(Ok(()))) {
                    return Err(StorageError::Unavailable(String::from("the writer thread panicked")));
                }
            }
            outcome
        }
        .boxed()
    }
}

impl<V: LocalView> EngineSnapshot for LocalSnapshot<V> {
    fn position(&self) -> BoxFuture<'_, Result<Position, StorageError>> {
        std::future::ready(Ok(self.position.clone())).boxed()
    }

    fn get_many(&self, keys: Vec<RowKey>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StorageError>> {
        self.read(move |view| keys.iter().map(|key| view.get(key)).collect())
    }

    fn scan(&self, range: RowRange) -> BoxFuture<'_, Result<RowPage, StorageError>> {
        self.read(move |view| view.scan(&range))
    }
}

impl<V: LocalView> LocalSnapshot<V> {
    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&V) -> Result<T, StorageError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StorageError>> {
        if !V::BLOCKS {
            return std::future::ready(work(&self.view)).boxed();
        }
        let view = Arc::clone(&self.view);
        match self.pace.run(move || work(&view)) {
            Ok(outcome) => std::future::ready(outcome).boxed(),
            Err(read) => async move {
                let outcome = tokio::task::spawn_blocking(read).await;
                outcome
                    .unwrap_or_else(|_| Err(StorageError::Unavailable(String::from("a read was abandoned"))))
            }
            .boxed(),
        }
    }
}

/// The writer thread.
struct Writer<E: LocalEngine> {
    engine: E,
    queue: mpsc::Receiver<Command>,
    sequence: u64,
    /// How far the log reaches, other writers' commits included: a restored store can have some.
    position: Position,
    /// When the oldest relaxed commit that is not on disk yet has to be.
    sync_by: Option<Instant>,
    recent: RecentOutcomes,
    published: Arc<ArcSwap<LocalSnapshot<E::View>>>,
    positions: watch::Sender<Position>,
    runtime: Handle,
    pace: Arc<Pace>,
}

/// A transaction that waits for an answer.
type Waiting = (Box<Transaction>, oneshot::Sender<Result<Commit, StorageError>>);

impl<E: LocalEngine> Writer<E> {
    fn run(mut self) {
        let runtime = self.runtime.clone();
        let _timers = runtime.enter();
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = self.next_command() else { break };
            let mut waiting = Vec::new();
            let mut command = Some(first);
            while let Some(taken) = command {
                match taken {
                    Command::Commit(transaction, answer) => waiting.push((transaction, answer)),
                    Command::Close(answer) => {
                        self.queue.close();
                        closing = Some(answer);
                    }
                }
                command = if waiting.len() < MOST_IN_GROUP { self.queue.try_recv().ok() } else { None };
            }
            self.commit_group(waiting);
        }
        while let Ok(Command::Commit(transaction, answer)) = self.queue.try_recv() {
            self.commit_group(vec![(transaction, answer)]);
        }
        let outcome = self.engine.sync();
        // The engine's files are closed before anyone is told so.
        drop(self.engine);
        drop(self.published);
        if let Some(answer) = closing {
            let _ = answer.send(outcome);
        }
    }

    /// The next command; `None` when all handles are gone. Syncs relaxed commits when their time has come, also when there is
    /// always a next command.
    fn next_command(&mut self) -> Option<Command> {
        while let Some(sync_by) = self.sync_by {
            if Instant::now() < sync_by {
                let next = async { tokio::time::timeout_at(sync_by, self.queue.recv()).await };
                if let Ok(command) = self.runtime.block_on(next) {
                    return command;
                }
            }
            self.sync_by = None;
            if let Err(error) = self.engine.sync() {
                tracing::error!(%error, "syncing relaxed commits failed");
                self.sync_by = Some(Instant::now() + RELAXED_SYNC_AFTER);
            }
        }
        self.queue.blocking_recv()
    }

    fn commit_group(&mut self, waiting: Vec<Waiting>) {
        let mut group = Group::new(WriterId::SINGLE, self.sequence);
        let mut answers = Vec::with_capacity(waiting.len());
        for (transaction, answer) in waiting {
            let outcome = match self.recent.get(transaction.id) {
                Some(commit) => Ok(commit),
                None => group.admit(*transaction, |key| self.engine.get(key)),
            };
            answers.push((answer, outcome));
        }
        let failure = group.finish().and_then(|merged| self.write(&merged).err());
        for (answer, outcome) in answers {
            let outcome = match &failure {
                Some(error) => outcome.and(Err(error.clone())),
                None => outcome,
            };
            // A caller that went away does not withdraw its transaction.
            let _ = answer.send(outcome);
        }
    }

    fn write(&mut self, merged: &MergedWrites) -> Result<(), StorageError> {
        self.engine.apply(merged)?;
        let view = Arc::new(self.engine.view());
        self.sync_by = match self.sync_by {
            _ if merged.durable => None,
            None => Some(Instant::now() + RELAXED_SYNC_AFTER),
            earlier => earlier,
        };
        self.sequence = merged.sequence;
        self.recent.remember(&merged.admitted);
        self.position.join(&position_of(WriterId::SINGLE, self.sequence));
        let position = self.position.clone();
        let pace = Arc::clone(&self.pace);
        self.published.store(Arc::new(LocalSnapshot { view, position: position.clone(), pace }));
        self.positions.send_if_modified(|published| {
            let grew = *published != position;
            *published = position;
            grew
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow_until(pace: &Pace) -> Duration {
        Duration::from_micros(pace.slow_until.load(Ordering::Relaxed))
    }

    #[test]
    fn a_slow_read_now_and_then_was_not_the_disk() {
        let pace = Pace::new();
        for number in 0..20 {
            pace.note_slow_read(Duration::from_millis(number * 20));
        }
        assert_eq!(slow_until(&pace), Duration::ZERO);
    }

    #[test]
    fn slow_reads_that_follow_each_other_were() {
        let pace = Pace::new();
        for at in [100, 103, 110] {
            pace.note_slow_read(Duration::from_millis(at));
        }
        assert_eq!(slow_until(&pace), Duration::ZERO);
        pace.note_slow_read(Duration::from_millis(120));
        assert_eq!(slow_until(&pace), Duration::from_millis(170));
    }
}
