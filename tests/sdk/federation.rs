//! End-to-end encrypted conversations between users of Synapse and of ours, each with one client and with the other: messages, devices that
//! come later, and people who verify each other.

#![recursion_limit = "256"]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, process::Stdio};

use entente_sdk_tests::{
    Person, eventually,
    verifying::{encrypted_room, verify_each_other},
};
use entente_tests::{Authority, Synapse, User};
use matrix_sdk::ruma::{
    OwnedUserId, UserId,
    api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
    events::{
        InitialStateEvent,
        room::{encryption::RoomEncryptionEventContent, message::RoomMessageEventContent},
    },
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Starts `matrix-nio` as a user who waits to be invited by another one.
fn start_nio(base_url: &str, keys: &TempDir, user: &User, other: &UserId) -> Child {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/nio");
    Command::new(directory.join(".venv/bin/python"))
        .arg(directory.join("elsewhere.py"))
        .arg(base_url)
        .arg(keys.path())
        .arg(&user.id)
        .arg(other.as_str())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the client is not installed: run tests/run once")
}

/// Alice of one server, with `matrix-sdk`, talks with Bob of the other, who has `matrix-nio`, and verifies Carol there, who has
/// `matrix-sdk` too. Then she has another device, which all of them come to know.
async fn talk(near: &str, far: &str, tag: &str) {
    let name = |person: &str| format!("{person}_{tag}");
    User::register_at(near, &name("alice")).await;
    let bob = User::register_at(far, &name("bob")).await;
    User::register_at(far, &name("carol")).await;
    let alice = Person::log_in_at(near, &name("alice"), "office").await;
    let keys = TempDir::new().unwrap();
    let nio = start_nio(far, &keys, &bob, &alice.id());
    let bob: OwnedUserId = UserId::parse(&bob.id).unwrap();

    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::TrustedPrivateChat);
    request.invite = vec![bob.clone()];
    let encryption = RoomEncryptionEventContent::with_recommended_defaults();
    request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
    let room_id = alice.client.create_room(request).await.unwrap().room_id().to_owned();
    let room = alice.room(&room_id).await;
    eventually("Bob", || async { (room.joined_members_count() == 2).then_some(()) }).await;
    eventually("Bob's device", || async {
        let devices = alice.client.encryption().get_user_devices(&bob).await.unwrap();
        (devices.devices().count() > 0).then_some(())
    })
    .await;
    let text = RoomMessageEventContent::text_plain;
    room.send(text("bonjour")).await.unwrap();
    assert!(alice.reads_from(&bob, "salut").await.encrypted);

    let carol = Person::log_in_at(far, &name("carol"), "phone").await;
    let of_carol = encrypted_room(&alice, &carol).await;
    verify_each_other(&alice, &carol).await;

    // Alice's second device: those on the other server hear of it, encrypt for it, and see that it is hers.
    let laptop = Person::log_in_at(near, &name("alice"), "laptop").await;
    let laptop_id = laptop.client.device_id().unwrap().to_owned();
    let encryption = alice.client.encryption();
    let own = eventually("the laptop, at the office", || async {
        encryption.get_device(&alice.id(), &laptop_id).await.unwrap()
    })
    .await;
    own.verify().await.unwrap();
    eventually("the laptop, at Carol's", || async {
        let device = carol.client.encryption().get_device(&alice.id(), &laptop_id).await.unwrap()?;
        device.is_verified_with_cross_signing().then_some(())
    })
    .await;
    laptop.room(&room_id).await;
    room.send(text("I have a laptop")).await.unwrap();
    for device in [&alice, &laptop] {
        let read = device.reads_from(&bob, "hello laptop").await;
        assert!(read.encrypted);
    }
    let in_carols = carol.room(&of_carol).await;
    in_carols.send(text("hello Alice")).await.unwrap();
    for device in [&alice, &laptop] {
        assert!(device.reads(&carol, "hello Alice").await.encrypted);
    }
    laptop.room(&room_id).await.send(text("adieu")).await.unwrap();
    let output = nio.wait_with_output().await.unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tag}: {printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_here_talks_encrypted_with_users_of_synapse() {
    let authority = Authority::new();
    let (server, synapse) = (authority.server(&[]), Synapse::start(&authority).await);
    talk(&server.base_url, &synapse.base_url, "there").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_synapse_talks_encrypted_with_somebody_here() {
    let authority = Authority::new();
    let (server, synapse) = (authority.server(&[]), Synapse::start(&authority).await);
    talk(&synapse.base_url, &server.base_url, "here").await;
}
