//! Settings before they have types: values that know their place.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::PathSegment;
use crate::problem::{Place, Problem};

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// Absent at the root only.
    pub(crate) place: Option<Place>,
    /// Of a value from an environment variable: its text, in case the setting is a string after all.
    pub(crate) raw: Option<String>,
}

/// A value that is not yet what the setting needs.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// No setting is a date, so that this one is kept only to be refused.
    Date,
    /// An integer that has no place in 64 bits, likewise.
    HugeInteger,
    List(Vec<Node>),
    Table(BTreeMap<String, Entry>),
    /// An element of a list that was at fault and has been reported.
    Removed,
}

/// A setting in a table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Where its name stands.
    pub(crate) key_place: Option<Place>,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn empty_table(place: Option<Place>) -> Self {
        Self { value: Value::Table(BTreeMap::new()), place, raw: None }
    }

    /// The node at the path.
    pub(crate) fn get(&self, path: &[PathSegment]) -> Option<&Node> {
        let Some((segment, rest)) = path.split_first() else { return Some(self) };
        let child = match (&self.value, segment) {
            (Value::Table(entries), PathSegment::Key(key)) => &entries.get(key)?.node,
            (Value::List(elements), PathSegment::Index(index)) => elements.get(*index)?,
            _ => return None,
        };
        child.get(rest)
    }

    fn get_mut(&mut self, path: &[PathSegment]) -> Option<&mut Node> {
        let Some((segment, rest)) = path.split_first() else { return Some(self) };
        let child = match (&mut self.value, segment) {
            (Value::Table(entries), PathSegment::Key(key)) => &mut entries.get_mut(key)?.node,
            (Value::List(elements), PathSegment::Index(index)) => elements.get_mut(*index)?,
            _ => return None,
        };
        child.get_mut(rest)
    }

    /// Where the value at the path stands.
    pub(crate) fn place_of(&self, path: &[PathSegment]) -> Option<&Place> {
        self.get(path)?.place.as_ref()
    }

    /// Where the name of the setting at the path stands; for an element of a list, where the element stands.
    pub(crate) fn place_of_key(&self, path: &[PathSegment]) -> Option<&Place> {
        let (last, parents) = path.split_last()?;
        match (&self.get(parents)?.value, last) {
            (Value::Table(entries), PathSegment::Key(key)) => entries.get(key)?.key_place.as_ref(),
            _ => self.place_of(path),
        }
    }

    /// Takes out the node at the path. Elements of lists leave a hole, so that the others keep their numbers.
    /// Returns whether there was anything to take out.
    pub(crate) fn remove(&mut self, path: &[PathSegment]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let Some(parent) = self.get_mut(parents) else { return false };
        match (&mut parent.value, last) {
            (Value::Table(entries), PathSegment::Key(key)) => entries.remove(key).is_some(),
            (Value::List(elements), PathSegment::Index(index)) => match elements.get_mut(*index) {
                Some(element) if !matches!(element.value, Value::Removed) => {
                    element.value = Value::Removed;
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }
}

#[cfg(test)]
impl Node {
    /// Puts a setting into the table at the path, where there is one.
    pub(crate) fn insert_for_test(&mut self, path: &[PathSegment], key: &str, node: Node) {
        if let Some(Node { value: Value::Table(entries), .. }) = self.get_mut(path) {
            entries.insert(key.to_owned(), Entry { key_place: None, node });
        }
    }
}

/// Reads a TOML document. `name` is what messages call it.
pub(crate) fn parse_file(text: &str, name: &str) -> Result<Node, Vec<Problem>> {
    let lines = LineNumbers { name: Arc::from(name), text };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let value = table_from(table.into_inner(), &|span| lines.place(&span));
        return Ok(Node { value, place: None, raw: None });
    }
    let problem = |error: &toml::de::Error| {
        Problem::new(
            error.span().map(|span| lines.place(&span)),
            format!("not valid TOML: {}", error.message()),
        )
    };
    Err(errors.iter().map(problem).collect())
}

/// Reads one TOML value that stands in an environment variable.
pub(crate) fn parse_variable(text: &str, variable: &str) -> Node {
    let place = Place::Variable(variable.to_owned());
    let value = match DeValue::parse(text.trim()) {
        Ok(value) => value_from(value.into_inner(), &|_| place.clone()),
        Err(_) => Value::String(text.to_owned()),
    };
    Node { value, place: Some(place), raw: Some(text.to_owned()) }
}

fn node_from(value: Spanned<DeValue<'_>>, place: &impl Fn(Range<usize>) -> Place) -> Node {
    let node_place = Some(place(value.span()));
    Node { value: value_from(value.into_inner(), place), place: node_place, raw: None }
}

fn value_from(value: DeValue<'_>, place: &impl Fn(Range<usize>) -> Place) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::HugeInteger,
        },
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(elements) => {
            Value::List(elements.into_iter().map(|element| node_from(element, place)).collect())
        }
        DeValue::Table(table) => table_from(table, place),
    }
}

fn table_from(table: DeTable<'_>, place: &impl Fn(Range<usize>) -> Place) -> Value {
    let entries = table.into_iter().map(|(key, value)| {
        let key_place = Some(place(key.span()));
        (key.into_inner().into_owned(), Entry { key_place, node: node_from(value, place) })
    });
    Value::Table(entries.collect())
}

struct LineNumbers<'a> {
    name: Arc<str>,
    text: &'a str,
}

impl LineNumbers<'_> {
    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        Place::File { name: Arc::clone(&self.name), line, column }
    }
}
