//! What single operations of each engine cost. Read the ratios between engines, not the figures: see docs/benchmarks.md.

mod support;

use std::{hint::black_box, time::Duration};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use entente_storage::{
    Bytes, Catalogue, Keyspace, Schema, Snapshot, StorageError, Store, Topic, Transaction,
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::support::{Candidate, Home, Stopwatch};

const ROWS: Keyspace<u64, Bytes> = Keyspace::new(100, "bench.rows");
const COUNTER: Keyspace<u8, u64> = Keyspace::new(101, "bench.counter");
const TOPIC: Topic = Topic(1);

/// Rows that are there before reading is measured.
const STORED_ROWS: u64 = 100_000;
const VALUE_BYTES: usize = 200;

fn value(number: u64) -> Bytes {
    number.to_be_bytes().repeat(VALUE_BYTES / 8).into()
}

/// A store for one benchmark.
struct Fixture {
    runtime: Runtime,
    store: Store,
    // Behind the store: its files go when the store is closed.
    _home: Home,
}

impl Fixture {
    fn new(candidate: &Candidate) -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let home = runtime.block_on(Home::new(candidate));
        let store = runtime.block_on(async {
            let catalogue = Catalogue::new([ROWS.info(), COUNTER.info()]);
            let schema = Schema { catalogue, version: 1, migrations: Vec::new() };
            Store::open(home.open().await?, schema).await
        });
        Self { runtime, store: store.expect("the store opens"), _home: home }
    }

    fn filled(candidate: &Candidate) -> Self {
        let fixture = Self::new(candidate);
        fixture.runtime.block_on(async {
            for first in (0..STORED_ROWS).step_by(1_000) {
                let mut transaction = Transaction::new();
                for number in first..first + 1_000 {
                    transaction.put(&ROWS, number, &value(number));
                }
                fixture.store.commit(transaction).await.expect("rows can be stored");
            }
        });
        fixture
    }

    fn snapshot(&self) -> Snapshot {
        self.runtime.block_on(self.store.snapshot()).expect("a snapshot can be taken")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.runtime.block_on(self.store.close()).expect("the store closes");
    }
}

/// Numbers that come in no order, the same ones in each run.
struct Scatter(u64);

impl Scatter {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % STORED_ROWS
    }
}

fn one_row(number: u64, durable: bool) -> Transaction {
    let mut transaction = if durable { Transaction::new() } else { Transaction::relaxed() };
    transaction.put(&ROWS, number, &value(number));
    if durable {
        transaction.log(TOPIC, Bytes::from_static(b"bench"));
    }
    transaction
}

/// Lets `tasks` writers commit `commits` transactions between them.
async fn commit_concurrently(store: &Store, tasks: u64, commits: u64, durable: bool) -> Duration {
    let watch = Stopwatch::start();
    let mut writers = JoinSet::new();
    for task in 0..tasks {
        let store = store.clone();
        let share = commits / tasks + u64::from(task < commits % tasks);
        writers.spawn(async move {
            for number in 0..share {
                store.commit(one_row(number * tasks + task, durable)).await?;
            }
            Ok::<_, StorageError>(())
        });
    }
    while let Some(outcome) = writers.join_next().await {
        outcome.expect("a writer does not panic").expect("a commit succeeds");
    }
    watch.elapsed()
}

fn commits(group: &mut BenchmarkGroup<'_, WallTime>, candidate: &Candidate, tasks: u64, durable: bool) {
    let fixture = Fixture::new(candidate);
    group.throughput(Throughput::Elements(1));
    group.bench_function(candidate.name(), |bencher| {
        bencher.to_async(&fixture.runtime).iter_custom(|commits| {
            let store = fixture.store.clone();
            async move { commit_concurrently(&store, tasks, commits, durable).await }
        });
    });
}

