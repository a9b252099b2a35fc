//! End-to-end encrypted conversations: verification, messages and what relates to them, history from the key backup.

#![recursion_limit = "256"]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_sdk_tests::{PASSWORD, Person, eventually};
use entente_tests::Server;
use futures_util::StreamExt;
use matrix_sdk::{
    encryption::identities::UserIdentity,
    encryption::verification::{
        SasState, SasVerification, Verification, VerificationRequest, VerificationRequestState,
    },
    ruma::{
        OwnedRoomId,
        api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
        events::{
            InitialStateEvent,
            reaction::ReactionEventContent,
            relation::{Annotation, InReplyTo, Replacement, Reply, Thread},
            room::{
                encryption::RoomEncryptionEventContent,
                message::{MessageType, OriginalSyncRoomMessageEvent, Relation, RoomMessageEventContent},
            },
        },
    },
};

async fn encrypted_room(alice: &Person, bob: &Person) -> OwnedRoomId {
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::TrustedPrivateChat);
    request.is_direct = true;
    request.invite = vec![bob.id()];
    let encryption = RoomEncryptionEventContent::with_recommended_defaults();
    request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
    let room_id = alice.client.create_room(request).await.unwrap().room_id().to_owned();
    let invited = bob.room(&room_id).await;
    invited.join().await.unwrap();
    let room = alice.room(&room_id).await;
    eventually("the guest", || async { (room.joined_members_count() == 2).then_some(()) }).await;
    for person in [alice, bob] {
        let room = person.room(&room_id).await;
        eventually("encryption", || async {
            room.latest_encryption_state().await.unwrap().is_encrypted().then_some(())
        })
        .await;
    }
    room_id
}

/// Compares the short string on one side once both have it.
async fn confirm(sas: SasVerification) -> String {
    let mut changes = sas.changes();
    let mut shown = String::new();
    while let Some(state) = changes.next().await {
        match state {
            SasState::Started { .. } if !sas.we_started() => sas.accept().await.unwrap(),
            SasState::KeysExchanged { emojis, .. } => {
                shown = emojis.unwrap().emojis.iter().map(|emoji| emoji.symbol).collect();
                sas.confirm().await.unwrap();
            }
            SasState::Done { .. } => return shown,
            SasState::Cancelled(reason) => panic!("cancelled: {reason:?}"),
            _ => {}
        }
    }
    panic!("the verification ended without an outcome");
}

async fn verify_as_asker(request: VerificationRequest) -> String {
    let mut changes = request.changes();
    while let Some(state) = changes.next().await {
        match state {
            VerificationRequestState::Ready { .. } => {
                let sas = request.start_sas().await.unwrap().unwrap();
                return confirm(sas).await;
            }
            VerificationRequestState::Cancelled(reason) => panic!("cancelled: {reason:?}"),
            _ => {}
        }
    }
    panic!("nobody answered");
}

async fn verify_as_asked(request: VerificationRequest) -> String {
    request.accept().await.unwrap();
    let mut changes = request.changes();
    while let Some(state) = changes.next().await {
        match state {
            VerificationRequestState::Transitioned { verification: Verification::SasV1(sas), .. } => {
                sas.accept().await.unwrap();
                return confirm(sas).await;
            }
            VerificationRequestState::Cancelled(reason) => panic!("cancelled: {reason:?}"),
            _ => {}
        }
    }
    panic!("nothing was started");
}

