//! The bot's room keys on the homeserver, encrypted with a key that only its store has.

use matrix_sdk::ruma::api::client::backup::{add_backup_keys, create_backup_version, get_latest_backup_info};
use matrix_sdk_crypto::{store::types::BackupDecryptionKey, types::RoomKeyBackupInfo};

use super::Device;
use crate::Error;

/// How many batches of keys are sent in one go; the rest goes with the next key that comes.
const MOST_BATCHES: usize = 20;

impl Device {
    /// Goes on with the backup that this store has the key of, or begins another one.
    pub(super) async fn enable_backup(&self) -> Result<(), Error> {
        let backups = self.machine.backup_machine();
        let kept = backups.get_backup_keys().await.map_err(Error::encryption)?;
        if let (Some(key), Some(version)) = (kept.decryption_key, kept.backup_version)
            && self.newest_version().await?.as_deref() == Some(version.as_str())
        {
            let public = key.megolm_v1_public_key();
            public.set_version(version);
            backups.enable_backup_v1(public).await.map_err(Error::encryption)?;
        } else {
            self.begin_backup().await?;
        }
        self.back_up().await;
        Ok(())
    }

    async fn newest_version(&self) -> Result<Option<String>, Error> {
        let request = get_latest_backup_info::v3::Request::new();
        match self.homeserver.typed(self.identity(), request).await {
            Ok(response) => Ok(Some(response.version)),
            Err(error) if error.is("M_NOT_FOUND") => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn begin_backup(&self) -> Result<(), Error> {
        let backups = self.machine.backup_machine();
        // Keys that went into another backup go into this one too.
        backups.disable_backup().await.map_err(Error::encryption)?;
        let key = BackupDecryptionKey::new();
        let mut info: RoomKeyBackupInfo = key.to_backup_info();
        backups.sign_backup(&mut info).await.map_err(Error::encryption)?;
        let algorithm = serde_json::to_value(&info)
            .and_then(serde_json::from_value)
            .map_err(|error| Error::Request(error.to_string()))?;
        let request = create_backup_version::v3::Request::new(algorithm);
        let version = self.homeserver.typed(self.identity(), request).await?.version;
        let public = key.megolm_v1_public_key();
        let saved = backups.save_decryption_key(Some(key), Some(version.clone())).await;
        saved.map_err(Error::encryption)?;
        public.set_version(version);
        backups.enable_backup_v1(public).await.map_err(Error::encryption)
    }

    /// Sends keys that are not in the backup yet. A failure is no reason not to read messages.
    pub(super) async fn back_up(&self) {
        if !self.machine.backup_machine().enabled().await {
            return;
        }
        if let Err(error) = self.send_backup().await {
            tracing::warn!(user.id = %self.user_id, %error, "keys could not be backed up");
        }
    }

    async fn send_backup(&self) -> Result<(), Error> {
        for _ in 0..MOST_BATCHES {
            let batch = self.machine.backup_machine().backup().await.map_err(Error::encryption)?;
            let Some((id, batch)) = batch else { break };
            let request = add_backup_keys::v3::Request::new(batch.version, batch.rooms);
            let response = self.homeserver.typed(self.identity(), request).await?;
            self.machine.mark_request_as_sent(&id, &response).await.map_err(Error::encryption)?;
        }
        Ok(())
    }
}
