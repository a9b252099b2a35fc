//! What an operator does from the command line: against the running server through a Unix socket that only its own user
//! may open, or, when no server runs, against the store itself.

mod calls;
mod client;
mod requests;
mod socket;

use entente_accounts::Accounts;
use entente_appservices::{AppServiceError, AppServices, Registrations};
use entente_call_bridge::CallBridge;
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
    /// What forwards the media of calls, if the server runs and does.
    pub(crate) bridge: Option<CallBridge>,
}

impl Operator {
    /// The media, which only a running server looks after.
    fn media(&self) -> Result<&Media, String> {
        self.media.as_ref().ok_or_else(|| String::from("the server does not run; start it and try again"))
    }

    /// Adds an application service, to the running server if there is one. Answers its id.
    async fn add_appservice(&self, registration: &str) -> Result<String, AppServiceError> {
        match &self.appservices {
            Some(appservices) => appservices.add(registration).await,
            None => self.registrations.add(registration, &self.accounts).await,
        }
    }

    /// Removes an application service that was added so, and what waits for it.
    async fn remove_appservice(&self, id: &str) -> Result<(), AppServiceError> {
        if let Some(appservices) = &self.appservices {
            return appservices.remove(id).await;
        }
        self.registrations.remove(id).await?;
        self.registrations.forget(id).await
    }
}
