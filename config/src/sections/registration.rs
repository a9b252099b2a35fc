//! `[registration]`: who may create an account.

use serde::{Deserialize, Serialize};

use crate::values::Localpart;

/// Who may create an account. Administrators always can, by the command line and the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registration {
    /// Whether anybody may, without a token (the stage `m.login.dummy`).
    pub open: bool,
    /// Whether whoever has a token made by an administrator may (the stage `m.login.registration_token`).
    pub tokens: bool,
    /// Whether anybody may be a guest: an account without a password, which reads and talks in rooms that let guests in.
    pub guests: bool,
    /// Names that only administrators can give.
    pub reserved_localparts: Vec<Localpart>,
}

/// The names by which people would trust a stranger, or to which certificates are issued (RFC 2142).
const RESERVED: [&str; 12] = [
    "abuse",
    "admin",
    "administrator",
    "entente",
    "hostmaster",
    "moderator",
    "postmaster",
    "root",
    "security",
    "server",
    "support",
    "webmaster",
];

impl Default for Registration {
    fn default() -> Self {
        let reserved = RESERVED.iter().map(|name| name.parse().expect("a constant localpart"));
        Self { open: false, tokens: true, guests: false, reserved_localparts: reserved.collect() }
    }
}
