//! `entente serve`: everything put together, run, and ended in order.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use entente_accounts::Accounts;
use entente_api::{ApiState, InFlight, Intake, Metrics, Readiness, Server, Services, metrics_router};
use entente_config::Config;
use entente_delivery::Delivery;
use entente_encryption::Encryption;
use entente_environment::{Clock, Environment};
use entente_federation::Federation;
use entente_media::Media;
use entente_rooms::Rooms;
use entente_storage::Store;
use entente_sync::Sync;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

use crate::{
    admin::{AdminSocket, Operator},
    appservices,
    calls::{self, CallRemovals, Forwarder},
    followers::Consequences,
    greeting, logging, media, settings, store, turn,
};

/// Short-lived rows that have expired are deleted this often.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);
/// Records of each writer's log that are kept, though every follower has read them: for those of other nodes who follow without
/// a stored cursor.
const LOG_KEPT: u64 = 100_000;

/// Finds what the types of the settings cannot: `entente check-config` says it before a start does.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    settings::server_name(config)?;
    settings::identity(config)?;
    settings::rooms(config)?;
    appservices::check(config)?;
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
    let state = open(config, &environment, store).await?;
    let connections = settings::connections(config);
    let first_token = state.accounts.first_registration_token().await.map_err(|error| error.to_string())?;
    let operator = Operator {
        accounts: state.accounts.clone(),
        store: store.clone(),
        environment: environment.clone(),
        registrations: appservices::registrations(config, store)?,
        appservices: Some(state.appservices.clone()),
        media: Some(state.media.clone()),
        bridge: state.calls.as_ref().and_then(|calls| calls.bridge.clone()),
    };
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
    let mut tasks = follow(&state, store, environment.clock());
    tasks.0.push(tokio::spawn(socket.serve(operator)));
    if let Some(calls) = &state.calls
        && let Some(bridge) = &calls.bridge
        && let Some(webhooks) = calls::webhooks(config, calls, &environment)?
    {
        tasks.0.push(tokio::spawn(webhooks.follow(bridge.events())));
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

/// Everything that the API stands upon, from a store.
async fn open(config: &Config, environment: &Environment, store: &Store) -> Result<ApiState, String> {
    let accounts = open_accounts(config, environment, store).await?;
    let encryption = Encryption::new(store.clone());
    let rooms = open_rooms(config, environment, store).await?;
    let sync = Sync::new(
        environment.clone(),
        store.clone(),
        accounts.clone(),
        encryption.clone(),
        rooms.clone(),
        config.limits.max_sync_timeout.duration(),
    );
    let route = settings::route(config);
    let federation = Federation::open(
        store.clone(),
        environment.clone(),
        accounts.clone(),
        rooms.clone(),
        config.federation.clone(),
        &config.identity_servers,
        &route,
    )
    .await
    .map_err(|error| error.to_string())?;
    let (turn_service, turn_server) = turn::open(config, environment).await?;
    let calls = calls::open(config, environment, &rooms, &federation, turn_service.clone())?;
    let media = media::open(config, environment, store, federation.client.clone(), route.clone()).await?;
    let delivery = Delivery::new(
        environment.clone(),
        store.clone(),
        accounts.clone(),
        rooms.clone(),
        sync.clone(),
        config.push.clone(),
        route.clone(),
    )
    .map_err(|error| error.to_string())?;
    let parts = entente_appservices::Parts {
        store: store.clone(),
        environment: environment.clone(),
        accounts: accounts.clone(),
        encryption: encryption.clone(),
        rooms: rooms.clone(),
    };
    let appservices = appservices::open(config, parts).await?;
    let bridge = calls.as_ref().and_then(|calls| calls.bridge.clone());
    Ok(ApiState::from(Services {
        accounts,
        encryption,
        rooms,
        sync,
        federation,
        delivery,
        media,
        appservices,
        calls,
        turn_service,
        metrics: Metrics::new(turn_server.clone(), bridge),
        turn_server,
        readiness: Arc::new(StoreReadiness(store.clone())),
        limits: settings::limits(config, environment.clock().clone()),
        identity: Arc::new(settings::identity(config)?),
        http: settings::http(config),
        in_flight: InFlight::new(settings::as_usize(config.limits.max_requests_in_flight.get())),
        intake: Intake::new(config.limits.max_federation_body.as_usize()),
    }))
}

/// Begins what runs in the background: what follows the log, what waits for its time, what cleans up.
fn follow(state: &ApiState, store: &Store, clock: &Arc<dyn Clock>) -> Tasks {
    let Services {
        accounts, encryption, rooms, sync, federation, delivery, media, appservices, calls, ..
    } = &**state;
    let consequences = Consequences {
        store: store.clone(),
        accounts: accounts.clone(),
        encryption: encryption.clone(),
        rooms: rooms.clone(),
        sync: sync.clone(),
    };
    let sweeping = sweep(
        store.clone(),
        accounts.clone(),
        encryption.clone(),
        rooms.clone(),
        media.clone(),
        Arc::clone(clock),
    );
    let mut tasks = Tasks(vec![
        tokio::spawn(accounts.clone().watch_presence()),
        tokio::spawn(sweeping),
        tokio::spawn(sync.clone().follow()),
        tokio::spawn(consequences.follow()),
        tokio::spawn(federation.outbox.clone().follow()),
        tokio::spawn(delivery.clone().follow()),
        tokio::spawn(appservices.clone().follow()),
        tokio::spawn(appservices::watch(appservices.clone())),
        tokio::spawn(rooms.clone().watch_delayed()),
    ]);
    if let Some(calls) = calls
        && let Some(sfu) = Forwarder::of(calls)
    {
        let removals = CallRemovals { store: store.clone(), members: calls.members.clone(), sfu };
        tasks.0.push(tokio::spawn(removals.follow()));
        tasks.0.push(tokio::spawn(calls.leaves.clone().follow()));
    }
    tasks
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

async fn sweep(
    store: Store,
    accounts: Accounts,
    encryption: Encryption,
    rooms: Rooms,
    media: Media,
    clock: Arc<dyn Clock>,
) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if let Err(error) = encryption.delete_expired(clock.now()).await {
            tracing::warn!(%error, "what is remembered of messages and keys could not be deleted");
        }
        match accounts.delete_expired().await {
            Ok(deleted) => tracing::debug!(deleted, "expired tokens and sessions are gone"),
            Err(error) => tracing::warn!(%error, "expired tokens and sessions could not be deleted"),
        }
        match store.trim_log(LOG_KEPT).await {
            Ok(deleted) => tracing::debug!(deleted, "records of the log that everybody has read are gone"),
            Err(error) => tracing::warn!(%error, "the log could not be trimmed"),
        }
        match rooms.forget_transactions().await {
            Ok(forgotten) => tracing::debug!(forgotten, "old transaction ids are gone"),
            Err(error) => tracing::warn!(%error, "old transaction ids could not be forgotten"),
        }
        if let Err(error) = rooms.forget_sticky().await {
            tracing::warn!(%error, "events that were sticky could not be forgotten");
        }
        if let Err(error) = media.sweep().await {
            tracing::warn!(%error, "media that nobody names could not be deleted");
        }
    }
}
