//! `[accounts]`: passwords and what users may change.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{validation::Contradictions, values::TimeSpan};

/// Passwords and what users may change about their accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "independent permissions, each a setting of its own")]
pub struct Accounts {
    /// The shortest new password, in characters.
    pub minimum_password_length: u32,
    /// The longest password, in bytes; longer ones are refused before they are hashed. At most 65 536.
    pub maximum_password_bytes: u32,
    /// Whether users may change their password.
    pub allow_password_changes: bool,
    /// Whether users may change their display name.
    pub allow_displayname_changes: bool,
    /// Whether users may change their picture.
    pub allow_avatar_changes: bool,
    /// Whether users may deactivate their account.
    pub allow_deactivation: bool,
    /// How long an account is valid after it was made or renewed; absent: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validity_period: Option<TimeSpan>,
    /// The cost of hashing a password.
    pub argon2: Argon2,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            minimum_password_length: 8,
            maximum_password_bytes: 512,
            allow_password_changes: true,
            allow_displayname_changes: true,
            allow_avatar_changes: true,
            allow_deactivation: true,
            validity_period: None,
            argon2: Argon2::default(),
        }
    }
}

/// The cost of hashing a password with Argon2id (RFC 9106). The defaults are OWASP's recommendation. Passwords that were hashed
/// with other costs stay valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Argon2 {
    /// Memory for one hash, in KiB; at least 8 for each lane, at most 4 GiB.
    pub memory_kib: NonZeroU32,
    /// Passes over the memory.
    pub iterations: NonZeroU32,
    /// Lanes; at most 255.
    pub parallelism: NonZeroU32,
}

impl Default for Argon2 {
    fn default() -> Self {
        let constant = |number| NonZeroU32::new(number).expect("a constant above zero");
        Self { memory_kib: constant(19_456), iterations: constant(2), parallelism: constant(1) }
    }
}

/// No more memory for one hash than a small server has.
const MAXIMUM_MEMORY_KIB: u32 = 4 * 1024 * 1024;
const MAXIMUM_PARALLELISM: u32 = 255;
const MAXIMUM_PASSWORD_BYTES: u32 = 65_536;

impl Accounts {
    pub(crate) fn check(&self, found: &mut Contradictions) {
        if self.minimum_password_length > self.maximum_password_bytes {
            let message =
                "no password is long enough for this and short enough for accounts.maximum_password_bytes";
            found.add(&["accounts.minimum_password_length", "accounts.maximum_password_bytes"], message);
        }
        if self.maximum_password_bytes > MAXIMUM_PASSWORD_BYTES {
            found.add(
                &["accounts.maximum_password_bytes"],
                format!("at most {MAXIMUM_PASSWORD_BYTES} is allowed"),
            );
        }
        found.refuse_zero_spans(&[("accounts.validity_period", self.validity_period)]);

        let Argon2 { memory_kib, parallelism, .. } = &self.argon2;
        if memory_kib.get() > MAXIMUM_MEMORY_KIB {
            found.add(&["accounts.argon2.memory_kib"], format!("at most {MAXIMUM_MEMORY_KIB} is allowed"));
        }
        if parallelism.get() > MAXIMUM_PARALLELISM {
            found.add(&["accounts.argon2.parallelism"], format!("at most {MAXIMUM_PARALLELISM} is allowed"));
        } else if memory_kib.get() < 8 * parallelism.get() {
            let message = "Argon2 needs at least 8 KiB for each of accounts.argon2.parallelism lanes";
            found.add(&["accounts.argon2.memory_kib", "accounts.argon2.parallelism"], message);
        }
    }
}
