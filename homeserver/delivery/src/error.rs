use entente_accounts::AccountError;
use entente_rooms::RoomError;
use entente_storage::StorageError;
use entente_sync::SyncError;

/// Why something about pushers could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// Something in a pusher that cannot be.
    #[error("{0}")]
    InvalidParameter(String),
    /// A gateway that this server does not speak to.
    #[error("{0}")]
    Refused(String),
    /// A user has as many pushers as one can have.
    #[error("you have as many pushers as one can have")]
    TooMany,
    /// The client for gateways cannot be made.
    #[error("push gateways: {0}")]
    Client(String),
    /// Reading accounts failed.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// Reading rooms failed.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// Reading what users see failed.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// The storage failed or is unavailable.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl DeliveryError {
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_conflict())
    }
}
