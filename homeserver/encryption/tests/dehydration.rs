//! What becomes of dehydrated devices that nobody wakes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_encryption::{
    Encryption, EncryptionError, KEYSPACES, KeyUpload, NewDehydratedDevice, Sender, ToDeviceMessage,
};
use entente_environment::Timestamp;
use entente_storage::{Catalogue, Position, Schema, Store, engine::memory::Disk};
use ruma::{
    CanonicalJsonObject, UserId,
    serde::Base64,
    signatures::{Ed25519KeyPair, sign_json},
    user_id,
};
use serde_json::{json, value::RawValue};

const DEVICE: &str = "SLEEPER";
const DAY: u64 = 24 * 60 * 60 * 1_000;

fn alice() -> &'static UserId {
    user_id!("@alice:example.org")
}

fn raw(value: &impl serde::Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

fn device_keys() -> Box<RawValue> {
    let key = format!("ed25519:{DEVICE}");
    let pair = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), DEVICE.to_owned()).unwrap();
    let public: Base64 = Base64::new(pair.public_key().to_vec());
    let keys = json!({ "user_id": alice(), "device_id": DEVICE, "algorithms": [], "keys": { key: public } });
    let mut keys: CanonicalJsonObject = serde_json::from_value(keys).unwrap();
    sign_json(alice().as_str(), &pair, &mut keys).unwrap();
    raw(&keys)
}

async fn home() -> Encryption {
    let schema = Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
    let encryption = Encryption::new(Store::open(Disk::new().open().unwrap(), schema).await.unwrap());
    let (keys, data) = (device_keys(), raw(&json!({ "algorithm": "org.example" })));
    let device = NewDehydratedDevice {
        device_id: DEVICE,
        device_data: &data,
        display_name: None,
        keys: KeyUpload { device_keys: Some(&keys), ..KeyUpload::default() },
    };
    encryption.put_dehydrated_device(alice(), &device, Timestamp(0)).await.unwrap();
    encryption
}

/// Sends messages that name their numbers.
async fn send(encryption: &Encryption, numbers: std::ops::Range<u32>) {
    let transaction_id = format!("t{}", numbers.start);
    let sender = Sender { user_id: alice(), device_id: "AWAKE", transaction_id: &transaction_id };
    let contents: Vec<Box<RawValue>> = numbers.map(|number| raw(&json!({ "number": number }))).collect();
    let message = |content| ToDeviceMessage { localpart: "alice", device_id: DEVICE, content };
    let messages: Vec<_> = contents.iter().map(|content| message(&**content)).collect();
    encryption.send_to_devices(sender, "org.example", &messages, Timestamp(0)).await.unwrap();
}

/// How many messages wait, and the number of the first.
async fn waiting(encryption: &Encryption) -> (usize, u64) {
    let page = encryption.dehydrated_messages("alice", DEVICE, &Position::start()).await.unwrap();
    let first: serde_json::Value = serde_json::from_slice(page.messages.first().unwrap()).unwrap();
    let mut count = page.messages.len();
    let (mut end, mut more) = (page.end, page.more);
    while more {
        let page = encryption.dehydrated_messages("alice", DEVICE, &end).await.unwrap();
        count += page.messages.len();
        (end, more) = (page.end, page.more);
    }
    (count, first["content"]["number"].as_u64().unwrap())
}

#[tokio::test]
async fn too_many_messages_are_thinned_out_when_nobody_replaces_the_device() {
    let encryption = home().await;
    send(&encryption, 0..6_000).await;
    send(&encryption, 6_000..12_000).await;
    encryption.delete_expired(Timestamp(7 * DAY)).await.unwrap();
    assert_eq!(waiting(&encryption).await, (12_000, 0), "it may still be replaced");
    encryption.delete_expired(Timestamp(9 * DAY)).await.unwrap();
    assert_eq!(waiting(&encryption).await, (10_000, 2_000), "the newest are kept");
}

#[tokio::test]
async fn a_device_goes_with_its_user_and_not_with_lost_sessions() {
    let encryption = home().await;
    assert_eq!(encryption.devices_with_keys("alice").await.unwrap(), Vec::<String>::new());
    encryption.forget_user(alice()).await.unwrap();
    encryption.forget_user(alice()).await.unwrap();
    let gone = encryption.dehydrated_device("alice").await.unwrap_err();
    assert!(matches!(gone, EncryptionError::NotFound(_)));
    let found = encryption.query_keys(alice(), &[(alice(), Vec::new())]).await.unwrap();
    assert!(found.first().unwrap().devices.is_empty());
}
