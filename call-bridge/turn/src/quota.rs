use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use turn_server_proto::types::Instant;

/// How many allocations each user has. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    most: usize,
    users: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

/// An allocation that counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    quota: Quota,
    user: Arc<str>,
}

impl Quota {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, users: Arc::default() }
    }

    /// Whether a user may have no more.
    pub(crate) fn is_reached(&self, user: &str) -> bool {
        self.users.lock().get(user).is_some_and(|count| *count >= self.most)
    }

    /// One more for this user, unless that is too many.
    pub(crate) fn take(&self, user: &Arc<str>) -> Option<Counted> {
        let mut users = self.users.lock();
        let count = users.entry(Arc::clone(user)).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Counted { quota: self.clone(), user: Arc::clone(user) })
    }

    /// All allocations.
    pub(crate) fn total(&self) -> usize {
        self.users.lock().values().sum()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.quota.users.lock().entry(Arc::clone(&self.user)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Bytes that may pass: so many a second, and at most a second's worth at once.
#[derive(Debug)]
pub(crate) struct Allowance {
    per_second: u64,
    left: u64,
    at: Instant,
}

impl Allowance {
    pub(crate) fn new(per_second: u64, now: Instant) -> Self {
        Self { per_second, left: per_second, at: now }
    }

    /// Whether so many bytes may pass now.
    pub(crate) fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).min(Duration::from_secs(1));
        let more = u128::from(self.per_second) * passed.as_nanos() / 1_000_000_000;
        // Less than a byte's time counts together with the next.
        if more > 0 {
            self.left =
                self.left.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)).min(self.per_second);
            self.at = now;
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let fits = bytes <= self.left;
        if fits {
            self.left -= bytes;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_and_not_more() {
        let quota = Quota::new(2);
        let (alice, bob): (Arc<str>, Arc<str>) = ("alice".into(), "bob".into());
        let first = quota.take(&alice).unwrap();
        let _second = quota.take(&alice).unwrap();
        assert!(quota.is_reached("alice") && quota.take(&alice).is_none());
        let _bobs = quota.take(&bob).unwrap();
        assert_eq!(quota.total(), 3);
        drop(first);
        assert!(!quota.is_reached("alice") && quota.take(&alice).is_some());
        assert_eq!(quota.total(), 2);
    }

    #[test]
    fn bytes_pass_at_their_rate() {
        let start = Instant::ZERO;
        let mut allowance = Allowance::new(1_000, start);
        assert!(allowance.take(1_000, start));
        assert!(!allowance.take(1, start));
        let half = start + Duration::from_millis(500);
        assert!(!allowance.take(501, half) && allowance.take(500, half));
        let much_later = start + Duration::from_secs(3_600);
        assert!(!allowance.take(1_001, much_later) && allowance.take(1_000, much_later));
    }
}
