//! Push rules of users on events of others: a line of JSON with the event, and one with the rules.
#![no_main]

use std::collections::BTreeMap;

use entente_accounts::{PushEvaluator, PushPowerLevels, PushRoom, PushUser};
use libfuzzer_sys::fuzz_target;
use ruma::{push::Ruleset, room_id, user_id};

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let levels = PushPowerLevels { sender: 50, notifications: BTreeMap::from([("room".to_owned(), 50)]) };
    let room_id = room_id!("!room:example.org").to_owned();
    let room = PushRoom { room_id, member_count: 3, power_levels: Some(levels) };
    let Some(event) = PushEvaluator::new(lines.next().unwrap_or_default(), room) else { return };
    let Ok(rules) = serde_json::from_slice::<Ruleset>(lines.next().unwrap_or_default()) else { return };
    let user = PushUser { user_id: user_id!("@alice:example.org"), display_name: "Alice *" };
    let outcome = event.evaluate(&rules, user);
    assert!(outcome.notify || !outcome.highlight && outcome.sound.is_none());
});
