use entente_storage::{Snapshot, Transaction};
use ruma::{OwnedDeviceId, UserId};

use crate::{
    AccountError, Accounts, Change,
    rows::{self, DeviceRow, SeenRow},
    sessions::delete_tokens_in,
};

/// Device names have at most this many bytes.
const MOST_NAME_BYTES: usize = 255;

/// A device as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// The name that its owner gave it.
    pub display_name: Option<String>,
    /// When it was last used, in ms since 1970.
    pub last_seen_at: Option<u64>,
    /// From which address it was last used.
    pub last_seen_address: Option<String>,
}

impl Device {
    fn new(device_id: String, row: DeviceRow, seen: Option<SeenRow>) -> Self {
        Self {
            device_id: device_id.into(),
            display_name: row.display_name,
            last_seen_at: seen.as_ref().map(|seen| seen.at),
            last_seen_address: seen.and_then(|seen| seen.address),
        }
    }
}

impl Accounts {
    /// All devices of a user, in the order of their ids.
    pub async fn devices(&self, user_id: &UserId) -> Result<Vec<Device>, AccountError> {
        let localpart = self.local(user_id)?;
        let snapshot = self.snapshot().await?;
        let devices = snapshot.scan_all(rows::DEVICES.scan((localpart,))).await?;
        let keys = devices.iter().map(|(key, _)| key);
        let seen = snapshot.get_many(&rows::SEEN, keys).await?;
        let listed = devices.into_iter().zip(seen);
        Ok(listed.map(|(((_, device_id), row), seen)| Device::new(device_id, row, seen)).collect())
    }

    /// One device of a user.
    pub async fn device(&self, user_id: &UserId, device_id: &str) -> Result<Device, AccountError> {
        let key = (self.local(user_id)?, device_id);
        let snapshot = self.snapshot().await?;
        let mut batch = snapshot.batch();
        let row = batch.get(&rows::DEVICES, key);
        let seen = batch.get(&rows::SEEN, key);
        let mut answer = batch.read().await?;
        let row = answer.take(&row)?.ok_or(AccountError::NotFound("there is no such device"))?;
        Ok(Device::new(device_id.to_owned(), row, answer.take(&seen)?))
    }

    /// Names a device; without a name it becomes nameless.
    pub async fn rename_device(
        &self,
        user_id: &UserId,
        device_id: &str,
        display_name: Option<&str>,
    ) -> Result<(), AccountError> {
        if display_name.is_some_and(|name| name.len() > MOST_NAME_BYTES) {
            return Err(AccountError::TooLarge("the name of a device has at most 255 bytes"));
        }
        let localpart = self.local(user_id)?;
        let key = (localpart, device_id);
        self.store()
            .run(async |snapshot| {
                let device = snapshot.get(&rows::DEVICES, key).await?;
                let device = device.ok_or(AccountError::NotFound("there is no such device"))?;
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::DEVICES, key, Some(&device));
                let renamed = DeviceRow { display_name: display_name.map(str::to_owned), ..device };
                transaction.put(&rows::DEVICES, key, &renamed);
                let device_ids = vec![device_id.to_owned()];
                Change::Devices { localpart: localpart.to_owned(), device_ids }.log_in(&mut transaction);
                Ok::<_, AccountError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// Removes devices of a user, and with them their tokens. Those that are not there count as removed.
    pub async fn delete_devices(&self, user_id: &UserId, device_ids: &[&str]) -> Result<(), AccountError> {
        self.delete_devices_where(user_id, |device_id| device_ids.contains(&device_id)).await
    }

    /// Removes all devices of a user (`POST /logout/all`).
    pub async fn delete_all_devices(&self, user_id: &UserId) -> Result<(), AccountError> {
        self.delete_devices_where(user_id, |_| true).await
    }

    async fn delete_devices_where(
        &self,
        user_id: &UserId,
        is_chosen: impl Fn(&str) -> bool,
    ) -> Result<(), AccountError> {
        let localpart = self.local(user_id)?;
        self.store()
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                self.remove_devices_in(&mut transaction, &snapshot, localpart, &is_chosen).await?;
                Ok::<_, AccountError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    pub(crate) async fn remove_devices_in(
        &self,
        transaction: &mut Transaction,
        snapshot: &Snapshot,
        localpart: &str,
        is_chosen: impl Fn(&str) -> bool,
    ) -> Result<(), AccountError> {
        let mut device_ids = Vec::new();
        for ((_, device_id), device) in snapshot.scan_all(rows::DEVICES.scan((localpart,))).await? {
            if !is_chosen(&device_id) {
                continue;
            }
            let key = (localpart, device_id.as_str());
            transaction.check_unchanged(&rows::DEVICES, key, Some(&device));
            transaction.delete(&rows::DEVICES, key);
            transaction.delete(&rows::SEEN, key);
            delete_tokens_in(transaction, &device);
            device_ids.push(device_id);
        }
        if !device_ids.is_empty() {
            Change::Devices { localpart: localpart.to_owned(), device_ids }.log_in(transaction);
        }
        Ok(())
    }
}
