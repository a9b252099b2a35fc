use entente_accounts::AccountError;
use entente_encryption::EncryptionError;
use entente_rooms::RoomError;
use entente_storage::StorageError;

/// Why a request could not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// A token of sliding sync that cannot be gone on from: the client begins anew.
    #[error("this connection is not known any more; begin a new one")]
    UnknownPosition,
    /// Reading rooms failed.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// Reading accounts failed.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// Reading what is kept for encryption failed.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// The storage failed or is unavailable.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl SyncError {
    pub(crate) fn closed() -> Self {
        Self::Storage(StorageError::Unavailable(String::from("the server is stopping")))
    }
}
