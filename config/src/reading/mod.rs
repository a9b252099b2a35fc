//! From texts to typed settings.
//!
//! The file and the environment become one [tree](tree::Node) in which every value knows its place. The settings are read from
//! it through `serde`, by a [deserializer](deserializer::NodeDeserializer) of our own that knows which settings a section has.
//! `serde` stops at the first error; so the value at fault is reported, taken out of the tree, and the reading begins again
//! until nothing is left to report.

mod deserializer;
mod environment;
mod error;
mod suggestion;
mod tree;

use serde::de::DeserializeOwned;

pub(crate) use environment::add_environment;
pub(crate) use error::PathSegment;
pub(crate) use tree::{Node, Value, parse_file};

use crate::problem::Problem;
use deserializer::NodeDeserializer;
use error::{Fault, dotted};

/// What could be read, and what could not.
pub(crate) struct Reading<T> {
    /// The value; settings at fault are as if they had not been given. Absent only if the faults could not be taken out.
    pub(crate) value: Option<T>,
    /// What was at fault.
    pub(crate) faults: Vec<ReadFault>,
}

/// A fault in one setting.
pub(crate) struct ReadFault {
    pub(crate) problem: Problem,
    /// The dotted name of the setting at fault and, of a misspelt one, that of the setting that was probably meant.
    pub(crate) settings: Vec<String>,
    /// Of an unknown setting: its path, and those known in its place.
    #[cfg(test)]
    pub(crate) unknown: Option<(Vec<PathSegment>, &'static [&'static str])>,
}

/// Reads a value from the tree, and takes out of the tree what is at fault.
pub(crate) fn read<T: DeserializeOwned>(tree: &mut Node) -> Reading<T> {
    let mut faults: Vec<ReadFault> = Vec::new();
    loop {
        let error = match T::deserialize(NodeDeserializer::new(tree)) {
            Ok(value) => return Reading { value: Some(value), faults },
            Err(error) => error,
        };
        let path = error.path();
        if !is_consequence(&error.fault, &path, &faults) {
            faults.push(describe(&error.fault, &path, tree));
        }
        if !tree.remove(&path) {
            return Reading { value: None, faults };
        }
    }
}

/// Whether a setting is missing only because it was at fault and has been taken out, or because it was misspelt.
fn is_consequence(fault: &Fault, path: &[PathSegment], earlier: &[ReadFault]) -> bool {
    let Fault::Missing { setting } = fault else { return false };
    let missing = format!("{}.{setting}", dotted(path));
    earlier.iter().any(|fault| fault.settings.contains(&missing))
}

fn describe(fault: &Fault, path: &[PathSegment], tree: &Node) -> ReadFault {
    let name = dotted(path);
    let mut settings = vec![name.clone()];
    let (place, message) = match fault {
        Fault::Unknown { known } => {
            let place = tree.place_of_key(path).cloned();
            let meant = suggestion::setting_meant(path, known);
            let hint = suggestion::hint(meant.as_deref(), known, place.as_ref(), path.len());
            settings.extend(meant);
            (place, format!("unknown setting \"{name}\"; {hint}"))
        }
        Fault::Missing { setting } => {
            (tree.place_of(path).cloned(), format!("{name}: \"{setting}\" is missing"))
        }
        Fault::Value { message } => (tree.place_of(path).cloned(), format!("{name}: {message}")),
    };
    ReadFault {
        problem: Problem::with_setting(place, name, message),
        settings,
        #[cfg(test)]
        unknown: match fault {
            Fault::Unknown { known } => Some((path.to_vec(), known)),
            _ => None,
        },
    }
}
