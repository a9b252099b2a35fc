//! Whatever comes from outside or out of the store is read or refused; what is read is what was written.

use entente_storage::{
    Bytes, LogPosition,
    value::{Stamped, Value as _},
};
use proptest::prelude::*;
use ruma::CanonicalJsonObject;
use serde_json::{Value, json};

use crate::{
    Change, Event, Pdu, ROOM_VERSIONS, RoomNumber, TimelinePlace, matches_pattern,
    rows::{EventHeader, SentAs, StoredEvent},
};

/// The longest of what is tried as an event.
const MOST_NESTED: u32 = 5;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1_i64 << 53) + 1..1 << 53).prop_map(Value::from),
        // Nothing in an event is one; and of others the last digit may get lost.
        Just(json!(0.5)),
        ".{0,12}".prop_map(Value::from),
        Just(json!("$event:example.org")),
        Just(json!("@user:example.org")),
    ];
    leaf.prop_recursive(MOST_NESTED, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Something like an event: each field is right, left out, or anything.
fn anything_like_an_event() -> impl Strategy<Value = Value> {
    let right = json!({
        "type": "m.room.message", "sender": "@user:example.org", "room_id": "!room:example.org",
        "content": { "body": "text" }, "origin_server_ts": 1_700_000_000_000_u64, "depth": 3,
        "prev_events": ["$a:example.org"], "auth_events": [["$b:example.org", { "sha256": "x" }]],
        "hashes": { "sha256": "x" }, "signatures": { "example.org": { "ed25519:a": "x" } },
        "event_id": "$c:example.org", "state_key": "", "redacts": "$d:example.org", "unsigned": { "age": 1 },
    });
    let fields: Vec<(String, Value)> =
        right.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    let changes = prop::collection::vec(prop_oneof![6 => Just(0), 1 => Just(1), 1 => Just(2)], fields.len());
    let values = prop::collection::vec(any_json(), fields.len());
    (changes, values).prop_map(move |(changes, values)| {
        let chosen = fields.iter().zip(changes.into_iter().zip(values));
        let chosen = chosen.filter_map(|((name, right), (change, other))| match change {
            0 => Some((name.clone(), right.clone())),
            1 => Some((name.clone(), other)),
            _ => None,
        });
        chosen.collect()
    })
}

fn any_position() -> impl Strategy<Value = LogPosition> {
    any::<[u8; 10]>().prop_map(|stamp| {
        Stamped::<()>::decode(&Bytes::copy_from_slice(&stamp)).expect("ten bytes are a position").position
    })
}

fn any_header() -> impl Strategy<Value = EventHeader> {
    let roots = (any::<Vec<u8>>(), any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>());
    let numbers = (any::<Option<i64>>(), any::<Option<i64>>());
    let transaction = prop::option::of((".{0,8}", ".{0,8}"));
    (".{0,20}", roots, numbers, transaction, any::<(bool, bool, bool)>()).prop_map(
        |(event_id, roots, numbers, transaction, (rejected, soft_failed, outlier))| EventHeader {
            event_id,
            state_before: roots.0,
            state_after: roots.1,
            room_before: roots.2.clone(),
            room_after: roots.2,
            replaces: numbers.0,
            redacted_by: numbers.1,
            known_as: numbers.0,
            delay_id: None,
            transaction: transaction.map(|(device_id, transaction_id)| SentAs { device_id, transaction_id }),
            rejected,
            soft_failed,
            outlier,
            sticky_until: numbers.0.map(i64::unsigned_abs),
        },
    )
}

fn stored(json: String) -> StoredEvent {
    let header = EventHeader { event_id: String::from("$event"), ..EventHeader::default() };
    StoredEvent { position: LogPosition::AT_COMMIT, header, json: json.into() }
}

/// Whether an event names another, by its id alone or with a hash.
fn names(event: &Value, named: &str) -> bool {
    let lists = [&event["prev_events"], &event["auth_events"]];
    let mut references = lists.into_iter().flat_map(|list| list.as_array().into_iter().flatten());
    references.any(|reference| reference == named || reference[0] == named)
}

/// What [`matches_pattern`] should say, by trying everything.
fn matches_slowly(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|skipped| matches_slowly(rest, &text[skipped..])),
        Some((first, rest)) => text.first() == Some(first) && matches_slowly(rest, &text[1..]),
    }
}

