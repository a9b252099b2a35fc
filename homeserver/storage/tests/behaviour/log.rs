//! The change log: dense, in the order of the commits, and announced without fail.

use entente_storage::{Bytes, Follower, Position, StartFrom, StorageError, Topic, Transaction};
use tokio::task::JoinSet;

use crate::support::{
    Home, NUMBERS, TOPIC, close, log_one, payloads, position_of, put_number, whole_log, within,
    writer_and_sequence,
};

/// Sixteen committers at once: the log has each commit once, numbered from 1 without a gap; who was acknowledged before
/// another began stands before it.
pub(crate) async fn positions_are_dense_and_in_commit_order(home: impl Home) {
    let store = home.store().await;
    let mut committers = JoinSet::new();
    for committer in 0..16 {
        let store = store.clone();
        committers.spawn(async move {
            let mut commits = Vec::new();
            for number in 0..10 {
                let payload = format!("{committer}/{number}");
                let acknowledged_before = store.published();
                let position = log_one(&store, payload.clone()).await;
                assert!(!acknowledged_before.includes(position), "a position was given out before");
                commits.push((position, payload));
                // One in between that has nothing to tell takes no position.
                put_number(&store, committer, number).await;
            }
            assert!(commits.is_sorted(), "{commits:?}");
            commits
        });
    }
    let mut commits: Vec<_> = within(committers.join_all()).await.into_iter().flatten().collect();
    commits.sort();
    let numbers: Vec<_> = commits.iter().map(|(position, _)| writer_and_sequence(*position).1).collect();
    assert_eq!(numbers, (1..=160).collect::<Vec<_>>());

    let log = whole_log(&store).await;
    let logged: Vec<_> = log.iter().map(|record| record.position).zip(payloads(&log)).collect();
    assert_eq!(logged, commits);
    let visible = store.snapshot().await.unwrap().position().await.unwrap();
    assert_eq!(visible, store.published());
}

pub(crate) async fn the_log_is_read_in_pages(home: impl Home) {
    let store = home.store().await;
    for number in 0..25_u8 {
        let mut transaction = Transaction::new();
        for entry in 0..=(number % 3) {
            transaction.log(Topic(u16::from(entry)), Bytes::from(vec![number, entry]));
        }
        store.commit(transaction).await.unwrap();
    }
    let snapshot_of_log = whole_log(&store).await;
    assert_eq!(snapshot_of_log.len(), 25);
    for (number, record) in (0..).zip(&snapshot_of_log) {
        let topics: Vec<_> = record.entries.iter().map(|entry| entry.topic.0).collect();
        assert_eq!(topics, (0..=u16::from(number % 3)).collect::<Vec<_>>());
        assert!((0..).zip(&record.entries).all(|(at, entry)| *entry.payload == [number, at]));
    }
    for limit in [1, 7, 25, 26] {
        let mut records = Vec::new();
        let mut after = Position::start();
        for page_number in 0.. {
            assert!(page_number <= 25, "the log has no end");
            let (page, reached) = store.read_log(&after, limit).await.unwrap();
            assert!(page.len() <= limit);
            assert!(page.iter().all(|record| reached.includes(record.position)));
            assert!(page.iter().all(|record| !after.includes(record.position)));
            if page.is_empty() {
                assert_eq!(reached, after);
                break;
            }
            records.extend(page);
            after = reached;
        }
        assert_eq!(records, snapshot_of_log, "{limit}");
    }
}

pub(crate) async fn a_conflict_leaves_no_gap(home: impl Home) {
    let store = home.store().await;
    let mut commits = JoinSet::new();
    for number in 0..40_u64 {
        let store = store.clone();
        commits.spawn(async move {
            let mut transaction = Transaction::new();
            if number % 2 == 0 {
                transaction.check_present(&NUMBERS, number);
            }
            transaction.log(TOPIC, "entry");
            store.commit(transaction).await.ok().map(position_of)
        });
    }
    let positions = within(commits.join_all()).await.into_iter().flatten();
    let mut numbers: Vec<_> = positions.map(|position| writer_and_sequence(position).1).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    assert_eq!(whole_log(&store).await.len(), 20);
}

pub(crate) async fn a_commit_before_the_wait_wakes(home: impl Home) {
    let store = home.store().await;
    let mut watch = store.watch();
    let mut known = Position::start();
    for _ in 0..20 {
        // Between the look and the wait: the moment in which a hint can be lost.
        let position = log_one(&store, "entry").await;
        let reached = within(watch.beyond(&known)).await.unwrap();
        assert!(reached.includes(position));
        // Asked again for what is there already, also through a watch that is new.
        within(watch.beyond(&known)).await.unwrap();
        within(store.watch().beyond(&known)).await.unwrap();
        known = reached;
    }
    // What appends nothing wakes nobody.
    put_number(&store, 1, 1).await;
    let woken = futures_util::FutureExt::now_or_never(watch.beyond(&known));
    assert!(woken.is_none(), "{woken:?}");
}

