//! Transactions: all or nothing, decided by their checks, one after the other.

use std::sync::atomic::{AtomicU32, Ordering};

use entente_storage::{
    Bytes, LogPosition, StorageError, Store, Transaction, Version,
    value::{Stamped, Value},
};
use tokio::task::JoinSet;

use crate::support::{
    BYTES, EVENTS, Home, NUMBERS, TEXTS, TOPIC, log_one, payloads, position_of, put_number, whole_log, within,
};

async fn number(store: &Store, key: u64) -> Option<u64> {
    store.snapshot().await.unwrap().get(&NUMBERS, key).await.unwrap()
}

/// Adds a check of the row under a key.
type AddCheck = fn(&mut Transaction, u64);

/// A change that is seen in all ways in which a transaction can change something.
fn visible_change(transaction: &mut Transaction) {
    transaction.put(&NUMBERS, 1_000, &1);
    transaction.delete(&NUMBERS, 1_001);
    transaction.log(TOPIC, "changed");
}

pub(crate) async fn checks_decide(home: impl Home) {
    let store = home.store().await;
    let check_absent: AddCheck = |transaction, key| transaction.check_absent(&NUMBERS, key);
    let check_present = |transaction: &mut Transaction, key| transaction.check_present(&NUMBERS, key);
    let check_seven =
        |transaction: &mut Transaction, key| transaction.check_unchanged(&NUMBERS, key, Some(&7));
    let check_none = |transaction: &mut Transaction, key| transaction.check_unchanged(&NUMBERS, key, None);
    let check_version = |transaction: &mut Transaction, key| {
        transaction.check_version(&NUMBERS, key, Version::of(&7_u64.encode()));
    };
    // What each check says of no row, of 7, and of 8.
    let cases: [(&str, AddCheck, [bool; 3]); 5] = [
        ("absent", check_absent, [true, false, false]),
        ("present", check_present, [false, true, true]),
        ("unchanged from 7", check_seven, [false, true, false]),
        ("unchanged from none", check_none, [true, false, false]),
        ("version of 7", check_version, [false, true, false]),
    ];
    put_number(&store, 7, 7).await;
    put_number(&store, 8, 8).await;
    for (name, check, expected) in cases {
        for (key, holds) in [6, 7, 8].into_iter().zip(expected) {
            let mut reset = Transaction::new();
            reset.delete(&NUMBERS, 1_000);
            reset.put(&NUMBERS, 1_001, &1);
            store.commit(reset).await.unwrap();
            let logged_before = whole_log(&store).await.len();

            let mut transaction = Transaction::new();
            // One that holds, before and behind the one that decides.
            transaction.check_present(&NUMBERS, 7);
            check(&mut transaction, key);
            transaction.check_absent(&BYTES, &b"nothing"[..]);
            visible_change(&mut transaction);
            let outcome = store.commit(transaction).await;
            match &outcome {
                Ok(commit) => assert!(holds && commit.position.is_some(), "{name} {key}"),
                Err(StorageError::Conflict { keyspace }) => {
                    assert!(!holds, "{name} {key}");
                    assert_eq!(*keyspace, 100);
                }
                Err(error) => panic!("{name} {key}: {error}"),
            }
            assert_eq!(number(&store, 1_000).await, holds.then_some(1), "{name} {key}");
            assert_eq!(number(&store, 1_001).await, (!holds).then_some(1), "{name} {key}");
            assert_eq!(whole_log(&store).await.len(), logged_before + usize::from(holds), "{name} {key}");
        }
    }
}

pub(crate) async fn a_version_is_checked(home: impl Home) {
    let store = home.store().await;
    let large = Bytes::from(vec![5; 100_000]);
    let put = |value: &Bytes, version: Option<Version>| {
        let mut transaction = Transaction::new();
        match version {
            Some(version) => transaction.check_version(&BYTES, &b"row"[..], version),
            None => transaction.check_absent(&BYTES, &b"row"[..]),
        }
        transaction.put(&BYTES, &b"row"[..], value);
        transaction
    };
    store.commit(put(&large, None)).await.unwrap();
    let empty = Bytes::new();
    store.commit(put(&empty, Some(Version::of(&large)))).await.unwrap();
    let error = store.commit(put(&large, Some(Version::of(&large)))).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    // An empty row is a row.
    let error = store.commit(put(&large, None)).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    store.commit(put(&large, Some(Version::of(b"")))).await.unwrap();
}

