//! The worker of one pusher: sends what waits for it, the oldest first, each as often as it takes.

use std::{sync::Arc, time::Duration};

use entente_rooms::{RoomNumber, state::EventNumber};
use entente_storage::{LogPosition, Transaction};
use serde_json::Value;
use tokio::sync::Notify;
use url::Url;

use crate::{
    Delivery, DeliveryError, Format, Pusher,
    gateway::GatewayError,
    payload,
    pushers::shown,
    rows::{self, NumberRow, PusherRow, QueuedRow},
};

/// How long a worker without work stays.
const STAYS: Duration = Duration::from_secs(60);
/// Before a gateway is asked again that did not take something; doubled each time,
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);
/// What has waited for so long is of no use to anybody any more.
const OLDEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Rows that are deleted at once.
const PAGE: usize = 500;
/// What waits for a gateway that does not listen: the newest.
const MOST_WAITING: usize = 500;

type QueueKey = (u64, LogPosition, u32);

/// The oldest of what waits for a pusher.
struct Next {
    key: QueueKey,
    queued: QueuedRow,
    /// The pusher, if it is still there.
    pusher: Option<(NumberRow, PusherRow)>,
}

/// What became of the oldest of what waits.
enum Sent {
    /// There was nothing.
    Nothing,
    /// It is done with.
    Done,
    /// It will be tried again, at the earliest after this time.
    Later(Option<Duration>),
}

impl Delivery {
    /// Lets the worker of a pusher look for what waits.
    pub(crate) fn wake(&self, pusher: u64) {
        let mut workers = self.inner.workers.lock();
        if let Some(desk) = workers.get(&pusher) {
            desk.notify_one();
            return;
        }
        let desk = Arc::new(Notify::new());
        workers.insert(pusher, Arc::clone(&desk));
        tokio::spawn(self.clone().work(pusher, desk));
    }

    async fn work(self, pusher: u64, desk: Arc<Notify>) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.send_next(pusher).await {
                Ok(Sent::Done) => pause = FIRST_PAUSE,
                Ok(Sent::Nothing) => {
                    if tokio::time::timeout(STAYS, desk.notified()).await.is_err() && self.end(pusher, &desk)
                    {
                        return;
                    }
                }
                Ok(Sent::Later(after)) => {
                    if let Err(error) = self.forget_oldest(pusher).await {
                        tracing::warn!(%error, "what waits for a pusher cannot be shortened");
                    }
                    tokio::time::sleep(after.unwrap_or(pause).clamp(pause, LONGEST_PAUSE)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    tracing::warn!(%error, "what waits for a pusher cannot be read");
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
            }
        }
    }

    /// Ends a worker, unless something came for it meanwhile.
    fn end(&self, pusher: u64, desk: &Notify) -> bool {
        let mut workers = self.inner.workers.lock();
        // Who wakes holds the lock: what it left is seen here.
        let mut woken = std::pin::pin!(desk.notified());
        if woken.as_mut().enable() {
            desk.notify_one();
            return false;
        }
        workers.remove(&pusher);
        true
    }

