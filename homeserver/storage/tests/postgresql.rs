//! What only PostgreSQL has: several processes over one database, lost connections, servers that crash.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the counts are what one wants to see")]

mod support;

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use entente_storage::{
    Bytes, Catalogue, Keyspace, LogRecord, Position, Schema, StorageError, Store, Topic, Transaction,
    engine::postgresql::{self, Options},
};
use support::postgresql::TemporaryPostgres;

const ROWS: Keyspace<(u64, u64), u64> = Keyspace::new(100, "test.rows");
const COUNTER: Keyspace<String, u64> = Keyspace::new(101, "test.counter");
const TOPIC: Topic = Topic(1);
/// What should happen soon happens within this time.
const SOON: Duration = Duration::from_secs(60);

fn options(url: &str) -> Options {
    Options { url: url.to_owned(), max_connections: NonZeroU32::new(8).unwrap(), ca_file: None }
}

async fn open(url: &str) -> Store {
    let catalogue = Catalogue::new([ROWS.info(), COUNTER.info()]);
    let schema = Schema { catalogue, version: 1, migrations: Vec::new() };
    Store::open(postgresql::open(options(url)).await.unwrap(), schema).await.unwrap()
}

async fn whole_log(store: &Store) -> Vec<LogRecord> {
    let (mut all, mut known) = (Vec::new(), Position::start());
    loop {
        let (records, reached) = store.read_log(&known, 500).await.unwrap();
        if records.is_empty() {
            return all;
        }
        all.extend(records);
        known = reached;
    }
}

