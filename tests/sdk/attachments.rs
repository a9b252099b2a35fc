//! Encrypted attachments between two clients that have nothing in common.

#![recursion_limit = "256"]

use std::path::Path;

use entente_sdk_tests::{PASSWORD, Person, eventually};
use entente_tests::Server;
use matrix_sdk::{
    attachment::AttachmentConfig,
    media::{MediaFormat, MediaRequestParameters},
    ruma::{
        api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
        events::{
            InitialStateEvent,
            room::{
                MediaSource,
                encryption::RoomEncryptionEventContent,
                message::{MessageType, OriginalSyncRoomMessageEvent},
            },
        },
        user_id,
    },
};
use tempfile::TempDir;
use tokio::{process::Command, sync::mpsc};

/// The files that others send to this person.
fn files_for(person: &Person) -> mpsc::UnboundedReceiver<MediaSource> {
    let (found, files) = mpsc::unbounded_channel();
    let own_id = person.id();
    person.client.add_event_handler(move |event: OriginalSyncRoomMessageEvent| async move {
        if let MessageType::File(file) = event.content.msgtype
            && event.sender != own_id
        {
            let _ = found.send(file.source);
        }
    });
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attachments_go_there_and_back() {
    // matrix-nio downloads as clients did before that needed a token.
    let server = Server::with(&[
        ("ENTENTE_REGISTRATION__OPEN", "true"),
        ("ENTENTE_MEDIA__UNAUTHENTICATED_BEFORE", "2999-01-01"),
    ]);
    server.register("alice", PASSWORD).await;
    server.register("nio", PASSWORD).await;
    let alice = Person::log_in(&server, "alice", "office").await;
    let nio = user_id!("@nio:localhost:8008");
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::TrustedPrivateChat);
    request.invite = vec![nio.to_owned()];
    let encryption = RoomEncryptionEventContent::with_recommended_defaults();
    request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
    let room_id = alice.client.create_room(request).await.unwrap().room_id().to_owned();
    let room = alice.room(&room_id).await;

    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/nio");
    let keys = TempDir::new().unwrap();
    let mut other = Command::new(scripts.join(".venv/bin/python"))
        .arg(scripts.join("attachments.py"))
        .args([server.base_url.as_str(), keys.path().to_str().unwrap(), alice.id().as_str()])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("the guest", || async { (room.joined_members_count() == 2).then_some(()) }).await;
    eventually("the guest's keys", || async {
        let devices = alice.client.encryption().get_user_devices(nio).await.unwrap();
        devices.devices().next().is_some().then_some(())
    })
    .await;
    let mut files = files_for(&alice);
    let file: Vec<u8> = (0..=u8::MAX).cycle().take(300_000).collect();
    let content_type = "application/octet-stream".parse().unwrap();
    room.send_attachment("there.bin", &content_type, file.clone(), AttachmentConfig::new()).await.unwrap();

    let source = tokio::time::timeout(entente_tests::SOON * 3, files.recv()).await.unwrap().unwrap();
    assert!(matches!(source, MediaSource::Encrypted(_)), "it was not encrypted");
    let request = MediaRequestParameters { source, format: MediaFormat::File };
    let back = alice.client.media().get_media_content(&request, false).await.unwrap();
    assert!(back == file, "{} bytes came back", back.len());
    assert!(other.wait().await.unwrap().success());
}
