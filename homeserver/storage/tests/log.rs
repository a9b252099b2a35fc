//! The log with several writers: stores of several processes over one database, as PostgreSQL has them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use entente_storage::{
    Follower, LogRecord, Migration, Position, StartFrom, StorageError, Store, Transaction,
};
use tokio::task::JoinSet;

use crate::support::{
    Home, NUMBERS, Postgresql, TOPIC, close, log_one, payloads, put_number, schema_with, whole_log, within,
    writer_and_sequence,
};

/// Expects that each writer's numbers are there from 1 on, in order and without a gap, and answers how many writers there are.
fn expect_dense(records: &[LogRecord]) -> usize {
    let mut newest = BTreeMap::new();
    for record in records {
        let (writer, sequence) = writer_and_sequence(record.position);
        let before = newest.insert(writer, sequence).unwrap_or(0);
        assert_eq!(sequence, before + 1, "writer {writer}");
    }
    newest.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_skip_nothing_of_several_writers() {
    const COMMITS: usize = 240;
    let home = Postgresql::new().await;
    let stores = [home.store().await, home.store().await, home.store().await];
    let mut followers = JoinSet::new();
    for (number, limit) in [1, 7, 1_000].into_iter().enumerate() {
        let store = stores[number].clone();
        followers.spawn(async move {
            let mut follower =
                Follower::open(&store, &format!("reader {number}"), StartFrom::Beginning).await.unwrap();
            let mut seen = Vec::new();
            while seen.len() < COMMITS {
                let records = follower.next(limit).await.unwrap();
                assert!(!records.is_empty() && records.len() <= limit);
                // What is told of can be read, wherever it was written.
                let snapshot = store.snapshot().await.unwrap();
                let keys: Vec<u64> =
                    payloads(&records).iter().map(|payload| payload.parse().unwrap()).collect();
                let rows = snapshot.get_many(&NUMBERS, &keys).await.unwrap();
                assert!(rows.iter().all(Option::is_some), "{keys:?}: {rows:?}");
                seen.extend(records);
                follower.advance().await.unwrap();
            }
            seen
        });
    }
    let mut committers = JoinSet::new();
    for committer in 0..12 {
        let store = stores[committer % 3].clone();
        committers.spawn(async move {
            for number in 0..COMMITS / 12 {
                let key = (committer * 1_000 + number) as u64;
                let mut transaction = Transaction::new();
                transaction.put(&NUMBERS, key, &key);
                transaction.log(TOPIC, key.to_string());
                store.commit(transaction).await.unwrap();
            }
        });
    }
    within(committers.join_all()).await;
    for seen in within(followers.join_all()).await {
        assert_eq!(seen.len(), COMMITS);
        assert_eq!(expect_dense(&seen), 3);
        let keys: BTreeSet<_> = payloads(&seen).into_iter().collect();
        assert_eq!(keys.len(), COMMITS, "something was handed out twice");
    }
    assert_eq!(whole_log(&stores[0]).await.len(), COMMITS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_seen_and_announced_everywhere() {
    let home = Postgresql::new().await;
    let (here, there) = (home.store().await, home.store().await);
    let mut watch = there.watch();
    for number in 0..20 {
        let known = there.published();
        let position = log_one(&here, number.to_string()).await;
        // Acknowledged here: visible there at once, and announced soon.
        let visible = there.snapshot().await.unwrap().position().await.unwrap();
        assert!(visible.includes(position));
        let reached = within(watch.beyond(&known)).await.unwrap();
        assert!(reached.includes(position));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_do_not_overwrite_each_other() {
    let home = Postgresql::new().await;
    let stores = [home.store().await, home.store().await];
    let mut writers = JoinSet::new();
    for writer in 0..6 {
        let store = stores[writer % 2].clone();
        writers.spawn(async move {
            for _ in 0..10 {
                let increment = store.run(|snapshot| async move {
                    let count = snapshot.get(&NUMBERS, 0).await?;
                    let mut transaction = Transaction::new();
                    transaction.check_unchanged(&NUMBERS, 0, count.as_ref());
                    transaction.put(&NUMBERS, 0, &(count.unwrap_or(0) + 1));
                    transaction.log(TOPIC, "counted");
                    Ok::<_, StorageError>((transaction, ()))
                });
                increment.await.unwrap();
            }
        });
    }
    within(writers.join_all()).await;
    assert_eq!(stores[0].snapshot().await.unwrap().get(&NUMBERS, 0).await.unwrap(), Some(60));
    let log = whole_log(&stores[1]).await;
    assert_eq!((log.len(), expect_dense(&log)), (60, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_skew_between_writers_is_detected() {
    let home = Postgresql::new().await;
    let stores = [home.store().await, home.store().await];
    for round in 0..20_u64 {
        let rows = [2 * round, 2 * round + 1];
        put_number(&stores[0], rows[0], 1).await;
        put_number(&stores[0], rows[1], 1).await;
        // Each reads the other's row and clears its own.
        let leave = |reads: u64, clears: u64| {
            let mut transaction = Transaction::new();
            transaction.check_unchanged(&NUMBERS, reads, Some(&1));
            transaction.put(&NUMBERS, clears, &0);
            transaction
        };
        let (first, second) = within(async {
            tokio::join!(stores[0].commit(leave(rows[0], rows[1])), stores[1].commit(leave(rows[1], rows[0])))
        })
        .await;
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        let error = first.err().or(second.err()).unwrap();
        assert!(error.is_conflict(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_moves_to_another_process() {
    let home = Postgresql::new().await;
    let (here, there) = (home.store().await, home.store().await);
    for number in 0..6 {
        log_one(if number % 2 == 0 { &here } else { &there }, number.to_string()).await;
    }
    let mut follower = Follower::open(&here, "reader", StartFrom::Beginning).await.unwrap();
    let mut other = Follower::open(&there, "reader", StartFrom::Beginning).await.unwrap();
    let mut seen = payloads(&within(follower.next(4)).await.unwrap());
    follower.advance().await.unwrap();
    within(other.next(4)).await.unwrap();
    let error = other.advance().await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    // The first process goes, and its writer with it; what it wrote stays.
    let token = here.published();
    drop(follower);
    close(here).await;
    drop(other);
    log_one(&there, "6").await;
    let mut follower = Follower::open(&there, "reader", StartFrom::Beginning).await.unwrap();
    seen.extend(payloads(&within(follower.next(100)).await.unwrap()));
    seen.sort();
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6"]);
    follower.advance().await.unwrap();
    let again = home.store().await;
    log_one(&again, "7").await;
    assert_eq!(payloads(&within(follower.next(100)).await.unwrap()), ["7"]);
    assert!(again.published().covers(&token));
    expect_dense(&whole_log(&again).await);
    let (rest, _) = again.read_log(&token, 100).await.unwrap();
    assert!(rest.iter().all(|record| !token.includes(record.position)));
    assert_ne!(again.published(), Position::start());
}

/// Counts how often a step was run; a second run finds the row that the first wrote, as a step must bear.
async fn note_step(store: &Store, step: u64) -> Result<(), StorageError> {
    let noted = store.run(|snapshot| async move {
        let runs = snapshot.get(&NUMBERS, step).await?;
        // A step that runs when a later one has run already would undo it.
        if snapshot.get(&NUMBERS, step + 1).await?.is_some() {
            return Err(StorageError::Refused(format!("step {step} runs after step {}", step + 1)));
        }
        let mut transaction = Transaction::new();
        transaction.check_unchanged(&NUMBERS, step, runs.as_ref());
        transaction.put(&NUMBERS, step, &(runs.unwrap_or(0) + 1));
        Ok((transaction, ()))
    });
    noted.await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_start_together_all_open() {
    for _ in 0..3 {
        let home = std::sync::Arc::new(Postgresql::new().await);
        let mut starts = JoinSet::new();
        for _ in 0..4 {
            let home = home.clone();
            starts.spawn(async move { close(home.store().await).await });
        }
        within(starts.join_all()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_overtaken_in_a_migration_opens() {
    let home = Postgresql::new().await;
    close(home.store().await).await;
    // The slow one is overtaken, to the end, between its first step and the version that it writes for it.
    let overtaken = |store: &Store| -> futures_util::future::BoxFuture<'_, Result<(), StorageError>> {
        let store = store.clone();
        Box::pin(async move {
            let snapshot = store.snapshot().await?;
            if snapshot.get(&NUMBERS, 2).await?.is_none() {
                note_step(&store, 2).await?;
                let mut transaction = Transaction::new();
                // The quick one writes its versions: this is the row of the schema, by its number.
                transaction.put(&SCHEMA_VERSION, 0, &4);
                transaction.put(&NUMBERS, 3, &1);
                transaction.put(&NUMBERS, 4, &1);
                store.commit(transaction).await?;
            }
            Ok(())
        })
    };
    let migrations = vec![
        Migration { to: 2, name: "the second", run: overtaken },
        Migration { to: 3, name: "the third", run: |store| Box::pin(note_step(store, 3)) },
        Migration { to: 4, name: "the fourth", run: |store| Box::pin(note_step(store, 4)) },
    ];
    let store = Store::open(home.engine().await, schema_with(4, migrations)).await.unwrap();
    let runs = store.snapshot().await.unwrap().get_many(&NUMBERS, [2, 3, 4]).await.unwrap();
    assert_eq!(runs, [Some(1), Some(1), Some(1)]);
}

/// The crate's own row of the schema version.
const SCHEMA_VERSION: entente_storage::Keyspace<u8, u64> =
    entente_storage::Keyspace::new(0, "storage.schema");
