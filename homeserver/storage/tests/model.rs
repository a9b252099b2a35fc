//! Random histories, run on an engine and on a `BTreeMap` side by side: both must say the same at each step.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeMap, ops::Bound};

use entente_storage::{Bytes, Keyspace, Position, Scan, Snapshot, Store, Transaction, Version, value::Value};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Runtime;

use crate::support::{Fjall, Home, Memory, Postgresql, TOPIC, payloads, whole_log};

/// Small rows and large values, so that both of an engine's layouts take part.
const ROWS: Keyspace<Vec<u8>, Bytes> = support::BYTES;
const OTHERS: Keyspace<u64, Bytes> = support::BLOBS;

/// Few keys, so that histories meet; with the bytes that the codec escapes, and with prefixes of each other.
const KEYS: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"\x01", b"a", b"a\0", b"ab", b"\xff\xff"];

type Rows = BTreeMap<Vec<u8>, Bytes>;

/// What the store should hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    rows: Rows,
    others: BTreeMap<u64, Bytes>,
    log: Vec<String>,
}

#[derive(Clone, Debug)]
enum Change {
    Put(usize, Bytes),
    Delete(usize),
    PutOther(u64, Bytes),
    DeleteOther(u64),
}

#[derive(Clone, Debug)]
enum Checked {
    Absent(usize),
    Present(usize),
    /// As it is in the model, and so true.
    AsItIs(usize),
    Equals(usize, Bytes),
    Version(usize, Bytes),
}

#[derive(Clone, Debug)]
struct Ends {
    lower: Bound<usize>,
    upper: Bound<usize>,
    reverse: bool,
    limit: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Commit {
        checks: Vec<Checked>,
        changes: Vec<Change>,
        entries: usize,
        relaxed: bool,
    },
    /// Hands in the newest transaction that was applied once more.
    CommitAgain,
    GetMany(Vec<usize>),
    Scan(Ends),
    /// Keeps a snapshot, to be compared later.
    Keep,
    /// Compares what was kept.
    LookBack,
    Reopen,
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => (0..3_u8).prop_map(|byte| Bytes::from(vec![byte])),
        1 => Just(Bytes::new()),
        1 => (250..600_usize, any::<u8>()).prop_map(|(length, byte)| Bytes::from(vec![byte; length])),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let key = 0..KEYS.len();
    prop_oneof![
        4 => (key.clone(), value()).prop_map(|(key, value)| Change::Put(key, value)),
        2 => key.prop_map(Change::Delete),
        2 => (0..4_u64, value()).prop_map(|(key, value)| Change::PutOther(key, value)),
        1 => (0..4_u64).prop_map(Change::DeleteOther),
    ]
}

fn checked() -> impl Strategy<Value = Checked> {
    let key = 0..KEYS.len();
    prop_oneof![
        1 => key.clone().prop_map(Checked::Absent),
        1 => key.clone().prop_map(Checked::Present),
        4 => key.clone().prop_map(Checked::AsItIs),
        1 => (key.clone(), value()).prop_map(|(key, value)| Checked::Equals(key, value)),
        1 => (key, value()).prop_map(|(key, value)| Checked::Version(key, value)),
    ]
}

