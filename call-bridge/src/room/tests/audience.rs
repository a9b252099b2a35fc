//! Who may subscribe to what, as its publisher says.

use super::{
    super::*,
    scene::{Scene, camera},
};
use crate::proto::{
    SubscriptionPermission, TrackPermission, UpdateSubscription, signal_request::Message as Request,
};

fn only(permissions: Vec<TrackPermission>) -> Request {
    Request::SubscriptionPermission(SubscriptionPermission {
        all_participants: false,
        track_permissions: permissions,
    })
}

fn to(identity: &str, track_sids: &[&String]) -> TrackPermission {
    TrackPermission {
        participant_identity: identity.to_owned(),
        track_sids: track_sids.iter().copied().cloned().collect(),
        ..TrackPermission::default()
    }
}

/// What somebody was told of whether it may have tracks.
fn told(scene: &mut Scene, key: ParticipantKey) -> Vec<(String, bool)> {
    let said = scene.said(key).into_iter().filter_map(|message| match message {
        Message::SubscriptionPermissionUpdate(update) => Some((update.track_sid, update.allowed)),
        _ => None,
    });
    said.collect()
}

fn is_subscribed(scene: &Scene, key: ParticipantKey) -> bool {
    !scene.room.participants.get(&key).unwrap().subscriptions.is_empty()
}

#[test]
fn a_track_is_for_those_whom_its_publisher_names() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    let (bob, carol) = (scene.watch("bob"), scene.watch("carol"));
    scene.signal(alice, only(vec![]));
    let sid = scene.publish_camera(alice);
    assert_eq!(told(&mut scene, bob), [(sid.clone(), false)]);
    assert!(!is_subscribed(&scene, bob));

    scene.signal(alice, only(vec![to("bob", &[&sid]), to("carol", &[&"TR_another".to_owned()])]));
    assert_eq!(told(&mut scene, bob), [(sid.clone(), true)]);
    assert!(is_subscribed(&scene, bob));
    assert_eq!(told(&mut scene, carol), [(sid.clone(), false)], "when it began, and not once more");
    assert!(!is_subscribed(&scene, carol));

    let by_sid = TrackPermission { participant_sid: scene.sid(carol), all_tracks: true, ..to("", &[]) };
    scene.signal(alice, only(vec![by_sid]));
    assert_eq!(told(&mut scene, bob), [(sid.clone(), false)]);
    assert_eq!(told(&mut scene, carol), [(sid.clone(), true)]);
    assert!(!is_subscribed(&scene, bob) && is_subscribed(&scene, carol));

    let all = SubscriptionPermission { all_participants: true, track_permissions: vec![] };
    scene.signal(alice, Request::SubscriptionPermission(all));
    assert_eq!(told(&mut scene, bob), [(sid, true)]);
    assert!(is_subscribed(&scene, bob) && is_subscribed(&scene, carol));
}

#[test]
fn who_asked_for_a_track_gets_it_once_it_may() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    scene.signal(alice, only(vec![]));
    let sid = scene.publish_camera(alice);
    let bob = scene.try_join("bob", |newcomer| newcomer.parameters.auto_subscribe = false).unwrap();
    let carol = scene.try_join("carol", |newcomer| newcomer.parameters.auto_subscribe = false).unwrap();
    assert_eq!(told(&mut scene, bob), [], "it did not ask");
    let ask = |subscribe| {
        let track_sids = vec![sid.clone(), sid.clone()];
        Request::Subscription(UpdateSubscription { track_sids, subscribe, ..UpdateSubscription::default() })
    };
    for key in [bob, carol] {
        scene.signal(key, ask(true));
        assert_eq!(told(&mut scene, key), [(sid.clone(), false)]);
    }
    scene.signal(carol, ask(false));
    scene.signal(alice, only(vec![to("bob", &[&sid]), to("carol", &[&sid])]));
    assert!(is_subscribed(&scene, bob));
    assert!(!is_subscribed(&scene, carol), "it does not want it any more");
}

/// The largest message that a client can send names a quarter of a million tracks, for each of which everybody could be asked.
#[test]
fn what_a_publisher_does_not_own_is_not_remembered() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    scene.publish_camera(alice);
    scene.signal(alice, Request::AddTrack(camera("another")));
    let (track_sids, participant_identity) = (vec![String::new(); 250_000], "nobody".to_owned());
    scene.signal(alice, only(vec![TrackPermission { track_sids, participant_identity, ..to("", &[]) }]));
    let audience = scene.room.participants.get(&alice).unwrap().audience.as_ref().unwrap();
    assert_eq!(audience.remembered(), 0);
}
