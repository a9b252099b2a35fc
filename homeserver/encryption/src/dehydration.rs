//! Dehydrated devices (MSC3814): devices that no client runs, so that messages for a user who is logged in nowhere have somebody to
//! go to. Whoever logs in next and knows the user's secret storage wakes them and reads what came.

use std::collections::BTreeMap;

use entente_environment::Timestamp;
use entente_storage::{Bytes, Position, Snapshot, Transaction};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId};
use serde_json::value::RawValue;

use crate::{
    Encryption, EncryptionError, KeyUpload, cross_signing,
    device_keys::{CheckedUpload, forget_device_in, note_change},
    rows::{self, DehydratedRow},
    verification,
};

/// The private halves of a device's keys have at most this many bytes.
const MOST_DATA_BYTES: usize = 256 * 1024;
/// Device ids and names have at most this many bytes.
const MOST_NAME_BYTES: usize = 255;
/// Messages of one page.
const MOST_MESSAGES: usize = 200;
/// So long after its upload, in ms, messages for a device are not thinned out: clients that are in use replace it every week.
const UNTOUCHED_FOR: u64 = 8 * 24 * 60 * 60 * 1_000;
/// So many messages for a device that nobody replaced are kept, the newest.
const MOST_KEPT: usize = 10_000;

/// A device that no client runs, as its owner gets it back.
#[derive(Clone, Debug)]
pub struct DehydratedDevice {
    /// Its id.
    pub device_id: String,
    /// The private halves of its keys, encrypted: a JSON object.
    pub device_data: Box<RawValue>,
}

/// A device that is to be kept for a user (MSC3814, `PUT /dehydrated_device`).
#[derive(Clone, Debug)]
pub struct NewDehydratedDevice<'a> {
    /// Its id.
    pub device_id: &'a str,
    /// The private halves of its keys, encrypted: a JSON object that names its algorithm.
    pub device_data: &'a RawValue,
    /// The name that others are shown.
    pub display_name: Option<&'a str>,
    /// The public halves. Identity keys are among them.
    pub keys: KeyUpload<'a>,
}

/// Some of the messages that wait for a dehydrated device.
#[derive(Clone, Debug)]
pub struct MessagePage {
    /// The messages: JSON objects.
    pub messages: Vec<Bytes>,
    /// Behind them: where the next page begins.
    pub end: Position,
    /// Whether there are more.
    pub more: bool,
}

impl Encryption {
    /// Keeps a dehydrated device and all its keys for a user, in place of the one that was there. What waits for that one is gone.
    pub async fn put_dehydrated_device(
        &self,
        user_id: &UserId,
        device: &NewDehydratedDevice<'_>,
        now: Timestamp,
    ) -> Result<(), EncryptionError> {
        check_new(device)?;
        let localpart = user_id.localpart();
        let upload = CheckedUpload::new(user_id, device.device_id, &device.keys)?;
        let row = DehydratedRow {
            device_id: device.device_id.to_owned(),
            device_data: device.device_data.get().to_owned(),
            display_name: device.display_name.map(str::to_owned),
            uploaded_at: now.millis(),
        };
        self.store
            .run(async |snapshot| {
                let old = snapshot.get(&rows::DEHYDRATED, localpart).await?;
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::DEHYDRATED, localpart, old.as_ref());
                let replaced = old.as_ref().filter(|old| old.device_id != row.device_id);
                let mut changed = false;
                if let Some(old) = replaced {
                    changed |= forget_device_in(&mut transaction, &snapshot, user_id, &old.device_id).await?;
                }
                changed |= upload.write_in(&snapshot, &mut transaction).await?.1;
                changed |= keep_self_signatures(&snapshot, &mut transaction, user_id, device).await?;
                let renamed = old.as_ref().map(|old| &old.display_name) != Some(&row.display_name);
                if changed || renamed {
                    note_change(&mut transaction, user_id);
                }
                transaction.put(&rows::DEHYDRATED, localpart, &row);
                Ok::<_, EncryptionError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// A user's dehydrated device.
    pub async fn dehydrated_device(&self, localpart: &str) -> Result<DehydratedDevice, EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        let row = snapshot.get(&rows::DEHYDRATED, localpart).await?.ok_or(none_there())?;
        let device_data = RawValue::from_string(row.device_data);
        let device_data =
            device_data.map_err(|_| EncryptionError::InvalidParameter("device_data is JSON"))?;
        Ok(DehydratedDevice { device_id: row.device_id, device_data })
    }

    /// The id of a user's dehydrated device, to which messages can be sent as to any other.
    pub async fn dehydrated_device_id(&self, localpart: &str) -> Result<Option<String>, EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        Ok(snapshot.get(&rows::DEHYDRATED, localpart).await?.map(|row| row.device_id))
    }

