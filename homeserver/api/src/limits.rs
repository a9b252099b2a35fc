//! Rate limits: a token bucket for each who is counted, by who is known.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use entente_accounts::Session;
use entente_environment::Clock;
use parking_lot::Mutex;

use crate::MatrixError;

/// Buckets in memory at the most. Beyond it the full ones go first, then all: whoever floods with made-up keys is met by
/// the limits by address.
const MOST_BUCKETS: usize = 200_000;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// Logins, by address.
    LoginByAddress,
    /// Tries of a password, by account.
    LoginByAccount,
    /// Tries of a wrong password, by account.
    FailedLoginByAccount,
    /// Registrations, by address.
    RegistrationByAddress,
    /// Requests that the spec says are limited, by user.
    RequestsByUser,
    /// Downloads and thumbnails, by user.
    MediaByUser,
    /// Previews of links, by user.
    PreviewsByUser,
    /// Requests that the spec says are limited, by address, of those who did not log in; and wrong tokens.
    RequestsByAddress,
    /// Requests of other servers, by server.
    RequestsByServer,
}

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Requests a second in the long run.
    pub per_second: f64,
    /// Requests at once after a pause.
    pub burst: u32,
}

/// All rate limits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Limits {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    limits: HashMap<LimitKind, RateLimit>,
    buckets: Mutex<HashMap<(LimitKind, String), Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    fn fill(&mut self, limit: RateLimit, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * limit.per_second).min(f64::from(limit.burst));
        self.filled_at = now;
    }
}

impl Limits {
    /// Limits of the given kinds; what is not among them is not limited.
    pub fn new(clock: Arc<dyn Clock>, limits: HashMap<LimitKind, RateLimit>) -> Self {
        Self { inner: Arc::new(Inner { clock, limits, buckets: Mutex::default() }) }
    }

    /// The clock that the buckets fill by.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Counts one request of `key`, or refuses it with 429 and the time until the next is allowed.
    pub fn take(&self, kind: LimitKind, key: &str) -> Result<(), MatrixError> {
        self.draw(kind, key, 1.0, None)
    }

    /// The same at the rate that is given, if one is.
    pub(crate) fn take_at(
        &self,
        kind: LimitKind,
        key: &str,
        rate: Option<RateLimit>,
    ) -> Result<(), MatrixError> {
        self.draw(kind, key, 1.0, rate)
    }

    /// Counts one request of a user, unless it is one of an application service that is exempt.
    pub(crate) fn take_for(&self, session: &Session) -> Result<(), MatrixError> {
        self.take_of(LimitKind::RequestsByUser, session)
    }

    /// The same of another kind.
    pub(crate) fn take_of(&self, kind: LimitKind, session: &Session) -> Result<(), MatrixError> {
        if session.rate_limited { self.take(kind, session.user_id.as_str()) } else { Ok(()) }
    }

    /// Refuses like [`Limits::take`], but counts nothing.
    pub fn check(&self, kind: LimitKind, key: &str) -> Result<(), MatrixError> {
        self.draw(kind, key, 0.0, None)
    }

    fn draw(
        &self,
        kind: LimitKind,
        key: &str,
        cost: f64,
        rate: Option<RateLimit>,
    ) -> Result<(), MatrixError> {
        // Where nothing is limited, nobody is.
        let Some(&usual) = self.inner.limits.get(&kind) else { return Ok(()) };
        let limit = rate.unwrap_or(usual);
        let now = self.inner.clock.monotonic();
        let mut buckets = self.inner.buckets.lock();
        if buckets.len() >= MOST_BUCKETS {
            self.forget_full(&mut buckets, now);
        }
        let full = Bucket { tokens: f64::from(limit.burst), filled_at: now };
        let bucket = buckets.entry((kind, key.to_owned())).or_insert(full);
        bucket.fill(limit, now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= cost;
            return Ok(());
        }
        let missing = (1.0 - bucket.tokens) / limit.per_second.max(f64::MIN_POSITIVE);
        let retry_after = Duration::try_from_secs_f64(missing).unwrap_or(Duration::from_secs(3_600));
        Err(MatrixError::limit_exceeded(retry_after))
    }

    fn forget_full(&self, buckets: &mut HashMap<(LimitKind, String), Bucket>, now: Instant) {
        buckets.retain(|(kind, _), bucket| {
            self.inner.limits.get(kind).is_some_and(|&limit| {
                bucket.fill(limit, now);
                bucket.tokens < f64::from(limit.burst)
            })
        });
        if buckets.len() >= MOST_BUCKETS {
            buckets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use entente_environment::{ManualClock, Timestamp};

    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let limit = RateLimit { per_second: 2.0, burst: 3 };
        let limits = Limits::new(clock.clone(), HashMap::from([(LimitKind::LoginByAddress, limit)]));
        let take = |key: &str| limits.take(LimitKind::LoginByAddress, key).is_ok();
        assert_eq!([take("a"), take("a"), take("a"), take("a")], [true, true, true, false]);
        assert!(take("b"), "others are not affected");
        clock.advance(Duration::from_millis(499));
        assert!(!take("a"));
        clock.advance(Duration::from_millis(1));
        assert_eq!([take("a"), take("a")], [true, false]);
        assert!(limits.take(LimitKind::RequestsByUser, "a").is_ok(), "what has no limit is not limited");
        let faster = Some(RateLimit { per_second: 2.0, burst: 5 });
        let allowed =
            (0..9).filter(|_| limits.take_at(LimitKind::LoginByAddress, "c", faster).is_ok()).count();
        assert_eq!(allowed, 5, "who has a rate of their own has that");
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let limit = RateLimit { per_second: 1.0, burst: 1 };
        let limits = Limits::new(clock.clone(), HashMap::from([(LimitKind::LoginByAddress, limit)]));
        for number in 0..MOST_BUCKETS {
            limits.take(LimitKind::LoginByAddress, &number.to_string()).unwrap();
        }
        clock.advance(Duration::from_secs(2));
        limits.take(LimitKind::LoginByAddress, "one more").unwrap();
        assert_eq!(limits.inner.buckets.lock().len(), 1);
    }
}
