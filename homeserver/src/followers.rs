//! What follows the change log inside this process. Each follower reads from its own stored cursor: a crash loses nothing,
//! and repeats at most what bears to be repeated.

use std::time::Duration;

use entente_accounts::Change;
use entente_encryption::Encryption;
use entente_storage::{Follower, StartFrom, StorageError, Store};

/// Records that are read at once.
const MOST_RECORDS: usize = 256;
/// Records that may pass unnoticed before the cursor is stored: so many are read again after a crash.
const MOST_PASSED: usize = 4_096;
/// Before a follower that failed goes on.
const PAUSE: Duration = Duration::from_secs(1);
/// The follower that deletes what was kept for the encryption of users whose accounts are gone.
const NAME: &str = "encryption.deactivations";

/// Deletes what is kept for the encryption of users who deactivated their accounts, for as long as it is polled.
pub(crate) async fn forget_deactivated(store: Store, encryption: Encryption) {
    loop {
        let Err(error) = forget_deactivated_until_failure(&store, &encryption).await;
        if error.is_conflict() {
            tracing::debug!(follower = NAME, "another node was quicker");
        } else {
            tracing::warn!(%error, follower = NAME, "a follower of the log failed and begins again at its cursor");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn forget_deactivated_until_failure(
    store: &Store,
    encryption: &Encryption,
) -> Result<std::convert::Infallible, StorageError> {
    let mut follower = Follower::open(store, NAME, StartFrom::Beginning).await?;
    let mut passed = 0;
    loop {
        let records = follower.next(MOST_RECORDS).await?;
        let mut acted = false;
        let entries = records.iter().flat_map(|record| &record.entries);
        for entry in entries.filter(|entry| entry.topic == entente_accounts::TOPIC) {
            match Change::from_payload(&entry.payload) {
                Ok(Change::Deactivated { localpart, .. }) => {
                    encryption.forget_user(&localpart).await?;
                    acted = true;
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "a log entry about an account cannot be read"),
            }
        }
        passed += records.len();
        // Storing the cursor is a durable commit: not for every record that is none of this follower's business.
        if acted || passed >= MOST_PASSED {
            follower.advance().await?;
            passed = 0;
        }
    }
}
