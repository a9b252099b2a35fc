use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use entente_storage::{Bytes, Store, Transaction};

use crate::support::{BLOBS, COUNTERS, Place, RAW, ROWS};

async fn put_rows(store: &Store, group: &str, numbers: impl IntoIterator<Item = u64>) {
    let mut transaction = Transaction::new();
    for number in numbers {
        transaction.put(&ROWS, (group, number), &format!("{group}{number}"));
    }
    store.commit(transaction).await.unwrap();
}

pub async fn keys_are_ordered(place: Place) {
    let store = place.open().await;
    put_rows(&store, "b", [3, 1, u64::MAX, 256, 255, 0]).await;
    put_rows(&store, "a", [9]).await;
    put_rows(&store, "ab", [5]).await;
    let snapshot = store.snapshot().await.unwrap();
    let keys: Vec<(String, u64)> =
        snapshot.scan_all(ROWS.scan(())).await.unwrap().into_iter().map(|(key, _)| key).collect();
    let expected = [("a", 9), ("ab", 5), ("b", 0), ("b", 1), ("b", 3), ("b", 255), ("b", 256), ("b", u64::MAX)];
    assert_eq!(keys, expected.map(|(group, number)| (group.to_owned(), number)));
    let group = snapshot.scan_all(ROWS.scan(("a",))).await.unwrap();
    assert_eq!(group, [(("a".to_owned(), 9), "a9".to_owned())], "a group is not a prefix of another's name");
}

pub async fn rows_are_read_in_the_order_asked_for(place: Place) {
    let store = place.open().await;
    put_rows(&store, "a", 0..10).await;
    let mut transaction = Transaction::new();
    transaction.put(&COUNTERS, "c", &7);
    store.commit(transaction).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let values = snapshot.get_many(&ROWS, [("a", 7), ("a", 70), ("a", 2), ("a", 7)]).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(values, [text("a7"), None, text("a2"), text("a7")]);
    let none: [(&str, u64); 0] = [];
    assert!(snapshot.get_many(&ROWS, none).await.unwrap().is_empty());
    let mut batch = snapshot.batch();
    let row = batch.get(&ROWS, ("a", 1));
    let counter = batch.get(&COUNTERS, "c");
    let missing = batch.get(&COUNTERS, "d");
    let mut rows = batch.read().await.unwrap();
    assert_eq!(rows.take(&counter).unwrap(), Some(7));
    assert_eq!(rows.take(&row).unwrap(), text("a1"));
    assert_eq!(rows.take(&missing).unwrap(), None);
}

pub async fn pages_join_up_in_both_directions(place: Place) {
    let store = place.open().await;
    put_rows(&store, "a", 0..1_000).await;
    put_rows(&store, "b", 0..5).await;
    let snapshot = store.snapshot().await.unwrap();
    for limit in [1, 7, 256, 300, 1_000, 1_001] {
        for reverse in [false, true] {
            let mut numbers = Vec::new();
            let mut resume = None;
            loop {
                let mut scan = ROWS.scan(("a",)).limit(limit);
                if reverse {
                    scan = scan.reverse();
                }
                if let Some(at) = resume {
                    scan = scan.resume(at);
                }
                let page = snapshot.scan(&scan).await.unwrap();
                assert!(page.rows.len() <= limit);
                numbers.extend(page.rows.into_iter().map(|((_, number), _)| number));
                let Some(next) = page.next else { break };
                resume = Some(next);
            }
            if reverse {
                numbers.reverse();
            }
            assert!(numbers.iter().copied().eq(0..1_000), "limit {limit}, reverse {reverse}");
        }
    }
}

