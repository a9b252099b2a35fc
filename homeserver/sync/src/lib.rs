//! What a user sees of the rooms they are in, and of everything else that is theirs: `/v3/sync` and sliding sync.
//!
//! [`Sync::follow`] reads the change log and knows for whom there is something new (`news`); [`Sync::sync`] answers a request, or
//! waits until there is something to answer. An answer is made from one snapshot of the store: it holds everything between the
//! request's token and the position of the snapshot, which becomes the next token.

mod device_lists;
mod error;
mod event_form;
mod initial;
mod joined;
mod key_changes;
mod news;
mod notifying;
mod others;
mod parts;
mod peeking;
mod presence;
mod request;
mod response;
mod rows;
mod sliding;
mod summary;
mod token;
mod unread;

use std::{collections::HashSet, sync::Arc, time::Duration};

use entente_accounts::Accounts;
use entente_encryption::Encryption;
use entente_environment::Environment;
use entente_rooms::{RoomNumber, Rooms, state::EventNumber};
use entente_storage::{Snapshot, Store};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

pub use self::{
    error::SyncError,
    notifying::{Judgement, Names, Notification, NotificationToken},
    parts::{Answer, Parts},
    peeking::Peeked,
    request::{StateMode, SyncFilter, SyncRequest},
    rows::KEYSPACES,
    sliding::{
        Dialect, RequiredState, RoomConfig, RoomsOfExtension, SlidingExtensions, SlidingFilters, SlidingList,
        SlidingRequest, StateSelector, StickyEventsExtension, ToDeviceExtension,
    },
    token::{SyncToken, position_of_token},
    unread::marks_as_read,
};
use self::{
    news::News,
    presence::Quiet,
    response::Response,
    sliding::{SharedConnection, connection::ConnectionKey, lists::Facts},
    unread::Counted,
};

/// Answers that are made at the same time: each holds its rooms in memory.
const MOST_AT_ONCE: usize = 32;
/// Answers of several parts that are made at the same time: each keeps a snapshot of the store until it was sent.
const MOST_LONG_ANSWERS: usize = 8;
/// Counts of unread events that are remembered.
const MOST_COUNTED: usize = 50_000;
/// Rooms of which it is remembered what lists ask of them.
const MOST_FACTS: usize = 50_000;
/// Connections of sliding sync that are remembered; others are read when they go on.
const MOST_CONNECTIONS: usize = 2_000;
/// Filters that are remembered: most clients of one kind have the same.
const MOST_FILTERS: usize = 500;
/// Longer ones are read each time.
const LONGEST_FILTER: usize = 4_096;

/// The view of every user of one server. Cheap to clone.
#[derive(Clone)]
pub struct Sync {
    inner: Arc<Inner>,
}

struct Inner {
    environment: Environment,
    store: Store,
    accounts: Accounts,
    encryption: Encryption,
    rooms: Rooms,
    /// The longest that a request may wait.
    longest_wait: Duration,
    news: News,
    at_once: Semaphore,
    long_answers: Semaphore,
    /// Devices, by localpart and id, that were given to-device messages and have not said yet that they came. Lost with the
    /// process: then the messages stay until the device is given the next ones, and are not given again before.
    given: Mutex<HashSet<(String, String)>>,
    /// What was counted as unread, by localpart and room. What is not here is counted anew.
    counted: Cache<(String, RoomNumber), Arc<Counted>>,
    /// What lists ask of rooms: as they are, or as they were at somebody's membership event.
    facts: Cache<(RoomNumber, Option<EventNumber>), Arc<Facts>>,
    connections: Cache<ConnectionKey, SharedConnection>,
    /// Filters by their JSON. Requests that wait share them.
    filters: Cache<Box<[u8]>, Arc<SyncFilter>>,
}

impl std::fmt::Debug for Sync {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sync").finish_non_exhaustive()
    }
}

