//! `[admin]`: how the command line reaches the running server.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How the command line reaches the running server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Admin {
    /// The Unix socket, for the server's own user only; absent: `admin.sock` in the data directory. Read it through
    /// [`crate::Config::admin_socket`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}
