//! Servers that do not answer are left alone, longer each time. Remembered over restarts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use entente_environment::{Environment, Timestamp};
use entente_storage::{Store, Transaction};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::broadcast;

use crate::{
    FederationError,
    rows::{self, DestinationRow},
};

/// The first pause.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, before chance is added or taken.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);
/// Pauses are up to a fifth longer or shorter, so that many servers do not come back at once.
const JITTER_PERCENT: u64 = 20;
/// A server that speaks is asked again, but not if it did not answer within this time or this part of its pause: it may reach us, and we
/// not it.
const SHORTEST_WAKE: Duration = Duration::from_secs(60);
const WAKE_AFTER_PART: u32 = 4;
/// Servers that spoke and were not yet noticed to have.
const MOST_NEWS: usize = 1_024;

impl DestinationRow {
    /// What follows when a server does not answer at `now`, after `before`. `roll` gives a random number below its argument.
    fn failed(before: Option<&Self>, now: Timestamp, roll: impl Fn(u64) -> u64) -> Self {
        let failures = before.map_or(0, |row| row.failures).saturating_add(1);
        let doublings = failures.saturating_sub(1).min(31);
        let pause = SHORTEST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        let percent = 100 - JITTER_PERCENT + roll(2 * JITTER_PERCENT + 1);
        let pause = Duration::from_millis(
            u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).saturating_mul(percent) / 100,
        );
        Self {
            failures,
            failing_since: before.map_or(now.millis(), |row| row.failing_since),
            failed_at: now.millis(),
            retry_at: now.after(pause).millis(),
        }
    }
}

/// Which servers do not answer, and until when they are left alone. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Destinations {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    environment: Environment,
    failing: Mutex<HashMap<String, DestinationRow>>,
    back: broadcast::Sender<OwnedServerName>,
}

impl Destinations {
    /// As the store remembers them.
    pub async fn open(store: Store, environment: Environment) -> Result<Self, FederationError> {
        let rows = store.snapshot().await?.scan_all(rows::DESTINATIONS.scan(())).await?;
        let failing = Mutex::new(rows.into_iter().collect());
        let (back, _) = broadcast::channel(MOST_NEWS);
        Ok(Self { inner: Arc::new(Inner { store, environment, failing, back }) })
    }

    /// Refuses a server that is left alone at present.
    pub fn check(&self, server: &ServerName) -> Result<(), FederationError> {
        match self.retry_at(server) {
            Some(until) if until > self.inner.environment.now() => {
                Err(FederationError::BackingOff { server: server.to_owned(), until })
            }
            _ => Ok(()),
        }
    }

    /// Until when a server that did not answer is left alone; `None` for one that answered.
    pub fn retry_at(&self, server: &ServerName) -> Option<Timestamp> {
        let failing = self.inner.failing.lock();
        failing.get(&key(server)).map(|row| Timestamp(row.retry_at))
    }

    /// Since when a server does not answer; `None` for one that does.
    pub fn failing_since(&self, server: &ServerName) -> Option<Timestamp> {
        let failing = self.inner.failing.lock();
        failing.get(&key(server)).map(|row| Timestamp(row.failing_since))
    }

    /// Tells of servers that answer again, or spoke.
    pub fn watch(&self) -> broadcast::Receiver<OwnedServerName> {
        self.inner.back.subscribe()
    }

    /// A server did not answer. Answers when it may be asked again. Requests that were under way together count as one.
    pub async fn failed(&self, server: &ServerName, asked_at: Timestamp) -> Timestamp {
        let Inner { environment, failing, .. } = &*self.inner;
        let row = {
            let mut failing = failing.lock();
            let before = failing.get(&key(server));
            if let Some(before) = before
                && before.failed_at > asked_at.millis()
            {
                return Timestamp(before.retry_at);
            }
            let row =
                DestinationRow::failed(before, environment.now(), |end| environment.randomness().below(end));
            failing.insert(key(server), row.clone());
            row
        };
        tracing::debug!(server.name = %server, failures = row.failures, "a server does not answer");
        self.remember(server, Some(&row)).await;
        Timestamp(row.retry_at)
    }

    /// A server answered.
    pub async fn succeeded(&self, server: &ServerName) {
        let was_failing = self.inner.failing.lock().remove(&key(server));
        if let Some(row) = was_failing {
            let since = Timestamp(row.failing_since);
            let away = self.inner.environment.now().since(since);
            tracing::debug!(server.name = %server, away_s = away.as_secs(), "a server answers again");
            self.remember(server, None).await;
            self.tell(server);
        }
    }

    /// A server spoke, with proof of who it is: it may be asked again at once.
    pub async fn heard_from(&self, server: &ServerName) {
        let now = self.inner.environment.now();
        let row = {
            let mut failing = self.inner.failing.lock();
            let Some(row) = failing.get_mut(&key(server)) else { return };
            let failed_at = Timestamp(row.failed_at);
            let pause = Timestamp(row.retry_at).since(failed_at);
            let just_failed = now.since(failed_at) < SHORTEST_WAKE.min(pause / WAKE_AFTER_PART);
            if just_failed || row.retry_at <= now.millis() {
                return;
            }
            row.retry_at = now.millis();
            row.clone()
        };
        self.remember(server, Some(&row)).await;
        self.tell(server);
    }

    fn tell(&self, server: &ServerName) {
        // Nobody may be listening.
        let _ = self.inner.back.send(server.to_owned());
    }