fn payloads(records: &[LogRecord]) -> Vec<Bytes> {
    records.iter().flat_map(|record| &record.entries).map(|entry| entry.payload.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_a_database() {
    let url = TemporaryPostgres::shared().create_database().await;
    let (one, other) = (open(&url).await, open(&url).await);
    let mut watch = one.watch();
    let mut known = one.published();
    for number in 0..50 {
        let mut transaction = Transaction::new();
        transaction.put(&ROWS, (1, number), &number);
        transaction.log(TOPIC, number.to_string());
        other.commit(transaction).await.unwrap();
        // Woken by the other process, and what it wrote is there to be read.
        known = tokio::time::timeout(SOON, watch.beyond(&known)).await.expect("woken").unwrap();
        let read = one.snapshot().await.unwrap().get(&ROWS, (1, number)).await.unwrap();
        assert_eq!(read, Some(number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_of_several_processes_all_count() {
    const EACH: u64 = 40;
    let url = TemporaryPostgres::shared().create_database().await;
    let stores = [open(&url).await, open(&url).await, open(&url).await];
    let tasks: Vec<_> = stores
        .iter()
        .cloned()
        .map(|store| {
            tokio::spawn(async move {
                for _ in 0..EACH {
                    let increment = store.run(async |snapshot| {
                        let read = snapshot.get(&COUNTER, "shared").await?;
                        let mut transaction = Transaction::new();
                        transaction.check_unchanged(&COUNTER, "shared", read.as_ref());
                        transaction.put(&COUNTER, "shared", &(read.unwrap_or_default() + 1));
                        transaction.log(TOPIC, "increment");
                        Ok::<_, StorageError>((transaction, ()))
                    });
                    increment.await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let total = u64::try_from(stores.len()).unwrap() * EACH;
    let snapshot = stores[0].snapshot().await.unwrap();
    assert_eq!(snapshot.get(&COUNTER, "shared").await.unwrap(), Some(total));
    assert_eq!(u64::try_from(whole_log(&stores[1]).await.len()).unwrap(), total);
}

#[tokio::test(flavor = "multi_thread")]
async fn write_skew_between_processes_is_detected() {
    let url = TemporaryPostgres::shared().create_database().await;
    let (one, other) = (open(&url).await, open(&url).await);
    for round in 0..30 {
        let (mine, theirs) = (format!("mine{round}"), format!("theirs{round}"));
        let leave = async |store: &Store, me: &str, partner: &str| {
            let partner_left = store.snapshot().await.unwrap().get(&COUNTER, partner).await.unwrap();
            let mut transaction = Transaction::new();
            transaction.check_unchanged(&COUNTER, partner, partner_left.as_ref());
            transaction.put(&COUNTER, me, &1);
            transaction
        };
        let (first, second) = (leave(&one, &mine, &theirs).await, leave(&other, &theirs, &mine).await);
        let (first, second) = tokio::join!(one.commit(first), other.commit(second));
        assert!(first.is_ok() != second.is_ok(), "exactly one may leave: {first:?}, {second:?}");
    }
}

/// Writers go on while connections are cut, or the server crashes, again and again. What was acknowledged is there, once;
/// what was not may be there, once, or not.
async fn nothing_is_lost_or_doubled(store: &Store, disturb: impl AsyncFn()) {
    const TASKS: u64 = 6;
    const ROUNDS: u32 = 8;
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, stop) = (store.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut acknowledged = BTreeSet::new();
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut transaction = Transaction::new();
                    // Twice the same would be seen: the second time the row is there.
                    transaction.check_absent(&ROWS, (task, number));
                    transaction.put(&ROWS, (task, number), &number);
                    transaction.log(TOPIC, format!("{task}:{number}"));
                    match store.commit(transaction).await {
                        Ok(_) => _ = acknowledged.insert(number),
                        Err(StorageError::Conflict { .. }) => panic!("{task}:{number} was written twice"),
                        Err(_) => {}
                    }
                    number += 1;
                }
                (task, acknowledged)
            })
        })
        .collect();
    for _ in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(150)).await;
        disturb().await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let mut logged = BTreeSet::new();
    let log = whole_log(store).await;
    let mut count = 0;
    for task in tasks {
        let (task, acknowledged) = tokio::time::timeout(SOON, task).await.expect("it goes on").unwrap();
        count += acknowledged.len();
        if logged.is_empty() {
            let log = whole_log(store).await;
            for payload in payloads(&log) {
                assert!(logged.insert(payload.clone()), "{payload:?} is in the log twice");
            }
        }
        let snapshot = store.snapshot().await.unwrap();
        for number in acknowledged {
            let row = snapshot.get(&ROWS, (task, number)).await.unwrap();
            assert_eq!(row, Some(number), "{task}:{number} was acknowledged and is lost");
        }
    }
    let log_after = whole_log(store).await;
    assert!(log_after.len() >= log.len() && log_after.len() >= count, "{} of {count}", log_after.len());
    println!("{count} commits acknowledged, {} in the log, {ROUNDS} disturbances", log_after.len());
    assert!(count > 50, "there was traffic: {count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_lose_nothing() {
    let server = TemporaryPostgres::shared();
    let url = server.create_database().await;
    let database = url.rsplit_once('/').unwrap().1.to_owned();
    let store = open(&url).await;
    let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'");
    nothing_is_lost_or_doubled(&store, async || server.execute(&cut).await).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_loses_nothing() {
    let server = Arc::new(TemporaryPostgres::start());
    let url = server.create_database().await;
    let store = open(&url).await;
    let crash = async || {
        let server = Arc::clone(&server);
        tokio::task::spawn_blocking(move || server.crash_and_restart()).await.unwrap();
    };
    nothing_is_lost_or_doubled(&store, crash).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_snapshots_than_connections_wait_for_their_turn() {
    let url = TemporaryPostgres::shared().create_database().await;
    let store = open(&url).await;
    let readers: Vec<_> = (0..64)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let snapshot = store.snapshot().await?;
                snapshot.get(&ROWS, (number, 0)).await
            })
        })
        .collect();
    for reader in readers {
        assert_eq!(tokio::time::timeout(SOON, reader).await.unwrap().unwrap().unwrap(), None);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_database_is_said_without_its_password() {
    let url = TemporaryPostgres::shared().create_database().await;
    let refused = async |url: &str| match postgresql::open(options(url)).await {
        Ok(_) => panic!("{url} opens"),
        Err(error) => error.to_string(),
    };
    let elsewhere = url.rsplit_once('/').unwrap().0.replace("entente@", "entente:s3cret@");
    let missing = refused(&format!("{elsewhere}/no_such_database")).await;
    assert!(missing.contains("no_such_database") && !missing.contains("s3cret"), "{missing}");
    let unreachable = refused("postgresql://entente:s3cret@127.0.0.1:1/entente").await;
    assert!(!unreachable.contains("s3cret"), "{unreachable}");
    let malformed = refused("postgresql://entente:s3cret@127.0.0.1:port/entente").await;
    assert!(!malformed.contains("s3cret"), "{malformed}");
    let unencrypted = refused(&format!("{url}?sslmode=require")).await;
    assert!(unencrypted.to_lowercase().contains("tls"), "{unencrypted}");
}