async fn count_up(store: Store, times: u64) -> Result<(), StorageError> {
    for _ in 0..times {
        let increment = async |snapshot: Snapshot| {
            let count = snapshot.get(&COUNTER, 0).await?;
            let mut transaction = Transaction::new();
            transaction.check_unchanged(&COUNTER, 0, count.as_ref());
            transaction.put(&COUNTER, 0, &(count.unwrap_or(0) + 1));
            Ok::<_, StorageError>((transaction, ()))
        };
        store.run(increment).await?;
    }
    Ok(())
}

fn contended(group: &mut BenchmarkGroup<'_, WallTime>, candidate: &Candidate) {
    const TASKS: u64 = 8;
    let fixture = Fixture::new(candidate);
    group.throughput(Throughput::Elements(1));
    group.bench_function(candidate.name(), |bencher| {
        bencher.to_async(&fixture.runtime).iter_custom(|increments| {
            let store = fixture.store.clone();
            async move {
                let watch = Stopwatch::start();
                let mut tasks = JoinSet::new();
                for task in 0..TASKS {
                    let share = increments / TASKS + u64::from(task < increments % TASKS);
                    tasks.spawn(count_up(store.clone(), share));
                }
                while let Some(outcome) = tasks.join_next().await {
                    outcome.expect("a task does not panic").expect("every increment gets through");
                }
                watch.elapsed()
            }
        });
    });
}

fn gets(group: &mut BenchmarkGroup<'_, WallTime>, candidate: &Candidate, batch: u64) {
    let fixture = Fixture::filled(candidate);
    let snapshot = fixture.snapshot();
    let mut scatter = Scatter(1);
    group.throughput(Throughput::Elements(batch));
    group.bench_function(candidate.name(), |bencher| {
        bencher.iter(|| {
            let keys: Vec<u64> = (0..batch).map(|_| scatter.next()).collect();
            let rows = fixture.runtime.block_on(snapshot.get_many(&ROWS, keys));
            assert!(black_box(rows.expect("rows can be read")).iter().all(Option::is_some));
        });
    });
    drop(snapshot);
}

fn scans(group: &mut BenchmarkGroup<'_, WallTime>, candidate: &Candidate, rows: usize) {
    let fixture = Fixture::filled(candidate);
    let snapshot = fixture.snapshot();
    let mut scatter = Scatter(1);
    group.throughput(Throughput::Elements(rows as u64));
    group.bench_function(candidate.name(), |bencher| {
        bencher.iter(|| {
            let first = scatter.next().min(STORED_ROWS - rows as u64);
            let scan = ROWS.scan(()).from(first).limit(rows);
            let page = fixture.runtime.block_on(snapshot.scan(&scan));
            assert_eq!(black_box(page.expect("rows can be read")).rows.len(), rows);
        });
    });
    drop(snapshot);
}

fn engines(criterion: &mut Criterion) {
    type Case = (&'static str, fn(&mut BenchmarkGroup<'_, WallTime>, &Candidate));
    let cases: [Case; 9] = [
        ("durable commit, 1 writer", |group, candidate| commits(group, candidate, 1, true)),
        ("durable commit, 64 writers", |group, candidate| commits(group, candidate, 64, true)),
        ("relaxed commit, 1 writer", |group, candidate| commits(group, candidate, 1, false)),
        ("relaxed commit, 64 writers", |group, candidate| commits(group, candidate, 64, false)),
        ("contended increment, 8 tasks", contended),
        ("get, 1 row", |group, candidate| gets(group, candidate, 1)),
        ("get, 100 rows", |group, candidate| gets(group, candidate, 100)),
        ("scan, 100 rows", |group, candidate| scans(group, candidate, 100)),
        ("scan, 10000 rows", |group, candidate| scans(group, candidate, 10_000)),
    ];
    for (name, run) in cases {
        let mut group = criterion.benchmark_group(name);
        for candidate in Candidate::all() {
            run(&mut group, &candidate);
        }
        group.finish();
    }
}

criterion_group!(benches, engines);
criterion_main!(benches);