proptest! {
    #[test]
    fn a_stored_event_is_read_as_it_was_written(
        position in any_position(), header in any_header(), json: Vec<u8>
    ) {
        let event = StoredEvent { position, header, json: json.into() };
        prop_assert_eq!(StoredEvent::decode(&event.encode()), Ok(event));
    }

    #[test]
    fn any_bytes_are_a_stored_event_or_refused(mut bytes: Vec<u8>, length in 0..9_u8) {
        // A length that may be right is tried more often than chance would.
        if let Some(length_bytes) = bytes.get_mut(10..14) {
            length_bytes.copy_from_slice(&u32::from(length).to_be_bytes());
        }
        if let Ok(event) = StoredEvent::decode(&bytes.into()) {
            prop_assert_eq!(StoredEvent::decode(&event.encode()), Ok(event));
        }
    }

    #[test]
    fn any_bytes_are_a_change_or_refused(bytes: Vec<u8>) {
        let _ = Change::from_payload(&bytes);
    }

    #[test]
    fn the_content_of_an_event_is_found_in_its_json(event in anything_like_an_event(), pretty: bool) {
        let json = if pretty { serde_json::to_string_pretty(&event) } else { serde_json::to_string(&event) };
        let Ok(read) = Event::new(RoomNumber(1), 2, stored(json.expect("JSON is written"))) else {
            return Ok(());
        };
        prop_assert_eq!(Some(&serde_json::from_str::<Value>(read.content().get()).expect("JSON")), event.get("content"));
        prop_assert_eq!(Some(read.sender.as_str()), event["sender"].as_str());
        prop_assert_eq!(read.state_key.as_deref(), event["state_key"].as_str());
        for named in read.prev_events().iter().chain(read.auth_events()) {
            prop_assert!(names(&event, named.as_str()), "{named}");
        }
        let _ = (read.membership(), read.redacts());
    }

    #[test]
    fn any_text_is_an_event_or_refused(text in ".{0,60}") {
        prop_assert!(Event::new(RoomNumber(1), 2, stored(text)).is_err());
    }

    #[test]
    fn what_others_send_is_an_event_or_refused(event in anything_like_an_event()) {
        let Ok(object) = serde_json::from_value::<CanonicalJsonObject>(event.clone()) else { return Ok(()) };
        for version in ROOM_VERSIONS {
            let rules = version.rules().expect("a known version");
            let Ok(pdu) = Pdu::new(object.clone(), &rules) else { continue };
            let json = serde_json::to_string(&object).expect("JSON is written");
            prop_assert!(Event::new(RoomNumber(1), 2, stored(json)).is_ok(), "it can be stored");
            let _ = pdu.required_signatures(&rules);
            prop_assert!(pdu.clone().verify(&std::collections::BTreeMap::new(), &rules).is_err(), "nobody signed it");
            // What is added on the way is no part of what an event is.
            let mut another = object.clone();
            another.remove("unsigned");
            let another = Pdu::new(another, &rules).map(|another| another.event_id().clone());
            prop_assert_eq!(another.ok(), Some(pdu.event_id().clone()));
        }
    }

    #[test]
    fn a_place_in_a_timeline_is_read_as_it_was_written(number: i64, text in "[t0-9+-]{0,24}") {
        let place = TimelinePlace(crate::state::EventNumber(number));
        prop_assert_eq!(place.to_string().parse::<TimelinePlace>().ok(), Some(place));
        if let Ok(place) = text.parse::<TimelinePlace>() {
            prop_assert_eq!(place.to_string().parse::<TimelinePlace>().ok(), Some(place));
        }
    }

    #[test]
    fn patterns_match_what_they_should(pattern in "[ab*é]{0,8}", text in "[abé]{0,10}") {
        let (slow_pattern, slow_text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
        prop_assert_eq!(matches_pattern(&pattern, &text), matches_slowly(&slow_pattern, &slow_text));
    }
}

#[test]
fn what_names_no_event_to_redact_is_an_event_nevertheless() {
    for redacts in ["null", "5", "\"nonsense\"", "{}"] {
        let json = format!(
            r#"{{"type":"m.room.redaction","sender":"@u:a.example","content":{{}},"origin_server_ts":1,"redacts":{redacts}}}"#
        );
        let event = Event::new(RoomNumber(1), 2, stored(json)).expect("it is an event");
        assert_eq!(event.redacts(), None, "{redacts}");
    }
}
