//! What follows the change log inside this process. Each follower reads from its own stored cursor: a crash loses nothing,
//! and repeats at most what bears to be repeated.

use std::time::Duration;

use entente_accounts::Change;
use entente_encryption::Encryption;
use entente_storage::{Follower, StartFrom, StorageError, Store};

/// Records that are read at once.
const MOST_RECORDS: usize = 256;
/// Before a follower that failed goes on.
const PAUSE: Duration = Duration::from_secs(1);

/// Deletes what is kept for the encryption of users who deactivated their accounts, for as long as it is polled.
pub(crate) async fn forget_deactivated(store: Store, encryption: Encryption) {
    loop {
        let Err(error) = forget_deactivated_until_failure(&store, &encryption).await;
        tracing::warn!(%error, follower = "encryption", "a follower of the log failed and begins again at its cursor");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn forget_deactivated_until_failure(
    store: &Store,
    encryption: &Encryption,
) -> Result<std::convert::Infallible, StorageError> {
    let mut follower = Follower::open(store, "encryption.deactivations", StartFrom::Beginning).await?;
    loop {
        let records = follower.next(MOST_RECORDS).await?;
        let entries = records.iter().flat_map(|record| &record.entries);
        for entry in entries.filter(|entry| entry.topic == entente_accounts::TOPIC) {
            match Change::from_payload(&entry.payload) {
                Ok(Change::Deactivated { localpart, .. }) => encryption.forget_user(&localpart).await?,
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "a log entry about an account cannot be read"),
            }
        }
        follower.advance().await?;
    }
}
