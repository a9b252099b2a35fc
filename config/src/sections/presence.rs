//! `[presence]`: who is told who is here.

use serde::{Deserialize, Serialize};

/// Whether users see who of those they share rooms with is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Presence {
    /// Whether it is told at all.
    pub enabled: bool,
}

impl Default for Presence {
    fn default() -> Self {
        Self { enabled: true }
    }
}
