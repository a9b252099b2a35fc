//! JSON whose numbers are kept as they were written: what was signed cannot be told by their values.

use std::collections::BTreeMap;

use ruma::CanonicalJsonValue;
use serde::de::IgnoredAny;

use super::value;

/// Lists and objects in each other at the most: what is read here can be read again by `serde_json`.
const MOST_DEPTH: usize = 127;

/// A value as it was sent.
#[derive(Debug)]
pub(super) enum Sent {
    /// One that is a part of canonical JSON, and no list or object.
    Exact(CanonicalJsonValue),
    /// A number that is not: a fraction, or one of more than 53 bits.
    Number(String),
    List(Vec<Sent>),
    Object(BTreeMap<String, Sent>),
}

/// Reads what is known to be JSON.
struct Reader<'a> {
    rest: &'a str,
}

impl Sent {
    /// Reads JSON. Nothing if it is none, is too deep, or says one thing twice.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice::<IgnoredAny>(bytes).ok()?;
        Reader { rest: std::str::from_utf8(bytes).ok()? }.value(MOST_DEPTH)
    }

    /// Canonical JSON, but for the numbers that have none.
    pub(super) fn canonical(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) {
        match self {
            Self::Exact(value) => text.push_str(&value.to_string()),
            Self::Number(number) => text.push_str(number),
            Self::List(values) => {
                text.push('[');
                for (place, value) in values.iter().enumerate() {
                    text.push_str(if place == 0 { "" } else { "," });
                    value.write(text);
                }
                text.push(']');
            }
            Self::Object(fields) => {
                text.push('{');
                for (place, (name, value)) in fields.iter().enumerate() {
                    text.push_str(if place == 0 { "" } else { "," });
                    text.push_str(&CanonicalJsonValue::String(name.clone()).to_string());
                    text.push(':');
                    value.write(text);
                }
                text.push('}');
            }
        }
    }

    /// The value, if it is canonical JSON.
    pub(super) fn exact(self) -> Option<CanonicalJsonValue> {
        match self.exact_or_null() {
            (value, true) => Some(value),
            _ => None,
        }
    }

    /// The value with null in the place of numbers that canonical JSON does not have, and whether there were none.
    pub(super) fn exact_or_null(self) -> (CanonicalJsonValue, bool) {
        match self {
            Self::Exact(value) => (value, true),
            Self::Number(_) => (CanonicalJsonValue::Null, false),
            Self::List(values) => {
                let (values, exact): (Vec<_>, Vec<_>) = values.into_iter().map(Self::exact_or_null).unzip();
                (CanonicalJsonValue::Array(values), !exact.contains(&false))
            }
            Self::Object(fields) => {
                let mut all_exact = true;
                let mut field = |(name, value): (String, Self)| {
                    let (value, is_exact) = value.exact_or_null();
                    all_exact &= is_exact;
                    (name, value)
                };
                let fields = fields.into_iter().map(&mut field).collect();
                (CanonicalJsonValue::Object(fields), all_exact)
            }
        }
    }
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Option<Sent> {
        let deeper = depth.checked_sub(1)?;
        if self.skips('[') {
            let mut values = Vec::new();
            while !self.skips(']') {
                values.push(self.value(deeper)?);
                self.skips(',');
            }
            return Some(Sent::List(values));
        }
        if self.skips('{') {
            let mut fields = BTreeMap::new();
            while !self.skips('}') {
                let Sent::Exact(CanonicalJsonValue::String(name)) = self.scalar()? else { return None };
                self.skips(':');
                if fields.insert(name, self.value(deeper)?).is_some() {
                    return None;
                }
                self.skips(',');
            }
            return Some(Sent::Object(fields));
        }
        self.scalar()
    }

    /// A value that is no list and no object.
    fn scalar(&mut self) -> Option<Sent> {
        let token = self.token()?;
        match value(token.as_bytes()) {
            Ok(value) => Some(Sent::Exact(value)),
            Err(_) if token.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                Some(Sent::Number(token.to_owned()))
            }
            Err(_) => None,
        }
    }

    /// The text of such a value.
    fn token(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let end = if self.rest.starts_with('"') {
            let mut is_escaped = false;
            let closes = |(_, character): &(usize, char)| match character {
                '"' if !is_escaped => true,
                character => {
                    is_escaped = *character == '\\' && !is_escaped;
                    false
                }
            };
            self.rest.char_indices().skip(1).find(closes)?.0 + 1
        } else {
            let ends = |character: char| character.is_ascii_whitespace() || ",:]}".contains(character);
            self.rest.find(ends).unwrap_or(self.rest.len())
        };
        let (token, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(token)
    }

    /// Goes on behind a character if it is the next one.
    fn skips(&mut self, character: char) -> bool {
        self.rest = self.rest.trim_start();
        let behind = self.rest.strip_prefix(character);
        self.rest = behind.unwrap_or(self.rest);
        behind.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// JSON of all kinds, with spaces where there may be some, and whether all its numbers are canonical.
    fn json() -> impl Strategy<Value = (String, bool)> {
        let text = |text: &str| serde_json::to_string(text).expect("JSON");
        let scalar = prop_oneof![
            prop_oneof![Just("null"), Just("true"), Just("false")].prop_map(|word| (word.to_owned(), true)),
            (-9_007_199_254_740_991_i64..=9_007_199_254_740_991)
                .prop_map(|number| (number.to_string(), true)),
            ".{0,8}".prop_map(move |scalar| (text(&scalar), true)),
            r"-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,4}|[eE][+-]?[0-9]{1,3})".prop_map(|number| (number, false)),
            "[1-9][0-9]{16,30}".prop_map(|number| (number, false)),
        ];
        scalar.prop_recursive(4, 32, 6, move |inner| {
            let list = prop::collection::vec(inner.clone(), 0..6).prop_map(|values| {
                let (values, exact): (Vec<_>, Vec<_>) = values.into_iter().unzip();
                (format!("[ {}]", values.join(" ,\n")), !exact.contains(&false))
            });
            let object = prop::collection::btree_map(".{0,4}", inner, 0..6).prop_map(move |fields| {
                let all_exact = fields.values().all(|(_, is_exact)| *is_exact);
                // Last first: the canonical order is another.
                let fields =
                    fields.iter().rev().map(|(name, (value, _))| format!("{} :\t{value}", text(name)));
                (format!("{{{} }}", fields.collect::<Vec<_>>().join(",")), all_exact)
            });
            prop_oneof![list, object]
        })
    }

    proptest! {
        #[test]
        fn what_is_canonical_is_read_as_always((text, is_exact) in json()) {
            let sent = Sent::read(text.as_bytes()).expect("it is JSON");
            let canonical = sent.canonical();
            let again = Sent::read(canonical.as_bytes()).expect("it is JSON");
            prop_assert_eq!(again.canonical(), &canonical[..], "once in order, it stays so");
            prop_assert_eq!(sent.exact(), value(text.as_bytes()).ok());
            if let Some(exact) = again.exact() {
                prop_assert!(is_exact);
                prop_assert_eq!(exact.to_string(), canonical);
            } else {
                prop_assert!(!is_exact);
            }
        }

        #[test]
        fn whatever_comes_is_read_or_refused(text in r#"[\[\]{}:,"\\ \n0-9eE.+a-u-]{0,40}"#) {
            if let Some(sent) = Sent::read(text.as_bytes()) {
                let canonical = sent.canonical();
                prop_assert_eq!(Sent::read(canonical.as_bytes()).map(|sent| sent.canonical()), Some(canonical));
            }
        }
    }
}
