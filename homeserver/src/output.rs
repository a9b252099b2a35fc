//! What the program says on its terminal, as opposed to its log.

use std::io::Write as _;

/// A line on standard output. That nobody reads it is no error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line on standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
