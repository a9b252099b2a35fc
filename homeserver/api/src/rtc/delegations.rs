//! Which delayed leaves the server looks after, and what is to be done with them when: no I/O.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Delayed leaves that are looked after at once.
const MOST_DELEGATIONS: usize = 100_000;
/// A participant that is expected back has this long: another session of its own replaced it, it was told to come again, or the
/// server was started again.
pub(super) const RETURN_WITHIN: Duration = Duration::from_secs(30);
/// A delayed leave is not restarted more often.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// After a failure of the storage.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A participant: the SFU's room and the identity in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) room: String,
    pub(super) identity: String,
}

/// What is to be done with a delayed leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Its participant is there.
    Restart(String),
    /// Its participant is gone.
    Send(String),
}

#[derive(Debug)]
struct Delegation {
    delay_id: String,
    /// How long it waits before it is sent by itself.
    delay: Duration,
    is_present: bool,
    /// When it is restarted, or when its participant counts as gone.
    next: Instant,
}

impl Delegation {
    fn restart_at(&self, now: Instant) -> Instant {
        // In time, even if the storage or the machine is slow.
        now + (self.delay * 4 / 5).max(SHORTEST_INTERVAL)
    }
}

#[derive(Debug, Default)]
pub(super) struct Delegations {
    by_place: HashMap<Place, Delegation>,
    places: HashMap<String, Place>,
}

impl Delegations {
    /// Looks after a delayed leave; it replaces what was looked after for the same participant. Its participant has `patience` to
    /// come. Answers false if there is no room for it.
    pub(super) fn begin(
        &mut self,
        place: Place,
        delay_id: String,
        delay: Duration,
        patience: Duration,
        now: Instant,
    ) -> bool {
        self.forget(&delay_id);
        if self.by_place.len() >= MOST_DELEGATIONS && !self.by_place.contains_key(&place) {
            return false;
        }
        let next = now + patience;
        let delegation = Delegation { delay_id: delay_id.clone(), delay, is_present: false, next };
        self.places.insert(delay_id, place.clone());
        if let Some(replaced) = self.by_place.insert(place, delegation) {
            self.places.remove(&replaced.delay_id);
        }
        true
    }

    /// A participant is there.
    pub(super) fn came(&mut self, place: &Place, now: Instant) {
        if let Some(delegation) = self.by_place.get_mut(place) {
            delegation.is_present = true;
            // At once: nobody knows how long it has waited.
            delegation.next = now;
        }
    }

    /// A participant is gone, and `expected` back or not.
    pub(super) fn went(&mut self, place: &Place, expected: bool, now: Instant) {
        if let Some(delegation) = self.by_place.get_mut(place) {
            delegation.is_present = false;
            delegation.next = if expected { now + RETURN_WITHIN } else { now };
        }
    }

    /// Somebody looked whether a participant is there: what was told of it may have been lost. Who was there gets as long as who is
    /// expected back.
    pub(super) fn looked(&mut self, place: &Place, is_there: bool, now: Instant) {
        let was_there = self.by_place.get(place).map(|delegation| delegation.is_present);
        match (was_there, is_there) {
            (Some(false), true) => self.came(place, now),
            (Some(true), false) => self.went(place, true, now),
            _ => {}
        }
    }

    /// Whether a delayed leave of this participant is looked after.
    pub(super) fn has(&self, place: &Place) -> bool {
        self.by_place.contains_key(place)
    }

    /// For whom a delayed leave is looked after.
    pub(super) fn place(&self, delay_id: &str) -> Option<&Place> {
        self.places.get(delay_id)
    }

