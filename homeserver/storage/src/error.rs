use std::sync::Arc;

/// What can go wrong in storage. Cheap to clone, because a failed group commit fails for everyone who was part of it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// A check did not hold when the transaction was evaluated; nothing was written. [`crate::Store::run`] retries it.
    #[error("a row that the transaction depends on was changed meanwhile (keyspace {keyspace})")]
    Conflict {
        /// The number of the keyspace of the first check that failed.
        keyspace: u16,
    },
    /// The engine failed: a full disk, a broken file, a database that answers with an error.
    #[error("the storage engine failed: {0}")]
    Engine(Arc<dyn std::error::Error + Send + Sync>),
    /// The engine cannot be reached at present, or it was closed. What was not acknowledged may be tried again.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
    /// A stored row does not decode: it was damaged, or written by something else.
    #[error("a row of keyspace {keyspace} is damaged: {reason}")]
    Corrupt {
        /// The name of the keyspace.
        keyspace: &'static str,
        /// What the codec expected.
        reason: String,
    },
    /// The store was written by a newer version of this program.
    #[error(
        "the store has schema {found}, this program knows schemas up to {supported}; start a newer version"
    )]
    SchemaTooNew {
        /// The schema version in the store.
        found: u32,
        /// The newest one that this program can read.
        supported: u32,
    },
    /// A backup file is cut short, was changed since it was written, or is something else.
    #[error("{} is not a whole backup: {reason}", path.display())]
    DamagedBackup {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store holds no data yet although it was asked for, or holds some where it must be empty.
    #[error("{0}")]
    Refused(String),
    /// The transaction is not well formed, for instance a log entry in a relaxed transaction.
    #[error("the transaction is not valid: {0}")]
    InvalidTransaction(&'static str),
}

impl StorageError {
    /// Wraps an engine's own error.
    pub fn engine(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Engine(Arc::new(error))
    }

    /// Whether a fresh attempt from a fresh snapshot may succeed.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

impl From<std::io::Error> for StorageError {
    fn from(error: std::io::Error) -> Self {
        Self::engine(error)
    }
}
