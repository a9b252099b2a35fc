//! Rows come back: by key, in batches, in pages.

use std::{collections::BTreeMap, ops::Bound};

use entente_storage::{Bytes, Scan, Snapshot, Store, Transaction};

use crate::support::{BYTES, Home, LAST, NUMBERS, SIGNED, Scatter, TEXTS};

/// Keys that try an order: empty ones, prefixes of each other, and the bytes that the codec escapes.
fn awkward_keys() -> Vec<Vec<u8>> {
    let mut keys = vec![Vec::new(), vec![0x7f; 300]];
    for byte in [0x00, 0x01, 0x02, 0xfe, 0xff] {
        for length in 1..4 {
            keys.push(vec![byte; length]);
            keys.push([&vec![byte; length][..], b"a"].concat());
            keys.push([b"a", &vec![byte; length][..]].concat());
        }
    }
    let mut scatter = Scatter(7);
    for length in 0..100 {
        keys.push(scatter.bytes(length % 9).to_vec());
    }
    keys.sort();
    keys.dedup();
    keys
}

pub(crate) async fn keys_come_back_in_their_order(home: impl Home) {
    let store = home.store().await;
    let sorted = awkward_keys();
    let mut shuffled = sorted.clone();
    shuffled.sort_by_key(|key| Scatter(key.iter().map(|&byte| u64::from(byte)).sum()).below(1_000));
    assert_ne!(shuffled, sorted);
    for keys in shuffled.chunks(10) {
        let mut transaction = Transaction::new();
        for key in keys {
            transaction.put(&BYTES, key, &Bytes::from(key.clone()));
        }
        store.commit(transaction).await.unwrap();
    }
    let snapshot = store.snapshot().await.unwrap();
    let rows = snapshot.scan_all(BYTES.scan(()).limit(7)).await.unwrap();
    assert!(rows.iter().all(|(key, value)| key == value));
    let mut keys: Vec<_> = rows.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, sorted);
    let downwards = snapshot.scan_all(BYTES.scan(()).reverse().limit(7)).await.unwrap();
    keys.reverse();
    assert_eq!(downwards.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), keys);
}

pub(crate) async fn signed_keys_come_back_in_their_order(home: impl Home) {
    let store = home.store().await;
    let mut transaction = Transaction::new();
    for key in [0, i64::MAX, -1, 1, i64::MIN, -256, 255] {
        transaction.put(&SIGNED, key, &());
    }
    store.commit(transaction).await.unwrap();
    let rows = store.snapshot().await.unwrap().scan_all(SIGNED.scan(())).await.unwrap();
    let keys: Vec<_> = rows.into_iter().map(|(key, ())| key).collect();
    assert_eq!(keys, [i64::MIN, -256, -1, 0, 1, 255, i64::MAX]);
}

pub(crate) async fn keyspaces_do_not_mix(home: impl Home) {
    let store = home.store().await;
    let mut transaction = Transaction::new();
    for key in [0, u64::MAX] {
        transaction.put(&NUMBERS, key, &100);
        transaction.put(&LAST, key, &200);
    }
    transaction.put(&TEXTS, ("", 0), &Bytes::from_static(b"text"));
    store.commit(transaction).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let numbers = [(0, 100), (u64::MAX, 100)];
    let last = [(0, 200), (u64::MAX, 200)];
    assert_eq!(snapshot.scan_all(NUMBERS.scan(())).await.unwrap(), numbers);
    assert_eq!(snapshot.scan_all(LAST.scan(())).await.unwrap(), last);
    assert_eq!(snapshot.scan_all(BYTES.scan(())).await.unwrap(), []);
    assert_eq!(snapshot.scan_all(TEXTS.scan(())).await.unwrap().len(), 1);
    // Downwards, where a scan begins at the neighbour.
    let downwards = snapshot.scan_all(NUMBERS.scan(()).reverse().limit(1)).await.unwrap();
    assert_eq!(downwards, [numbers[1], numbers[0]]);
    let downwards = snapshot.scan_all(LAST.scan(()).reverse().limit(1)).await.unwrap();
    assert_eq!(downwards, [last[1], last[0]]);
    assert_eq!(snapshot.get(&NUMBERS, 0).await.unwrap(), Some(100));
    assert_eq!(snapshot.get(&LAST, 0).await.unwrap(), Some(200));

    let mut transaction = Transaction::new();
    transaction.delete(&NUMBERS, 0);
    store.commit(transaction).await.unwrap();
    assert_eq!(store.snapshot().await.unwrap().scan_all(LAST.scan(())).await.unwrap(), last);
}

pub(crate) async fn a_batch_answers_in_the_order_in_which_it_asked(home: impl Home) {
    let store = home.store().await;
    let mut transaction = Transaction::new();
    for number in (0..3_000).step_by(2) {
        transaction.put(&NUMBERS, number, &(number + 1));
    }
    transaction.put(&TEXTS, ("a", 1), &Bytes::from_static(b"text"));
    store.commit(transaction).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();

    let mut scatter = Scatter(3);
    // More keys than a statement of a remote engine may have parameters, with gaps and repetitions.
    let keys: Vec<u64> = (0..70_000).map(|_| scatter.below(3_000)).collect();
    let values = snapshot.get_many(&NUMBERS, keys.iter()).await.unwrap();
    assert_eq!(values.len(), keys.len());
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value, (key % 2 == 0).then_some(key + 1), "{key}");
    }
    assert_eq!(snapshot.get_many(&NUMBERS, Vec::<u64>::new()).await.unwrap(), []);

    let mut batch = snapshot.batch();
    let missing = batch.get(&NUMBERS, 1);
    let text = batch.get(&TEXTS, ("a", 1));
    let number = batch.get(&NUMBERS, 2);
    let again = batch.get(&NUMBERS, 2);
    let mut rows = batch.read().await.unwrap();
    assert_eq!(rows.take(&number).unwrap(), Some(3));
    assert_eq!(rows.take(&again).unwrap(), Some(3));
    assert_eq!(rows.take(&text).unwrap(), Some(Bytes::from_static(b"text")));
    assert_eq!(rows.take(&missing).unwrap(), None);
}

