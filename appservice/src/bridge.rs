//! The service as a whole.

use std::{
    fs::File,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use entente_environment::Environment;
use matrix_sdk::ruma::{
    OwnedRoomAliasId, OwnedUserId, UserId,
    events::{MessageLikeEventContent, StateEventContent, StaticEventContent},
    thirdparty::{Location, Protocol, User as RemoteUser},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Commands, Context, Ephemeral, Error, Event, HandlerError, HandlerResult, Homeserver, Identity, Metrics,
    Registration, Settings, StateEvent, Store, ThirdPartyQuery, User,
    data::{self, DataError},
    encryption::Encryption,
    handlers::Handlers,
    localpart::ghost_name,
    questions::Questions,
    rooms::Rooms,
    server, transaction_ids,
};

/// How long is waited at the end for what is being done.
const FAREWELL: Duration = Duration::from_secs(30);
/// How often the homeserver is looked for at the start.
const KNOCKING: Duration = Duration::from_secs(2);

/// An application service: a bot, or a bridge with its ghosts. Cheap to clone.
#[derive(Clone)]
pub struct Bridge {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    registration: Registration,
    bot_id: OwnedUserId,
    homeserver: Homeserver,
    store: Store,
    rooms: Rooms,
    encryption: Option<Encryption>,
    handlers: Handlers,
    questions: Questions,
    metrics: Metrics,
    environment: Environment,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    turn: Mutex<()>,
    is_ready: AtomicBool,
    /// Whether keys may have come that the events that wait for them were not tried with.
    retries_waiting: AtomicBool,
    /// Keeps other processes out of the data directory.
    _lock: File,
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Bridge").field("bot_id", &self.inner.bot_id).finish_non_exhaustive()
    }
}

/// Why a service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The homeserver does not take the service, or the store fails.
    #[error(transparent)]
    Service(#[from] Error),
    /// An address cannot be listened on, or the data directory cannot be made.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What went wrong.
        error: std::io::Error,
    },
    /// Another process has the data directory.
    #[error("the data directory is in use by another process")]
    InUse,
    /// The registration's bot is no user of the server.
    #[error("sender_localpart and server_name make no user id")]
    BadBot,
}