/// Two doctors are on call. Each may leave if the other stays, and each looks before either has left.
pub(crate) async fn write_skew_is_detected(home: impl Home) {
    const ON_CALL: u64 = 1;
    const OFF: u64 = 0;
    let store = home.store().await;
    for round in 0..20 {
        let doctors = [2 * round, 2 * round + 1];
        for doctor in doctors {
            put_number(&store, doctor, ON_CALL).await;
        }
        let mut leaving = Vec::new();
        for (leaves, stays) in [(doctors[0], doctors[1]), (doctors[1], doctors[0])] {
            let seen = store.snapshot().await.unwrap().get(&NUMBERS, stays).await.unwrap();
            assert_eq!(seen, Some(ON_CALL));
            let mut transaction = Transaction::new();
            transaction.check_unchanged(&NUMBERS, stays, seen.as_ref());
            transaction.put(&NUMBERS, leaves, &OFF);
            leaving.push(transaction);
        }
        let (second, first) = (leaving.pop().unwrap(), leaving.pop().unwrap());
        // At once, and so perhaps in one group.
        let outcomes = within(async { tokio::join!(store.commit(first), store.commit(second)) }).await;
        assert!(outcomes.0.is_ok() != outcomes.1.is_ok(), "{outcomes:?}");
        let error = outcomes.0.err().or(outcomes.1.err()).unwrap();
        assert!(error.is_conflict(), "{error}");
        let mut on_call = 0;
        for doctor in doctors {
            on_call += number(&store, doctor).await.unwrap();
        }
        assert_eq!(on_call, 1);
    }
}

