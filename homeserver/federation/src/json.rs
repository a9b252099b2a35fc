//! JSON of other servers, read to the letter of canonical JSON: an object that says one thing twice means one thing to one reader and
//! another to the next, and so does a number that is no integer of at most 53 bits (Matrix specification, "Canonical JSON").

use std::fmt;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// A value in which no object has a key twice.
struct Unambiguous(CanonicalJsonValue);

struct ValueVisitor;

/// Reads a body that was signed.
pub(crate) fn value(bytes: &[u8]) -> Result<CanonicalJsonValue, serde_json::Error> {
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
    let listed = Vec::<&RawValue>::deserialize(deserializer)?;
    let mut events = Vec::with_capacity(listed.len());
    for event in listed {
        match object(&mut serde_json::Deserializer::from_str(event.get())) {
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
        assert_eq!(keys, ["a", "c"]);
        let none: Answer = serde_json::from_slice(b"{}").expect("an answer");
        assert!(none.pdus.is_empty());
    }
}
