use std::time::{Duration, Instant};

use super::{Moment, ParticipantKey, Room};

/// What of a participant may be told at once, one after the other.
const AT_ONCE: u32 = 8;
/// How often one more may: with the largest metadata this is what a participant costs each of the others.
const ANOTHER_EVERY: Duration = Duration::from_millis(500);
/// How often everybody is told how many there are, if that changed.
pub(super) const COUNT_EVERY: Duration = Duration::from_secs(5);

/// How often the others are told of a participant.
#[derive(Debug)]
pub(super) struct News {
    /// How many times it may be told of at once.
    left: u32,
    another_at: Instant,
    /// Something was not told; whether it concerns the participant itself, too.
    untold: Option<bool>,
}

impl News {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: AT_ONCE, another_at: now + ANOTHER_EVERY, untold: None }
    }

    /// Whether something may be told now; else it is remembered.
    pub(super) fn may_be_told(&mut self, itself: bool) -> bool {
        let Some(left) = self.left.checked_sub(1) else {
            self.untold = Some(itself || self.untold == Some(true));
            return false;
        };
        self.left = left;
        self.untold = None;
        true
    }

    /// What was not told and may be now.
    fn due(&mut self, now: Instant) -> Option<bool> {
        if now < self.another_at {
            return None;
        }
        self.another_at = now + ANOTHER_EVERY;
        self.left = (self.left + 1).min(AT_ONCE);
        self.untold
    }
}

impl Room {
    /// Tells what was put off.
    pub(super) fn tell_news(&mut self, now: Moment, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if let Some(itself) = participant.news.due(now.at) {
            self.tell_of(key, itself);
        }
    }

    /// Tells how many there are, now and then.
    pub(super) fn tell_counts(&mut self, now: Moment) {
        if now.at < self.count_at {
            return;
        }
        self.count_at = now.at + COUNT_EVERY;
        let info = self.info();
        if (info.num_participants, info.num_publishers) != self.told_counts {
            self.tell_room();
        }
    }
}
