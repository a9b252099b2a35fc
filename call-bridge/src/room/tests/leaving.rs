use std::time::Duration;

use super::{super::*, scene::Scene};
use crate::{
    proto::{participant_info::State, signal_request::Message as Request},
    transport::{SILENT_AFTER, TransportEvent},
};

#[test]
fn who_loses_signalling_can_come_back_and_is_gone_if_not() {
    let mut scene = Scene::new();
    let (alice, bob) = (scene.join("alice"), scene.join("bob"));
    let sid = scene.sid(alice);
    scene.said(bob);
    scene.room.signal_lost(scene.now(), alice, ConnectionKey(1));
    scene.pass(Duration::from_secs(5));
    let resume = |newcomer: &mut Newcomer| newcomer.parameters.resume = Some(sid.clone());
    assert_eq!(scene.try_join("alice", resume), Ok(alice));
    let said = scene.said(alice);
    assert!(said.iter().any(|message| matches!(message, Message::Reconnect(_))), "{said:?}");
    assert!(!scene.updates(bob).iter().any(|info| info.state() == State::Disconnected));

    // Nobody goes on as somebody else, nor with a session that is over.
    assert_eq!(scene.try_join("mallory", resume), Err(Refusal::UnknownSession));
    scene.room.signal_lost(scene.now(), alice, ConnectionKey(3));
    scene.transport(alice, TransportEvent::Disconnected);
    scene.pass(Duration::from_secs(11));
    assert_eq!(scene.updates(bob).last().unwrap().state(), State::Disconnected);
    assert_eq!(scene.try_join("alice", resume), Err(Refusal::UnknownSession));
}

#[test]
fn who_pings_less_often_than_told_is_hung_up_on_and_can_come_back() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let said = scene.said(alice);
    let Some(Message::Join(welcome)) = said.first() else { panic!("{said:?}") };
    let timeout = Duration::from_secs(welcome.ping_timeout.try_into().unwrap());
    assert!(welcome.ping_interval * 2 < welcome.ping_timeout, "a ping may be late");
    let hung_up = |scene: &Scene| {
        let hangs_up = |output: &Output| matches!(output, Output::CloseSignal(key) if *key == alice);
        scene.outputs.iter().any(hangs_up)
    };
    scene.silent.push(alice);
    for _ in 0..3 {
        scene.pass(timeout.saturating_sub(TICK));
        scene.signal(alice, Request::Ping(0));
    }
    assert!(!hung_up(&scene));
    scene.pass(timeout);
    assert!(hung_up(&scene));
    // Media flows, so it is only on its way to another connection.
    scene.pass(timeout * 2);
    let sid = scene.sid(alice);
    let resume = |newcomer: &mut Newcomer| newcomer.parameters.resume = Some(sid.clone());
    assert_eq!(scene.try_join("alice", resume), Ok(alice));
    scene.outputs.clear();
    scene.pass(timeout.saturating_sub(TICK));
    assert!(!hung_up(&scene), "it was heard when it came back");
}

#[test]
fn who_vanishes_without_a_word_is_gone_after_twenty_seconds_and_not_before() {
    let mut scene = Scene::new();
    let (alice, bob, carol) = (scene.join("alice"), scene.join("bob"), scene.join("carol"));
    scene.silent.extend([alice, bob]);
    // It is four seconds from their last pings to their last packets.
    scene.pass(Duration::from_secs(4));
    scene.pass(SILENT_AFTER);
    scene.transport(alice, TransportEvent::Disconnected);
    scene.transport(bob, TransportEvent::Disconnected);
    scene.pass(Duration::from_millis(19_900).saturating_sub(SILENT_AFTER));
    let sid = scene.sid(bob);
    let resume = |newcomer: &mut Newcomer| newcomer.parameters.resume = Some(sid.clone());
    assert_eq!(scene.try_join("bob", resume), Ok(bob), "it had only lost its network");
    scene.silent.retain(|silent| *silent != bob);
    assert!(scene.updates(carol).iter().all(|info| info.state() != State::Disconnected));
    scene.pass(TICK);
    let told = scene.updates(carol);
    let gone: Vec<_> = told.iter().filter(|info| info.state() == State::Disconnected).collect();
    assert_eq!(gone.iter().map(|info| info.identity.as_str()).collect::<Vec<_>>(), ["alice"]);
    scene.pass(Duration::from_secs(20));
    assert!(scene.room.get_participant("bob").is_ok());
}