    /// What is to be done now. What is to be sent is looked after no longer.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Duty> {
        let mut duties = Vec::new();
        for delegation in self.by_place.values_mut().filter(|delegation| delegation.next <= now) {
            if delegation.is_present {
                delegation.next = delegation.restart_at(now);
                duties.push(Duty::Restart(delegation.delay_id.clone()));
            } else {
                // Until it is known to be sent.
                delegation.next = now + RETRY_AFTER;
                duties.push(Duty::Send(delegation.delay_id.clone()));
            }
        }
        duties
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_place.values().map(|delegation| delegation.next).min()
    }

    /// A delayed leave is no longer looked after: it was sent, or cancelled.
    pub(super) fn forget(&mut self, delay_id: &str) {
        if let Some(place) = self.places.remove(delay_id) {
            self.by_place.remove(&place);
        }
    }

    /// It could not be restarted; it is tried again soon.
    pub(super) fn retry(&mut self, delay_id: &str, now: Instant) {
        let place = self.places.get(delay_id);
        if let Some(delegation) = place.and_then(|place| self.by_place.get_mut(place)) {
            delegation.next = now + RETRY_AFTER;
        }
    }

    /// All participants whose delayed leaves are looked after.
    pub(super) fn all(&self) -> Vec<Place> {
        self.by_place.keys().cloned().collect()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant does")]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn place(identity: &str) -> Place {
        Place { room: "room".to_owned(), identity: identity.to_owned() }
    }

    fn begun(now: Instant) -> Delegations {
        let mut delegations = Delegations::default();
        assert!(delegations.begin(place("alice"), "leave".to_owned(), HOUR, HOUR / 60, now));
        delegations
    }

    #[test]
    fn who_is_there_does_not_leave_and_who_is_gone_does() {
        let now = Instant::now();
        let mut delegations = begun(now);
        assert_eq!(delegations.due(now), []);
        delegations.came(&place("alice"), now);
        assert_eq!(delegations.due(now), [Duty::Restart("leave".to_owned())]);
        assert_eq!(delegations.due(now), []);
        let later = now + HOUR * 4 / 5;
        assert_eq!(delegations.next(), Some(later));
        assert_eq!(delegations.due(later), [Duty::Restart("leave".to_owned())]);
        delegations.went(&place("alice"), false, later);
        assert_eq!(delegations.due(later), [Duty::Send("leave".to_owned())]);
        // If that failed, it is tried again; if not, all is over.
        assert_eq!(delegations.due(later + RETRY_AFTER), [Duty::Send("leave".to_owned())]);
        delegations.forget("leave");
        assert_eq!(delegations.next(), None);
        assert!(delegations.places.is_empty());
    }

    #[test]
    fn who_never_comes_leaves_when_its_time_is_over() {
        let now = Instant::now();
        let mut delegations = begun(now);
        delegations.went(&place("bob"), false, now);
        assert_eq!(delegations.due(now + HOUR / 61), []);
        assert_eq!(delegations.due(now + HOUR / 60), [Duty::Send("leave".to_owned())]);
    }

    #[test]
    fn who_is_expected_may_come_back() {
        let now = Instant::now();
        let mut delegations = begun(now);
        delegations.came(&place("alice"), now);
        delegations.due(now);
        delegations.went(&place("alice"), true, now);
        assert_eq!(delegations.due(now + RETURN_WITHIN / 2), []);
        delegations.came(&place("alice"), now + RETURN_WITHIN / 2);
        assert_eq!(delegations.due(now + RETURN_WITHIN), [Duty::Restart("leave".to_owned())]);
    }

    #[test]
    fn looking_again_changes_nothing_that_was_known() {
        let now = Instant::now();
        let mut delegations = begun(now);
        delegations.looked(&place("alice"), false, now);
        assert_eq!(delegations.next(), Some(now + HOUR / 60), "it has not come yet");
        delegations.looked(&place("alice"), true, now);
        assert_eq!(delegations.due(now), [Duty::Restart("leave".to_owned())]);
        delegations.looked(&place("alice"), true, now);
        assert_eq!(delegations.due(now), []);
        for again in [now, now + RETURN_WITHIN / 2] {
            delegations.looked(&place("alice"), false, again);
        }
        assert_eq!(delegations.due(now + RETURN_WITHIN), [Duty::Send("leave".to_owned())]);
        delegations.looked(&place("bob"), true, now);
        assert_eq!(delegations.all(), [place("alice")], "nobody handed that over");
    }

    #[test]
    fn the_newest_leave_of_a_participant_counts_and_a_leave_has_one_participant() {
        let now = Instant::now();
        let mut delegations = begun(now);
        delegations.begin(place("alice"), "newer".to_owned(), HOUR, HOUR, now);
        delegations.went(&place("alice"), false, now);
        assert_eq!(delegations.due(now), [Duty::Send("newer".to_owned())]);
        delegations.begin(place("bob"), "newer".to_owned(), HOUR, HOUR, now);
        assert_eq!(delegations.all(), [place("bob")]);
    }
}
