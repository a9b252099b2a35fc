use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a round takes. What comes meanwhile waits, half of this on the average.
const ROUND: Duration = Duration::from_millis(1);
/// How long is looked at how much there is to do.
const SPAN: Duration = Duration::from_millis(100);
/// From this many datagrams to clients in that time on there is much to do.
const MUCH: usize = 100;

/// When a worker turns to what came. While there is much to do, it does so once a round: what comes together is worked off together,
/// and leaves together, for fewer system calls and with fewer turns.
pub(super) struct Rounds {
    began: Instant,
    span_ends: Instant,
    sent: usize,
    is_much: bool,
}

impl Rounds {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, span_ends: now + SPAN, sent: 0, is_much: false }
    }

    /// Notes how many datagrams went to clients.
    pub(super) fn note(&mut self, now: Instant, sent: usize) {
        self.sent += sent;
        if now >= self.span_ends {
            self.is_much = self.sent >= MUCH;
            self.sent = 0;
            self.span_ends = now + SPAN;
        }
    }

    /// How long what came has to wait for its round.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        if !self.is_much {
            return Duration::ZERO;
        }
        let into_round = now.saturating_duration_since(self.began).as_nanos() % ROUND.as_nanos();
        ROUND.saturating_sub(Duration::from_nanos(u64::try_from(into_round).unwrap_or(0)))
    }

    /// Waits that long, with the thread: nobody else is on it.
    pub(super) fn hold(&self, now: Instant) {
        let wait = self.wait(now);
        if !wait.is_zero() {
            thread::sleep(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, SystemClock};

    use super::*;

    #[test]
    fn what_comes_waits_for_its_round_only_while_there_is_much_to_do() {
        let start = SystemClock.monotonic();
        let mut rounds = Rounds::new(start);
        rounds.note(start, MUCH);
        assert_eq!(rounds.wait(start), Duration::ZERO, "nobody knows yet whether it goes on like this");
        let later = start + SPAN;
        rounds.note(later, 0);
        assert_eq!(rounds.wait(later + Duration::from_micros(300)), Duration::from_micros(700));
        assert_eq!(rounds.wait(later + Duration::from_micros(5_900)), Duration::from_micros(100));
        let quiet = later + SPAN;
        rounds.note(quiet, MUCH - 1);
        assert_eq!(rounds.wait(quiet + Duration::from_micros(300)), Duration::ZERO);
    }
}
