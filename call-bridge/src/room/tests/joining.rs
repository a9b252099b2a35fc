//! With what somebody joins.

use super::{scene::Scene, *};
use crate::session::Path;

#[test]
fn attributes_of_the_client_win_over_those_of_the_token_but_do_not_end_them() {
    for may in [true, false] {
        let mut scene = Scene::new();
        let texts = |texts: &[(&str, &str)]| -> BTreeMap<String, String> {
            texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let join = |newcomer: &mut Newcomer| {
            newcomer.claims.video.can_update_own_metadata = Some(may);
            newcomer.claims.attributes = texts(&[("colour", "red"), ("size", "small")]);
            newcomer.parameters.attributes = texts(&[("colour", "blue"), ("size", ""), ("shape", "round")]);
        };
        scene.try_join("alice", join).unwrap();
        let expected = if may {
            texts(&[("colour", "blue"), ("shape", "round"), ("size", "small")])
        } else {
            texts(&[("colour", "red"), ("size", "small")])
        };
        assert_eq!(scene.room.get_participant("alice").unwrap().attributes, expected);
    }
}

#[test]
fn the_first_offer_to_who_has_two_connections_has_everything() {
    let mut scene = Scene::new();
    let alice = scene.join("alice");
    scene.publish_camera(alice);
    let bob = scene.try_join("bob", |newcomer| newcomer.parameters.path = Path::Dual).unwrap();
    scene.pass(Duration::from_secs(1));
    let offers: Vec<&OfferChanges> = scene
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Transport(of, PeerKind::Subscriber, Command::Offer(changes)) if *of == bob => {
                Some(changes)
            }
            _ => None,
        })
        .collect();
    let [OfferChanges { add, channels, .. }] = offers[..] else { panic!("{offers:?}") };
    assert_eq!((add.len(), *channels), (1, true));
}
