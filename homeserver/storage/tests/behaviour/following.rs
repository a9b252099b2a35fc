//! Followers: in order, nothing skipped, and from where they stood.

use entente_storage::{Follower, StartFrom, StorageError, Store, Transaction};
use futures_util::FutureExt;
use tokio::task::JoinSet;

use crate::support::{Home, NUMBERS, TOPIC, close, log_one, payloads, whole_log, within};

async fn log_numbers(store: &Store, numbers: std::ops::Range<u64>) {
    for number in numbers {
        log_one(store, number.to_string()).await;
    }
}

fn texts(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

async fn from_beginning(store: &Store) -> Follower {
    Follower::open(store, "reader", StartFrom::Beginning).await.unwrap()
}

async fn next(follower: &mut Follower, limit: usize) -> Vec<String> {
    payloads(&within(follower.next(limit)).await.unwrap())
}

pub(crate) async fn a_follower_reads_in_order_and_skips_nothing(home: impl Home) {
    let store = home.store().await;
    let mut followers = JoinSet::new();
    for limit in [1, 4, 1_000] {
        let store = store.clone();
        followers.spawn(async move {
            let mut follower =
                Follower::open(&store, &format!("reader {limit}"), StartFrom::Beginning).await.unwrap();
            let mut seen = Vec::new();
            while seen.len() < 120 {
                let records = follower.next(limit).await.unwrap();
                assert!(!records.is_empty() && records.len() <= limit);
                assert!(records.iter().all(|record| follower.position().includes(record.position)));
                seen.extend(payloads(&records));
            }
            follower.advance().await.unwrap();
            seen
        });
    }
    let mut writers = JoinSet::new();
    for writer in 0..6 {
        let store = store.clone();
        writers.spawn(async move { log_numbers(&store, writer * 100..writer * 100 + 20).await });
    }
    within(writers.join_all()).await;
    let written = payloads(&whole_log(&store).await);
    for seen in within(followers.join_all()).await {
        assert_eq!(seen, written);
    }
}

pub(crate) async fn a_follower_goes_on_where_it_stored_its_cursor(home: impl Home) {
    let store = home.store().await;
    log_numbers(&store, 0..10).await;
    let mut follower = from_beginning(&store).await;
    assert_eq!(next(&mut follower, 4).await, texts(0..4));
    follower.advance().await.unwrap();
    // Handed out, but not stored: comes again.
    assert_eq!(next(&mut follower, 3).await, texts(4..7));
    drop(follower);
    let store = home.reopen(store).await;
    let mut follower = from_beginning(&store).await;
    assert_eq!(next(&mut follower, 100).await, texts(4..10));
    follower.advance().await.unwrap();
    follower.advance().await.unwrap();
    drop(follower);
    let store = home.reopen(store).await;
    let mut follower = from_beginning(&store).await;
    assert!(follower.next(100).now_or_never().is_none(), "there is nothing new");
    log_numbers(&store, 10..12).await;
    assert_eq!(next(&mut follower, 100).await, texts(10..12));
    // Each follower has a cursor of its own.
    let mut other = Follower::open(&store, "other", StartFrom::Beginning).await.unwrap();
    assert_eq!(next(&mut other, 100).await, texts(0..12));
}

/// Counts what was handed out, together with the cursor.
fn effect(follower: &Follower, counted: Option<u64>, records: usize) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.put(&NUMBERS, 0, &(counted.unwrap_or(0) + records as u64));
    follower.advance_in(&mut transaction);
    transaction
}

