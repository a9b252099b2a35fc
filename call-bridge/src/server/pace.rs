use std::time::{Duration, Instant};

/// Lets so many through at once, and then so many a second.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    burst: u32,
    /// When all that was let through would have come, at the steady pace.
    paid_until: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant, burst: u32, per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, burst, paid_until: now }
    }

    /// How long the next one has to wait.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        self.paid_until = self.paid_until.max(now) + self.interval;
        let credit = self.interval * self.burst;
        (self.paid_until - now).saturating_sub(credit)
    }
}

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, SystemClock};

    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_waits() {
        let now = SystemClock.monotonic();
        let mut pace = Pace::new(now, 3, 10);
        let waits: Vec<u128> = (0..5).map(|_| pace.wait(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200]);
        assert_eq!(pace.wait(now + Duration::from_secs(9)), Duration::ZERO);
    }
}
