//! `[metrics]`: numbers for monitoring.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where monitoring finds its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Address and port of a listener that serves `/metrics` and nothing else, over plain HTTP; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
}
