//! `[log]`: what the program writes about its work.

use serde::{Deserialize, Serialize};

/// What is logged, and how. Never logged: content of messages, tokens, keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as `info,entente_api=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            filter: "info,ruma_state_res=warn,stun_types=off,stun_proto=off,turn_server_proto=error"
                .to_owned(),
        }
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object, for programs.
    Json,
}
