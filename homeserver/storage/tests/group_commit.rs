//! What the group committer of the embedded engines does with the disk: commits share syncs, relaxed ones are synced in time,
//! and a failure is everybody's who was part of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use entente_storage::{
    Commit, StorageError, Store, Transaction,
    engine::memory::{Disk, Fault, Operation},
};
use tokio::task::JoinSet;

use crate::support::{
    Home, Memory, NUMBERS, TOPIC, log_one, position_of, put_number, schema, whole_log, within,
    writer_and_sequence,
};

const WRITERS: u64 = 64;
const COMMITS_EACH: u64 = 10;

async fn store_on(disk: &Disk) -> Store {
    Store::open(disk.open().unwrap(), schema()).await.unwrap()
}

/// A durable commit of one row and one log entry.
async fn commit(store: &Store, key: u64) -> Result<Commit, StorageError> {
    let mut transaction = Transaction::new();
    transaction.put(&NUMBERS, key, &key);
    transaction.log(TOPIC, key.to_string());
    store.commit(transaction).await
}

async fn commit_relaxed(store: &Store, key: u64) {
    let mut transaction = Transaction::relaxed();
    transaction.put(&NUMBERS, key, &key);
    store.commit(transaction).await.unwrap();
}

async fn rows(store: &Store) -> usize {
    store.snapshot().await.unwrap().scan_all(NUMBERS.scan(())).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_commits_of_many_writers_share_syncs() {
    let Memory(disk) = Memory::new().await;
    let store = store_on(&disk).await;
    let before = disk.operations(Operation::Sync);
    // A disk that is slow for the first sync: meanwhile all writers come to wait.
    disk.plan(Operation::Sync, 0, Fault::Delay(Duration::from_millis(100)));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for number in 0..COMMITS_EACH {
                commit(&store, writer * COMMITS_EACH + number).await.unwrap();
            }
        });
    }
    within(writers.join_all()).await;
    let syncs = disk.operations(Operation::Sync) - before;
    println!("{} durable commits of {WRITERS} writers took {syncs} syncs", WRITERS * COMMITS_EACH);
    assert!((1..WRITERS * COMMITS_EACH / 4).contains(&syncs), "{syncs}");
    // Shared, and yet durable.
    disk.cut_power();
    let store = store_on(&disk).await;
    assert_eq!(rows(&store).await, 640);
    assert_eq!(whole_log(&store).await.len(), 640);
}

/// All that waits while the disk is busy goes into the next sync: exactly one.
#[tokio::test]
async fn what_waits_together_is_synced_together() {
    let disk = Disk::new();
    let store = store_on(&disk).await;
    let before = (disk.operations(Operation::Apply), disk.operations(Operation::Sync));
    // While the writer is busy with the first, the others are handed in.
    disk.plan(Operation::Sync, 0, Fault::Delay(Duration::from_millis(200)));
    let first = commit(&store, 1_000);
    let others = futures_util::future::join_all((0..WRITERS).map(|key| commit(&store, key)));
    let (first, others) = within(futures_util::future::join(first, others)).await;
    first.unwrap();
    assert!(others.iter().all(Result::is_ok));
    let groups = disk.operations(Operation::Apply) - before.0;
    assert!(groups <= 2, "{groups} groups");
    assert_eq!(disk.operations(Operation::Sync) - before.1, groups);
}

#[tokio::test]
async fn what_is_refused_or_relaxed_costs_no_sync() {
    let disk = Disk::new();
    let store = store_on(&disk).await;
    let before = disk.operations(Operation::Sync);
    let mut refused = Transaction::new();
    refused.check_present(&NUMBERS, 1);
    refused.put(&NUMBERS, 2, &2);
    store.commit(refused).await.unwrap_err();
    commit_relaxed(&store, 3).await;
    assert_eq!(disk.operations(Operation::Sync), before);
}

#[tokio::test]
async fn a_failed_group_fails_for_all_of_it_and_is_forgotten() {
    for operation in [Operation::Apply, Operation::Sync] {
        let disk = Disk::new();
        let store = store_on(&disk).await;
        log_one(&store, "before").await;
        let published = store.published();
        disk.plan(operation, 0, Fault::Fail);
        let outcomes = futures_util::future::join_all((0..5).map(|key| commit(&store, key)));
        let failed = within(outcomes).await.into_iter().filter(Result::is_err).count();
        assert!(failed >= 1, "{operation:?}");
        let kept = 5 - failed;
        assert_eq!(rows(&store).await, kept, "{operation:?}");
        assert_eq!(whole_log(&store).await.len(), 1 + kept);
        assert!(store.published().covers(&published));

        // The same transaction again is not taken for one that was applied, and the log has no gap.
        let mut transaction = Transaction::new();
        transaction.put(&NUMBERS, 50, &50);
        transaction.log(TOPIC, "again");
        disk.plan(operation, 0, Fault::Fail);
        store.commit(transaction.clone()).await.unwrap_err();
        let position = position_of(store.commit(transaction).await.unwrap());
        assert_eq!(writer_and_sequence(position).1, 2 + kept as u64);
        assert_eq!(whole_log(&store).await.len(), 2 + kept);
        assert_eq!(rows(&store).await, kept + 1);
    }
}

