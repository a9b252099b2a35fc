//! Hands the tree to `serde`, strictly: a table may hold only settings that its section knows.

use std::{collections::btree_map, fmt, marker::PhantomData, slice};

use serde::de::{
    self, DeserializeSeed, Deserializer, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};

use super::{
    PathSegment,
    error::{Fault, ReadError, in_words, one_of},
    tree::{Entry, Node, Value},
};

/// Deserializes one node of the tree.
#[derive(Clone, Copy)]
pub(crate) struct NodeDeserializer<'a> {
    node: &'a Node,
}

impl<'a> NodeDeserializer<'a> {
    pub(crate) fn new(node: &'a Node) -> Self {
        Self { node }
    }

    /// The text, if the node is a string, or if it came from an environment variable and only looks like something else. A
    /// table stays a table: it is how a secret names its file.
    fn text(self) -> Option<&'a str> {
        match &self.node.value {
            Value::String(text) => Some(text),
            Value::Table(_) => None,
            _ => self.node.raw.as_deref(),
        }
    }
}

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::String(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Date => Err(ReadError::invalid_type(Unexpected::Other("a date"), &visitor)),
            Value::HugeInteger => Err(ReadError::invalid_type(Unexpected::Other("a huge number"), &visitor)),
            Value::List(elements) => visitor.visit_seq(Elements { remaining: elements.iter().enumerate() }),
            Value::Table(entries) => visitor.visit_map(Entries { remaining: entries.iter(), current: None }),
            Value::Removed => Err(ReadError::value("already reported")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let Some(text) = self.text() else { return self.deserialize_any(visitor) };
        // What parsers of addresses and URLs say about a failure doesn't say what they wanted.
        let expected = (&visitor as &dyn Expected).to_string();
        visitor
            .visit_str(text)
            .map_err(|_: ReadError| ReadError::invalid_value(Unexpected::Str(text), &in_words(&expected)))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Table(entries) => {
                if let Some(unknown) = entries.keys().find(|key| !known.contains(&key.as_str())) {
                    return Err(
                        ReadError::new(Fault::Unknown { known }).within(PathSegment::Key(unknown.clone()))
                    );
                }
                self.deserialize_any(visitor)
            }
            // A derived visitor would take a list for the fields in their order.
            Value::List(_) => Err(ReadError::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        choices: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.text() {
            Some(text) => visitor.visit_enum(text.into_deserializer()),
            None => self.deserialize_any(Choice { choices, value: PhantomData }),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// Refuses whatever it sees: what is not a text can't be one of the choices.
struct Choice<V> {
    choices: &'static [&'static str],
    value: PhantomData<V>,
}

impl<V> Visitor<'_> for Choice<V> {
    type Value = V;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&one_of(self.choices))
    }
}

struct Elements<'a> {
    remaining: std::iter::Enumerate<slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some((index, node)) = self.remaining.find(|(_, node)| !matches!(node.value, Value::Removed))
        else {
            return Ok(None);
        };
        let value = seed.deserialize(NodeDeserializer::new(node));
        value.map(Some).map_err(|error| error.within(PathSegment::Index(index)))
    }
}

struct Entries<'a> {
    remaining: btree_map::Iter<'a, String, Entry>,
    current: Option<(&'a str, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        let Some((key, entry)) = self.remaining.next() else { return Ok(None) };
        self.current = Some((key, &entry.node));
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some((key, node)) = self.current.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let value = seed.deserialize(NodeDeserializer::new(node));
        value.map_err(|error| error.within(PathSegment::Key(key.to_owned())))
    }
}
