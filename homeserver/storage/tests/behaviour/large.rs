//! Large values, long keys, large transactions, and ranges that are deleted.

use entente_storage::{Bytes, StorageError, Transaction};

use crate::support::{
    BLOBS, BYTES, Home, LAST, NUMBERS, Scatter, TEXTS, TOPIC, log_one, put_number, whole_log, within,
};

const MEBIBYTE: usize = 1024 * 1024;

pub(crate) async fn large_values_come_back(home: impl Home) {
    let store = home.store().await;
    let sizes = [0, 1, 255, 256, 65_536, MEBIBYTE + 1, 8 * MEBIBYTE];
    for (number, size) in (0..).zip(sizes) {
        let mut transaction = Transaction::new();
        transaction.put(&BLOBS, number, &Scatter(number).bytes(size));
        transaction.put(&TEXTS, ("row", number), &Scatter(number).bytes(size));
        transaction.log(TOPIC, Scatter(number).bytes(size.min(MEBIBYTE)));
        within(store.commit(transaction)).await.unwrap();
    }
    let store = home.reopen(store).await;
    let snapshot = store.snapshot().await.unwrap();
    let log = whole_log(&store).await;
    for (number, size) in (0..).zip(sizes) {
        let expected = Scatter(number).bytes(size);
        assert!(snapshot.get(&BLOBS, number).await.unwrap().unwrap() == expected, "{size}");
        assert!(snapshot.get(&TEXTS, ("row", number)).await.unwrap().unwrap() == expected, "{size}");
        let payload = &log[usize::try_from(number).unwrap()].entries[0].payload;
        assert!(*payload == expected[..size.min(MEBIBYTE)], "{size}");
    }
    let mut transaction = Transaction::new();
    transaction.check_unchanged(&BLOBS, 6, Some(&Scatter(6).bytes(8 * MEBIBYTE)));
    transaction.put(&BLOBS, 6, &Bytes::from_static(b"small"));
    store.commit(transaction).await.unwrap();
    let small = store.snapshot().await.unwrap().get(&BLOBS, 6).await.unwrap().unwrap();
    assert_eq!(small, "small");
}

pub(crate) async fn a_page_ends_early_when_its_rows_are_large(home: impl Home) {
    let store = home.store().await;
    for number in 0..6 {
        let mut transaction = Transaction::new();
        transaction.put(&BLOBS, number, &Scatter(number).bytes(2 * MEBIBYTE));
        store.commit(transaction).await.unwrap();
    }
    let snapshot = store.snapshot().await.unwrap();
    for scan in [BLOBS.scan(()), BLOBS.scan(()).reverse()] {
        let first = snapshot.scan(&scan).await.unwrap();
        assert_eq!(first.rows.len(), 2, "4 MiB fill a page");
        assert!(first.next.is_some());
        let mut keys: Vec<_> =
            snapshot.scan_all(scan).await.unwrap().into_iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [0, 1, 2, 3, 4, 5]);
    }
}

/// The longest keys of a homeserver: three identifiers of 255 bytes, each of which the codec can double.
pub(crate) async fn long_keys_are_kept_apart(home: impl Home) {
    let store = home.store().await;
    let mut keys: Vec<Vec<u8>> = (0..10).map(|number| Scatter(number).bytes(2_000).to_vec()).collect();
    // Two that differ in their last byte only.
    for last in [2, 3] {
        keys.push([&vec![b'k'; 1_999][..], &[last]].concat());
    }
    keys.sort();
    let mut transaction = Transaction::new();
    for key in &keys {
        transaction.put(&BYTES, key, &Bytes::copy_from_slice(&key[1_900..]));
    }
    store.commit(transaction).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let rows = snapshot.scan_all(BYTES.scan(()).limit(5)).await.unwrap();
    assert!(rows.iter().map(|(key, _)| key).eq(&keys));
    let values = snapshot.get_many(&BYTES, &keys).await.unwrap();
    assert!(keys.iter().zip(values).all(|(key, value)| value.unwrap() == key[1_900..]));
}

