//! A snapshot is one moment, also while others write.

use std::collections::BTreeSet;

use entente_storage::{Snapshot, StorageError, Store, Transaction};
use tokio::task::JoinSet;

use crate::support::{BLOBS, Home, NUMBERS, Scatter, TOPIC, log_one, put_number, within};

pub(crate) async fn a_snapshot_never_changes(home: impl Home) {
    let store = home.store().await;
    for number in 0..10 {
        put_number(&store, number, number).await;
    }
    log_one(&store, "before").await;
    let before = store.snapshot().await.unwrap();
    let position = before.position().await.unwrap();

    let mut transaction = Transaction::new();
    transaction.put(&NUMBERS, 3, &300);
    transaction.delete(&NUMBERS, 4);
    transaction.put(&NUMBERS, 50, &50);
    transaction.log(TOPIC, "after");
    store.commit(transaction).await.unwrap();
    put_number(&store, 3, 301).await;
    put_number(&store, 4, 400).await;

    let unchanged: Vec<_> = (0..10).map(|number| (number, number)).collect();
    assert_eq!(before.get(&NUMBERS, 3).await.unwrap(), Some(3));
    let values = before.get_many(&NUMBERS, [3, 4, 50, 5]).await.unwrap();
    assert_eq!(values, [Some(3), Some(4), None, Some(5)]);
    assert_eq!(before.scan_all(NUMBERS.scan(()).limit(3)).await.unwrap(), unchanged);
    let downwards = before.scan_all(NUMBERS.scan(()).reverse().limit(3)).await.unwrap();
    assert_eq!(downwards, unchanged.into_iter().rev().collect::<Vec<_>>());
    assert_eq!(before.position().await.unwrap(), position);

    let after = store.snapshot().await.unwrap();
    let values = after.get_many(&NUMBERS, [3, 4, 50, 5]).await.unwrap();
    assert_eq!(values, [Some(301), Some(400), Some(50), Some(5)]);
    assert!(!position.covers(&after.position().await.unwrap()));
}

pub(crate) async fn a_commit_is_visible_when_it_is_acknowledged(home: impl Home) {
    let store = home.store().await;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            for value in 1..=20 {
                let mut transaction = Transaction::new();
                transaction.put(&NUMBERS, writer, &value);
                transaction.put(&BLOBS, writer, &Scatter(value).bytes(300));
                transaction.log(TOPIC, "written");
                let position = store.commit(transaction).await.unwrap().position.unwrap();
                let snapshot = store.snapshot().await.unwrap();
                assert_eq!(snapshot.get(&NUMBERS, writer).await.unwrap(), Some(value));
                let blob = snapshot.get(&BLOBS, writer).await.unwrap();
                assert_eq!(blob, Some(Scatter(value).bytes(300)));
                assert!(snapshot.position().await.unwrap().includes(position));
            }
        });
    }
    within(writers.join_all()).await;
}

const MIRRORS: u64 = 8;

/// All mirrors, by look-up in one and by scan in the other; each holds the same number, as each transaction leaves it.
async fn mirrors_agree(snapshot: &Snapshot) -> Result<u64, StorageError> {
    let found = snapshot.get_many(&NUMBERS, 0..MIRRORS).await?;
    let scanned = snapshot.scan_all(NUMBERS.scan(()).limit(3)).await?;
    let first = found[0];
    assert!(found.iter().all(|value| *value == first), "{found:?}");
    assert!(scanned.iter().all(|(_, value)| Some(*value) == first), "{first:?} {scanned:?}");
    Ok(first.unwrap_or(0))
}

/// Different moments that each reader sees while others write.
const MOMENTS: usize = 15;

pub(crate) async fn no_transaction_is_seen_in_part(home: impl Home) {
    let store = home.store().await;
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let store = store.clone();
        readers.spawn(async move {
            let mut newest = 0;
            let mut moments = 0;
            while moments < MOMENTS {
                let value = mirrors_agree(&store.snapshot().await.unwrap()).await.unwrap();
                assert!(value >= newest, "{value} after {newest}");
                moments += usize::from(value > newest);
                newest = value;
                tokio::task::yield_now().await;
            }
        });
    }
    let writing = tokio::spawn(async move {
        for value in 1_u64.. {
            let mut transaction = Transaction::new();
            for mirror in 0..MIRRORS {
                transaction.put(&NUMBERS, mirror, &value);
            }
            store.commit(transaction).await.unwrap();
        }
    });
    within(readers.join_all()).await;
    assert!(!writing.is_finished());
    writing.abort();
}

/// Moves an amount between two accounts, one of which may be empty and then goes.
async fn transfer(store: &Store, from: u64, to: u64) -> Result<(), StorageError> {
    let moved = store.run(|snapshot| async move {
        let mut balances = snapshot.get_many(&NUMBERS, [from, to]).await?;
        let (target, source) = (balances.pop().flatten(), balances.pop().flatten());
        let mut transaction = Transaction::new();
        if let Some(available) = source {
            transaction.check_unchanged(&NUMBERS, from, Some(&available));
            transaction.check_unchanged(&NUMBERS, to, target.as_ref());
            if available == 1 {
                transaction.delete(&NUMBERS, from);
            } else {
                transaction.put(&NUMBERS, from, &(available - 1));
            }
            transaction.put(&NUMBERS, to, &(target.unwrap_or(0) + 1));
        }
        Ok::<_, StorageError>((transaction, ()))
    });
    moved.await.map(|_| ())
}

pub(crate) async fn a_paged_scan_shows_one_moment(home: impl Home) {
    const ACCOUNTS: u64 = 400;
    let store = home.store().await;
    let mut transaction = Transaction::new();
    // Every other account is missing at first: transfers insert and delete rows in the midst of the scan.
    for account in (0..ACCOUNTS).step_by(2) {
        transaction.put(&NUMBERS, account, &2);
    }
    store.commit(transaction).await.unwrap();
    let mut readers = JoinSet::new();
    for reverse in [false, true] {
        let store = store.clone();
        readers.spawn(async move {
            let mut moments = BTreeSet::new();
            while moments.len() < MOMENTS {
                let scan = NUMBERS.scan(()).limit(25);
                let scan = if reverse { scan.reverse() } else { scan };
                let rows = store.snapshot().await.unwrap().scan_all(scan).await.unwrap();
                let total: u64 = rows.iter().map(|(_, balance)| balance).sum();
                assert_eq!(total, ACCOUNTS, "reverse: {reverse}");
                moments.insert(rows);
                tokio::task::yield_now().await;
            }
        });
    }
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let store = store.clone();
        writers.spawn(async move {
            let mut scatter = Scatter(writer);
            loop {
                let from = scatter.below(ACCOUNTS);
                transfer(&store, from, (from + 1 + scatter.below(ACCOUNTS - 1)) % ACCOUNTS).await.unwrap();
            }
        });
    }
    within(readers.join_all()).await;
    assert!(writers.try_join_next().is_none(), "a writer failed");
    writers.shutdown().await;
}
