//! `entente.example.toml` is kept in step with the types.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use crate::{
    Config, EXAMPLE,
    example::uncommented,
    reading::{self, Node, PathSegment},
};

/// The defaults as TOML, those that follow from others included.
fn defaults() -> Table {
    Table::try_from(Config::default().spelt_out()).expect("settings have a TOML form")
}

fn example() -> Table {
    uncommented().parse().expect("the example is TOML")
}

#[test]
fn as_it_is_it_changes_nothing() {
    assert_eq!(Config::parse(EXAMPLE, "entente.example.toml", []), Ok(Config::default()));
}

#[test]
fn with_every_setting_set_it_is_accepted() {
    let config =
        Config::parse(&uncommented(), "entente.example.toml", []).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.support.contacts.len(), 1);
}

/// Each default, and each value of the example that differs from its default, as `name: default, example`.
fn differences(name: &str, default: &Value, example: Option<&Value>, found: &mut Vec<String>) {
    match (default, example) {
        (Value::Table(defaults), Some(Value::Table(examples))) => {
            for (key, default) in defaults {
                differences(&format!("{name}.{key}"), default, examples.get(key), found);
            }
        }
        (Value::Array(defaults), Some(Value::Array(examples)))
            if default.as_array() != example.and_then(Value::as_array) =>
        {
            // A list of tables without an element by default has one in the example, to show its settings.
            if defaults.is_empty() && examples.iter().all(Value::is_table) {
                return;
            }
            if defaults.len() != examples.len() {
                found.push(format!("{name}: {default}, {examples:?}"));
            }
            for (index, (default, example)) in defaults.iter().zip(examples).enumerate() {
                differences(&format!("{name}.{index}"), default, Some(example), found);
            }
        }
        (default, Some(example)) if default == example => {}
        (default, example) => found.push(format!("{name}: {default}, {example:?}")),
    }
}

#[test]
fn it_shows_the_true_defaults() {
    let mut found = Vec::new();
    differences("", &Value::Table(defaults()), Some(&Value::Table(example())), &mut found);
    assert_eq!(found, Vec::<String>::new());
}

/// The dotted names of all tables in the tree, elements of lists by their numbers; the root's is empty.
fn tables(node: &Node, path: &[PathSegment], found: &mut Vec<Vec<PathSegment>>) {
    let below = |segment: PathSegment| [path, &[segment]].concat();
    match &node.value {
        reading::Value::Table(entries) => {
            found.push(path.to_vec());
            for (key, entry) in entries {
                tables(&entry.node, &below(PathSegment::Key(key.clone())), found);
            }
        }
        reading::Value::List(elements) => {
            for (index, element) in elements.iter().enumerate() {
                tables(element, &below(PathSegment::Index(index)), found);
            }
        }
        _ => {}
    }
}

/// The name with `*` for the numbers of elements.
fn any_element(path: &[PathSegment]) -> String {
    let name = |segment: &PathSegment| match segment {
        PathSegment::Key(key) => key.clone(),
        PathSegment::Index(_) => "*".to_owned(),
    };
    path.iter().map(name).collect::<Vec<_>>().join(".")
}

/// Finds out what settings there are by asking for one that there isn't, in every table of the example: the answer lists those
/// that are known there. Each of them has to be in the example, so that no table can be overlooked.
#[test]
fn it_shows_every_setting() {
    const PROBE: &str = "no_such_setting";
    let mut tree = reading::parse_file(&uncommented(), "example").expect("the example is TOML");
    let mut paths = Vec::new();
    tables(&tree, &[], &mut paths);
    let probe = Node { value: reading::Value::Boolean(true), place: None, raw: None };
    for path in &paths {
        tree.insert_for_test(path, PROBE, probe.clone());
    }

    let mut known: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in &paths {
        let keys = match &tree.get(path).expect("the table is there").value {
            reading::Value::Table(entries) => {
                entries.keys().filter(|key| *key != PROBE).cloned().collect::<Vec<_>>()
            }
            _ => unreachable!("only tables were listed"),
        };
        shown.entry(any_element(path)).or_default().extend(keys);
    }
    let faults = reading::read::<Config>(&mut tree).faults;
    assert_eq!(faults.len(), paths.len(), "every table has one setting that isn't known");
    for fault in faults {
        let (path, settings) = fault.unknown.expect("the only faults are unknown settings");
        let (probe, table) = path.split_last().expect("a path");
        assert_eq!(probe, &PathSegment::Key(PROBE.to_owned()));
        known.entry(any_element(table)).or_default().extend(settings);
    }

    let shown: BTreeMap<_, BTreeSet<&str>> = shown
        .iter()
        .map(|(table, keys)| (table.clone(), keys.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(shown, known);
    assert!(known.len() > 20, "the probing finds sections");
}

/// A setting that has no default must say so, and no other may.
#[test]
fn it_says_what_has_no_default() {
    let defaults = defaults();
    let mut section = String::new();
    let mut prose = String::new();
    for line in EXAMPLE.lines() {
        if let Some(header) = line.trim_start_matches('#').strip_prefix('[') {
            section = header.trim_matches(['[', ']']).to_owned();
            prose.clear();
        } else if line.starts_with("# ") {
            prose.push_str(line);
        } else if let Some((key, _)) = line.strip_prefix('#').and_then(|setting| setting.split_once(" = ")) {
            let name = format!("{section}.{key}");
            let has_default = lookup(&defaults, name.trim_start_matches('.')) || name == "listeners.tls.acme";
            assert_eq!(has_default, !prose.contains("No default"), "{name}: {prose}");
            prose.clear();
        } else {
            prose.clear();
        }
    }
}

/// Whether the setting has a value; in lists of tables the first element counts.
fn lookup(table: &Table, name: &str) -> bool {
    let (key, rest) = name.split_once('.').map_or((name, None), |(key, rest)| (key, Some(rest)));
    let value = match table.get(key) {
        Some(Value::Array(elements)) if rest.is_some() => elements.first(),
        value => value,
    };
    match (value, rest) {
        (Some(Value::Table(table)), Some(rest)) => lookup(table, rest),
        (value, None) => value.is_some(),
        _ => false,
    }
}

#[test]
fn no_line_looks_like_a_setting_and_is_none() {
    for line in EXAMPLE.lines().filter(|line| line.starts_with('#')) {
        let is_prose = line == "#" || line.starts_with("# ");
        let is_setting = line.contains(" = ") || line.ends_with(']');
        assert!(is_prose || is_setting, "{line}");
    }
}
