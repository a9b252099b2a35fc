//! Time and randomness, passed in.
//!
//! Nothing else reads the clock of the machine or asks it for random bytes; `clippy.toml` forbids both everywhere but here.
//! The binary makes one [`Environment`] and hands clones of it to whoever needs them; tests make one that they control.

mod clock;
mod randomness;

#[cfg(feature = "manual")]
pub use self::clock::ManualClock;
pub use self::{
    clock::{Clock, SystemClock, Timestamp},
    randomness::Randomness,
};

use std::sync::Arc;

/// The clock and the randomness that a part of the server works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Environment {
    clock: Arc<dyn Clock>,
    randomness: Randomness,
}

impl Environment {
    /// The machine's own clock and randomness.
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock), randomness: Randomness::system() }
    }

    /// A clock and randomness of the caller's choice.
    pub fn new(clock: Arc<dyn Clock>, randomness: Randomness) -> Self {
        Self { clock, randomness }
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The randomness.
    pub fn randomness(&self) -> &Randomness {
        &self.randomness
    }
}
