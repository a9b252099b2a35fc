use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::MatrixError;

/// The places for requests that are worked on.
#[derive(Clone, Debug)]
pub struct InFlight(Arc<Semaphore>);

impl InFlight {
    /// That many places; a request that finds none is answered 503.
    pub fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))))
    }

    /// A place, as long as it is held. If there is none left it is better to say so at once than to answer late.
    pub(super) fn take(&self) -> Result<SemaphorePermit<'_>, MatrixError> {
        self.0.try_acquire().map_err(|_| MatrixError::unavailable("the server has too much to do"))
    }
}