/// What asks this person to verify, once it comes.
fn watch_for_request(person: &Person) -> tokio::sync::mpsc::UnboundedReceiver<VerificationRequest> {
    let (found, requests) = tokio::sync::mpsc::unbounded_channel();
    let client = person.client.clone();
    person.client.add_event_handler(move |event: OriginalSyncRoomMessageEvent| async move {
        if !matches!(event.content.msgtype, MessageType::VerificationRequest(_))
            || client.user_id() == Some(&event.sender)
        {
            return;
        }
        let flow_id = event.event_id.as_str();
        let request = client.encryption().get_verification_request(&event.sender, flow_id).await;
        let _ = found.send(request.unwrap());
    });
    requests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_verify_each_other_and_talk() {
    let server = Server::open();
    server.register("alice", PASSWORD).await;
    server.register("bob", PASSWORD).await;
    let alice = Person::log_in(&server, "alice", "office").await;
    let bob = Person::log_in(&server, "bob", "phone").await;
    let room_id = encrypted_room(&alice, &bob).await;
    let (in_alices, in_bobs) = (alice.room(&room_id).await, bob.room(&room_id).await);

    let mut requests = watch_for_request(&bob);
    let bobs_identity = alice.client.encryption().request_user_identity(&bob.id()).await.unwrap().unwrap();
    assert!(!bobs_identity.is_verified());
    let request = bobs_identity.request_verification().await.unwrap();
    let asking = tokio::spawn(verify_as_asker(request));
    let asked = verify_as_asked(requests.recv().await.unwrap()).await;
    assert_eq!(asking.await.unwrap(), asked, "both see the same emoji");
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        eventually("the verified identity", || async {
            let identity = one.client.encryption().get_user_identity(&other.id()).await.unwrap();
            identity.filter(UserIdentity::is_verified)
        })
        .await;
    }

    let text = RoomMessageEventContent::text_plain;
    in_alices.send(text("bonjour")).await.unwrap();
    let bonjour = bob.reads(&alice, "bonjour").await;
    assert!(bonjour.encrypted);
    let mut reply = text("salut");
    reply.relates_to = Some(Relation::Reply(Reply::new(InReplyTo::new(bonjour.event_id.clone()))));
    in_bobs.send(reply).await.unwrap();
    let salut = alice.reads(&bob, "salut").await;
    assert_eq!((salut.encrypted, salut.relation), (true, "reply"));
    let mut edit = text("* bonsoir");
    let replacement = Replacement::new(bonjour.event_id.clone(), text("bonsoir").into());
    edit.relates_to = Some(Relation::Replacement(replacement));
    in_alices.send(edit).await.unwrap();
    let bonsoir = bob.reads(&alice, "* bonsoir").await;
    assert_eq!((bonsoir.encrypted, bonsoir.relation), (true, "m.replace"));
    assert_eq!(bonsoir.related.as_ref(), Some(&bonjour.event_id));
    let annotation = Annotation::new(bonjour.event_id.clone(), String::from("👍"));
    in_bobs.send(ReactionEventContent::new(annotation)).await.unwrap();
    assert_eq!(alice.reads(&bob, "👍").await.related.as_ref(), Some(&bonjour.event_id));
    let mut threaded = text("au fait");
    threaded.relates_to =
        Some(Relation::Thread(Thread::plain(bonjour.event_id.clone(), bonjour.event_id.clone())));
    in_bobs.send(threaded).await.unwrap();
    let au_fait = alice.reads(&bob, "au fait").await;
    assert_eq!((au_fait.encrypted, au_fait.relation), (true, "m.thread"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_device_reads_old_messages_by_the_key_backup() {
    let server = Server::open();
    server.register("alice", PASSWORD).await;
    server.register("bob", PASSWORD).await;
    let bob = Person::log_in(&server, "bob", "phone").await;
    let (room_id, event_id, recovery_key) = {
        let alice = Person::log_in(&server, "alice", "office").await;
        let room_id = encrypted_room(&alice, &bob).await;
        bob.room(&room_id).await.send(RoomMessageEventContent::text_plain("de l'archive")).await.unwrap();
        let event_id = alice.reads(&bob, "de l'archive").await.event_id;
        let recovery_key =
            alice.client.encryption().recovery().enable().wait_for_backups_to_upload().await.unwrap();
        (room_id, event_id, recovery_key)
    };
    let alice = Person::log_in(&server, "alice", "laptop").await;
    let room = alice.room(&room_id).await;
    let before = room.event(&event_id, None).await.unwrap();
    assert!(before.encryption_info().is_none(), "the new device has no key yet");
    alice.client.encryption().recovery().recover(&recovery_key).await.unwrap();
    let event = eventually("the old message", || async {
        let event = room.event(&event_id, None).await.unwrap();
        event.encryption_info().is_some().then_some(event)
    })
    .await;
    assert!(event.raw().json().get().contains("de l'archive"));
}
