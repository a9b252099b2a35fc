//! What the server keeps so that its users can encrypt end to end. It holds ciphertext and public halves of keys, and can read
//! none of what they protect.
//!
//! [`Encryption`] is the entry to all of it; each file adds one family of operations. Users are the server's own: callers
//! authenticate them.

mod backup;
mod changes;
mod cross_signing;
mod dehydration;
mod device_keys;
mod error;
mod rows;
mod superseded;
mod to_device;
mod verification;

use entente_storage::Store;
use ruma::UserId;

pub use self::{
    backup::{BackedUpKey, BackupKey, BackupState, BackupVersion, KeyScope},
    changes::{Change, TOPIC},
    cross_signing::{CrossSigningUpload, SignatureFailure, UserKeys},
    dehydration::{DehydratedDevice, MessagePage, NewDehydratedDevice},
    device_keys::{KeyCounts, KeyUpload},
    error::EncryptionError,
    rows::KEYSPACES,
    to_device::{MessageLimit, Sender, ToDeviceMessage},
};

/// The encryption data of one server's users. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Encryption {
    store: Store,
}

impl Encryption {
    /// The data in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Deletes everything that is kept for a user whose account is gone. Done again, it does nothing.
    pub async fn forget_user(&self, user_id: &UserId) -> Result<(), EncryptionError> {
        match self.delete_dehydrated_device(user_id).await {
            Ok(_) | Err(EncryptionError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(self.forget_backups(user_id.localpart()).await?)
    }
}