/// A service to be: its handlers are added one by one.
pub struct Builder {
    settings: Settings,
    registration: Registration,
    environment: Environment,
    handlers: Handlers,
    questions: Questions,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Builder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Builder {
    /// Begins with the settings and the registration file, with the machine's clock and randomness.
    pub fn new(settings: Settings, registration: Registration) -> Self {
        let environment = Environment::system();
        let (handlers, questions) = (Handlers::default(), Questions::default());
        Self { settings, registration, environment, handlers, questions }
    }

    /// Another clock or randomness.
    #[must_use]
    pub fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Calls the handler for each message, or what is like one, with this content that others sent. Handlers of an event run in the order
    /// in which they were added; when one fails, those behind it do not run, and if the event is handled again, all run again. Events are
    /// handled one after the other: what takes long belongs into [`Bridge::spawn`].
    #[must_use]
    pub fn on<C, F, Fut>(mut self, handler: F) -> Self
    where
        C: MessageLikeEventContent + StaticEventContent + DeserializeOwned + Send + 'static,
        F: Fn(Event<C>, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.handlers.add(handler);
        self
    }

    /// Calls the handler for each change of a room's state with this content that others made, as [`Builder::on`] does for messages. A
    /// message of the same type, which anybody may send, never comes here.
    #[must_use]
    pub fn on_state<C, F, Fut>(mut self, handler: F) -> Self
    where
        C: StateEventContent + StaticEventContent + DeserializeOwned + Send + 'static,
        F: Fn(StateEvent<C>, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.handlers.add_state(handler);
        self
    }

    /// Asks the handler about a ghost that does not exist, when somebody looks for it: whether there is such a user in the other network.
    /// If so, it is registered; who wants it to have a name sets it first ([`Bridge::ghost`]).
    #[must_use]
    pub fn on_user_query<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(OwnedUserId, Bridge) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, HandlerError>> + Send + 'static,
    {
        self.questions.set_user(handler);
        self
    }

    /// Asks the handler about a room alias of the service's that does not exist, when somebody looks for it. The handler makes the room
    /// with this alias ([`User::create_room`]) and says whether it did.
    #[must_use]
    pub fn on_alias_query<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(OwnedRoomAliasId, Bridge) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool, HandlerError>> + Send + 'static,
    {
        self.questions.set_alias(handler);
        self
    }

    /// Describes a network to those who look for one; the registration has to name it too ([`Registration::with_protocol`]).
    #[must_use]
    pub fn protocol(mut self, name: &str, protocol: Protocol) -> Self {
        self.questions.add_protocol(name, protocol);
        self
    }

    /// Asks the handler for users of the other network.
    #[must_use]
    pub fn on_user_lookup<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(ThirdPartyQuery, Bridge) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<RemoteUser>, HandlerError>> + Send + 'static,
    {
        self.questions.set_remote_users(handler);
        self
    }

    /// Asks the handler for places of the other network: channels, groups.
    #[must_use]
    pub fn on_location_lookup<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(ThirdPartyQuery, Bridge) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Location>, HandlerError>> + Send + 'static,
    {
        self.questions.set_locations(handler);
        self
    }

    /// Calls the handler for typing and receipts.
    #[must_use]
    pub fn on_ephemeral<C, F, Fut>(mut self, handler: F) -> Self
    where
        C: StaticEventContent + DeserializeOwned + Send + 'static,
        F: Fn(Ephemeral<C>, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.handlers.add_ephemeral(handler);
        self
    }

    /// Answers these commands.
    #[must_use]
    pub fn commands(self, commands: Commands) -> Self {
        let commands = Arc::new(commands);
        self.on(move |event, context| {
            let commands = Arc::clone(&commands);
            async move { commands.answer(event, context).await }
        })
    }

    /// Opens the store, which no other process may have open. Nothing is sent before [`Bridge::run`] or the first thing that a user does.
    pub async fn build(self) -> Result<Bridge, RunError> {
        let Self { settings, registration, environment, handlers, questions } = self;
        let bot_id = UserId::parse(format!("@{}:{}", registration.sender_localpart, settings.server_name))
            .map_err(|_| RunError::BadBot)?;
        let lock = data::take(&settings.data).map_err(|error| match error {
            DataError::InUse => RunError::InUse,
            DataError::Io(error) => RunError::Io { what: "the data directory", error },
        })?;
        let store = Store::open(&settings.data.join("service.sqlite3")).await.map_err(Error::from)?;
        let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
        let homeserver = Homeserver::new(
            settings.homeserver_url.clone(),
            registration.as_token.clone(),
            settings.patience(),
            environment.clone(),
            metrics.clone(),
            shutdown.clone(),
        )?;
        let encryption = Encryption::new(&settings, &bot_id);
        let inner = Inner {
            settings,
            registration,
            bot_id,
            homeserver,
            store,
            rooms: Rooms::default(),
            encryption,
            handlers,
            questions,
            metrics,
            environment,
            shutdown,
            tasks: TaskTracker::new(),
            turn: Mutex::new(()),
            is_ready: AtomicBool::new(false),
            retries_waiting: AtomicBool::new(true),
            _lock: lock,
        };
        Ok(Bridge { inner: Arc::new(inner) })
    }
}

impl Bridge {
    /// The service's own user.
    pub fn bot(&self) -> User {
        let bot = User::new(self.clone(), self.inner.bot_id.clone());
        match &self.inner.settings.bot_name {
            Some(name) => bot.named(name),
            None => bot,
        }
    }

