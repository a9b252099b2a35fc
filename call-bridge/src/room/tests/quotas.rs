//! How many places one user may have, whatever identities they choose.

use super::{scene::Scene, *};

const ALICE: &str = "@alice:a";

fn of(user: &str) -> impl Fn(&mut Newcomer) + Copy + '_ {
    move |newcomer| newcomer.claims.quota_user = user.to_owned()
}

fn fill(scene: &mut Scene) -> Vec<ParticipantKey> {
    let places = scene.room.settings.maximum_of_user_in_room;
    (0..places).map(|number| scene.try_join(&number.to_string(), of(ALICE)).unwrap()).collect()
}

#[test]
fn a_user_has_so_many_places_in_a_room_and_others_have_theirs() {
    let mut scene = Scene::new();
    let places = fill(&mut scene);
    assert_eq!(scene.try_join("another", of(ALICE)), Err(Refusal::Full));
    scene.try_join("bob", of("@bob:b")).unwrap();
    scene.signal(places[0], Request::Leave(LeaveRequest::default()));
    scene.try_join("another", of(ALICE)).unwrap();
    assert_eq!(scene.try_join("one more", of(ALICE)), Err(Refusal::Full));
}

#[test]
fn tokens_that_name_no_user_have_no_such_limit() {
    let mut scene = Scene::new();
    for number in 0..=scene.room.settings.maximum_of_user_in_room {
        scene.try_join(&number.to_string(), |_| {}).unwrap();
    }
}

#[test]
fn who_comes_again_takes_its_own_place() {
    let mut scene = Scene::new();
    let places = fill(&mut scene);
    let first = scene.try_join("0", of(ALICE)).unwrap();
    assert_ne!(first, places[0]);
    let sid = scene.sid(first);
    let resume = |newcomer: &mut Newcomer| {
        of(ALICE)(newcomer);
        newcomer.parameters.resume = Some(sid.clone());
    };
    assert_eq!(scene.try_join("0", resume), Ok(first), "nobody new");
    assert_eq!(scene.try_join("another", of(ALICE)), Err(Refusal::Full));
    assert_eq!(scene.room.list_participants().len(), places.len());
}

/// Whoever is refused leaves all as it was.
#[test]
fn nobody_is_replaced_by_who_has_no_place() {
    let mut scene = Scene::new();
    fill(&mut scene);
    let bob = scene.try_join("bob", of("@bob:b")).unwrap();
    assert_eq!(scene.try_join("bob", of(ALICE)), Err(Refusal::Full));
    assert_eq!(scene.room.get_participant("bob").unwrap().sid, scene.sid(bob));
}

/// Rooms stay for a while: who comes and goes would otherwise have as many as it likes.
#[test]
fn an_empty_room_is_on_the_account_of_its_last_user() {
    let mut scene = Scene::new();
    assert_eq!(scene.room.places_of(ALICE, None), 0);
    let alice = scene.try_join("alice", of(ALICE)).unwrap();
    let bob = scene.try_join("bob", of("@bob:b")).unwrap();
    assert_eq!((scene.room.places_of(ALICE, None), scene.room.places_of(ALICE, Some("alice"))), (1, 0));
    scene.signal(alice, Request::Leave(LeaveRequest::default()));
    assert_eq!(scene.room.places_of(ALICE, None), 0);
    scene.signal(bob, Request::Leave(LeaveRequest::default()));
    assert_eq!((scene.room.places_of(ALICE, None), scene.room.places_of("@bob:b", None)), (0, 1));
    assert_eq!(scene.room.places_of("@bob:b", Some("bob")), 0, "it is taken again");
}
