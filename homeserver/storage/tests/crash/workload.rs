//! What is written until the crash, and how a survivor is examined.

use std::collections::BTreeMap;

use entente_storage::{Bytes, LogPosition, Position, StorageError, Store, Transaction, value::Stamped};
use tokio::task::JoinSet;

use crate::support::{
    BLOBS, EVENTS, LAST, NUMBERS, Scatter, TEXTS, TOPIC, payloads, whole_log, writer_and_sequence,
};

/// Tasks that commit at once, each its own rows.
pub(crate) const TASKS: u64 = 8;
/// Rows of [`TEXTS`] of each task; the last one comes and goes with every commit.
const TEXT_ROWS: u64 = 4;
/// Rows that relaxed commits change together.
const RELAXED_ROWS: u64 = 3;

fn room(task: u64) -> String {
    format!("!room{task}")
}

/// A value that says which commit wrote it, in each of its parts; of a length that changes.
fn value(number: u64, salt: u64, most_words: u64) -> Bytes {
    let words = 1 + Scatter(number * 31 + salt).below(most_words);
    number.to_be_bytes().repeat(usize::try_from(words).unwrap()).into()
}

fn text_rows(task: u64, number: u64) -> Vec<((String, u64), Bytes)> {
    let rows = if number.is_multiple_of(2) { TEXT_ROWS } else { TEXT_ROWS - 1 };
    (0..rows).map(|row| ((room(task), row), value(number, row, 40))).collect()
}

fn blob(task: u64, number: u64) -> Bytes {
    value(number, task, 800)
}

/// The commit `number` of a task: it changes all of the task's rows, and needs the commit before it.
pub(crate) fn transaction(task: u64, number: u64) -> Transaction {
    let mut transaction = Transaction::new();
    let before = number - 1;
    transaction.check_unchanged(&NUMBERS, task, (before > 0).then_some(&before));
    transaction.put(&NUMBERS, task, &number);
    transaction.delete(&TEXTS, (room(task), TEXT_ROWS - 1));
    for (key, value) in text_rows(task, number) {
        transaction.put(&TEXTS, key, &value);
    }
    transaction.put(&BLOBS, task, &blob(task, number));
    let event = Stamped { position: LogPosition::AT_COMMIT, value: number };
    transaction.put(&EVENTS, (room(task), LogPosition::AT_COMMIT), &event);
    transaction.log(TOPIC, format!("{task}/{number}"));
    transaction
}

fn relaxed(number: u64) -> Transaction {
    let mut transaction = Transaction::relaxed();
    for row in 0..RELAXED_ROWS {
        transaction.put(&LAST, row, &number);
    }
    transaction
}

/// Commits from several tasks until the store fails; `acknowledged` is told of each durable commit before the task makes its
/// next.
pub(crate) async fn write_until_failure(
    store: &Store,
    acknowledged: impl Fn(u64, u64) + Clone + Send + 'static,
) -> StorageError {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (store, acknowledged) = (store.clone(), acknowledged.clone());
        tasks.spawn(async move {
            let stored = store.snapshot().await?.get(&NUMBERS, task).await?.unwrap_or(0);
            for number in stored + 1.. {
                store.commit(transaction(task, number)).await?;
                acknowledged(task, number);
            }
            Ok::<_, StorageError>(())
        });
    }
    let store = store.clone();
    tasks.spawn(async move {
        for number in 1.. {
            store.commit(relaxed(number)).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    });
    let outcomes = tasks.join_all().await;
    outcomes.into_iter().find_map(Result::err).expect("a task ends when the store fails")
}

/// What is known of a store from outside: what it acknowledged, and what was found the last time.
pub(crate) struct Witness {
    acknowledged: Vec<u64>,
    logged: Vec<u64>,
    read_to: Position,
    newest: u64,
    /// Durable commits that were acknowledged.
    pub(crate) acknowledgements: u64,
    /// Commits that were found although no acknowledgement had come through.
    pub(crate) unacknowledged: u64,
}

impl Witness {
    pub(crate) fn new() -> Self {
        let tasks = usize::try_from(TASKS).unwrap();
        Self {
            acknowledged: vec![0; tasks],
            logged: vec![0; tasks],
            read_to: Position::start(),
            newest: 0,
            acknowledgements: 0,
            unacknowledged: 0,
        }
    }