pub(crate) async fn a_watch_never_misses_a_commit(home: impl Home) {
    const COMMITS: usize = 120;
    let store = home.store().await;
    let mut watchers = JoinSet::new();
    for limit in [1, 3, 50, 500] {
        let store = store.clone();
        watchers.spawn(async move {
            let mut watch = store.watch();
            let mut known = Position::start();
            let mut seen = Vec::new();
            while seen.len() < COMMITS {
                watch.beyond(&known).await.unwrap();
                let (records, reached) = store.read_log(&known, limit).await.unwrap();
                assert!(!records.is_empty(), "woken for something that is not visible");
                seen.extend(payloads(&records));
                known = reached;
            }
            seen
        });
    }
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let store = store.clone();
        writers.spawn(async move {
            for number in 0..COMMITS / 4 {
                log_one(&store, format!("{writer}/{number}")).await;
                tokio::task::yield_now().await;
            }
        });
    }
    within(writers.join_all()).await;
    let written = payloads(&whole_log(&store).await);
    assert_eq!(written.len(), COMMITS);
    for seen in within(watchers.join_all()).await {
        assert_eq!(seen, written);
    }
}

pub(crate) async fn what_is_published_is_visible(home: impl Home) {
    let store = home.store().await;
    let reader = store.clone();
    let reading = tokio::spawn(async move {
        let mut watch = reader.watch();
        let mut known = Position::start();
        let mut rounds = 0;
        while sequence_of(&known) < 100 {
            let published = watch.beyond(&known).await.unwrap();
            let snapshot = reader.snapshot().await.unwrap();
            assert!(snapshot.position().await.unwrap().covers(&published));
            // The row that the newest commit behind `published` wrote, or a later one.
            let newest = snapshot.get(&NUMBERS, 0).await.unwrap().unwrap();
            assert!(newest >= sequence_of(&published));
            known = published;
            rounds += 1;
        }
        rounds
    });
    for number in 1..=100_u64 {
        let mut transaction = Transaction::new();
        transaction.put(&NUMBERS, 0, &number);
        transaction.log(TOPIC, "entry");
        let position = position_of(store.commit(transaction).await.unwrap());
        assert!(store.published().includes(position), "acknowledged before it was published");
    }
    assert!(within(reading).await.unwrap() > 0);
}

/// The sequence number of the one writer that there is.
fn sequence_of(position: &Position) -> u64 {
    position.to_string().rsplit_once('s').unwrap().1.parse().unwrap()
}

pub(crate) async fn closing_ends_a_watch(home: impl Home) {
    let store = home.store().await;
    log_one(&store, "entry").await;
    let mut watch = store.watch();
    let known = store.published();
    let waiting = tokio::spawn(async move { watch.beyond(&known).await });
    close(store).await;
    let ended = within(waiting).await.unwrap();
    assert!(matches!(ended, Err(StorageError::Unavailable(_))), "{ended:?}");
}

/// Followers that lag, even one that has read nothing yet, find all that they have not read; what all have read goes, but for the
/// newest records.
pub(crate) async fn the_log_is_trimmed_behind_all_followers(home: impl Home) {
    let store = home.store().await;
    let mut quick = Follower::open(&store, "quick", StartFrom::Beginning).await.unwrap();
    let mut slow = Follower::open(&store, "slow", StartFrom::Beginning).await.unwrap();
    // More than are deleted at once.
    for number in 0..1_100_u32 {
        log_one(&store, number.to_string()).await;
    }
    assert_eq!(within(quick.next(1_100)).await.unwrap().len(), 1_100);
    quick.advance().await.unwrap();
    assert_eq!(store.trim_log(0).await.unwrap(), 0, "the slow one has read nothing");
    assert_eq!(within(slow.next(1_050)).await.unwrap().len(), 1_050);
    assert_eq!(store.trim_log(0).await.unwrap(), 0, "it has not stored that it read");
    slow.advance().await.unwrap();
    assert_eq!(store.trim_log(60).await.unwrap(), 1_040);
    assert_eq!(store.trim_log(60).await.unwrap(), 0);
    let kept = payloads(&whole_log(&store).await);
    assert_eq!(kept, (1_040..1_100).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(store.trim_log(0).await.unwrap(), 10);
    // What was trimmed is not given out again, also by a store that is opened again.
    drop((quick, slow));
    let store = home.reopen(store).await;
    let mut slow = Follower::open(&store, "slow", StartFrom::Beginning).await.unwrap();
    log_one(&store, "1100").await;
    let rest = payloads(&within(slow.next(100)).await.unwrap());
    assert_eq!(rest, (1_050..=1_100).map(|number| number.to_string()).collect::<Vec<_>>());
}
