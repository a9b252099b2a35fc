//! The rules by which events are judged. The first byte is the room version; then a line of JSON for each event of a state, and the
//! last line is the event that is judged by it.
#![no_main]

use std::{collections::BTreeMap, sync::Arc};

use entente_rooms::{Event, Powers, ROOM_VERSIONS, fuzzing, server_is_allowed};
use libfuzzer_sys::fuzz_target;
use ruma::{server_name, state_res};

fuzz_target!(|data: &[u8]| {
    let Some((version, lines)) = data.split_first() else { return };
    let rules = ROOM_VERSIONS[usize::from(*version) % ROOM_VERSIONS.len()].rules();
    let rules = rules.expect("it is a known version").authorization;
    let events = lines.split(|byte| *byte == b'\n').filter_map(fuzzing::event);
    let mut events: Vec<Arc<Event>> = events.map(Arc::new).collect();
    let Some(judged) = events.pop() else { return };
    let mut state: BTreeMap<(String, &str), &Arc<Event>> = BTreeMap::new();
    for event in &events {
        if let Some(state_key) = &event.state_key {
            state.insert((event.event_type.to_string(), state_key), event);
        }
    }
    let find = |event_type: &str, state_key| state.get(&(event_type.to_owned(), state_key)).copied();
    let _ = state_res::check_state_independent_auth_rules(&rules, &judged, |_| find("m.room.create", ""));
    let _ = state_res::check_state_dependent_auth_rules(&rules, &judged, |event_type, state_key| {
        state.get(&(event_type.to_string(), state_key)).copied()
    });
    let _ = state_res::auth_types_for_event(
        &judged.event_type,
        &judged.sender,
        judged.state_key.as_deref(),
        judged.content(),
        &rules,
    );
    let _ = server_is_allowed(judged.content(), server_name!("example.org"));
    let levels = find("m.room.power_levels", "").cloned();
    if let Some(create) = find("m.room.create", "")
        && let Ok(powers) = Powers::new(create, levels, &rules)
    {
        let _ = powers.of(&judged.sender);
        let _ = powers.may_send(&judged.sender, &judged.event_type, judged.state_key.as_deref());
    }
});