    /// Notes that the store acknowledged a commit.
    pub(crate) fn acknowledged(&mut self, task: u64, number: u64) {
        let known = &mut self.acknowledged[usize::try_from(task).unwrap()];
        assert_eq!(number, *known + 1, "task {task}");
        *known = number;
        self.acknowledgements += 1;
    }

    /// The records in the log.
    pub(crate) fn log_length(&self) -> u64 {
        self.newest
    }

    /// Expects of a store that was opened again that every acknowledged commit is there, that each commit is there as a whole
    /// or not at all, and that the log goes on without a gap.
    pub(crate) async fn examine(&mut self, store: &Store) {
        self.examine_log(store).await;
        let snapshot = store.snapshot().await.unwrap();
        for task in 0..TASKS {
            let at = usize::try_from(task).unwrap();
            let number = snapshot.get(&NUMBERS, task).await.unwrap().unwrap_or(0);
            let acknowledged = self.acknowledged[at];
            assert!(
                number >= acknowledged,
                "task {task}: {acknowledged} was acknowledged, {number} is there"
            );
            // Each task waits for its acknowledgement, so one at the most is on its way.
            assert!(number <= acknowledged + 1, "task {task}: {number} is there after {acknowledged}");
            assert_eq!(self.logged[at], number, "the log of task {task} and its rows disagree");
            self.unacknowledged += number - acknowledged;
            self.acknowledged[at] = number;

            if number > 0 {
                let texts = snapshot.scan_all(TEXTS.scan((room(task),))).await.unwrap();
                assert_eq!(texts, text_rows(task, number), "task {task} is torn");
                let found = snapshot.get(&BLOBS, task).await.unwrap();
                assert_eq!(found, Some(blob(task, number)), "task {task} is torn");
            }
            let newest = snapshot.scan(&EVENTS.scan((room(task),)).reverse().limit(1)).await.unwrap().rows;
            assert_eq!(newest.first().map_or(0, |(_, event)| event.value), number, "task {task} is torn");
        }
        let relaxed = snapshot.get_many(&LAST, 0..RELAXED_ROWS).await.unwrap();
        assert!(relaxed.iter().all(|row| *row == relaxed[0]), "a relaxed commit is torn: {relaxed:?}");
    }

    async fn examine_log(&mut self, store: &Store) {
        loop {
            let (records, reached) = store.read_log(&self.read_to, 1_000).await.unwrap();
            for record in &records {
                let (writer, sequence) = writer_and_sequence(record.position);
                assert_eq!((writer, sequence), (0, self.newest + 1), "the log has a gap");
                self.newest = sequence;
            }
            for (task, number) in payloads(&records).iter().map(|payload| parse(payload)) {
                let logged = &mut self.logged[usize::try_from(task).unwrap()];
                assert_eq!(number, *logged + 1, "the log of task {task} has a gap");
                *logged = number;
            }
            if records.is_empty() {
                assert_eq!(self.read_to, store.published(), "the log ends before its head");
                return;
            }
            self.read_to = reached;
        }
    }

    /// Reads everything there is from the start: each record with the row that it was written with.
    pub(crate) async fn examine_all(&self, store: &Store) {
        let log = whole_log(store).await;
        assert_eq!(log.len() as u64, self.newest);
        let snapshot = store.snapshot().await.unwrap();
        let events = snapshot.scan_all(EVENTS.scan(())).await.unwrap();
        let mut rows = BTreeMap::new();
        for ((room, position), event) in events {
            assert_eq!(event.position, position);
            rows.insert(position, (room, event.value));
        }
        assert_eq!(rows.len(), log.len());
        for (record, payload) in log.iter().zip(payloads(&log)) {
            let (task, number) = parse(&payload);
            assert_eq!(rows.get(&record.position), Some(&(room(task), number)));
        }
    }
}

/// The task and the number in `task/number`.
pub(crate) fn parse(text: &str) -> (u64, u64) {
    let (task, number) = text.split_once('/').unwrap();
    (task.parse().unwrap(), number.parse().unwrap())
}