pub(crate) async fn an_effect_with_its_cursor_happens_once(home: impl Home) {
    let store = home.store().await;
    log_numbers(&store, 0..10).await;
    let counted = async |store: &Store| store.snapshot().await.unwrap().get(&NUMBERS, 0).await.unwrap();

    let mut follower = from_beginning(&store).await;
    let mut by_mistake = from_beginning(&store).await;
    let records = within(follower.next(4)).await.unwrap();
    store.commit(effect(&follower, counted(&store).await, records.len())).await.unwrap();
    follower.advanced();
    // A second process that runs the same follower cannot do the work again, now or later.
    let records = within(by_mistake.next(4)).await.unwrap();
    let error = store.commit(effect(&by_mistake, counted(&store).await, records.len())).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    let error = by_mistake.advance().await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    // The first goes on.
    let records = within(follower.next(4)).await.unwrap();
    store.commit(effect(&follower, counted(&store).await, records.len())).await.unwrap();
    follower.advanced();
    assert_eq!(counted(&store).await, Some(8));
    // Committed, and dead before it noted so.
    let records = within(follower.next(1)).await.unwrap();
    store.commit(effect(&follower, counted(&store).await, records.len())).await.unwrap();
    drop((follower, by_mistake));
    let store = home.reopen(store).await;
    let mut follower = from_beginning(&store).await;
    let records = within(follower.next(100)).await.unwrap();
    assert_eq!(payloads(&records), texts(9..10));
    store.commit(effect(&follower, counted(&store).await, records.len())).await.unwrap();
    assert_eq!(counted(&store).await, Some(10));
}

pub(crate) async fn a_follower_can_begin_now(home: impl Home) {
    let store = home.store().await;
    log_numbers(&store, 0..5).await;
    let mut follower = Follower::open(&store, "reader", StartFrom::Now).await.unwrap();
    log_numbers(&store, 5..8).await;
    assert_eq!(next(&mut follower, 2).await, texts(5..7));
    follower.advance().await.unwrap();
    drop(follower);
    // "Now" is the first time: from then on it has a cursor.
    let store = home.reopen(store).await;
    log_numbers(&store, 8..9).await;
    let mut follower = Follower::open(&store, "reader", StartFrom::Now).await.unwrap();
    assert_eq!(next(&mut follower, 100).await, texts(7..9));
    drop(follower);
    let mut follower = from_beginning(&store).await;
    assert_eq!(next(&mut follower, 100).await, texts(7..9));
}

pub(crate) async fn a_follower_can_begin_now_on_an_empty_log(home: impl Home) {
    let store = home.store().await;
    let follower = Follower::open(&store, "reader", StartFrom::Now).await.unwrap();
    drop(follower);
    log_numbers(&store, 0..1).await;
    // What came since "now" was noted is not lost, although nothing had been read.
    let mut follower = Follower::open(&store, "reader", StartFrom::Now).await.unwrap();
    assert_eq!(next(&mut follower, 100).await, texts(0..1));
    follower.advance().await.unwrap();
    log_numbers(&store, 1..2).await;
    assert_eq!(next(&mut follower, 100).await, texts(1..2));
    follower.advance().await.unwrap();
}

pub(crate) async fn a_follower_rewinds(home: impl Home) {
    let store = home.store().await;
    log_numbers(&store, 0..6).await;
    let mut follower = from_beginning(&store).await;
    assert_eq!(next(&mut follower, 2).await, texts(0..2));
    follower.advance().await.unwrap();
    assert_eq!(next(&mut follower, 2).await, texts(2..4));
    follower.rewind();
    assert_eq!(next(&mut follower, 3).await, texts(2..5));
    follower.advance().await.unwrap();
    assert_eq!(next(&mut follower, 3).await, texts(5..6));
}

pub(crate) async fn a_cancelled_wait_loses_nothing(home: impl Home) {
    let store = home.store().await;
    let mut follower = from_beginning(&store).await;
    for number in 0..10 {
        assert!(follower.next(1).now_or_never().is_none());
        log_numbers(&store, number..number + 1).await;
        // Dropped after one poll: on some engines in the midst of its read.
        let cancelled = follower.next(1).now_or_never();
        let seen = match cancelled {
            Some(records) => payloads(&records.unwrap()),
            None => next(&mut follower, 1).await,
        };
        assert_eq!(seen, texts(number..number + 1));
    }
    let mut waiting = from_beginning(&store).await;
    next(&mut waiting, 10).await;
    let waiting = tokio::spawn(async move { waiting.next(1).await });
    drop(follower);
    close(store.clone()).await;
    let ended = within(waiting).await.unwrap();
    assert!(matches!(ended, Err(StorageError::Unavailable(_))), "{ended:?}");
    let mut transaction = Transaction::new();
    transaction.log(TOPIC, "too late");
    assert!(store.commit(transaction).await.is_err());
}
