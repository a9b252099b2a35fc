//! What a misspelt name was probably meant to be.

use super::{PathSegment, Value, environment::variable_of, error::dotted, parse_file};
use crate::{example, problem::Place};

/// How alike the beginnings of two names must be, from 0 to 1, for one to be suggested for the other.
const ALIKE: f64 = 0.85;

/// The candidate most like the name, if any is like it: a slip of the finger away, or with the same beginning.
pub(crate) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let slips = |candidate: &str| strsim::osa_distance(&name, candidate);
    let is_like = |candidate: &str| {
        slips(candidate) <= candidate.len() / 3 || strsim::jaro_winkler(&name, candidate) >= ALIKE
    };
    candidates.into_iter().filter(|candidate| is_like(candidate)).min_by_key(|candidate| slips(candidate))
}

/// The dotted name of the setting that an unknown one was probably meant to be; `known` are those known in its place.
pub(crate) fn setting_meant(path: &[PathSegment], known: &[&str]) -> Option<String> {
    let (last, parents) = path.split_last()?;
    // `ENTENTE_REGISTRATION_OPEN` and `registration_open` are one underscore, or one dot, from the truth.
    let joined = dotted(path).replace(['.', '-'], "_").to_lowercase();
    if let Some(setting) = all_settings().into_iter().find(|setting| setting.replace('.', "_") == joined) {
        return Some(setting);
    }
    let sibling = closest(&last.to_string(), known.iter().copied())?;
    let mut meant = parents.to_vec();
    meant.push(PathSegment::Key(sibling.to_owned()));
    Some(dotted(&meant))
}

/// Names the setting that was meant as the place would spell it, or else those that there are; `depth` is how deep in the tree
/// the unknown one is.
pub(crate) fn hint(meant: Option<&str>, known: &[&str], place: Option<&Place>, depth: usize) -> String {
    match (meant, place) {
        (Some(setting), Some(Place::Variable(variable))) => {
            // Of a misspelt section the rest of the variable stays as it is.
            let mut meant = variable_of(setting);
            for key in variable.split("__").skip(depth) {
                meant.push_str("__");
                meant.push_str(key);
            }
            format!("did you mean {meant}?")
        }
        (Some(setting), _) => format!("did you mean \"{setting}\"?"),
        (None, _) => format!("known here: {}", known.join(", ")),
    }
}

/// The dotted names of all settings. The example file shows every one of them, as its test ascertains.
fn all_settings() -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(tree) = parse_file(&example::uncommented(), "") {
        collect_names(&tree.value, "", &mut names);
    }
    names
}

fn collect_names(value: &Value, prefix: &str, names: &mut Vec<String>) {
    let Value::Table(entries) = value else { return };
    for (key, entry) in entries {
        let name = format!("{prefix}{key}");
        collect_names(&entry.node.value, &format!("{name}."), names);
        names.push(name);
    }
}
