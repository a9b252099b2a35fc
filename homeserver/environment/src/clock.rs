#![expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]

use std::{
    fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970-01-01T00:00:00Z, as Matrix counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds since 1970.
    pub fn millis(self) -> u64 {
        self.0
    }

    /// The time `duration` later, or the last there is.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; nothing if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Something that knows what time it is.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time of day. May jump when the machine's clock is set.
    fn now(&self) -> Timestamp;

    /// A time that only moves forward, for measuring durations.
    fn monotonic(&self) -> Instant;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::default().after(since_1970)
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that stands still until it is moved.
#[cfg(feature = "manual")]
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    began_at: Timestamp,
    elapsed_millis: std::sync::atomic::AtomicU64,
}

#[cfg(feature = "manual")]
impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { start: Instant::now(), began_at: now, elapsed_millis: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Moves it forward.
    pub fn advance(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.elapsed_millis.fetch_add(millis, std::sync::atomic::Ordering::SeqCst);
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.elapsed_millis.load(std::sync::atomic::Ordering::SeqCst))
    }
}

#[cfg(feature = "manual")]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.began_at.after(self.elapsed())
    }

    fn monotonic(&self) -> Instant {
        self.start + self.elapsed()
    }
}