pub(crate) async fn an_overlong_key_is_refused(home: impl Home) {
    let store = home.store().await;
    for length in [2_560, 3_000, 70_000] {
        let key = Scatter(1).bytes(length).to_vec();
        let mut put = Transaction::new();
        put.put(&BYTES, &key, &Bytes::new());
        let mut delete = Transaction::new();
        delete.delete(&BYTES, &key);
        let mut check = Transaction::new();
        check.check_absent(&BYTES, &key);
        check.put(&NUMBERS, 1, &1);
        for transaction in [put, delete, check] {
            // Beside one that is in order, and perhaps in its group.
            let neighbour = log_one(&store, "neighbour");
            let (refused, _) = within(async { tokio::join!(store.commit(transaction), neighbour) }).await;
            assert!(matches!(refused, Err(StorageError::InvalidTransaction(_))), "{length}: {refused:?}");
        }
        let snapshot = store.snapshot().await.unwrap();
        // To ask for it is no mistake.
        assert_eq!(snapshot.get(&BYTES, &key).await.unwrap(), None);
        let scans =
            [BYTES.scan(()).from(&key), BYTES.scan(()).to(&key), BYTES.scan(()).after(&key).reverse()];
        for scan in scans {
            assert_eq!(snapshot.scan_all(scan).await.unwrap(), []);
        }
        assert_eq!(snapshot.get(&NUMBERS, 1).await.unwrap(), None);
    }
    let longest = vec![b'k'; 2_559];
    let mut transaction = Transaction::new();
    transaction.put(&BYTES, &longest, &Bytes::new());
    store.commit(transaction).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.get(&BYTES, &longest).await.unwrap(), Some(Bytes::new()));
    // Bounds that are longer than any key still lie where they should: behind it, for it is their beginning.
    let longer = vec![b'k'; 70_000];
    assert_eq!(snapshot.scan_all(BYTES.scan(()).from(&longer)).await.unwrap(), []);
    assert_eq!(snapshot.scan_all(BYTES.scan(()).before(&longer).reverse()).await.unwrap().len(), 1);
}

pub(crate) async fn a_large_transaction_is_one(home: impl Home) {
    const ROWS: u64 = 20_000;
    let store = home.store().await;
    let mut transaction = Transaction::new();
    for number in 0..ROWS {
        transaction.check_absent(&NUMBERS, number);
        transaction.put(&NUMBERS, number, &number);
    }
    within(store.commit(transaction.clone())).await.unwrap();
    assert_eq!(store.snapshot().await.unwrap().scan_all(NUMBERS.scan(())).await.unwrap().len(), 20_000);

    // One check of many fails: nothing of it is written.
    let mut again = Transaction::new();
    for number in 0..ROWS {
        again.check_unchanged(&NUMBERS, number, Some(&number));
        again.delete(&NUMBERS, number);
    }
    again.check_present(&LAST, 0);
    let error = within(store.commit(again)).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert_eq!(store.snapshot().await.unwrap().scan_all(NUMBERS.scan(())).await.unwrap().len(), 20_000);
}

/// The one way to delete a range: page by page, each in a transaction of its own.
pub(crate) async fn a_range_is_deleted_in_pages(home: impl Home) {
    let store = home.store().await;
    let mut transaction = Transaction::new();
    for number in 0..2_500_u64 {
        transaction.put(&TEXTS, ("gone", number), &Bytes::from_static(b"row"));
    }
    for neighbour in ["gon", "gone\u{0}", "gone!", "h"] {
        transaction.put(&TEXTS, (neighbour, 1), &Bytes::from_static(b"stays"));
    }
    store.commit(transaction).await.unwrap();
    put_number(&store, 1, 1).await;
    let mut rounds = 0;
    loop {
        // A fresh snapshot for each page: the range shrinks from its lower end.
        let page = store.snapshot().await.unwrap().scan(&TEXTS.scan(("gone",)).limit(200)).await.unwrap();
        if page.rows.is_empty() {
            break;
        }
        let mut transaction = Transaction::new();
        for ((name, number), _) in &page.rows {
            transaction.delete(&TEXTS, (name.as_str(), *number));
        }
        store.commit(transaction).await.unwrap();
        rounds += 1;
        assert!(rounds <= 13, "what was deleted comes back");
    }
    assert_eq!(rounds, 13);
    let store = home.reopen(store).await;
    let snapshot = store.snapshot().await.unwrap();
    let rows = snapshot.scan_all(TEXTS.scan(())).await.unwrap();
    let names: Vec<_> = rows.iter().map(|((name, _), _)| name.as_str()).collect();
    assert_eq!(names, ["gon", "gone\u{0}", "gone!", "h"]);
    assert_eq!(snapshot.get(&NUMBERS, 1).await.unwrap(), Some(1));
}