    async fn send_next(&self, number: u64) -> Result<Sent, DeliveryError> {
        let Some(next) = self.oldest(number).await? else { return Ok(Sent::Nothing) };
        let Some((owner, row)) = next.pusher.as_ref().filter(|(_, row)| !row.disabled) else {
            // It was deleted, or switched off: then what came before is not told later either.
            self.empty_queue(number).await?;
            return Ok(Sent::Nothing);
        };
        let now = self.inner.environment.now().millis();
        let oldest = u64::try_from(OLDEST.as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(next.queued.at) <= oldest {
            match self.hand_over(owner, row, &next.queued).await? {
                Ok(rejected) if rejected.contains(&owner.pushkey) => {
                    let NumberRow { localpart, app_id, pushkey } = owner;
                    tracing::info!(user.localpart = localpart, app_id, "a pushkey is nobody's any more");
                    self.delete_pusher(localpart, app_id, pushkey).await?;
                    return Ok(Sent::Done);
                }
                Ok(_) => {}
                Err(GatewayError::Later { reason, after }) => {
                    tracing::debug!(
                        user.localpart = owner.localpart,
                        app_id = owner.app_id,
                        reason,
                        "a gateway is asked again later"
                    );
                    return Ok(Sent::Later(after));
                }
                Err(error @ GatewayError::Refused(_)) => {
                    tracing::info!(
                        user.localpart = owner.localpart,
                        app_id = owner.app_id,
                        %error,
                        "a notification is dropped"
                    );
                }
            }
        }
        let mut transaction = Transaction::new();
        transaction.delete(&rows::QUEUE, next.key);
        self.inner.store.commit(transaction).await?;
        Ok(Sent::Done)
    }

    /// The oldest of what waits for a pusher.
    async fn oldest(&self, number: u64) -> Result<Option<Next>, DeliveryError> {
        let snapshot = self.inner.store.snapshot().await?;
        let mut page = snapshot.scan(&rows::QUEUE.scan((number,)).limit(1)).await?.rows;
        let Some((key, queued)) = page.pop() else { return Ok(None) };
        let mut pusher = None;
        if let Some(owner) = snapshot.get(&rows::NUMBERS, number).await? {
            let key = (owner.localpart.as_str(), owner.app_id.as_str(), owner.pushkey.as_str());
            pusher = snapshot.get(&rows::PUSHERS, key).await?.map(|row| (owner, row));
        }
        Ok(Some(Next { key, queued, pusher }))
    }

    /// Tells the gateway. It takes time to answer, and until then no snapshot of the store is held.
    async fn hand_over(
        &self,
        owner: &NumberRow,
        row: &PusherRow,
        queued: &QueuedRow,
    ) -> Result<Result<Vec<String>, GatewayError>, DeliveryError> {
        let pusher = shown(owner.app_id.clone(), owner.pushkey.clone(), row.clone());
        let url = pusher.data.get("url").and_then(|url| Url::parse(url.as_str()?).ok());
        let Some(url) = url else { return Ok(Err(GatewayError::Refused(0))) };
        let nothing = Ok(Ok(Vec::new()));
        let Some(_place_there) = self.inner.gateways.place(&url).await else { return nothing };
        let Ok(_place) = self.inner.places.acquire().await else { return nothing };
        let Some(body) = self.compose(&owner.localpart, &pusher, row, queued).await? else { return nothing };
        Ok(self.inner.gateways.notify(&url, &body).await)
    }

    /// What a gateway is told. `None`: nothing, for it was read or taken back meanwhile.
    async fn compose(
        &self,
        localpart: &str,
        pusher: &Pusher,
        row: &PusherRow,
        queued: &QueuedRow,
    ) -> Result<Option<Value>, DeliveryError> {
        let user_id = self.inner.accounts.user_id(localpart)?;
        let room = RoomNumber(queued.room);
        let mut told = None;
        if let Some(number) = queued.event {
            if self.inner.sync.has_read(&user_id, room, EventNumber(number)).await? {
                return Ok(None);
            }
            let found = self.inner.rooms.event_by_number(queued.room, number).await?;
            let Some((view, event)) = found.filter(|(_, event)| event.redacted_by().is_none()) else {
                return Ok(None);
            };
            let names = match pusher.format(self.inner.settings.include_content) {
                Format::Full => Some(self.inner.sync.names(&view, &event, &user_id).await?),
                Format::EventIdOnly => None,
            };
            told = Some(payload::told(&view, &event, names, queued, &user_id));
        }
        let unread = self.badge(&user_id, room).await?;
        Ok(Some(payload::body(pusher, row, queued, unread, told)))
    }

    /// The pushers for which something waits.
    pub(crate) async fn waiting_pushers(&self) -> Result<Vec<u64>, DeliveryError> {
        let snapshot = self.inner.store.snapshot().await?;
        let pushers = snapshot.scan_all(rows::NUMBERS.scan(())).await?;
        let mut waiting = Vec::new();
        for (number, _) in pushers {
            if !snapshot.scan(&rows::QUEUE.scan((number,)).limit(1)).await?.rows.is_empty() {
                waiting.push(number);
            }
        }
        Ok(waiting)
    }

    /// Deletes what waits for a pusher beyond the newest.
    async fn forget_oldest(&self, number: u64) -> Result<(), DeliveryError> {
        let newest = rows::QUEUE.scan((number,)).reverse().limit(MOST_WAITING);
        let oldest_kept = {
            let snapshot = self.inner.store.snapshot().await?;
            let page = snapshot.scan(&newest).await?;
            page.next.and(page.rows.last().map(|(key, _)| *key))
        };
        match oldest_kept {
            Some(key) => self.empty_queue_before(number, Some(key)).await,
            None => Ok(()),
        }
    }

    /// Deletes all that waits for a pusher.
    pub(crate) async fn empty_queue(&self, number: u64) -> Result<(), DeliveryError> {
        self.empty_queue_before(number, None).await
    }

    async fn empty_queue_before(&self, number: u64, end: Option<QueueKey>) -> Result<(), DeliveryError> {
        loop {
            let snapshot = self.inner.store.snapshot().await?;
            let page = snapshot.scan(&rows::QUEUE.scan((number,)).limit(PAGE)).await?;
            drop(snapshot);
            let mut transaction = Transaction::new();
            let before = page.rows.iter().take_while(|(key, _)| end.is_none_or(|end| *key < end));
            let mut deleted = 0;
            for (key, _) in before {
                transaction.delete(&rows::QUEUE, *key);
                deleted += 1;
            }
            if deleted > 0 {
                self.inner.store.commit(transaction).await?;
            }
            if page.next.is_none() || deleted < page.rows.len() {
                return Ok(());
            }
        }
    }
}
