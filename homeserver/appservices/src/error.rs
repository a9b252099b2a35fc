use entente_accounts::AccountError;
use entente_encryption::EncryptionError;
use entente_rooms::RoomError;
use entente_storage::StorageError;

/// Why something about application services was refused or failed. `entente-api` states the status and the error code of each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppServiceError {
    /// A registration that cannot be used, with where the mistake is.
    #[error("{0}")]
    Registration(String),
    /// No service has this id.
    #[error("there is no application service {0}")]
    Unknown(String),
    /// The registration is in a file, and not to be removed from here.
    #[error("the registration of the application service {0} is in a file: take it out of there")]
    InFile(String),
    /// The service's registration has no URL: nothing is sent to it.
    #[error("the registration of this application service has no url")]
    NoUrl,
    /// The service did not answer in time.
    #[error("the application service did not answer in time")]
    TimedOut,
    /// The service could not be reached, or its answer broke off.
    #[error("the application service cannot be reached: {0}")]
    Unreachable(String),
    /// The service answered with an error.
    #[error("the application service answered with status {status}")]
    Status {
        /// The status.
        status: u16,
        /// The body, no more than its first 4 KiB.
        body: String,
    },
    /// The service answered something that is not what was asked for.
    #[error("the application service answered something that cannot be understood: {0}")]
    BadAnswer(String),
    /// From the accounts.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// From the rooms.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// From what is kept for encryption.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// The storage failed or is unavailable.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A mistake of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

impl AppServiceError {
    /// Whether another node was quicker.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_conflict())
    }
}