fn bound() -> impl Strategy<Value = Bound<usize>> {
    let key = 0..KEYS.len();
    prop_oneof![
        2 => Just(Bound::Unbounded),
        1 => key.clone().prop_map(Bound::Included),
        1 => key.prop_map(Bound::Excluded),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let commit = (
        prop::collection::vec(checked(), 0..3),
        prop::collection::vec(change(), 0..6),
        0..3_usize,
        any::<bool>(),
    );
    let commit = commit.prop_map(|(checks, changes, entries, relaxed)| {
        // A relaxed transaction may not log.
        Step::Commit { checks, changes, entries, relaxed: relaxed && entries == 0 }
    });
    let ends = (bound(), bound(), any::<bool>(), 1..6_usize)
        .prop_map(|(lower, upper, reverse, limit)| Step::Scan(Ends { lower, upper, reverse, limit }));
    prop_oneof![
        10 => commit,
        1 => Just(Step::CommitAgain),
        3 => prop::collection::vec(0..KEYS.len(), 0..6).prop_map(Step::GetMany),
        5 => ends,
        2 => Just(Step::Keep),
        2 => Just(Step::LookBack),
        1 => Just(Step::Reopen),
    ]
}

impl Checked {
    fn add_to(&self, transaction: &mut Transaction, model: &Model) {
        match self {
            Self::Absent(key) => transaction.check_absent(&ROWS, KEYS[*key]),
            Self::Present(key) => transaction.check_present(&ROWS, KEYS[*key]),
            Self::AsItIs(key) => transaction.check_unchanged(&ROWS, KEYS[*key], model.rows.get(KEYS[*key])),
            Self::Equals(key, value) => transaction.check_unchanged(&ROWS, KEYS[*key], Some(value)),
            Self::Version(key, value) => {
                transaction.check_version(&ROWS, KEYS[*key], Version::of(&value.encode()));
            }
        }
    }

    fn holds(&self, model: &Model) -> bool {
        match self {
            Self::Absent(key) => !model.rows.contains_key(KEYS[*key]),
            Self::Present(key) => model.rows.contains_key(KEYS[*key]),
            Self::AsItIs(_) => true,
            Self::Equals(key, value) | Self::Version(key, value) => model.rows.get(KEYS[*key]) == Some(value),
        }
    }
}

impl Change {
    fn add_to(&self, transaction: &mut Transaction) {
        match self {
            Self::Put(key, value) => transaction.put(&ROWS, KEYS[*key], value),
            Self::Delete(key) => transaction.delete(&ROWS, KEYS[*key]),
            Self::PutOther(key, value) => transaction.put(&OTHERS, *key, value),
            Self::DeleteOther(key) => transaction.delete(&OTHERS, *key),
        }
    }

    fn apply(&self, model: &mut Model) {
        match self {
            Self::Put(key, value) => model.rows.insert(KEYS[*key].to_vec(), value.clone()),
            Self::Delete(key) => model.rows.remove(KEYS[*key]),
            Self::PutOther(key, value) => model.others.insert(*key, value.clone()),
            Self::DeleteOther(key) => model.others.remove(key),
        };
    }
}

impl Ends {
    fn scan(&self) -> Scan<Vec<u8>, Bytes> {
        let scan = ROWS.scan(()).limit(self.limit);
        let scan = match self.lower {
            Bound::Unbounded => scan,
            Bound::Included(key) => scan.from(KEYS[key]),
            Bound::Excluded(key) => scan.after(KEYS[key]),
        };
        let scan = match self.upper {
            Bound::Unbounded => scan,
            Bound::Included(key) => scan.to(KEYS[key]),
            Bound::Excluded(key) => scan.before(KEYS[key]),
        };
        if self.reverse { scan.reverse() } else { scan }
    }

    fn expected(&self, rows: &Rows) -> Vec<(Vec<u8>, Bytes)> {
        // Without `BTreeMap::range`, which panics over ends that cross.
        let above = |key: &[u8]| match self.lower {
            Bound::Unbounded => true,
            Bound::Included(lower) => key >= KEYS[lower],
            Bound::Excluded(lower) => key > KEYS[lower],
        };
        let below = |key: &[u8]| match self.upper {
            Bound::Unbounded => true,
            Bound::Included(upper) => key <= KEYS[upper],
            Bound::Excluded(upper) => key < KEYS[upper],
        };
        let within = rows.iter().filter(|(key, _)| above(key) && below(key));
        let mut expected: Vec<_> = within.map(|(key, value)| (key.clone(), value.clone())).collect();
        if self.reverse {
            expected.reverse();
        }
        expected
    }
}

/// A history that is being run.
struct Run<'a, H> {
    home: &'a H,
    store: Option<Store>,
    model: Model,
    kept: Vec<(Snapshot, Model, Position)>,
    newest: Option<(Transaction, entente_storage::Commit)>,
}