pub async fn bounds_are_kept(place: Place) {
    let store = place.open().await;
    put_rows(&store, "a", 0..10).await;
    put_rows(&store, "b", 0..10).await;
    let snapshot = store.snapshot().await.unwrap();
    let numbers = async |scan| {
        let rows: Vec<((String, u64), String)> = snapshot.scan_all(scan).await.unwrap();
        rows.into_iter().map(|((_, number), _)| number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(ROWS.scan(("a",)).from(("a", 3)).before(("a", 6))).await, [3, 4, 5]);
    assert_eq!(numbers(ROWS.scan(("a",)).after(("a", 3)).to(("a", 6))).await, [4, 5, 6]);
    assert_eq!(numbers(ROWS.scan(("a",)).after(("a", 3)).to(("a", 6)).reverse()).await, [6, 5, 4]);
    assert_eq!(numbers(ROWS.scan(("a",)).from(("a", 8))).await, [8, 9], "not into the next group");
    assert!(numbers(ROWS.scan(("a",)).from(("a", 6)).before(("a", 6))).await.is_empty());
    assert!(numbers(ROWS.scan(("a",)).from(("a", 7)).before(("a", 6))).await.is_empty());
}

pub async fn a_snapshot_does_not_change(place: Place) {
    let store = place.open().await;
    put_rows(&store, "a", 0..3).await;
    let before = store.snapshot().await.unwrap();
    let mut transaction = Transaction::new();
    transaction.put(&ROWS, ("a", 0), &"changed".to_owned());
    transaction.delete(&ROWS, ("a", 1));
    transaction.put(&ROWS, ("a", 9), &"new".to_owned());
    store.commit(transaction).await.unwrap();
    let after = store.snapshot().await.unwrap();
    let texts = async |snapshot: &entente_storage::Snapshot| {
        let rows = snapshot.scan_all(ROWS.scan(("a",))).await.unwrap();
        rows.into_iter().map(|(_, text)| text).collect::<Vec<_>>()
    };
    assert_eq!(texts(&before).await, ["a0", "a1", "a2"]);
    assert_eq!(before.get(&ROWS, ("a", 1)).await.unwrap().as_deref(), Some("a1"));
    assert_eq!(texts(&after).await, ["changed", "a2", "new"]);
}

/// Writers move a token from row to row; whatever a scan sees, there is exactly one.
pub async fn a_scan_sees_no_writer(place: Place) {
    const ROUNDS: u64 = 200;
    let store = place.open().await;
    put_rows(&store, "filler", 0..50).await;
    put_rows(&store, "token", [0]).await;
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, done) = (store.clone(), Arc::clone(&done));
        async move {
            for round in 0..ROUNDS {
                let mut transaction = Transaction::new();
                transaction.delete(&ROWS, ("token", round));
                transaction.put(&ROWS, ("token", round + 1), &String::from("token"));
                store.commit(transaction).await.unwrap();
            }
            done.store(true, Ordering::Release);
        }
    });
    let mut scans = 0;
    loop {
        let is_last = done.load(Ordering::Acquire);
        let snapshot = store.snapshot().await.unwrap();
        let first = snapshot.scan_all(ROWS.scan(("token",)).limit(1)).await.unwrap();
        let second = snapshot.scan_all(ROWS.scan(("token",))).await.unwrap();
        assert_eq!(first.len(), 1, "one token, wherever it is");
        assert_eq!(first, second, "two scans of one snapshot agree");
        scans += 1;
        if is_last {
            assert_eq!(first[0].0.1, ROUNDS);
            break;
        }
    }
    writer.await.unwrap();
    assert!(scans > 1);
}

pub async fn large_values_come_back(place: Place) {
    let store = place.open().await;
    let value = |number: u64, length: usize| -> Bytes {
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        std::iter::repeat_with(next).take(length).collect()
    };
    let lengths = [0, 1, 255, 256, 65_536, 3 * 1024 * 1024, 8 * 1024 * 1024];
    let mut transaction = Transaction::new();
    for (number, length) in (0_u64..).zip(lengths) {
        transaction.put(&BLOBS, number, &value(number, length));
    }
    store.commit(transaction).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let snapshot = place.open().await.snapshot().await.unwrap();
    for (number, length) in (0_u64..).zip(lengths) {
        let read = snapshot.get(&BLOBS, number).await.unwrap().unwrap();
        assert!(read == value(number, length), "{length} bytes");
    }
}

pub async fn a_page_has_an_end_in_bytes(place: Place) {
    let store = place.open().await;
    for number in 0..12 {
        let mut transaction = Transaction::new();
        transaction.put(&BLOBS, number, &Bytes::from(vec![1; 1024 * 1024]));
        store.commit(transaction).await.unwrap();
    }
    let snapshot = store.snapshot().await.unwrap();
    let page = snapshot.scan(&BLOBS.scan(())).await.unwrap();
    assert!((2..=8).contains(&page.rows.len()), "{} MiB in a page", page.rows.len());
    assert!(page.next.is_some());
    assert_eq!(snapshot.scan_all(BLOBS.scan(())).await.unwrap().len(), 12);
}

pub async fn keys_are_any_bytes(place: Place) {
    let store = place.open().await;
    let keys: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"\0\x01", b"\x01", b"\xfe\xff", b"\xff", b"\xff\xff\xff"];
    let mut transaction = Transaction::new();
    for key in keys.iter().rev() {
        transaction.put(&RAW, *key, &Bytes::copy_from_slice(key));
    }
    store.commit(transaction).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let rows = snapshot.scan_all(RAW.scan(()).limit(3)).await.unwrap();
    assert!(rows.iter().map(|(key, _)| key.as_slice()).eq(keys), "{rows:?}");
    let backwards = snapshot.scan_all(RAW.scan(()).limit(3).reverse()).await.unwrap();
    assert!(backwards.iter().map(|(key, _)| key.as_slice()).eq(keys.into_iter().rev()));
    for key in keys {
        assert_eq!(snapshot.get(&RAW, key).await.unwrap().as_deref(), Some(key));
    }
}
