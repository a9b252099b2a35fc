//! `[application_services]`: bridges and bots that act for many users.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Bridges and bots that act for many users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApplicationServices {
    /// Their registrations: YAML files, and directories of such files (`.yaml`, `.yml`).
    pub registrations: Vec<PathBuf>,
}