    /// Best effort: what is lost in a crash is learnt again by asking.
    async fn remember(&self, server: &ServerName, row: Option<&DestinationRow>) {
        let mut transaction = Transaction::relaxed();
        match row {
            Some(row) => transaction.put(&rows::DESTINATIONS, key(server).as_str(), row),
            None => transaction.delete(&rows::DESTINATIONS, key(server).as_str()),
        }
        if let Err(error) = self.inner.store.commit(transaction).await {
            tracing::warn!(%error, server.name = %server, "what is known of a server was not stored");
        }
    }
}

/// Names of servers are the same in either case of letters.
pub(crate) fn key(server: &ServerName) -> String {
    server.as_str().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use entente_environment::{ManualClock, Randomness};
    use ruma::server_name;

    use super::*;
    use crate::testing::memory_store;

    async fn open(store: &Store, clock: &Arc<ManualClock>) -> Destinations {
        let environment = Environment::new(clock.clone(), Randomness::from_seed(1));
        Destinations::open(store.clone(), environment).await.unwrap()
    }

    #[test]
    fn pauses_double_from_a_second_to_a_day() {
        let mut row = None;
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let next = DestinationRow::failed(row.as_ref(), Timestamp(0), |_| JITTER_PERCENT);
            pauses.push(next.retry_at / 1_000);
            row = Some(next);
        }
        assert_eq!(pauses.get(..5), Some(&[1, 2, 4, 8, 16][..]));
        assert_eq!(pauses.last(), Some(&(24 * 60 * 60)));
        let shortest = DestinationRow::failed(row.as_ref(), Timestamp(0), |_| 0).retry_at;
        let longest = DestinationRow::failed(row.as_ref(), Timestamp(0), |end| end - 1).retry_at;
        assert_eq!((shortest, longest), (69_120_000, 103_680_000), "a fifth less and more");
    }

    #[tokio::test]
    async fn it_is_remembered_over_restarts_until_the_server_answers() {
        let (store, clock) = (memory_store().await, Arc::new(ManualClock::new(Timestamp(1_000_000))));
        let (dead, other) = (server_name!("dead.example"), server_name!("other.example"));
        let destinations = open(&store, &clock).await;
        for _ in 0..10 {
            clock.advance(Duration::from_secs(1));
            destinations.failed(dead, Timestamp(clock_now(&clock))).await;
        }
        drop(destinations);
        let destinations = open(&store, &clock).await;
        assert!(matches!(destinations.check(dead), Err(FederationError::BackingOff { .. })));
        assert!(matches!(
            destinations.check(server_name!("DEAD.example")),
            Err(FederationError::BackingOff { .. })
        ));
        destinations.check(other).unwrap();
        destinations.succeeded(dead).await;
        destinations.check(dead).unwrap();
        open(&store, &clock).await.check(dead).unwrap();
    }

    fn clock_now(clock: &ManualClock) -> u64 {
        entente_environment::Clock::now(clock).millis()
    }

    #[tokio::test]
    async fn requests_that_fail_together_count_once() {
        let (store, clock) = (memory_store().await, Arc::new(ManualClock::new(Timestamp(1_000_000))));
        let destinations = open(&store, &clock).await;
        let asked_at = Timestamp(999_000);
        let first = destinations.failed(server_name!("a.example"), asked_at).await;
        assert_eq!(destinations.failed(server_name!("a.example"), asked_at).await, first);
    }

    #[tokio::test]
    async fn a_server_that_speaks_soon_after_it_was_away_is_asked_again_soon() {
        let (store, clock) = (memory_store().await, Arc::new(ManualClock::new(Timestamp(1_000_000))));
        let destinations = open(&store, &clock).await;
        let peer = server_name!("a.example");
        for _ in 0..6 {
            destinations.failed(peer, Timestamp(clock_now(&clock))).await;
            clock.advance(Duration::from_millis(1));
        }
        // A pause of 26 to 38 seconds.
        clock.advance(Duration::from_secs(6));
        destinations.heard_from(peer).await;
        assert!(destinations.check(peer).is_err());
        clock.advance(Duration::from_secs(4));
        destinations.heard_from(peer).await;
        destinations.check(peer).unwrap();
    }

    #[tokio::test]
    async fn a_server_that_speaks_is_woken_but_not_in_a_tight_loop() {
        let (store, clock) = (memory_store().await, Arc::new(ManualClock::new(Timestamp(1_000_000))));
        let destinations = open(&store, &clock).await;
        let peer = server_name!("a.example");
        let mut news = destinations.watch();
        for _ in 0..12 {
            destinations.failed(peer, Timestamp(clock_now(&clock))).await;
            clock.advance(Duration::from_millis(1));
        }
        destinations.heard_from(peer).await;
        assert!(destinations.check(peer).is_err(), "it did not answer a moment ago");
        clock.advance(SHORTEST_WAKE);
        assert!(destinations.check(peer).is_err());
        destinations.heard_from(peer).await;
        destinations.check(peer).unwrap();
        assert_eq!(news.try_recv().unwrap(), peer);
        let retry_at = destinations.failed(peer, Timestamp(clock_now(&clock))).await;
        assert!(
            retry_at.since(Timestamp(clock_now(&clock))) > Duration::from_secs(1_000),
            "it goes on where it was"
        );
    }
}