pub(crate) async fn concurrent_increments_all_count(home: impl Home) {
    let store = home.store().await;
    let mut writers = JoinSet::new();
    for _ in 0..6 {
        let store = store.clone();
        writers.spawn(async move {
            for _ in 0..15 {
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
    assert_eq!(number(&store, 0).await, Some(90));
    assert_eq!(whole_log(&store).await.len(), 90);
}

pub(crate) async fn a_use_case_is_run_again_from_a_fresh_snapshot(home: impl Home) {
    let store = home.store().await;
    put_number(&store, 0, 10).await;
    let attempts = AtomicU32::new(0);
    let (answer, commit) = store
        .run(|snapshot| {
            let attempt = attempts.fetch_add(1, Ordering::SeqCst);
            let store = &store;
            async move {
                let seen = snapshot.get(&NUMBERS, 0).await?.unwrap();
                if attempt < 3 {
                    // Somebody else is quicker.
                    put_number(store, 0, seen + 100).await;
                }
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&NUMBERS, 0, Some(&seen));
                transaction.put(&NUMBERS, 0, &(seen + 1));
                Ok::<_, StorageError>((transaction, seen))
            }
        })
        .await
        .unwrap();
    assert_eq!(answer, 310);
    assert_eq!(commit.position, None);
    assert_eq!(attempts.load(Ordering::SeqCst), 4);
    assert_eq!(number(&store, 0).await, Some(311));
}

pub(crate) async fn other_errors_are_not_retried(home: impl Home) {
    #[derive(Debug)]
    enum Refusal {
        TooFew,
        Storage,
    }

    impl From<StorageError> for Refusal {
        fn from(_: StorageError) -> Self {
            Self::Storage
        }
    }

    let store = home.store().await;
    let attempts = AtomicU32::new(0);
    let refused = store
        .run(|_| async {
            attempts.fetch_add(1, Ordering::SeqCst);
            Err::<(Transaction, ()), _>(Refusal::TooFew)
        })
        .await;
    assert!(matches!(refused, Err(Refusal::TooFew)), "{refused:?}");
    let malformed = store
        .run(|_| async {
            attempts.fetch_add(1, Ordering::SeqCst);
            let mut transaction = Transaction::relaxed();
            transaction.log(TOPIC, "not durable");
            Ok::<_, Refusal>((transaction, ()))
        })
        .await;
    assert!(matches!(malformed, Err(Refusal::Storage)), "{malformed:?}");
    assert_eq!(attempts.load(Ordering::SeqCst), 2);

    // A use case that finds nothing to do commits nothing, whatever it checked.
    let nothing = store
        .run(|_| async {
            let mut transaction = Transaction::new();
            transaction.check_present(&NUMBERS, 99);
            Ok::<_, StorageError>((transaction, "nothing to do"))
        })
        .await
        .unwrap();
    assert_eq!((nothing.0, nothing.1.position), ("nothing to do", None));
}

pub(crate) async fn writes_are_applied_in_their_order(home: impl Home) {
    let store = home.store().await;
    put_number(&store, 3, 3).await;
    let mut transaction = Transaction::new();
    transaction.put(&NUMBERS, 1, &1);
    transaction.put(&NUMBERS, 1, &2);
    transaction.put(&NUMBERS, 2, &1);
    transaction.delete(&NUMBERS, 2);
    transaction.delete(&NUMBERS, 3);
    transaction.put(&NUMBERS, 3, &4);
    transaction.delete(&NUMBERS, 77);
    let mut more = Transaction::relaxed();
    more.put(&NUMBERS, 1, &3);
    transaction.append(more);
    store.commit(transaction).await.unwrap();
    let rows = store.snapshot().await.unwrap().scan_all(NUMBERS.scan(())).await.unwrap();
    assert_eq!(rows, [(1, 3), (3, 4)]);
}

/// Adds an event to a room: applied twice, there would be two.
fn event(room: &str) -> Transaction {
    let mut transaction = Transaction::new();
    let row = Stamped { position: LogPosition::AT_COMMIT, value: 1 };
    transaction.put(&EVENTS, (room.to_owned(), LogPosition::AT_COMMIT), &row);
    transaction.log(TOPIC, room.to_owned());
    transaction
}

pub(crate) async fn a_transaction_is_applied_once(home: impl Home) {
    let store = home.store().await;
    let transaction = event("!later");
    let first = store.commit(transaction.clone()).await.unwrap();
    log_one(&store, "in between").await;
    assert_eq!(store.commit(transaction.clone()).await.unwrap(), first);

    // At once, and so perhaps in one group.
    let twins = event("!at-once");
    let mut commits = JoinSet::new();
    for _ in 0..10 {
        let (store, transaction) = (store.clone(), twins.clone());
        commits.spawn(async move { store.commit(transaction).await.unwrap() });
    }
    let commits = within(commits.join_all()).await;
    assert!(commits.iter().all(|commit| *commit == commits[0] && commit.position.is_some()), "{commits:?}");

    let snapshot = store.snapshot().await.unwrap();
    for room in ["!later", "!at-once"] {
        assert_eq!(snapshot.scan_all(EVENTS.scan((room,))).await.unwrap().len(), 1, "{room}");
    }
    assert_eq!(payloads(&whole_log(&store).await), ["!later", "in between", "!at-once"]);

    // One without a log entry: what others wrote meanwhile stays.
    let mut set = Transaction::new();
    set.put(&NUMBERS, 0, &1);
    store.commit(set.clone()).await.unwrap();
    put_number(&store, 0, 2).await;
    store.commit(set).await.unwrap();
    assert_eq!(number(&store, 0).await, Some(2));
}

pub(crate) async fn a_refused_transaction_can_be_handed_in_again(home: impl Home) {
    let store = home.store().await;
    let mut transaction = event("!room");
    transaction.check_present(&NUMBERS, 0);
    let error = store.commit(transaction.clone()).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    put_number(&store, 0, 0).await;
    let commit = store.commit(transaction.clone()).await.unwrap();
    // Applied now: that its check no longer holds does not matter.
    let mut gone = Transaction::new();
    gone.delete(&NUMBERS, 0);
    store.commit(gone).await.unwrap();
    assert_eq!(store.commit(transaction).await.unwrap(), commit);
    assert_eq!(whole_log(&store).await.len(), 1);
}

pub(crate) async fn neighbours_in_a_group_do_not_fail_together(home: impl Home) {
    let store = home.store().await;
    let mut commits = JoinSet::new();
    for key in 0..60_u64 {
        let store = store.clone();
        commits.spawn(async move {
            let mut transaction = Transaction::new();
            match key % 3 {
                0 => transaction.check_absent(&NUMBERS, key),
                1 => transaction.check_present(&NUMBERS, key),
                _ => {}
            }
            transaction.put(&NUMBERS, key, &key);
            transaction.log(TOPIC, key.to_string());
            (key, store.commit(transaction).await)
        });
    }
    for (key, outcome) in within(commits.join_all()).await {
        match outcome {
            Ok(_) => assert_ne!(key % 3, 1),
            Err(error) => assert!(key % 3 == 1 && error.is_conflict(), "{key}: {error}"),
        }
    }
    let rows = store.snapshot().await.unwrap().scan_all(NUMBERS.scan(())).await.unwrap();
    assert_eq!(rows, (0..60).filter(|key| key % 3 != 1).map(|key| (key, key)).collect::<Vec<_>>());
    assert_eq!(whole_log(&store).await.len(), 40);
}

/// Sixty callers want the same row to be theirs: one gets it, also when all of them are decided together.
pub(crate) async fn a_transaction_sees_those_before_it_in_its_group(home: impl Home) {
    let store = home.store().await;
    let mut claims = JoinSet::new();
    for claimant in 0..60_u64 {
        let store = store.clone();
        claims.spawn(async move {
            let mut transaction = Transaction::new();
            transaction.check_absent(&NUMBERS, 0);
            transaction.put(&NUMBERS, 0, &claimant);
            (claimant, store.commit(transaction).await)
        });
    }
    let mut winners = Vec::new();
    for (claimant, outcome) in within(claims.join_all()).await {
        match outcome {
            Ok(_) => winners.push(claimant),
            Err(error) => assert!(error.is_conflict(), "{error}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(number(&store, 0).await, Some(winners[0]));
}

pub(crate) async fn a_malformed_transaction_is_refused(home: impl Home) {
    let store = home.store().await;
    let mut relaxed = Transaction::relaxed();
    relaxed.put(&NUMBERS, 0, &0);
    relaxed.log(TOPIC, "lost with the power");
    let mut stamped = event("!room");
    stamped.put(&NUMBERS, 0, &0);
    let mut unlogged = Transaction::new();
    let row = Stamped { position: LogPosition::AT_COMMIT, value: 1 };
    unlogged.put(&EVENTS, (String::from("!room"), LogPosition::AT_COMMIT), &row);
    for transaction in [relaxed, unlogged] {
        let error = store.commit(transaction).await.unwrap_err();
        assert!(matches!(error, StorageError::InvalidTransaction(_)), "{error}");
    }
    assert_eq!(number(&store, 0).await, None);
    store.commit(stamped).await.unwrap();
    assert_eq!(number(&store, 0).await, Some(0));
}

pub(crate) async fn the_position_is_filled_in(home: impl Home) {
    let store = home.store().await;
    let mut commits = JoinSet::new();
    for number in 0..20_u64 {
        let store = store.clone();
        commits.spawn(async move {
            let mut transaction = Transaction::new();
            for (room, value) in [("!a", number), ("!b", number)] {
                let row = Stamped { position: LogPosition::AT_COMMIT, value };
                transaction.put(&EVENTS, (room.to_owned(), LogPosition::AT_COMMIT), &row);
            }
            transaction.put(&TEXTS, ("same", number), &Bytes::from_static(b"no stamp"));
            transaction.log(TOPIC, number.to_string());
            (number, position_of(store.commit(transaction).await.unwrap()))
        });
    }
    let mut expected: Vec<_> =
        within(commits.join_all()).await.into_iter().map(|(number, position)| (position, number)).collect();
    expected.sort_unstable();
    let snapshot = store.snapshot().await.unwrap();
    for room in ["!a", "!b"] {
        let rows = snapshot.scan_all(EVENTS.scan((room,))).await.unwrap();
        let found: Vec<_> = rows.iter().map(|((_, position), row)| (*position, row.value)).collect();
        assert_eq!(found, expected);
        assert!(rows.iter().all(|((_, position), row)| row.position == *position));
    }
    // A row that is written back keeps the position it had.
    let ((_, position), row) = snapshot.scan_all(EVENTS.scan(("!a",))).await.unwrap().swap_remove(0);
    let mut transaction = Transaction::new();
    transaction.check_unchanged(&EVENTS, (String::from("!a"), position), Some(&row));
    transaction.put(&EVENTS, (String::from("!a"), position), &Stamped { value: 1_000, ..row });
    transaction.log(TOPIC, "written back");
    store.commit(transaction).await.unwrap();
    let rows = store.snapshot().await.unwrap().scan_all(EVENTS.scan(("!a",))).await.unwrap();
    assert_eq!(rows.len(), 20);
    assert_eq!(rows[0], ((String::from("!a"), position), Stamped { position, value: 1_000 }));
}

pub(crate) async fn a_cancelled_caller_withdraws_nothing(home: impl Home) {
    let store = home.store().await;
    let mut transactions = Vec::new();
    for key in 0..20_u64 {
        let mut transaction = Transaction::new();
        transaction.check_absent(&NUMBERS, key);
        transaction.put(&NUMBERS, key, &key);
        transaction.log(TOPIC, key.to_string());
        transactions.push(transaction.clone());
        // Polled once, and dropped.
        let commit = store.commit(transaction);
        tokio::select! {
            biased;
            outcome = commit => { outcome.unwrap(); }
            () = std::future::ready(()) => {}
        }
    }
    // Whatever became of them: handed in again, each is applied exactly once, and its check does not meet itself.
    for transaction in transactions {
        within(store.commit(transaction)).await.unwrap();
    }
    assert_eq!(whole_log(&store).await.len(), 20);
    assert_eq!(store.snapshot().await.unwrap().scan_all(NUMBERS.scan(())).await.unwrap().len(), 20);
}

pub(crate) async fn a_relaxed_commit_is_visible_and_survives_a_close(home: impl Home) {
    let store = home.store().await;
    for key in 0..50_u64 {
        let mut transaction = Transaction::relaxed();
        transaction.put(&NUMBERS, key, &key);
        assert_eq!(store.commit(transaction).await.unwrap().position, None);
        assert_eq!(number(&store, key).await, Some(key));
    }
    let store = home.reopen(store).await;
    assert_eq!(store.snapshot().await.unwrap().scan_all(NUMBERS.scan(())).await.unwrap().len(), 50);
}