    /// The ghost of somebody of another network. The name may be anything; [`ghost_name`] makes it one that Matrix allows.
    pub fn user(&self, name: &str) -> User {
        let localpart = format!("{}{}", self.inner.settings.ghost_prefix, ghost_name(name));
        let user_id = UserId::parse(format!("@{localpart}:{}", self.inner.settings.server_name));
        // Both parts are of allowed characters and together too short to be refused, unless the prefix is not.
        let user_id = user_id.unwrap_or_else(|error| {
            tracing::error!(%error, "the prefix of ghosts makes no user ids; the bot speaks instead");
            self.inner.bot_id.clone()
        });
        User::new(self.clone(), user_id)
    }

    /// The service's user with this id, if it is one of them.
    pub fn ghost(&self, user_id: &UserId) -> Option<User> {
        self.owns(user_id).then(|| self.user_by_id(user_id))
    }

    pub(crate) fn user_by_id(&self, user_id: &UserId) -> User {
        if user_id == self.inner.bot_id { self.bot() } else { User::new(self.clone(), user_id.to_owned()) }
    }

    /// The bot's id.
    pub fn bot_id(&self) -> &UserId {
        &self.inner.bot_id
    }

    /// Whether a user is the bot or a ghost.
    pub fn owns(&self, user_id: &UserId) -> bool {
        let prefix = &self.inner.settings.ghost_prefix;
        user_id == self.inner.bot_id
            || (!prefix.is_empty()
                && user_id.server_name() == self.inner.settings.server_name
                && user_id.localpart().starts_with(prefix.as_str()))
    }

    /// What the service remembers.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The homeserver, for whatever has no function here.
    pub fn homeserver(&self) -> &Homeserver {
        &self.inner.homeserver
    }

    /// The clock and the randomness.
    pub fn environment(&self) -> &Environment {
        &self.inner.environment
    }

    /// What Prometheus is told.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The registration.
    pub fn registration(&self) -> &Registration {
        &self.inner.registration
    }

    pub(crate) fn rooms(&self) -> &Rooms {
        &self.inner.rooms
    }

    pub(crate) fn encryption(&self) -> Option<&Encryption> {
        self.inner.encryption.as_ref()
    }

    pub(crate) fn handlers(&self) -> &Handlers {
        &self.inner.handlers
    }

    pub(crate) fn questions(&self) -> &Questions {
        &self.inner.questions
    }

    pub(crate) fn retries_waiting(&self) -> &AtomicBool {
        &self.inner.retries_waiting
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    pub(crate) fn turn(&self) -> &Mutex<()> {
        &self.inner.turn
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.inner.is_ready.load(Ordering::Relaxed)
    }

    /// Does something in the background, until it is done or the service stops: it is dropped then at its next `.await`. What must
    /// not be forgotten belongs into the store.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.inner.shutdown.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    /// Does something whose cause is not an event of a room, such that doing it again for the same cause sends nothing twice: a reminder
    /// that is due, a request that somebody repeats. The cause names it for ever.
    pub async fn once<T>(&self, cause: &str, work: impl Future<Output = T>) -> T {
        // Event ids begin with `$`, so no cause is one.
        transaction_ids::handling(&format!("cause {cause}"), work).await
    }

    /// Is cancelled when the service stops.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.inner.shutdown
    }

