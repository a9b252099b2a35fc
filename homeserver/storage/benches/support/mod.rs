//! What both benchmarks share: the engines that take part, and a stopwatch.

#[path = "../../tests/support/postgresql.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "shared with the tests, which use all of it")]
mod postgresql;

use std::{
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use entente_storage::{
    StorageError,
    engine::{self, Engine, fjall, memory::Disk},
};
use tempfile::TempDir;

use self::postgresql::TemporaryPostgres;

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
    Postgresql,
    #[cfg(feature = "engine-sled")]
    Sled,
}

impl Candidate {
    pub(crate) fn all() -> Vec<Self> {
        vec![
            Self::Memory,
            Self::Fjall,
            Self::Postgresql,
            #[cfg(feature = "engine-sled")]
            Self::Sled,
        ]
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Fjall => "fjall",
            Self::Postgresql => "postgresql",
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
    postgresql: Option<(TemporaryPostgres, String)>,
}

impl Home {
    /// An empty one, in the directory for temporary files: set `TMPDIR` to choose the disk.
    pub(crate) async fn new(candidate: &Candidate) -> Self {
        let directory = TempDir::new().expect("a temporary directory can be made");
        let postgresql = if *candidate == Candidate::Postgresql {
            let server = TemporaryPostgres::start();
            let url = server.create_database().await;
            Some((server, url))
        } else {
            None
        };
        Self { candidate: candidate.clone(), directory, disk: Disk::new(), postgresql }
    }

    pub(crate) async fn open(&self) -> Result<Arc<dyn Engine>, StorageError> {
        if let Some((_, url)) = &self.postgresql {
            let max_connections = NonZeroU32::new(16).expect("above zero");
            let options = engine::postgresql::Options { url: url.clone(), max_connections, ca_file: None };
            return engine::postgresql::open(options).await;
        }
        match &self.candidate {
            Candidate::Memory | Candidate::Postgresql => self.disk.open(),
            Candidate::Fjall => fjall::open(self.directory.path(), fjall::Options::default()),
            #[cfg(feature = "engine-sled")]
            Candidate::Sled => engine::sled::open(self.directory.path(), 64 * 1024 * 1024),
        }
    }

    #[allow(dead_code, reason = "used by only one of the benchmarks")]
    pub(crate) fn directory(&self) -> &Path {
        self.postgresql.as_ref().map_or(self.directory.path(), |(server, _)| server.directory())
    }
}
