//! The bot's room keys on the homeserver, encrypted with its recovery key.
//!
//! Whoever has that key gets them back when the store is lost. It is a setting, or made at first and written beside the store, for the
//! operator to keep elsewhere.

use std::path::Path;

use matrix_sdk::ruma::api::client::backup::{
    add_backup_keys, create_backup_version, get_backup_keys, get_latest_backup_info,
};
use matrix_sdk_crypto::{olm::ExportedRoomKey, store::types::BackupDecryptionKey, types::RoomKeyBackupInfo};

use super::Device;
use crate::{Error, data};

/// How many batches of keys are sent in one go; the rest goes with the next key that comes.
const MOST_BATCHES: usize = 20;

impl Device {
    /// Goes on with the backup that the recovery key opens, or begins another one. A homeserver that keeps no backups is no reason not to
    /// read messages.
    ///
    /// # Errors
    ///
    /// If the recovery key cannot be read or written, or the homeserver is away.
    pub(super) async fn enable_backup(&self, file: &Path) -> Result<(), Error> {
        let key = self.recovery_key(file).await?;
        match self.follow_backup(key).await {
            Err(error) if is_away(&error) => return Err(error),
            Err(error) => tracing::warn!(user.id = %self.user_id, %error, "keys are not backed up"),
            Ok(()) => {}
        }
        self.back_up().await;
        Ok(())
    }

    /// The recovery key: of the settings, of the file, or a new one.
    async fn recovery_key(&self, file: &Path) -> Result<BackupDecryptionKey, Error> {
        let bad = |error: &dyn std::fmt::Display| Error::Encryption(format!("the recovery key: {error}"));
        if let Some(text) = &self.settings.recovery_key {
            return BackupDecryptionKey::from_base58(text).map_err(|error| bad(&error));
        }
        match tokio::fs::read_to_string(file).await {
            Ok(text) => return BackupDecryptionKey::from_base58(&text).map_err(|error| bad(&error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(bad(&error)),
        }
        let kept = self.machine.backup_machine().get_backup_keys().await.map_err(Error::encryption)?;
        let key = kept.decryption_key.unwrap_or_else(BackupDecryptionKey::new);
        data::write_secret(file, &format!("{key}\n")).await.map_err(|error| bad(&error))?;
        tracing::info!(file = %file.display(), "the recovery key of the bot's messages is written; keep a copy elsewhere");
        Ok(key)
    }

    async fn follow_backup(&self, key: BackupDecryptionKey) -> Result<(), Error> {
        let backups = self.machine.backup_machine();
        let kept = backups.get_backup_keys().await.map_err(Error::encryption)?;
        let version = match self.newest_backup().await? {
            Some((version, info)) if key.backup_key_matches(&info) => {
                if kept.backup_version.as_ref() != Some(&version) {
                    self.restore(&key, &version).await?;
                }
                version
            }
            _ => self.begin_backup(&key).await?,
        };
        let public = key.megolm_v1_public_key();
        let saved = backups.save_decryption_key(Some(key), Some(version.clone())).await;
        saved.map_err(Error::encryption)?;
        public.set_version(version);
        backups.enable_backup_v1(public).await.map_err(Error::encryption)
    }

    async fn newest_backup(&self) -> Result<Option<(String, RoomKeyBackupInfo)>, Error> {
        let request = get_latest_backup_info::v3::Request::new();
        let response = match self.homeserver.typed(self.identity(), request).await {
            Ok(response) => response,
            Err(error) if error.is("M_NOT_FOUND") => return Ok(None),
            Err(error) => return Err(error),
        };
        // What cannot be understood was not made with the key.
        let info = serde_json::from_str(response.algorithm.json().get()).ok();
        Ok(info.map(|info| (response.version, info)))
    }

    /// Begins a backup that this key opens, and answers its version.
    async fn begin_backup(&self, key: &BackupDecryptionKey) -> Result<String, Error> {
        let backups = self.machine.backup_machine();
        // Keys that went into another backup go into this one too.
        backups.disable_backup().await.map_err(Error::encryption)?;
        let mut info = key.to_backup_info();
        backups.sign_backup(&mut info).await.map_err(Error::encryption)?;
        let algorithm = serde_json::to_value(&info)
            .and_then(serde_json::from_value)
            .map_err(|error| Error::Request(error.to_string()))?;
        let request = create_backup_version::v3::Request::new(algorithm);
        Ok(self.homeserver.typed(self.identity(), request).await?.version)
    }

    /// Takes the keys in that another store has put into the backup.
    async fn restore(&self, key: &BackupDecryptionKey, version: &str) -> Result<(), Error> {
        let backups = self.machine.backup_machine();
        backups.disable_backup().await.map_err(Error::encryption)?;
        let request = get_backup_keys::v3::Request::new(version.to_owned());
        let rooms = self.homeserver.typed(self.identity(), request).await?.rooms;
        let mut keys = Vec::new();
        for (room_id, backup) in rooms {
            for (session_id, data) in backup.sessions {
                let Ok(data) = data.deserialize() else { continue };
                // The homeserver may have put anything there.
                let Ok(room_key) = key.decrypt_session_data(data.session_data) else { continue };
                keys.push(ExportedRoomKey::from_backed_up_room_key(room_id.clone(), session_id, room_key));
            }
        }
        let imported = self.machine.store().import_room_keys(keys, Some(version), |_, _| {}).await;
        let keys = imported.map_err(Error::encryption)?.imported_count;
        tracing::info!(user.id = %self.user_id, keys, "keys were restored from the backup");
        Ok(())
    }

    /// Sends keys that are not in the backup yet. A failure is no reason not to read messages.
    pub(super) async fn back_up(&self) {
        if !self.machine.backup_machine().enabled().await {
            return;
        }
        let mut sent = self.send_backup().await;
        if sent.as_ref().is_err_and(|error| error.is("M_WRONG_ROOM_KEYS_VERSION") || error.is("M_NOT_FOUND"))
        {
            sent = self.send_to_newer_backup().await;
        }
        if let Err(error) = sent {
            tracing::warn!(user.id = %self.user_id, %error, "keys could not be backed up");
        }
    }

    /// Goes on with the backup that took the place of the one that was used.
    async fn send_to_newer_backup(&self) -> Result<(), Error> {
        let kept = self.machine.backup_machine().get_backup_keys().await.map_err(Error::encryption)?;
        let Some(key) = kept.decryption_key else { return Ok(()) };
        self.follow_backup(key).await?;
        self.send_backup().await
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

/// Whether nothing can be done now, with backups or without. One that answers 5xx to this alone would keep the bot from starting.
fn is_away(error: &Error) -> bool {
    error.is_temporary() && !matches!(error, Error::Refused { status: 500.., .. })
}
