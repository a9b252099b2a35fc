//! JSON of other servers, read to the letter of canonical JSON: an object that says one thing twice means one thing to one reader and
//! another to the next, and so does a number that is no integer of at most 53 bits (Matrix specification, "Canonical JSON").

mod sent;

use std::fmt;

use entente_rooms::INEXACT;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use self::sent::Sent;

/// Values of one body at the most. Some have two bytes on the way and 32 in memory; transactions have some thousands.
const MOST_VALUES: usize = 500_000;

/// A body that was signed.
#[derive(Debug)]
pub(crate) struct SignedBody {
    /// What is read of it.
    pub(crate) value: CanonicalJsonValue,
    /// What was signed, where that is more: canonical JSON but for some of its numbers.
    pub(crate) text: Option<String>,
    /// Messages of a transaction that are left out, as they have such numbers.
    pub(crate) left_out: usize,
}

/// A value in which no object has a key twice.
struct Unambiguous(CanonicalJsonValue);

struct ValueVisitor;

/// Reads a body that was signed. What clients let their servers send may have numbers that canonical JSON does not have: in a
/// transaction they spoil the message or the event that they are in, and no other.
pub(crate) fn signed(bytes: &[u8]) -> Result<SignedBody, serde_json::Error> {
    // There is a comma behind each but the last of a list or an object.
    if bytes.split(|byte| *byte == b',').count() > MOST_VALUES {
        return Err(serde_json::Error::custom("there are too many values"));
    }
    match value(bytes) {
        Ok(value) => Ok(SignedBody { value, text: None, left_out: 0 }),
        Err(error) => Sent::read(bytes).and_then(transaction).ok_or(error),
    }
}

/// A transaction in which some numbers are not canonical. Nothing if they are in other places than its messages and events.
fn transaction(sent: Sent) -> Option<SignedBody> {
    let text = Some(sent.canonical());
    let Sent::Object(fields) = sent else { return None };
    let mut object = CanonicalJsonObject::new();
    let mut left_out = 0;
    for (name, field) in fields {
        let value = match (name.as_str(), field) {
            ("pdus", Sent::List(events)) => {
                CanonicalJsonValue::Array(events.into_iter().map(inexact).collect())
            }
            ("edus", Sent::List(messages)) => {
                let sent = messages.len();
                let exact: Vec<_> = messages.into_iter().filter_map(Sent::exact).collect();
                left_out = sent - exact.len();
                CanonicalJsonValue::Array(exact)
            }
            (_, field) => field.exact()?,
        };
        object.insert(name, value);
    }
    Some(SignedBody { value: CanonicalJsonValue::Object(object), text, left_out })
}

/// An event that may have numbers which canonical JSON does not have. Rooms of some versions bear them: so it is marked, and they are null.
fn inexact(sent: Sent) -> CanonicalJsonValue {
    match sent.exact_or_null() {
        (CanonicalJsonValue::Object(mut event), false) => {
            event.insert(INEXACT.to_owned(), CanonicalJsonValue::Bool(true));
            CanonicalJsonValue::Object(event)
        }
        (value, _) => value,
    }
}

fn value(bytes: &[u8]) -> Result<CanonicalJsonValue, serde_json::Error> {
    serde_json::from_slice(bytes).map(|Unambiguous(value)| value)
}

/// Reads an object, for a field of an answer.
pub(crate) fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CanonicalJsonObject, D::Error> {
    match Unambiguous::deserialize(deserializer)? {
        Unambiguous(CanonicalJsonValue::Object(object)) => Ok(object),
        Unambiguous(_) => Err(D::Error::custom("an event is an object")),
    }
}

/// Reads a list of events, for a field of an answer. Those that are none are left out with a line in the log: what else the server
/// tells may be good.
pub(crate) fn events<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<CanonicalJsonObject>, D::Error> {
    listed(deserializer, |event| match Sent::read(event).map(inexact)? {
        CanonicalJsonValue::Object(event) => Some(event),
        _ => None,
    })
}

/// The same for events of which only the gist is told, and which are no part of a room.
pub(crate) fn stripped<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<CanonicalJsonObject>, D::Error> {
    listed(deserializer, |_| None)
}

