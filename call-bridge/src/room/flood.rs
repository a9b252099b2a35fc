use std::time::{Duration, Instant};

/// Over which time it is counted: a moment in which nothing was received makes no flood of what then comes at once.
const WINDOW: Duration = Duration::from_secs(5);
/// What a participant may send in a second: several times a camera and a screen with all their layers.
const MOST_BYTES: u64 = 8_000_000;
const MOST_PACKETS: u64 = 10_000;

/// Counts what a participant sends: packets of media and messages of data.
#[derive(Debug)]
pub(super) struct Flood {
    since: Instant,
    bytes: u64,
    packets: u64,
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, packets: 0 }
    }

    /// Counts a packet; answers whether that was too much.
    pub(super) fn is_too_much(&mut self, now: Instant, bytes: usize) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
        self.packets += 1;
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let seconds = WINDOW.as_secs();
        self.bytes > MOST_BYTES * seconds || self.packets > MOST_PACKETS * seconds
    }
}

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, SystemClock};

    use super::*;

    #[test]
    fn much_is_not_too_much() {
        let mut now = SystemClock.monotonic();
        let mut flood = Flood::new(now);
        // A camera and a screen: 20 Mbit/s.
        for _ in 0..10 {
            assert!((0..2_100).all(|_| !flood.is_too_much(now, 1_200)));
            now += Duration::from_secs(1);
        }
        // All of a stall's packets at once.
        assert!((0..20_000).all(|_| !flood.is_too_much(now, 1_200)));
        assert!((0..40_000).any(|_| flood.is_too_much(now, 1_200)), "too many bytes");
        now += WINDOW;
        assert!(!flood.is_too_much(now, 1_200), "forgiven");
        assert!((0..50_000).any(|_| flood.is_too_much(now, 1)), "too many packets");
    }
}
