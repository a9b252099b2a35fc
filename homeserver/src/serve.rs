//! `entente serve`: everything put together, run, and ended in order.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use entente_accounts::Accounts;
use entente_api::{ApiState, InFlight, Metrics, Readiness, Server, Services, metrics_router};
use entente_config::Config;
use entente_encryption::Encryption;
use entente_environment::{Clock, Environment};
use entente_federation::Federation;
use entente_rooms::Rooms;
use entente_storage::Store;
use entente_sync::Sync;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

use crate::{
    admin::{AdminSocket, Operator},
    calls::{self, CallRemovals},
    followers::Consequences,
    greeting, logging, settings, store,
};

/// Short-lived rows that have expired are deleted this often.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);

/// Finds what the types of the settings cannot: `entente check-config` says it before a start does.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    settings::server_name(config)?;
    settings::identity(config)?;
    settings::rooms(config)?;
    logging::check(config)
}

/// The store is what the server cannot work without.
#[derive(Debug)]
struct StoreReadiness(Store);

impl Readiness for StoreReadiness {
    fn check(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async {
            let read = async { self.0.snapshot().await?.position().await };
            read.await.map(drop).map_err(|error| error.to_string())
        })
    }
}

/// Runs the server until it is told to stop, and then finishes what it accepted.
pub(crate) async fn serve(config: &Config, environment: Environment) -> Result<(), String> {
    check(config)?;
    logging::start(config)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| String::from("another TLS provider is installed already"))?;
    let store = store::open(config).await?;
    let outcome = serve_from(config, environment, &store).await;
    let closed = store.close().await.map_err(|error| format!("the store did not close in order: {error}"));
    outcome.and(closed)
}

async fn serve_from(config: &Config, environment: Environment, store: &Store) -> Result<(), String> {
    let accounts = open_accounts(config, &environment, store).await?;
    let encryption = Encryption::new(store.clone());
    let rooms = open_rooms(config, &environment, store).await?;
    let calls = calls::open(config, &environment, &rooms)?;
    let sync =
        Sync::new(environment.clone(), store.clone(), accounts.clone(), encryption.clone(), rooms.clone());
    let federation =
        Federation::open(store.clone(), environment.clone(), rooms.clone(), config.federation.clone())
            .await
            .map_err(|error| error.to_string())?;
    let state = ApiState::from(Services {
        accounts: accounts.clone(),
        encryption,
        rooms,
        sync: sync.clone(),
        federation: federation.clone(),
        calls,
        readiness: Arc::new(StoreReadiness(store.clone())),
        limits: settings::limits(config, environment.clock().clone()),
        identity: Arc::new(settings::identity(config)?),
        metrics: Metrics::new(),
        http: settings::http(config),
        in_flight: InFlight::new(settings::as_usize(config.limits.max_requests_in_flight.get())),
    });
    let connections = settings::connections(config);
    let first_token = accounts.first_registration_token().await.map_err(|error| error.to_string())?;
    let clock = environment.clock().clone();
    let consequences = Consequences {
        store: store.clone(),
        accounts: accounts.clone(),
        encryption: state.encryption.clone(),
        rooms: state.rooms.clone(),
        sync: sync.clone(),
    };
    let operator = Operator { accounts: accounts.clone(), store: store.clone(), environment };
    let socket = AdminSocket::bind(&config.admin_socket())
        .map_err(|error| format!("the admin socket {}: {error}", config.admin_socket().display()))?;
    let metrics = match config.metrics.address {
        Some(address) => {
            let router = metrics_router(state.metrics.clone());
            Some(Server::start_plain(address, router, connections).await.map_err(|error| error.to_string())?)
        }
        None => None,
    };
    let mut server = Server::start(settings::listeners(config), &state, connections)
        .await
        .map_err(|error| error.to_string())?;
    let bridge = state.calls.as_ref().and_then(|calls| calls.bridge.clone());
    let mut tasks = Tasks(vec![
        tokio::spawn(socket.serve(operator)),
        tokio::spawn(accounts.clone().watch_presence()),
        tokio::spawn(sweep(accounts, state.encryption.clone(), clock)),
        tokio::spawn(sync.follow()),
        tokio::spawn(consequences.follow()),
        tokio::spawn(federation.outbox.follow()),
        tokio::spawn(state.rooms.clone().watch_delayed()),
    ]);
    if let Some(bridge) = bridge.clone() {
        let removals = CallRemovals { store: store.clone(), rooms: state.rooms.clone(), bridge };
        tasks.0.push(tokio::spawn(removals.follow()));
    }
    greeting::greet(config, server.addresses(), first_token.as_deref());
    tracing::info!(server = %config.server_name, version = env!("CARGO_PKG_VERSION"), storage = store.engine_name(), "ready");

    let outcome = tokio::select! {
        signal = told_to_stop() => signal.map(|name| tracing::info!(signal = name, "stopping")),
        error = server.failed() => Err(error.to_string()),
    };
    drop(tasks);
    // Their connections would not end by themselves.
    if let Some(bridge) = bridge {
        bridge.stop().await;
    }
    let grace = config.limits.shutdown_timeout.duration();
    tokio::select! {
        () = server.stop(grace) => {}
        // Whoever asks twice does not want to wait.
        _ = told_to_stop() => tracing::warn!("stopping at once: open requests are dropped"),
    }
    if let Some(metrics) = metrics {
        metrics.stop(Duration::ZERO).await;
    }
    outcome
}

pub(crate) async fn open_accounts(
    config: &Config,
    environment: &Environment,
    store: &Store,
) -> Result<Accounts, String> {
    let name = settings::server_name(config)?;
    Accounts::open(store.clone(), environment.clone(), name, settings::accounts(config))
        .await
        .map_err(|error| error.to_string())
}

async fn open_rooms(config: &Config, environment: &Environment, store: &Store) -> Result<Rooms, String> {
    let name = settings::server_name(config)?;
    Rooms::open(store.clone(), environment.clone(), name, settings::rooms(config)?)
        .await
        .map_err(|error| error.to_string())
}

/// Tasks that end with this.
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn told_to_stop() -> Result<&'static str, String> {
    let unwatchable = |error: std::io::Error| format!("signals cannot be watched: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(unwatchable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unwatchable)?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

async fn sweep(accounts: Accounts, encryption: Encryption, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if let Err(error) = encryption.delete_expired(clock.now()).await {
            tracing::warn!(%error, "what is remembered of messages and keys could not be deleted");
        }
        match accounts.delete_expired().await {
            Ok(deleted) => tracing::debug!(deleted, "expired tokens and sessions are gone"),
            Err(error) => tracing::warn!(%error, "expired tokens and sessions could not be deleted"),
        }
    }
}
