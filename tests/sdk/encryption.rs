//! End-to-end encrypted conversations: verification, messages and what relates to them, history from the key backup.

#![recursion_limit = "256"]

use entente_sdk_tests::{
    PASSWORD, Person, eventually,
    verifying::{encrypted_room, verify_each_other},
};
use entente_tests::Server;
use matrix_sdk::ruma::events::{
    reaction::ReactionEventContent,
    relation::{Annotation, InReplyTo, Replacement, Reply, Thread},
    room::message::{Relation, RoomMessageEventContent},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_verify_each_other_and_talk() {
    let server = Server::open();
    server.register("alice", PASSWORD).await;
    server.register("bob", PASSWORD).await;
    let alice = Person::log_in(&server, "alice", "office").await;
    let bob = Person::log_in(&server, "bob", "phone").await;
    let room_id = encrypted_room(&alice, &bob).await;
    let (in_alices, in_bobs) = (alice.room(&room_id).await, bob.room(&room_id).await);

    verify_each_other(&alice, &bob).await;

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
