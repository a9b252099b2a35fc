//! Places for work that lasts: so many at once in all, and of them so many for each who asks.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::MediaError;

/// Places that are waited for.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    most_each: usize,
    each: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_one: OwnedSemaphorePermit,
}

impl Places {
    /// So many in all, and for each who asks.
    pub(crate) fn new(all: NonZeroU32, each: usize) -> Self {
        let all = usize::try_from(all.get()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { all: Arc::new(Semaphore::new(all)), most_each: each, each: Mutex::default() }
    }

    /// A place for `who`; [`MediaError::Busy`] if none becomes free before the deadline.
    pub(crate) async fn take(&self, who: &str, deadline: Instant) -> Result<Place, MediaError> {
        let one = self.of(who);
        // Who has as many as one may waits without keeping others from theirs.
        let place = async {
            let of_one = one.acquire_owned().await?;
            let of_all = Arc::clone(&self.all).acquire_owned().await?;
            Ok::<_, tokio::sync::AcquireError>(Place { _of_all: of_all, _of_one: of_one })
        };
        timeout_at(deadline, place).await.map_err(|_| MediaError::Busy)?.map_err(|_| MediaError::Busy)
    }

    fn of(&self, who: &str) -> Arc<Semaphore> {
        let mut each = self.each.lock();
        // Places that are taken or waited for hold on to theirs.
        each.retain(|_, places| Arc::strong_count(places) > 1);
        Arc::clone(each.entry(who.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.most_each))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn nobody_takes_all_places() {
        let places = Places::new(NonZeroU32::new(4).unwrap(), 2);
        let take = async |who: &str| places.take(who, Instant::now() + Duration::from_millis(20)).await;
        let alice = [take("alice").await.unwrap(), take("alice").await.unwrap()];
        assert!(matches!(take("alice").await, Err(MediaError::Busy)));
        let bob = [take("bob").await.unwrap(), take("bob").await.unwrap()];
        assert!(matches!(take("carol").await, Err(MediaError::Busy)), "there are four");
        drop(alice);
        take("carol").await.unwrap();
        drop(bob);
        assert_eq!(places.of("dave").available_permits(), 2);
        assert_eq!(places.each.lock().len(), 1, "who has none is forgotten");
    }
}