    /// Deletes a user's dehydrated device with its keys and messages. Answers which it was.
    pub async fn delete_dehydrated_device(&self, user_id: &UserId) -> Result<String, EncryptionError> {
        let localpart = user_id.localpart();
        let (device_id, _) = self
            .store
            .run(async |snapshot| {
                let row = snapshot.get(&rows::DEHYDRATED, localpart).await?.ok_or(none_there())?;
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::DEHYDRATED, localpart, Some(&row));
                transaction.delete(&rows::DEHYDRATED, localpart);
                forget_device_in(&mut transaction, &snapshot, user_id, &row.device_id).await?;
                note_change(&mut transaction, user_id);
                Ok::<_, EncryptionError>((transaction, row.device_id))
            })
            .await?;
        Ok(device_id)
    }

    /// The messages that wait for a user's dehydrated device behind `after`, the oldest first. They stay: should the client that reads
    /// them be lost, another one begins again.
    pub async fn dehydrated_messages(
        &self,
        localpart: &str,
        device_id: &str,
        after: &Position,
    ) -> Result<MessagePage, EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        let row = snapshot.get(&rows::DEHYDRATED, localpart).await?;
        if row.is_none_or(|row| row.device_id != device_id) {
            return Err(EncryptionError::Forbidden("that is not the user's dehydrated device"));
        }
        let to = snapshot.position().await?;
        let mut page = MessagePage { messages: Vec::new(), end: after.clone(), more: false };
        let mut newest = None;
        for (first, last) in after.ranges_to(&to) {
            let scan = rows::TO_DEVICE.scan((localpart, device_id));
            let scan = scan.from((localpart, device_id, first, 0)).to((localpart, device_id, last, u32::MAX));
            let mut next = Some(scan);
            while let Some(scan) = next {
                let found = snapshot.scan(&scan).await?;
                for ((_, _, position, _), message) in found.rows {
                    // What one commit brought is not torn apart: a page ends between commits.
                    if page.messages.len() >= MOST_MESSAGES && newest != Some(position) {
                        page.more = true;
                        return Ok(page);
                    }
                    page.end.include(position);
                    newest = Some(position);
                    page.messages.push(message);
                }
                next = found.next.map(|at| scan.resume(at));
            }
        }
        Ok(page)
    }

    /// Deletes the oldest messages of dehydrated devices for which there are too many, if nobody replaced the device for a long
    /// time. Answers how many.
    pub(crate) async fn trim_dehydrated(&self, now: Timestamp) -> Result<usize, EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        let mut deleted = 0;
        let mut next = Some(rows::DEHYDRATED.scan(()));
        while let Some(scan) = next {
            let page = snapshot.scan(&scan).await?;
            for (localpart, row) in page.rows {
                if row.uploaded_at.saturating_add(UNTOUCHED_FOR) < now.millis() {
                    deleted += self.trim_messages(&snapshot, &localpart, &row.device_id).await?;
                }
            }
            next = page.next.map(|at| scan.resume(at));
        }
        Ok(deleted)
    }

    async fn trim_messages(
        &self,
        snapshot: &Snapshot,
        localpart: &str,
        device_id: &str,
    ) -> Result<usize, EncryptionError> {
        let (mut kept, mut deleted) = (0, 0);
        let mut next = Some(rows::TO_DEVICE.scan((localpart, device_id)).reverse());
        while let Some(scan) = next {
            let page = snapshot.scan(&scan).await?;
            let mut transaction = Transaction::relaxed();
            for (key, _) in &page.rows {
                if kept < MOST_KEPT {
                    kept += 1;
                } else {
                    transaction.delete(&rows::TO_DEVICE, key);
                    deleted += 1;
                }
            }
            if !transaction.is_empty() {
                self.store.commit(transaction).await?;
            }
            next = page.next.map(|at| scan.resume(at));
        }
        Ok(deleted)
    }
}

