//! `[push]`: which push gateways are spoken to, and what they are told.

use serde::{Deserialize, Serialize};

use crate::{validation::Contradictions, values::TimeSpan};

/// Which push gateways are spoken to, and what they are told. Clients name them: their makers', mostly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Push {
    /// Which gateways are spoken to.
    pub policy: PushPolicy,
    /// The hosts of the gateways spoken to under the policy "closed".
    pub allow: Vec<String>,
    /// The hosts of gateways inside the network: they may be at private addresses, and be spoken to without TLS.
    pub internal: Vec<String>,
    /// Whether gateways are told what an event says and by whom, where clients ask for it; if not, only where it is.
    pub include_content: bool,
    /// How long a gateway may take.
    pub timeout: TimeSpan,
}

/// Which gateways are spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PushPolicy {
    /// Every gateway that is at an address of the public internet.
    #[default]
    Open,
    /// Only those that are named.
    Closed,
    /// None.
    Disabled,
}

impl Default for Push {
    fn default() -> Self {
        Self {
            policy: PushPolicy::default(),
            allow: Vec::new(),
            internal: Vec::new(),
            include_content: true,
            timeout: TimeSpan::seconds(10),
        }
    }
}

impl Push {
    pub(crate) fn check(&self, found: &mut Contradictions) {
        found.refuse_zero_spans(&[("push.timeout", Some(self.timeout))]);
    }
}
