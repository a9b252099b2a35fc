//! What both benchmarks share: the engines that take part, and a stopwatch.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use entente_storage::{
    StorageError,
    engine::{Engine, fjall, memory::Disk},
};
use tempfile::TempDir;

/// Measures how long something takes.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// An engine that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    Memory,
    Fjall,
    #[cfg(feature = "engine-sled")]
    Sled,
}

impl Candidate {
    pub(crate) fn all() -> Vec<Self> {
        vec![
            Self::Memory,
            Self::Fjall,
            #[cfg(feature = "engine-sled")]
            Self::Sled,
        ]
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Fjall => "fjall",
            #[cfg(feature = "engine-sled")]
            Self::Sled => "sled",
        }
    }
}

/// Where an engine keeps its rows, for as long as this lives.
pub(crate) struct Home {
    candidate: Candidate,
    directory: TempDir,
    disk: Disk,
}

impl Home {
    /// An empty one, in the directory for temporary files: set `TMPDIR` to choose the disk.
    pub(crate) fn new(candidate: &Candidate) -> Self {
        let directory = TempDir::new().expect("a temporary directory can be made");
        Self { candidate: candidate.clone(), directory, disk: Disk::new() }
    }

    pub(crate) fn open(&self) -> Result<Arc<dyn Engine>, StorageError> {
        match &self.candidate {
            Candidate::Memory => self.disk.open(),
            Candidate::Fjall => fjall::open(self.directory.path(), fjall::Options::default()),
            #[cfg(feature = "engine-sled")]
            Candidate::Sled => entente_storage::engine::sled::open(self.directory.path(), 64 * 1024 * 1024),
        }
    }

    #[allow(dead_code, reason = "used by only one of the benchmarks")]
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}