fn none_there() -> EncryptionError {
    EncryptionError::NotFound("the user has no dehydrated device")
}

fn check_new(device: &NewDehydratedDevice<'_>) -> Result<(), EncryptionError> {
    let is_long = |text: &str| text.len() > MOST_NAME_BYTES;
    if is_long(device.device_id) || device.display_name.is_some_and(is_long) {
        return Err(EncryptionError::TooLarge("a device id and the name of a device have at most 255 bytes"));
    }
    if device.device_data.get().len() > MOST_DATA_BYTES {
        return Err(EncryptionError::TooLarge("device_data has at most 256 KiB"));
    }
    if device.device_id.is_empty() {
        return Err(EncryptionError::InvalidParameter("a device needs an id"));
    }
    if device.keys.device_keys.is_none() {
        return Err(EncryptionError::InvalidParameter("a dehydrated device needs device_keys"));
    }
    let data: Option<DataHead> = serde_json::from_str(device.device_data.get()).ok();
    if data.is_none_or(|data| data.algorithm.is_empty()) {
        return Err(EncryptionError::InvalidParameter("device_data is an object that names its algorithm"));
    }
    Ok(())
}

/// What the server understands of a dehydrated device's data.
#[derive(serde::Deserialize)]
struct DataHead {
    algorithm: String,
}

/// Keeps the signature by which the user's self-signing key vouches for the device, which clients send along. Answers whether it
/// is new.
async fn keep_self_signatures(
    snapshot: &Snapshot,
    transaction: &mut Transaction,
    user_id: &UserId,
    device: &NewDehydratedDevice<'_>,
) -> Result<bool, EncryptionError> {
    let keys = device.keys.device_keys.and_then(|keys| verification::parse(keys.get().as_bytes()));
    let mut is_new = false;
    for (signing_key, signature) in
        cross_signing::self_signatures(snapshot, user_id, &keys.unwrap_or_default()).await?
    {
        let row = (user_id.as_str(), device.device_id, user_id.as_str(), signing_key.as_str());
        if snapshot.get(&rows::SIGNATURES, row).await?.as_ref() != Some(&signature) {
            transaction.put(&rows::SIGNATURES, row, &signature);
            is_new = true;
        }
    }
    Ok(is_new)
}

/// Shows the name of a dehydrated device beside its keys, unsigned. Devices that do not say that they are dehydrated cost nothing.
pub(crate) async fn add_name(
    snapshot: &Snapshot,
    localpart: &str,
    devices: &mut BTreeMap<String, CanonicalJsonObject>,
) -> Result<(), EncryptionError> {
    let is_dehydrated =
        |keys: &CanonicalJsonObject| keys.get("dehydrated") == Some(&CanonicalJsonValue::Bool(true));
    if !devices.values().any(is_dehydrated) {
        return Ok(());
    }
    if let Some(row) = snapshot.get(&rows::DEHYDRATED, localpart).await?
        && let (Some(name), Some(device)) = (row.display_name, devices.get_mut(&row.device_id))
    {
        let name = (String::from("device_display_name"), CanonicalJsonValue::String(name));
        let unsigned = CanonicalJsonObject::from([name]);
        device.insert(String::from("unsigned"), CanonicalJsonValue::Object(unsigned));
    }
    Ok(())
}
