//! The worker of one pusher: sends what waits for it, the oldest first, each as often as it takes.

use std::{sync::Arc, time::Duration};

use entente_storage::Transaction;
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
        let snapshot = self.inner.store.snapshot().await?;
        let mut page = snapshot.scan(&rows::QUEUE.scan((number,)).limit(1)).await?.rows;
        let Some(((_, position, place), queued)) = page.pop() else { return Ok(Sent::Nothing) };
        let owner = snapshot.get(&rows::NUMBERS, number).await?;
        let Some(NumberRow { localpart, app_id, pushkey }) = owner else {
            self.empty_queue(number).await?;
            return Ok(Sent::Nothing);
        };
        let row =
            snapshot.get(&rows::PUSHERS, (localpart.as_str(), app_id.as_str(), pushkey.as_str())).await?;
        let Some(row) = row else { return Ok(Sent::Nothing) };
        let now = self.inner.environment.now().millis();
        let oldest = u64::try_from(OLDEST.as_millis()).unwrap_or(u64::MAX);
        let is_too_old = now.saturating_sub(queued.at) > oldest;
        if !is_too_old {
            let pusher = shown(app_id.clone(), pushkey.clone(), row.clone());
            match self.hand_over(&localpart, &pusher, &row, &queued).await? {
                Ok(rejected) if rejected.contains(&pushkey) => {
                    tracing::info!(user.localpart = localpart, app_id, "a pushkey is nobody's any more");
                    self.delete_pusher(&localpart, &app_id, &pushkey).await?;
                    return Ok(Sent::Done);
                }
                Ok(_) => {}
                Err(GatewayError::Later { reason, after }) => {
                    tracing::debug!(
                        user.localpart = localpart,
                        app_id,
                        reason,
                        "a gateway is asked again later"
                    );
                    return Ok(Sent::Later(after));
                }
                Err(error @ GatewayError::Refused(_)) => {
                    tracing::info!(user.localpart = localpart, app_id, %error, "a notification is dropped");
                }
            }
        }
        let mut transaction = Transaction::new();
        transaction.delete(&rows::QUEUE, (number, position, place));
        self.inner.store.commit(transaction).await?;
        Ok(Sent::Done)
    }

    async fn hand_over(
        &self,
        localpart: &str,
        pusher: &Pusher,
        row: &PusherRow,
        queued: &QueuedRow,
    ) -> Result<Result<Vec<String>, GatewayError>, DeliveryError> {
        let url = pusher.data.get("url").and_then(|url| Url::parse(url.as_str()?).ok());
        let Some(url) = url else { return Ok(Err(GatewayError::Refused(0))) };
        let user_id = self.inner.accounts.user_id(localpart)?;
        let mut told = None;
        if let Some(number) = queued.event {
            let Some((view, event)) = self.inner.rooms.event_by_number(queued.room, number).await? else {
                return Ok(Ok(Vec::new()));
            };
            // What was taken back meanwhile is not told.
            if event.redacted_by().is_some() {
                return Ok(Ok(Vec::new()));
            }
            let names = match pusher.format(self.inner.settings.include_content) {
                Format::Full => Some(self.inner.sync.names(&view, &event, &user_id).await?),
                Format::EventIdOnly => None,
            };
            told = Some(payload::told(&view, &event, names, queued, &user_id));
        }
        let unread = self.badge(&user_id, entente_rooms::RoomNumber(queued.room)).await?;
        let body = payload::body(pusher, row, queued, unread, told);
        let Ok(_place) = self.inner.places.acquire().await else { return Ok(Ok(Vec::new())) };
        Ok(self.inner.gateways.notify(&url, &body).await)
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

    /// Deletes all that waits for a pusher.
    pub(crate) async fn empty_queue(&self, number: u64) -> Result<(), DeliveryError> {
        loop {
            let snapshot = self.inner.store.snapshot().await?;
            let page = snapshot.scan(&rows::QUEUE.scan((number,)).limit(PAGE)).await?;
            let mut transaction = Transaction::new();
            for ((number, position, place), _) in page.rows {
                transaction.delete(&rows::QUEUE, (number, position, place));
            }
            self.inner.store.commit(transaction).await?;
            if page.next.is_none() {
                return Ok(());
            }
        }
    }
}
