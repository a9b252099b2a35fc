//! Application services: bridges and bots that act for whole ranges of users, aliases and rooms (A-S API).
//!
//! [`AppServices`] is the entry to all of it. What services are to hear is put down by a follower of the log (`sending`), and stays
//! in the store until they have taken it.

mod client;
mod error;
mod keys;
mod questions;
mod registration;
mod registrations;
mod registry;
mod rows;
mod sending;
mod silences;

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use entente_accounts::Accounts;
use entente_encryption::Encryption;
use entente_environment::Environment;
use entente_rooms::Rooms;
use entente_storage::Store;
use tokio::sync::{Mutex, RwLock};

use self::{client::ServiceClient, registrations::make_sender, sending::Desks, silences::Silences};
pub use self::{
    error::AppServiceError,
    keys::ClaimedKey,
    questions::ThirdPartyKind,
    registration::{Namespace, Registration},
    registrations::{Registrations, read_files},
    registry::Registry,
    rows::KEYSPACES,
};

/// Registrations are read again this often, beside at a signal.
const READ_EVERY: Duration = Duration::from_secs(60 * 60);

/// The application services of this server. Cheap to clone.
#[derive(Clone)]
pub struct AppServices {
    inner: Arc<Inner>,
}

/// What application services work on.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The store.
    pub store: Store,
    /// Time and randomness.
    pub environment: Environment,
    /// The accounts.
    pub accounts: Accounts,
    /// What is kept for their encryption.
    pub encryption: Encryption,
    /// The rooms.
    pub rooms: Rooms,
}

struct Inner {
    parts: Parts,
    registrations: Registrations,
    registry: ArcSwap<Registry>,
    /// Held by whoever changes registrations or reads them anew, from first to last.
    changing: Mutex<()>,
    /// Held by whoever puts something down for the services of a registry, and for a moment by whoever puts another in its place.
    in_use: RwLock<()>,
    client: ServiceClient,
    desks: Desks,
    silences: Silences,
}

impl fmt::Debug for AppServices {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AppServices").finish_non_exhaustive()
    }
}

impl AppServices {
    /// Reads the registrations, and makes the services' own users where they are missing.
    pub async fn open(parts: Parts, registrations: Registrations) -> Result<Self, AppServiceError> {
        let services = Self {
            inner: Arc::new(Inner {
                parts,
                registrations,
                registry: ArcSwap::default(),
                changing: Mutex::default(),
                in_use: RwLock::default(),
                client: ServiceClient::new()?,
                desks: Desks::default(),
                silences: Silences::default(),
            }),
        };
        services.reload().await?;
        Ok(services)
    }

    /// Reads the registrations again. With a mistake among them all stays as it was. Answers how many there are.
    pub async fn reload(&self) -> Result<usize, AppServiceError> {
        let _changing = self.inner.changing.lock().await;
        self.read_again().await
    }

    async fn read_again(&self) -> Result<usize, AppServiceError> {
        let registry = self.inner.registrations.read().await?;
        for service in registry.services() {
            make_sender(self.accounts(), &service.sender).await?;
        }
        let count = registry.services().len();
        {
            let _unused = self.inner.in_use.write().await;
            self.inner.registry.store(Arc::new(registry));
        }
        self.wake_all();
        Ok(count)
    }

    /// Adds a registration, or replaces that with the same id. Answers the id.
    pub async fn add(&self, text: &str) -> Result<String, AppServiceError> {
        let _changing = self.inner.changing.lock().await;
        let id = self.inner.registrations.add(text, self.accounts()).await?;
        self.read_again().await?;
        Ok(id)
    }

    /// Adds the registration of the service with this id, or replaces it.
    pub async fn put(&self, id: &str, text: &str) -> Result<(), AppServiceError> {
        let new = Registration::parse(text, "registration", self.accounts().server_name())?;
        if new.id != id {
            let message = format!("the registration is of {}, and not of {id}", new.id);
            return Err(AppServiceError::Registration(message));
        }
        self.add(text).await.map(drop)
    }

    /// The ids of the services that were added so; the registrations of the others are in files.
    pub async fn stored(&self) -> Result<Vec<String>, AppServiceError> {
        self.inner.registrations.stored().await
    }

    /// Removes a service that was added so, and everything that waits for it.
    pub async fn remove(&self, id: &str) -> Result<(), AppServiceError> {
        let _changing = self.inner.changing.lock().await;
        self.inner.registrations.remove(id).await?;
        self.read_again().await?;
        self.inner.registrations.forget(id).await
    }

    /// Reads the registrations again every hour, and whenever `told` says so, for as long as it is polled.
    pub async fn watch_registrations(self, told: Arc<tokio::sync::Notify>) {
        loop {
            // Whether it was told or the hour is over is the same.
            let _ = tokio::time::timeout(READ_EVERY, told.notified()).await;
            match self.reload().await {
                Ok(count) => tracing::info!(count, "the registrations of application services were read"),
                Err(error) => {
                    tracing::error!(%error, "the registrations of application services cannot be used, and stay as they were");
                }
            }
        }
    }

    /// The services at present.
    pub fn registry(&self) -> Arc<Registry> {
        self.inner.registry.load_full()
    }

    /// The service with this token. That it asks for something shows that it is there: what waits for it is sent at once.
    pub fn by_token(&self, as_token: &str) -> Option<Arc<Registration>> {
        let service = Arc::clone(self.inner.registry.load().by_token(as_token)?);
        self.inner.desks.note_alive(&service.id);
        Some(service)
    }

    fn store(&self) -> &Store {
        &self.inner.parts.store
    }

    fn rooms(&self) -> &Rooms {
        &self.inner.parts.rooms
    }

    fn accounts(&self) -> &Accounts {
        &self.inner.parts.accounts
    }

    fn encryption(&self) -> &Encryption {
        &self.inner.parts.encryption
    }

    fn environment(&self) -> &Environment {
        &self.inner.parts.environment
    }
}