    /// Registers the bot, makes its keys known, and serves the homeserver until [`Bridge::shutdown`] is cancelled. Then nothing new is
    /// taken, and what is being handled is finished, within 30 s.
    pub async fn run(&self) -> Result<(), RunError> {
        let io = |what| move |error| RunError::Io { what, error };
        let observing = match self.inner.settings.observe {
            Some(address) => {
                let listener = TcpListener::bind(address).await.map_err(io("the observing listener"))?;
                let router = server::observing_router(self.clone());
                let served = server::serve(listener, router, self.inner.shutdown.clone());
                Some(self.inner.tasks.spawn(served))
            }
            None => None,
        };
        self.prepare().await?;
        // Not before: a homeserver that finds nobody comes back sooner than one that is kept waiting.
        let address = self.inner.settings.listen;
        let listener = TcpListener::bind(address).await.map_err(io("the listener"))?;
        self.inner.is_ready.store(true, Ordering::Relaxed);
        tracing::info!(listener.address = %address, user.id = %self.inner.bot_id, "the service is ready");
        let pinging = self.clone();
        self.spawn(async move { pinging.ping().await });
        let served = server::serve(listener, server::router(self.clone()), self.inner.shutdown.clone());
        let served = self.until_stopped(served).await;
        self.inner.is_ready.store(false, Ordering::Relaxed);
        self.inner.shutdown.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(FAREWELL, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("not everything was finished in time; it will be handled again");
        }
        if let Some(observing) = observing
            && let Ok(Err(error)) = observing.await
        {
            return Err(io("the observing listener")(error));
        }
        served.map_err(io("the listener"))
    }

    /// Says whether the homeserver reaches the service: an address that is wrong in the registration file shows at once.
    async fn ping(&self) {
        #[derive(Deserialize)]
        struct Pong {
            #[serde(default)]
            duration_ms: u64,
        }
        let body = json!({ "transaction_id": self.inner.environment.randomness().alphanumeric(32) });
        let path = ["v1", "appservice", self.inner.registration.id.as_str(), "ping"];
        match self.inner.homeserver.post::<Pong>(Identity::default(), &path, &body).await {
            Ok(Pong { duration_ms }) => tracing::info!(duration_ms, "the homeserver reaches the service"),
            Err(Error::ShuttingDown) => {}
            Err(error) if error.is("M_UNRECOGNIZED") => tracing::debug!("the homeserver does not ping"),
            Err(error) => tracing::warn!(%error, "the homeserver does not reach the service"),
        }
    }

    /// Serving ends with its connections, but not later than [`FAREWELL`] after it was told to.
    async fn until_stopped(&self, served: impl Future<Output = std::io::Result<()>>) -> std::io::Result<()> {
        let shutdown = self.inner.shutdown.clone();
        tokio::select! {
            served = served => served,
            () = async { shutdown.cancelled().await; tokio::time::sleep(FAREWELL).await } => Ok(()),
        }
    }

    /// As [`Bridge::run`], until the process is told to stop (`SIGINT`, `SIGTERM`).
    pub async fn run_until_signal(&self) -> Result<(), RunError> {
        let shutdown = self.inner.shutdown.clone();
        let listening = tokio::spawn(async move {
            signal().await;
            tracing::info!("stopping");
            shutdown.cancel();
        });
        let ran = self.run().await;
        listening.abort();
        ran
    }

    /// Registers the bot and opens the keys of all who encrypt; waits for a homeserver that is away.
    async fn prepare(&self) -> Result<(), Error> {
        loop {
            match self.prepare_once().await {
                Err(error) if error.is_temporary() && !self.inner.shutdown.is_cancelled() => {
                    tracing::warn!(%error, "the homeserver is not ready");
                    tokio::select! {
                        () = tokio::time::sleep(KNOCKING) => {}
                        () = self.inner.shutdown.cancelled() => return Ok(()),
                    }
                }
                Err(Error::ShuttingDown) => return Ok(()),
                prepared => return prepared,
            }
        }
    }

    async fn prepare_once(&self) -> Result<(), Error> {
        self.bot().ensure_registered().await?;
        let Some(encryption) = self.encryption() else { return Ok(()) };
        encryption.open_all(self).await?;
        if let Err(error) = self.try_all_again().await {
            tracing::warn!(%error, "events that wait for keys are tried again later");
        }
        Ok(())
    }
}

/// Returns when the process is told to stop.
async fn signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without signals there is nothing to wait for but the end.
    if interrupt.await.is_err() {
        std::future::pending::<()>().await;
    }
}
