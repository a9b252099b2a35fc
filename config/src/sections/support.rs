//! `[support]`: whom users and other servers can turn to.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    validation::Contradictions,
    values::{EmailAddress, MatrixId, SupportRole},
};

/// What `/.well-known/matrix/support` says
/// ([Matrix specification](https://spec.matrix.org/latest/client-server-api/#getwell-knownmatrixsupport)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Support {
    /// A page for people who need help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<Url>,
    /// People who help.
    pub contacts: Vec<SupportContact>,
}

/// Somebody who helps; an e-mail address or a Matrix identifier is needed, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupportContact {
    /// With what: `m.role.admin`, `m.role.security` or a role of your own.
    pub role: SupportRole,
    /// The person's e-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_address: Option<EmailAddress>,
    /// The person's Matrix identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix_id: Option<MatrixId>,
}

impl Support {
    pub(crate) fn check(&self, found: &mut Contradictions) {
        for (index, contact) in self.contacts.iter().enumerate() {
            if contact.email_address.is_none() && contact.matrix_id.is_none() {
                let key = format!("support.contacts.{index}");
                found.add(&[&key], "a contact needs an email_address or a matrix_id");
            }
        }
    }
}