/// Reads a scan page by page, and expects that no page is larger than it may be and that the last one ends it.
async fn pages(snapshot: &Snapshot, scan: Scan<u64, u64>, limit: usize) -> Vec<(u64, u64)> {
    let scan = scan.limit(limit);
    let mut rows = Vec::new();
    let mut page = snapshot.scan(&scan).await.unwrap();
    loop {
        assert!(page.rows.len() <= limit);
        rows.extend(page.rows);
        let Some(next) = page.next else { return rows };
        let resumed = snapshot.scan(&scan.clone().resume(next)).await.unwrap();
        assert!(resumed.next.is_none() || !resumed.rows.is_empty());
        page = resumed;
    }
}

async fn filled_with_every_third(store: &Store) -> BTreeMap<u64, u64> {
    let rows: BTreeMap<u64, u64> = (0..40).map(|number| (number * 3, number)).collect();
    let mut transaction = Transaction::new();
    for (key, value) in &rows {
        transaction.put(&NUMBERS, key, value);
    }
    store.commit(transaction).await.unwrap();
    rows
}

pub(crate) async fn pages_join_up_in_both_directions(home: impl Home) {
    let store = home.store().await;
    let model = filled_with_every_third(&store).await;
    let snapshot = store.snapshot().await.unwrap();
    let lower_ends = [Bound::Unbounded, Bound::Included(30), Bound::Excluded(30), Bound::Excluded(31)];
    let upper_ends = [Bound::Unbounded, Bound::Included(60), Bound::Excluded(60), Bound::Included(61)];
    for lower in lower_ends {
        for upper in upper_ends {
            let mut scan = NUMBERS.scan(());
            scan = match lower {
                Bound::Unbounded => scan,
                Bound::Included(key) => scan.from(key),
                Bound::Excluded(key) => scan.after(key),
            };
            scan = match upper {
                Bound::Unbounded => scan,
                Bound::Included(key) => scan.to(key),
                Bound::Excluded(key) => scan.before(key),
            };
            let mut expected: Vec<_> =
                model.range((lower, upper)).map(|(&key, &value)| (key, value)).collect();
            // 11 and 10 are the rows between 30 and 60 with and without an end: pages that are just full.
            for limit in [1, 2, 7, 10, 11, 40, 1_000] {
                let upwards = pages(&snapshot, scan.clone(), limit).await;
                assert_eq!(upwards, expected, "{lower:?} {upper:?} {limit}");
            }
            expected.reverse();
            for limit in [1, 2, 7, 10, 11, 40, 1_000] {
                let downwards = pages(&snapshot, scan.clone().reverse(), limit).await;
                assert_eq!(downwards, expected, "downwards {lower:?} {upper:?} {limit}");
            }
        }
    }
}

pub(crate) async fn a_prefix_finds_its_own_rows_only(home: impl Home) {
    let store = home.store().await;
    let mut transaction = Transaction::new();
    for name in ["", "a", "ab", "b", "\u{0}", "a\u{0}", "\u{10ffff}"] {
        for number in [0, 1, u64::MAX] {
            transaction.put(&TEXTS, (name, number), &Bytes::from(name.to_owned()));
        }
    }
    store.commit(transaction).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    for name in ["", "a", "ab", "b", "\u{0}", "a\u{0}", "\u{10ffff}"] {
        let rows = snapshot.scan_all(TEXTS.scan((name,))).await.unwrap();
        let numbers: Vec<_> = rows.iter().map(|((_, number), _)| *number).collect();
        assert_eq!(numbers, [0, 1, u64::MAX], "{name:?}");
        assert!(rows.iter().all(|((found, _), value)| found == name && *value == name), "{name:?}");
        let newest = snapshot.scan(&TEXTS.scan((name,)).reverse().limit(1)).await.unwrap();
        assert_eq!(newest.rows[0].0, (name.to_owned(), u64::MAX));
    }
    assert_eq!(snapshot.scan_all(TEXTS.scan(("c",))).await.unwrap(), []);
}

pub(crate) async fn an_empty_range_has_no_rows(home: impl Home) {
    let store = home.store().await;
    filled_with_every_third(&store).await;
    let snapshot = store.snapshot().await.unwrap();
    for scan in [
        NUMBERS.scan(()).from(61).to(62),
        NUMBERS.scan(()).after(60).before(63),
        NUMBERS.scan(()).after(60).to(60),
        NUMBERS.scan(()).from(60).before(60),
        NUMBERS.scan(()).after(60).before(60),
        NUMBERS.scan(()).from(70).to(50),
        NUMBERS.scan(()).after(u64::MAX),
    ] {
        for scan in [scan.clone(), scan.reverse()] {
            let page = snapshot.scan(&scan).await.unwrap();
            assert_eq!((page.rows, page.next), (Vec::new(), None), "{scan:?}");
        }
    }
}
