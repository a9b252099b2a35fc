//! What an operator does from the command line: against the running server through a Unix socket that only its own user
//! may open, or, when no server runs, against the store itself.

mod client;
mod requests;
mod socket;

use entente_accounts::Accounts;
use entente_appservices::{AppServices, Registrations};
use entente_environment::Environment;
use entente_media::Media;
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
    /// Where registrations of application services come from.
    pub(crate) registrations: Registrations,
    /// The services, if the server runs.
    pub(crate) appservices: Option<AppServices>,
    /// What users uploaded, if the server runs.
    pub(crate) media: Option<Media>,
}

impl Operator {
    /// The media, which only a running server looks after.
    fn media(&self) -> Result<&Media, String> {
        self.media.as_ref().ok_or_else(|| String::from("the server does not run; start it and try again"))
    }

    /// Has the running server go by the registrations as they are now.
    async fn read_registrations(&self) -> Result<(), String> {
        match &self.appservices {
            Some(appservices) => appservices.reload().await.map(drop).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }
}
