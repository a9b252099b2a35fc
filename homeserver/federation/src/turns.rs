use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// Lets only one at a time do what concerns a key, so that ten who need the same thing fetch it once: whoever comes to their
/// turn looks first whether it is there by now.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to do it, until it is dropped.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    key: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn.
    pub(crate) async fn take(&self, key: &str) -> Turn<'_> {
        let lock = Arc::clone(self.locks.lock().entry(key.to_owned()).or_default());
        // Made before waiting, so that the lock is cleared away when the wait is cancelled.
        let mut turn = Turn { turns: self, key: key.to_owned(), guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    /// Keys for which somebody has or awaits the turn.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.locks.lock().len()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut locks = self.turns.locks.lock();
        drop(self.guard.take());
        // The map has one reference, and everybody who waits another.
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left_behind() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let other = turns.take("b").await;
        let mut second = Box::pin(turns.take("a"));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        drop(other);
        assert_eq!(turns.len(), 0);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing_behind() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second);
        assert_eq!(turns.len(), 0);
    }
}
