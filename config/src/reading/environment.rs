//! Settings from environment variables.

use super::tree::{Entry, Node, Value, parse_variable};
use crate::problem::{Place, Problem};

const PREFIX: &str = "ENTENTE_";

/// Variables that bear our prefix and are no settings: those of the command line and of the test suites, and those that
/// Kubernetes puts into every container beside a service called "entente".
fn is_reserved(variable: &str) -> bool {
    matches!(variable, "ENTENTE_CONFIG" | "ENTENTE_BIN" | "ENTENTE_PORT")
        || ["ENTENTE_TEST_", "ENTENTE_SERVICE_", "ENTENTE_PORT_"]
            .iter()
            .any(|prefix| variable.starts_with(prefix))
}

/// The variable that sets the setting of this dotted name.
pub(crate) fn variable_of(setting: &str) -> String {
    format!("{PREFIX}{}", setting.replace('.', "__").to_uppercase())
}

/// Puts the settings among these variables into the tree, over what is there. Returns what could not be put anywhere.
pub(crate) fn add_environment(
    tree: &mut Node,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Vec<Problem> {
    let mut settings: Vec<(String, String)> = environment
        .into_iter()
        .filter(|(variable, _)| variable.starts_with(PREFIX) && !is_reserved(variable))
        .collect();
    // In this order a table comes before the settings in it, and the outcome is the same every time.
    settings.sort();
    settings.iter().filter_map(|(variable, text)| add_variable(tree, variable, text).err()).collect()
}

fn add_variable(tree: &mut Node, variable: &str, text: &str) -> Result<(), Problem> {
    let name = variable.strip_prefix(PREFIX).unwrap_or_default().to_lowercase();
    let path: Vec<&str> = name.split("__").collect();
    if path.iter().any(|key| key.is_empty()) {
        let message = "no setting has this name: ENTENTE_<SECTION>__<SETTING> is expected";
        return Err(Problem::new(Some(Place::Variable(variable.to_owned())), message));
    }
    insert(tree, &path, 0, &parse_variable(text, variable))
}

/// Inserts the value below the node, where the first `depth` keys of the path have led.
fn insert(node: &mut Node, path: &[&str], depth: usize, value: &Node) -> Result<(), Problem> {
    let Some(key) = path.get(depth) else {
        *node = value.clone();
        return Ok(());
    };
    match node.value {
        Value::Table(_) => {}
        Value::List(_) => {
            let list = path.get(..depth).unwrap_or_default().join(".");
            let message = format!("{list} is a list: set it as a whole, as in {}='[…]'", variable_of(&list));
            return Err(Problem::with_setting(value.place.clone(), list, message));
        }
        // A secret given as text before, of which this variable names the file; or a mistake that reading will find.
        _ => *node = Node::empty_table(value.place.clone()),
    }
    let Value::Table(entries) = &mut node.value else { return Ok(()) };
    let entry = entries.entry((*key).to_owned()).or_insert_with(|| Entry {
        key_place: value.place.clone(),
        node: Node::empty_table(value.place.clone()),
    });
    insert(&mut entry.node, path, depth + 1, value)
}
