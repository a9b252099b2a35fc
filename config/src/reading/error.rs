//! Errors that gather their path on the way out of the tree.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

/// One step into the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathSegment {
    Key(String),
    Index(usize),
}

impl fmt::Display for PathSegment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => formatter.write_str(key),
            Self::Index(index) => write!(formatter, "{index}"),
        }
    }
}

/// The path as people write it: `registration.open`, `listeners.0.address`.
pub(crate) fn dotted(path: &[PathSegment]) -> String {
    path.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

/// What is wrong with a node of the tree.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No such setting.
    Unknown { known: &'static [&'static str] },
    /// The table lacks a setting that has no default.
    Missing { setting: &'static str },
    /// The value is not what it has to be.
    Value { message: String },
}

/// A fault and the way to it.
#[derive(Debug)]
pub(crate) struct ReadError {
    pub(crate) fault: Fault,
    /// Innermost first: each level adds its own on the way out.
    inside_out: Vec<PathSegment>,
}

impl ReadError {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { fault, inside_out: Vec::new() }
    }

    pub(crate) fn value(message: impl Into<String>) -> Self {
        Self::new(Fault::Value { message: message.into() })
    }

    /// The same error, seen from one level further out.
    pub(crate) fn within(mut self, segment: PathSegment) -> Self {
        self.inside_out.push(segment);
        self
    }

    pub(crate) fn path(&self) -> Vec<PathSegment> {
        self.inside_out.iter().rev().cloned().collect()
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {:?}", dotted(&self.path()), self.fault)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::value(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::value(format!("expected {}, found {}", in_words(&expected.to_string()), found_in_words(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Self {
        let suggestion = super::suggestion::closest(found, expected.iter().copied())
            .map(|meant| format!("; did you mean \"{meant}\"?"))
            .unwrap_or_default();
        Self::value(format!("expected {}, found \"{found}\"{suggestion}", one_of(expected)))
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        Self::value(format!("unknown key \"{found}\"; known here: {}", known.join(", ")))
    }

    fn missing_field(setting: &'static str) -> Self {
        Self::new(Fault::Missing { setting })
    }
}

/// The choices of an enumeration, for a message.
pub(crate) fn one_of(choices: &[&str]) -> String {
    let quoted: Vec<_> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}

fn found_in_words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("{text:?}"),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Says in words what a visitor of the standard library or of `serde` expects: an operator need not know Rust.
pub(crate) fn in_words(expected: &str) -> &str {
    match expected {
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "a nonzero u32" => "a whole number from 1 to 4294967295",
        "u64" | "usize" => "a whole number of at least 0",
        "f64" => "a number",
        "path string" => "a path",
        "socket address" => "an address with a port, such as \"127.0.0.1:8008\" or \"[::1]:8008\"",
        "a string representing an URL" => "a URL such as \"https://matrix.example.org/\"",
        "IPv4 or IPv6 network address" => "an address range such as \"192.0.2.0/24\"",
        _ if expected.starts_with("struct ") => "a table",
        _ if expected.starts_with("a sequence") => "a list",
        _ => expected,
    }
}
