//! What an operator does from the command line: against the running server through a Unix socket that only its own user
//! may open, or, when no server runs, against the store itself.

mod client;
mod requests;
mod socket;

use entente_accounts::Accounts;
use entente_environment::Environment;
use entente_storage::Store;

pub(crate) use self::{client::send, requests::AdminRequest, socket::AdminSocket};

/// What an operator's requests work on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Operator {
    /// The accounts.
    pub(crate) accounts: Accounts,
    /// The store that they are in.
    pub(crate) store: Store,
    /// Time and randomness.
    pub(crate) environment: Environment,
}