impl Sync {
    /// What users see in `store`; no request waits longer than `longest_wait` for something new. Nobody is woken until
    /// [`Sync::follow`] runs.
    pub fn new(
        environment: Environment,
        store: Store,
        accounts: Accounts,
        encryption: Encryption,
        rooms: Rooms,
        longest_wait: Duration,
    ) -> Self {
        let inner = Inner {
            news: News::new(store.published()),
            at_once: Semaphore::new(MOST_AT_ONCE),
            long_answers: Semaphore::new(MOST_LONG_ANSWERS),
            given: Mutex::new(HashSet::new()),
            counted: Cache::new(MOST_COUNTED),
            facts: Cache::new(MOST_FACTS),
            connections: Cache::new(MOST_CONNECTIONS),
            filters: Cache::new(MOST_FILTERS),
            environment,
            store,
            accounts,
            encryption,
            rooms,
            longest_wait,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Follows the change log and wakes whoever waits for what it tells, for as long as it is polled.
    pub async fn follow(self) {
        tokio::join!(self.follow_log(), self.tell_presence());
    }

    async fn follow_log(&self) {
        let Inner { store, accounts, rooms, news, .. } = &*self.inner;
        loop {
            let Err(error) = news.follow(store, accounts, rooms).await;
            tracing::warn!(%error, "following the log for /sync failed and begins again");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A filter as clients send it: a JSON object.
    pub fn filter(&self, json: &[u8]) -> Result<Arc<SyncFilter>, serde_json::Error> {
        if let Some(filter) = self.inner.filters.get(json) {
            return Ok(filter);
        }
        let filter = Arc::new(SyncFilter::from_json(json)?);
        if json.len() <= LONGEST_FILTER {
            self.inner.filters.insert(json.into(), Arc::clone(&filter));
        }
        Ok(filter)
    }

    /// Until when a request waits.
    pub(crate) fn deadline(&self, timeout: Duration) -> Instant {
        Instant::now() + timeout.min(self.inner.longest_wait)
    }

    /// Answers a request (C-S API, `GET /sync`): the body of the answer.
    pub async fn sync(&self, request: &SyncRequest) -> Result<Answer, SyncError> {
        if request.since.is_none() {
            return Box::pin(parts::begin(self.clone(), request.clone())).await;
        }
        self.news(request).await.map(Answer::Whole)
    }

    /// What is new to a client that knows something. All that takes place is on the heap, so that whoever waits does not hold it.
    async fn news(&self, request: &SyncRequest) -> Result<Vec<u8>, SyncError> {
        let inner = &self.inner;
        let localpart = request.user_id.localpart();
        self.acknowledge(request).await?;
        // What was acknowledged to anybody before this request came is news already.
        inner.news.reached(&inner.store.published()).await?;
        let deadline = self.deadline(request.timeout);
        let mut was_woken = false;
        loop {
            let waker = inner.news.attend(localpart);
            // From here on nothing is missed, though it is waited for only after a look at what is there.
            let woken = timeout_at(deadline, waker.notified());
            if let Some(since) = request.waits_from()
                && inner.news.is_quiet_since(localpart, &since.position)
            {
                let look = self.look_for_presence(request, since);
                let is_known = !matches!(look, Quiet::Unknown);
                match look {
                    Quiet::Presence(reached, seen) if was_woken => {
                        let response = Box::pin(self.presence_alone(request, since, reached, seen)).await?;
                        if !response.is_empty() {
                            return Ok(response.into_json());
                        }
                    }
                    Quiet::Presence(..) => self.await_turn(request),
                    Quiet::Nothing(_) | Quiet::Unknown => {}
                }
                if is_known {
                    match woken.await {
                        Ok(()) => was_woken = true,
                        Err(_) => return Box::pin(self.quiet(request, since)).await,
                    }
                    continue;
                }
            }
            let response = Box::pin(self.respond(request)).await?;
            let must_answer = request.full_state || !response.is_empty();
            if must_answer || woken.await.is_err() {
                return Ok(response.into_json());
            }
        }
    }

    /// Deletes the to-device messages that the client has received: those of the answer whose token it comes back with. Devices
    /// that were given none cost no look into the store.
    async fn acknowledge(&self, request: &SyncRequest) -> Result<(), SyncError> {
        let Some(since) = &request.since else { return Ok(()) };
        let device = (request.user_id.localpart().to_owned(), request.device_id.to_string());
        if self.inner.given.lock().remove(&device) {
            let (localpart, device_id) = &device;
            let acknowledging =
                self.inner.encryption.acknowledge_to_device(localpart, device_id, since.to_device());
            Box::pin(acknowledging).await?;
        }
        Ok(())
    }

    /// The answer when nothing happened that somebody would be woken for at once.
    async fn quiet(&self, request: &SyncRequest, since: &SyncToken) -> Result<Vec<u8>, SyncError> {
        let position = match self.look_for_presence(request, since) {
            Quiet::Presence(reached, seen) => {
                return Ok(self.presence_alone(request, since, reached, seen).await?.into_json());
            }
            Quiet::Nothing(reached) => reached,
            Quiet::Unknown => since.position.clone(),
        };
        let snapshot = self.inner.store.snapshot().await?;
        let mut response = Response::new(SyncToken { position, ..since.clone() });
        self.add_key_counts(&mut response, &snapshot, request).await?;
        Ok(response.into_json())
    }

    async fn respond(&self, request: &SyncRequest) -> Result<Response, SyncError> {
        let _place = self.inner.at_once.acquire().await.map_err(|_| SyncError::closed())?;
        let redactions = self.inner.rooms.redactions();
        let snapshot = self.inner.store.snapshot().await?;
        let position = snapshot.position().await?;
        self.inner.news.reached(&position).await?;
        response::build(self, request, snapshot, position, redactions).await
    }

    async fn add_key_counts(
        &self,
        response: &mut Response,
        snapshot: &Snapshot,
        request: &SyncRequest,
    ) -> Result<(), SyncError> {
        let (localpart, device_id) = (request.user_id.localpart(), request.device_id.as_str());
        response.key_counts =
            self.inner.encryption.one_time_key_counts(snapshot, localpart, device_id).await?;
        Ok(())
    }
}