#[tokio::test]
async fn a_failed_read_of_a_check_fails_only_its_transaction() {
    let disk = Disk::new();
    let store = store_on(&disk).await;
    put_number(&store, 1, 1).await;
    disk.plan(Operation::Get, 0, Fault::Fail);
    let mut transaction = Transaction::new();
    transaction.check_present(&NUMBERS, 1);
    transaction.put(&NUMBERS, 2, &2);
    let (checked, unchecked) = tokio::join!(store.commit(transaction.clone()), commit(&store, 3));
    assert!(matches!(checked, Err(StorageError::Engine(_))), "{checked:?}");
    unchecked.unwrap();
    assert_eq!(rows(&store).await, 2);
    store.commit(transaction).await.unwrap();
    assert_eq!(rows(&store).await, 3);
}

/// Nothing is published before it is on disk: a reader that saw it could tell others of what then never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_visible_before_it_is_durable() {
    let disk = Disk::new();
    let store = store_on(&disk).await;
    disk.plan(Operation::Sync, 0, Fault::PowerCut);
    let before = store.published();
    let watch = store.watch();
    commit(&store, 1).await.unwrap_err();
    assert_eq!(store.published(), before);
    drop(watch);
    let store = store_on(&disk).await;
    assert_eq!((rows(&store).await, whole_log(&store).await.len()), (0, 0));
}

/// Hours of relaxed commits, each sooner than a second after the one before: they reach the disk all the same.
#[tokio::test(start_paused = true)]
async fn a_stream_of_relaxed_commits_is_synced_in_time() {
    let disk = Disk::new();
    let store = store_on(&disk).await;
    let before = disk.operations(Operation::Sync);
    let mut commits = 0;
    while disk.operations(Operation::Sync) == before {
        assert!(commits < 100, "{commits} relaxed commits, and none of them on disk");
        commit_relaxed(&store, commits).await;
        commits += 1;
        tokio::time::advance(Duration::from_millis(600)).await;
    }
}

#[tokio::test]
async fn a_lonely_relaxed_commit_is_synced_in_time() {
    let disk = Disk::new();
    let store = store_on(&disk).await;
    // A sync that fails is tried again.
    disk.plan(Operation::Sync, 0, Fault::Fail);
    let before = disk.operations(Operation::Sync);
    commit_relaxed(&store, 1).await;
    let mut waited = 0;
    while disk.operations(Operation::Sync) < before + 2 {
        assert!(waited < 600, "not synced");
        waited += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // One more operation behind the sync, so that it is over.
    store.commit(Transaction::relaxed()).await.unwrap();
    disk.cut_power();
    assert_eq!(rows(&store_on(&disk).await).await, 1);
}

#[tokio::test]
async fn a_durable_commit_takes_the_relaxed_ones_before_it_along() {
    let disk = Disk::new();
    let store = store_on(&disk).await;
    for key in 0..10 {
        commit_relaxed(&store, key).await;
    }
    commit(&store, 10).await.unwrap();
    commit_relaxed(&store, 11).await;
    disk.cut_power();
    assert_eq!(rows(&store_on(&disk).await).await, 11);
}

#[tokio::test]
async fn a_close_syncs_relaxed_commits() {
    let disk = Disk::new();
    let store = store_on(&disk).await;
    commit_relaxed(&store, 1).await;
    store.close().await.unwrap();
    disk.cut_power();
    assert_eq!(rows(&store_on(&disk).await).await, 1);
}

/// Bounded patience: a use case that never gets through says so.
#[tokio::test(start_paused = true)]
async fn a_use_case_gives_up_at_last() {
    let store = store_on(&Disk::new()).await;
    let attempts = std::cell::Cell::new(0);
    let outcome = store
        .run(|_| {
            attempts.set(attempts.get() + 1);
            let mut transaction = Transaction::new();
            transaction.check_present(&NUMBERS, 1);
            transaction.put(&NUMBERS, 2, &2);
            std::future::ready(Ok::<_, StorageError>((transaction, ())))
        })
        .await;
    assert!(outcome.unwrap_err().is_conflict());
    assert_eq!(attempts.get(), 64);
}
