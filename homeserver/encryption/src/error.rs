use entente_storage::StorageError;

/// Why an operation was refused. `entente-api` states the status and the error code of each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncryptionError {
    /// Nothing is stored under that name.
    #[error("{0}")]
    NotFound(&'static str),
    /// Not the caller's.
    #[error("{0}")]
    Forbidden(&'static str),
    /// Keys were sent to a backup that is not the newest.
    #[error("that is not the newest backup")]
    WrongBackupVersion {
        /// The newest.
        current: String,
    },
    /// A value that the spec does not allow.
    #[error("{0}")]
    InvalidParameter(&'static str),
    /// More proof of who is asking is needed.
    #[error("replacing cross-signing keys needs proof of who asks")]
    ProofNeeded,
    /// A signature is missing or wrong.
    #[error("{0}")]
    InvalidSignature(&'static str),
    /// Another one-time key was uploaded under the same id.
    #[error("another one-time key was uploaded under that id")]
    KeyExists,
    /// Something larger than is kept.
    #[error("{0}")]
    TooLarge(&'static str),
    /// The storage failed or is unavailable.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
