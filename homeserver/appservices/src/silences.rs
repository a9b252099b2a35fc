//! What services said no to a moment ago: asking for it again and again asks them once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// What is remembered; beyond it all is forgotten.
const MOST_REMEMBERED: usize = 10_000;

/// What is not asked again, and until when.
#[derive(Debug, Default)]
pub(crate) struct Silences(Mutex<HashMap<String, Instant>>);

impl Silences {
    /// Whether something is not to be asked now.
    pub(crate) fn holds(&self, what: &str, now: Instant) -> bool {
        self.0.lock().get(what).is_some_and(|until| now < *until)
    }

    /// Notes that something is not to be asked for so long.
    pub(crate) fn note(&self, what: String, now: Instant, long: Duration) {
        let mut silences = self.0.lock();
        if silences.len() >= MOST_REMEMBERED {
            silences.retain(|_, until| now < *until);
        }
        if silences.len() >= MOST_REMEMBERED {
            silences.clear();
        }
        silences.insert(what, now + long);
    }
}

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, ManualClock, Timestamp};

    use super::*;

    #[test]
    fn a_no_holds_for_its_time_and_memory_has_an_end() {
        let clock = ManualClock::new(Timestamp(0));
        let silences = Silences::default();
        silences.note(String::from("#a:b"), clock.monotonic(), Duration::from_secs(60));
        assert!(silences.holds("#a:b", clock.monotonic()) && !silences.holds("#c:b", clock.monotonic()));
        clock.advance(Duration::from_secs(60));
        assert!(!silences.holds("#a:b", clock.monotonic()));
        for number in 0..=2 * MOST_REMEMBERED {
            silences.note(number.to_string(), clock.monotonic(), Duration::from_secs(60));
        }
        assert!(silences.0.lock().len() <= MOST_REMEMBERED);
    }
}
