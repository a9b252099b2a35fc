//! Messages that wait for devices, a page at a time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_encryption::{Encryption, KEYSPACES, MessageLimit, Sender, ToDeviceMessage};
use entente_environment::Timestamp;
use entente_storage::{Catalogue, Position, Schema, Store, engine::memory::Disk};
use ruma::user_id;
use serde_json::{Value, json, value::RawValue};

const DEVICE: &str = "PHONE";

async fn home() -> (Store, Encryption) {
    let schema = Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
    let store = Store::open(Disk::new().open().unwrap(), schema).await.unwrap();
    (store.clone(), Encryption::new(store))
}

/// Sends messages that name their numbers, all in one commit.
async fn send(encryption: &Encryption, numbers: std::ops::Range<u64>) {
    let transaction_id = format!("t{}", numbers.start);
    let sender =
        Sender { user_id: user_id!("@bob:example.org"), device_id: "D", transaction_id: &transaction_id };
    let contents: Vec<Box<RawValue>> = numbers
        .map(|number| serde_json::value::to_raw_value(&json!({ "number": number })).unwrap())
        .collect();
    let message = |content| ToDeviceMessage { localpart: "alice", device_id: DEVICE, content };
    let messages: Vec<_> = contents.iter().map(|content| message(&**content)).collect();
    encryption.send_to_devices(sender, "org.example", &messages, Timestamp(0)).await.unwrap();
}

/// Takes page after page, as a device does: what it has seen is deleted. Answers the numbers of each page.
async fn take(store: &Store, encryption: &Encryption, limit: MessageLimit) -> Vec<Vec<u64>> {
    let mut pages = Vec::new();
    loop {
        let snapshot = store.snapshot().await.unwrap();
        let (start, to) = (Position::start(), snapshot.position().await.unwrap());
        let page = encryption.to_device_page(&snapshot, "alice", DEVICE, &start, &to, limit).await.unwrap();
        let (messages, reached) = page;
        if messages.is_empty() {
            return pages;
        }
        let number = |message: &entente_storage::Bytes| {
            let message: Value = serde_json::from_slice(message).unwrap();
            message["content"]["number"].as_u64().unwrap()
        };
        pages.push(messages.iter().map(number).collect());
        encryption.acknowledge_to_device("alice", DEVICE, &reached).await.unwrap();
    }
}

#[tokio::test]
async fn what_one_commit_brought_comes_whole_however_small_the_page() {
    let (store, encryption) = home().await;
    send(&encryption, 0..3).await;
    send(&encryption, 3..4).await;
    send(&encryption, 4..6).await;
    let one = MessageLimit::from(1);
    assert_eq!(take(&store, &encryption, one).await, [vec![0, 1, 2], vec![3], vec![4, 5]], "none is lost");
    send(&encryption, 6..9).await;
    send(&encryption, 9..11).await;
    assert_eq!(
        take(&store, &encryption, MessageLimit::from(4)).await,
        [vec![6, 7, 8], vec![9, 10]],
        "none is torn apart"
    );
}

#[tokio::test]
async fn a_page_has_only_so_many_bytes() {
    let (store, encryption) = home().await;
    for number in 0..5 {
        send(&encryption, number..number + 1).await;
    }
    let snapshot = store.snapshot().await.unwrap();
    let (start, to) = (Position::start(), snapshot.position().await.unwrap());
    let all = encryption.to_device_page(&snapshot, "alice", DEVICE, &start, &to, 100).await.unwrap().0;
    let limit = MessageLimit { messages: 100, bytes: all[0].len() * 2 };
    assert_eq!(take(&store, &encryption, limit).await, [vec![0, 1], vec![2, 3], vec![4]]);
    send(&encryption, 5..7).await;
    let none = MessageLimit { messages: 100, bytes: 0 };
    assert_eq!(take(&store, &encryption, none).await, [[5, 6]], "the first goes in any case");
}
