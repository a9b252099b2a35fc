//! With what somebody joins.

use super::{scene::Scene, *};

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
