//! Application services: from the settings to what they work with.

use std::sync::Arc;

use entente_appservices::{AppServices, Parts, Registrations, Registry, read_files};
use entente_config::Config;
use entente_storage::Store;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

use crate::settings;

/// Finds mistakes in the registrations that the settings name.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    let name = settings::server_name(config)?;
    let services = read_files(&config.application_services.registrations, &name);
    services.and_then(Registry::new).map(drop).map_err(|error| error.to_string())
}

/// Where registrations come from.
pub(crate) fn registrations(config: &Config, store: &Store) -> Result<Registrations, String> {
    let paths = config.application_services.registrations.clone();
    Ok(Registrations::new(store.clone(), settings::server_name(config)?, paths))
}

/// The services.
pub(crate) async fn open(config: &Config, parts: Parts) -> Result<AppServices, String> {
    let registrations = registrations(config, &parts.store)?;
    AppServices::open(parts, registrations).await.map_err(|error| error.to_string())
}

/// Has the registrations read again at SIGHUP, and every hour, for as long as it is polled.
pub(crate) async fn watch(services: AppServices) {
    let told = Arc::new(Notify::new());
    let hangups = async {
        let Ok(mut hangups) = signal(SignalKind::hangup()) else {
            tracing::error!("SIGHUP cannot be watched; registrations are read again every hour only");
            return std::future::pending().await;
        };
        while hangups.recv().await.is_some() {
            told.notify_one();
        }
    };
    tokio::join!(hangups, services.watch_registrations(Arc::clone(&told)));
}