/// Reads a list of objects. `otherwise` reads those that are not canonical JSON.
fn listed<'de, D: Deserializer<'de>>(
    deserializer: D,
    otherwise: impl Fn(&[u8]) -> Option<CanonicalJsonObject>,
) -> Result<Vec<CanonicalJsonObject>, D::Error> {
    let listed = Vec::<&RawValue>::deserialize(deserializer)?;
    let mut events = Vec::with_capacity(listed.len());
    for event in listed {
        let read = object(&mut serde_json::Deserializer::from_str(event.get()));
        match read.or_else(|error| otherwise(event.get().as_bytes()).ok_or(error)) {
            Ok(event) => events.push(event),
            Err(error) => tracing::info!(%error, "an event from another server is left out"),
        }
    }
    Ok(events)
}

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Unambiguous;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("canonical JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Unambiguous, E> {
        Ok(Unambiguous(CanonicalJsonValue::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Unambiguous, E> {
        Ok(Unambiguous(CanonicalJsonValue::Bool(value)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Unambiguous, E> {
        let number = Int::try_from(number).map_err(|_| E::custom("a number has more than 53 bits"))?;
        Ok(Unambiguous(CanonicalJsonValue::Integer(number)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Unambiguous, E> {
        let number = Int::try_from(number).map_err(|_| E::custom("a number has more than 53 bits"))?;
        Ok(Unambiguous(CanonicalJsonValue::Integer(number)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Unambiguous, E> {
        Ok(Unambiguous(CanonicalJsonValue::String(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Unambiguous, E> {
        Ok(Unambiguous(CanonicalJsonValue::String(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unambiguous, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Unambiguous(CanonicalJsonValue::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unambiguous, A::Error> {
        let mut object = CanonicalJsonObject::new();
        while let Some((key, Unambiguous(value))) = map.next_entry::<String, Unambiguous>()? {
            if object.insert(key, value).is_some() {
                return Err(A::Error::custom("an object says one thing twice"));
            }
        }
        Ok(Unambiguous(CanonicalJsonValue::Object(object)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Answer {
        #[serde(default, deserialize_with = "events")]
        pdus: Vec<CanonicalJsonObject>,
    }

    #[test]
    fn canonical_json_is_read_as_it_is() {
        for text in [
            r#"{"a":[1,-9007199254740991,9007199254740991,true,null,"é\"\n"],"b":{"c":{}}}"#,
            "[]",
            "0",
            r#""x""#,
        ] {
            let expected: CanonicalJsonValue = serde_json::from_str(text).expect("JSON");
            assert_eq!(value(text.as_bytes()).expect(text), expected);
        }
    }

    #[test]
    fn what_others_may_read_differently_is_refused() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":[{"c":1,"\u0063":2}]}}"#,
            "9007199254740992",
            "-9007199254740992",
            "18446744073709551616",
            "1.0",
            "1e3",
            "-0",
            "1e999",
            "{} {}",
            "\"\u{1}\"",
            "",
        ] {
            assert!(value(text.as_bytes()).is_err(), "{text}");
        }
        assert!(value(&[b'"', 0xff, b'"']).is_err());
        let deep = "[".repeat(100_000);
        assert!(value(deep.as_bytes()).is_err());
    }

    #[test]
    fn one_bad_event_does_not_spoil_the_others() {
        let answer = r#"{"pdus":[{"a":1},{"a":1,"a":2},{"b":1.5},7,{"c":3}]}"#;
        let answer: Answer = serde_json::from_slice(answer.as_bytes()).expect("an answer");
        let keys: Vec<&String> = answer.pdus.iter().flat_map(CanonicalJsonObject::keys).collect();
        assert_eq!(keys, ["a", "b", INEXACT, "c"]);
        assert_eq!(answer.pdus[1]["b"], CanonicalJsonValue::Null);
        let none: Answer = serde_json::from_slice(b"{}").expect("an answer");
        assert!(none.pdus.is_empty());
    }

    #[test]
    fn a_number_that_canonical_json_does_not_have_spoils_what_it_is_in() {
        let body = r#"{"pdus":[{"b":[1.50],"a":"\u00e9"},{"c":1}], "edus":[{"d":1e3},{"e":-0},{"f":2}],"origin":"a"}"#;
        let read = signed(body.as_bytes()).expect("a transaction");
        let expected = format!(
            r#"{{"edus":[{{"f":2}}],"origin":"a","pdus":[{{"a":"é","b":[null],"{INEXACT}":true}},{{"c":1}}]}}"#
        );
        assert_eq!(serde_json::to_string(&read.value).expect("JSON"), expected);
        assert_eq!(read.left_out, 2);
        let text =
            r#"{"edus":[{"d":1e3},{"e":-0},{"f":2}],"origin":"a","pdus":[{"a":"é","b":[1.50]},{"c":1}]}"#;
        assert_eq!(read.text.as_deref(), Some(text), "what was signed");
        let exact = signed(br#"{"pdus":[],"edus":[{"f":2}]}"#).expect("a transaction");
        assert_eq!((exact.text, exact.left_out), (None, 0));
        for refused in [
            r#"{"edus":[{"d":1.5}],"origin_server_ts":1.0}"#,
            r#"{"edus":[{"d":1.5,"d":2}]}"#,
            r#"{"edus":[{"d":1.5}],"edus":[]}"#,
            r#"{"edus":[{"d":1.5}]"#,
            r#"{"edus":[{"d":1.5.5}]}"#,
            r#"{"edus":[{"d":1.5,"e":"\ud800"}]}"#,
            r#"{"edus":1.5}"#,
            "[1.5]",
        ] {
            assert!(signed(refused.as_bytes()).is_err(), "{refused}");
        }
        let many = format!(r#"{{"edus":[0{}]}}"#, ",0".repeat(MOST_VALUES));
        assert!(signed(many.as_bytes()).is_err());
        let deep = format!(r#"{{"edus":[1.5,{}]}}"#, "[".repeat(100_000) + &"]".repeat(100_000));
        assert!(signed(deep.as_bytes()).is_err());
    }
}
