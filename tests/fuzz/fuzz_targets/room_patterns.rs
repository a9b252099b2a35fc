//! Patterns of filters and access lists, against trying everything.
#![no_main]

use entente_rooms::{matches_pattern, server_is_allowed};
use libfuzzer_sys::fuzz_target;
use ruma::ServerName;
use serde_json::{json, value::to_raw_value};

/// Trying everything takes long.
const MOST: usize = 12;

fn matches(pattern: &[char], text: &[char], one: Option<char>) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|skipped| matches(rest, &text[skipped..], one)),
        Some((wanted, rest)) => {
            let fits = text.first().is_some_and(|first| first == wanted || Some(*wanted) == one);
            fits && matches(rest, &text[1..], one)
        }
    }
}

fuzz_target!(|input: (&str, &str)| {
    let (pattern, text) = input;
    let chars: (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    if chars.0.len() > MOST || chars.1.len() > MOST {
        return;
    }
    assert_eq!(matches_pattern(pattern, text), matches(&chars.0, &chars.1, None));
    let Ok(server) = <&ServerName>::try_from(text) else { return };
    let host: Vec<char> = server.host().to_ascii_lowercase().chars().collect();
    let lower: Vec<char> = pattern.to_ascii_lowercase().chars().collect();
    let list = to_raw_value(&json!({ "allow": ["*"], "deny": [pattern] })).expect("it is JSON");
    assert_eq!(server_is_allowed(&list, server), !matches(&lower, &host, Some('?')));
});
