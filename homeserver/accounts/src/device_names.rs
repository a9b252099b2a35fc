use entente_storage::Snapshot;

use crate::{AccountError, Accounts, rows};

impl Accounts {
    /// The ids and names of a local user's devices; none of a user who does not exist.
    pub async fn device_names(
        &self,
        snapshot: Option<&Snapshot>,
        localpart: &str,
    ) -> Result<Vec<(String, Option<String>)>, AccountError> {
        let own;
        let snapshot = if let Some(snapshot) = snapshot {
            snapshot
        } else {
            own = self.snapshot().await?;
            &own
        };
        let devices = snapshot.scan_all(rows::DEVICES.scan((localpart,))).await?;
        Ok(devices.into_iter().map(|((_, device_id), row)| (device_id, row.display_name)).collect())
    }
}