impl<H: Home> Run<'_, H> {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Commit { checks, changes, entries, relaxed } => {
                let mut transaction = if *relaxed { Transaction::relaxed() } else { Transaction::new() };
                for check in checks {
                    check.add_to(&mut transaction, &self.model);
                }
                for change in changes {
                    change.add_to(&mut transaction);
                }
                for entry in 0..*entries {
                    transaction.log(TOPIC, format!("{} {entry}", self.model.log.len()));
                }
                self.commit(transaction, checks, changes, *entries).await;
            }
            Step::CommitAgain => {
                if let Some((transaction, commit)) = self.newest.clone() {
                    assert_eq!(self.store().commit(transaction).await.unwrap(), commit);
                }
            }
            Step::GetMany(keys) => {
                let keys: Vec<_> = keys.iter().map(|&key| KEYS[key]).collect();
                let snapshot = self.store().snapshot().await.unwrap();
                let found = snapshot.get_many(&ROWS, keys.iter().copied()).await.unwrap();
                assert_eq!(
                    found,
                    keys.iter().map(|&key| self.model.rows.get(key).cloned()).collect::<Vec<_>>()
                );
            }
            Step::Scan(ends) => {
                let rows = self.store().snapshot().await.unwrap().scan_all(ends.scan()).await.unwrap();
                assert_eq!(rows, ends.expected(&self.model.rows));
            }
            Step::Keep => {
                // Few: some engines keep a connection for each.
                if self.kept.len() < 2 {
                    let snapshot = self.store().snapshot().await.unwrap();
                    let position = snapshot.position().await.unwrap();
                    self.kept.push((snapshot, self.model.clone(), position));
                }
            }
            Step::LookBack => self.look_back().await,
            Step::Reopen => {
                self.look_back().await;
                let published = self.store().published();
                self.newest = None;
                self.store = Some(self.home.reopen(self.store.take().unwrap()).await);
                assert!(self.store().published().covers(&published));
                self.compare().await;
            }
        }
    }

    async fn commit(
        &mut self,
        transaction: Transaction,
        checks: &[Checked],
        changes: &[Change],
        entries: usize,
    ) {
        let outcome = self.store().commit(transaction.clone()).await;
        if checks.iter().all(|check| check.holds(&self.model)) {
            let commit = outcome.unwrap();
            assert_eq!(commit.position.is_some(), entries > 0);
            for change in changes {
                change.apply(&mut self.model);
            }
            let number = self.model.log.len();
            self.model.log.extend((0..entries).map(|entry| format!("{number} {entry}")));
            self.newest = Some((transaction, commit));
        } else {
            let error = outcome.unwrap_err();
            assert!(error.is_conflict(), "{error}");
        }
    }

    async fn look_back(&mut self) {
        for (snapshot, model, position) in self.kept.drain(..) {
            compare_rows(&snapshot, &model).await;
            assert_eq!(snapshot.position().await.unwrap(), position);
        }
    }

    async fn compare(&self) {
        compare_rows(&self.store().snapshot().await.unwrap(), &self.model).await;
        assert_eq!(payloads(&whole_log(self.store()).await), self.model.log);
    }
}

async fn compare_rows(snapshot: &Snapshot, model: &Model) {
    let rows: Rows = snapshot.scan_all(ROWS.scan(()).limit(3)).await.unwrap().into_iter().collect();
    assert_eq!(rows, model.rows);
    let others: BTreeMap<_, _> =
        snapshot.scan_all(OTHERS.scan(()).reverse().limit(3)).await.unwrap().into_iter().collect();
    assert_eq!(others, model.others);
}

async fn run<H: Home>(steps: &[Step]) {
    let home = H::new().await;
    let store = Some(home.store().await);
    let mut run = Run { home: &home, store, model: Model::default(), kept: Vec::new(), newest: None };
    for step in steps {
        run.step(step).await;
    }
    run.look_back().await;
    run.compare().await;
    let store = run.store.take().unwrap();
    drop(run);
    support::close(store).await;
}

fn check_histories<H: Home>(cases: u32, most_steps: usize) {
    let runtime = Runtime::new().unwrap();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(step(), 1..most_steps), |steps| {
        runtime.block_on(run::<H>(&steps));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn the_memory_engine_is_a_map() {
    check_histories::<Memory>(300, 60);
}

#[test]
fn fjall_is_a_map() {
    check_histories::<Fjall>(60, 60);
}

#[test]
fn postgresql_is_a_map() {
    check_histories::<Postgresql>(15, 50);
}

#[cfg(feature = "engine-sled")]
#[test]
fn sled_is_a_map() {
    check_histories::<support::Sled>(60, 60);
}
