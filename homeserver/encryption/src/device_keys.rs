use std::collections::{BTreeMap, BTreeSet, HashMap};

use entente_environment::Timestamp;
use entente_storage::{
    Bytes, Keyspace, LogPosition, Position, Scan, Snapshot, Transaction, codec::Key, value::Value,
};
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;

use crate::{
    Change, Encryption, EncryptionError,
    rows::{self, FallbackKeyRow, KeyCountsRow, OneTimeKeyRow},
    verification,
};

/// A device has at most this many one-time keys of an algorithm.
const MOST_ONE_TIME_KEYS: u64 = 1_000;
/// One key has at most this many bytes.
const MOST_KEY_BYTES: usize = 8 * 1024;
/// Identity keys of a device have at most this many bytes.
const MOST_DEVICE_KEY_BYTES: usize = 64 * 1024;
/// Algorithms of one device.
const MOST_ALGORITHMS: usize = 16;
/// Behind every user id.
const LAST_TEXT: &str = "\u{10ffff}";

/// How many keys a device has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// One-time keys, by algorithm.
    pub one_time_keys: BTreeMap<String, u64>,
    /// Algorithms whose fallback key nobody got yet.
    pub unused_fallback: Vec<String>,
}

impl From<KeyCountsRow> for KeyCounts {
    fn from(row: KeyCountsRow) -> Self {
        let mut one_time_keys = row.one_time_keys;
        // Clients make new keys when they are told that there are none, not when they are told nothing.
        one_time_keys.entry(String::from("signed_curve25519")).or_default();
        Self { one_time_keys, unused_fallback: row.unused_fallback }
    }
}

/// Keys that a device uploads (C-S API, `POST /keys/upload`). One-time and fallback keys by `algorithm:id`.
#[derive(Clone, Debug, Default)]
pub struct KeyUpload<'a> {
    /// Its identity keys.
    pub device_keys: Option<&'a RawValue>,
    /// Keys that are used once.
    pub one_time_keys: Vec<(&'a str, &'a RawValue)>,
    /// Keys that are used when there are no others.
    pub fallback_keys: Vec<(&'a str, &'a RawValue)>,
}

impl Encryption {
    /// Stores keys of a device.
    pub async fn upload_keys(
        &self,
        user_id: &UserId,
        device_id: &str,
        upload: &KeyUpload<'_>,
    ) -> Result<KeyCounts, EncryptionError> {
        let upload = CheckedUpload::new(user_id, device_id, upload)?;
        let (counts, _) = self
            .store
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                let (counts, is_other_device) = upload.write_in(&snapshot, &mut transaction).await?;
                if is_other_device {
                    note_change(&mut transaction, user_id);
                }
                Ok::<_, EncryptionError>((transaction, counts))
            })
            .await?;
        Ok(counts.into())
    }

    /// How many keys a device has left.
    pub async fn one_time_key_counts(
        &self,
        snapshot: &Snapshot,
        localpart: &str,
        device_id: &str,
    ) -> Result<KeyCounts, EncryptionError> {
        let row = snapshot.get(&rows::KEY_COUNTS, (localpart, device_id)).await?;
        Ok(row.unwrap_or_default().into())
    }

    /// Hands out one key for each of these devices and algorithms: each one-time key to one claimer, ever. Devices that have none
    /// are left out. Answers places in `wanted`, `algorithm:id`, and keys.
    pub async fn claim_keys(
        &self,
        wanted: &[(&str, &str, &str)],
        now: Timestamp,
    ) -> Result<Vec<(usize, String, Box<RawValue>)>, EncryptionError> {
        let (claimed, _) = self
            .store
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                let mut claimed = Vec::with_capacity(wanted.len());
                for (place, &(localpart, device_id, algorithm)) in wanted.iter().enumerate() {
                    let found =
                        claim(&snapshot, &mut transaction, (localpart, device_id), algorithm, now).await?;
                    claimed.extend(found.map(|(key_id, key)| (place, format!("{algorithm}:{key_id}"), key)));
                }
                Ok::<_, EncryptionError>((transaction, claimed))
            })
            .await?;
        let json = |(place, key_id, key)| Some((place, key_id, RawValue::from_string(key).ok()?));
        Ok(claimed.into_iter().filter_map(json).collect())
    }

    /// Whose devices changed behind `after` and within `to`.
    pub async fn device_list_changes(
        &self,
        snapshot: &Snapshot,
        after: &Position,
        to: &Position,
    ) -> Result<BTreeSet<OwnedUserId>, EncryptionError> {
        let mut changed = BTreeSet::new();
        for (first, last) in after.ranges_to(to) {
            let scan = rows::DEVICE_LIST_CHANGES.scan(()).from((first, "")).to((last, LAST_TEXT));
            let rows = snapshot.scan_all(scan).await?;
            changed.extend(rows.into_iter().filter_map(|((_, user_id), ())| UserId::parse(user_id).ok()));
        }
        Ok(changed)
    }

    /// Whose keys a user signed behind `after` and within `to`, so that their own devices look at them again.
    pub async fn signed_others(
        &self,
        snapshot: &Snapshot,
        signer: &UserId,
        after: &Position,
        to: &Position,
    ) -> Result<BTreeSet<OwnedUserId>, EncryptionError> {
        let signer = signer.localpart();
        let mut signed = BTreeSet::new();
        for (first, last) in after.ranges_to(to) {
            let scan =
                rows::SIGNED_OTHERS.scan((signer,)).from((signer, first, "")).to((signer, last, LAST_TEXT));
            let rows = snapshot.scan_all(scan).await?;
            signed.extend(rows.into_iter().filter_map(|((_, _, user_id), ())| UserId::parse(user_id).ok()));
        }
        Ok(signed)
    }

    /// Deletes everything of a device that is gone, and tells those who share rooms with its user. Done again, it does nothing.
    pub async fn forget_device(&self, user_id: &UserId, device_id: &str) -> Result<(), EncryptionError> {
        self.store
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                if forget_device_in(&mut transaction, &snapshot, user_id, device_id).await? {
                    note_change(&mut transaction, user_id);
                }
                Ok::<_, EncryptionError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// The devices of a user for which anything is kept, the dehydrated one aside.
    pub async fn devices_with_keys(&self, localpart: &str) -> Result<Vec<String>, EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        let keys = snapshot.scan_all(rows::DEVICE_KEYS.scan((localpart,))).await?;
        let counts = snapshot.scan_all(rows::KEY_COUNTS.scan((localpart,))).await?;
        let mut devices: Vec<String> = keys.into_iter().map(|((_, device_id), _)| device_id).collect();
        devices.extend(counts.into_iter().map(|((_, device_id), _)| device_id));
        devices.sort_unstable();
        devices.dedup();
        let dehydrated = snapshot.get(&rows::DEHYDRATED, localpart).await?;
        devices.retain(|device_id| dehydrated.as_ref().is_none_or(|row| row.device_id != *device_id));
        Ok(devices)
    }
}

impl Encryption {
    /// Notes that devices or keys of another server's user changed: whoever shares a room with them is told.
    pub async fn note_devices_changed(&self, user_id: &UserId) -> Result<(), EncryptionError> {
        let mut transaction = Transaction::new();
        note_change(&mut transaction, user_id);
        self.store.commit(transaction).await?;
        Ok(())
    }
}

/// Tells whoever shares a room with the user that their devices changed.
pub(crate) fn note_change(transaction: &mut Transaction, user_id: &UserId) {
    transaction.put(&rows::DEVICE_LIST_CHANGES, (LogPosition::AT_COMMIT, user_id.as_str()), &());
    Change::DeviceList { user_id: user_id.to_string() }.log_in(transaction);
}

/// Deletes everything of a device. Answers whether others knew it by its keys.
pub(crate) async fn forget_device_in(
    transaction: &mut Transaction,
    snapshot: &Snapshot,
    user_id: &UserId,
    device_id: &str,
) -> Result<bool, EncryptionError> {
    let device = (user_id.localpart(), device_id);
    let was_known = snapshot.get(&rows::DEVICE_KEYS, device).await?.is_some();
    if was_known {
        transaction.delete(&rows::DEVICE_KEYS, device);
    }
    if snapshot.get(&rows::KEY_COUNTS, device).await?.is_some() {
        transaction.delete(&rows::KEY_COUNTS, device);
    }
    delete_all_in(transaction, snapshot, &rows::ONE_TIME_KEYS, rows::ONE_TIME_KEYS.scan(device)).await?;
    delete_all_in(transaction, snapshot, &rows::CLAIMED_KEYS, rows::CLAIMED_KEYS.scan(device)).await?;
    delete_all_in(transaction, snapshot, &rows::FALLBACK_KEYS, rows::FALLBACK_KEYS.scan(device)).await?;
    delete_all_in(transaction, snapshot, &rows::TO_DEVICE, rows::TO_DEVICE.scan(device)).await?;
    let signatures = rows::SIGNATURES.scan((user_id.as_str(), device_id));
    delete_all_in(transaction, snapshot, &rows::SIGNATURES, signatures).await?;
    Ok(was_known)
}

/// Deletes the rows of a scan, of which no more than a page is in memory.
async fn delete_all_in<K: Key, V: Value>(
    transaction: &mut Transaction,
    snapshot: &Snapshot,
    keyspace: &Keyspace<K, V>,
    scan: Scan<K, V>,
) -> Result<(), EncryptionError> {
    let mut next = Some(scan);
    while let Some(scan) = next {
        let page = snapshot.scan(&scan).await?;
        for (key, _) in page.rows {
            transaction.delete(keyspace, &key);
        }
        next = page.next.map(|at| scan.resume(at));
    }
    Ok(())
}

/// Keys that were looked at, as far as that can be done without the store.
pub(crate) struct CheckedUpload<'a> {
    user_id: &'a UserId,
    device_id: &'a str,
    device_keys: Option<Bytes>,
    one_time_keys: Vec<UploadedKey<'a>>,
    fallback_keys: Vec<UploadedKey<'a>>,
}

/// A one-time or fallback key of an upload.
struct UploadedKey<'a> {
    algorithm: &'a str,
    id: &'a str,
    json: &'a str,
}

impl<'a> CheckedUpload<'a> {
    pub(crate) fn new(
        user_id: &'a UserId,
        device_id: &'a str,
        upload: &'a KeyUpload<'a>,
    ) -> Result<Self, EncryptionError> {
        let device_keys =
            upload.device_keys.map(|keys| checked_device_keys(user_id, device_id, keys)).transpose()?;
        let split = |keys: &[(&'a str, &'a RawValue)]| {
            let mut split = Vec::with_capacity(keys.len());
            for &(key_id, key) in keys {
                let (algorithm, id) = split_key(user_id, device_id, key_id, key)?;
                split.push(UploadedKey { algorithm, id, json: key.get() });
            }
            Ok::<_, EncryptionError>(split)
        };
        let (one_time_keys, fallback_keys) = (split(&upload.one_time_keys)?, split(&upload.fallback_keys)?);
        Ok(Self { user_id, device_id, device_keys, one_time_keys, fallback_keys })
    }

    /// Adds the keys to a transaction. Answers how many there are then, and whether the device's identity is another.
    pub(crate) async fn write_in(
        &self,
        snapshot: &Snapshot,
        transaction: &mut Transaction,
    ) -> Result<(KeyCountsRow, bool), EncryptionError> {
        let device = (self.user_id.localpart(), self.device_id);
        let stored = snapshot.get(&rows::DEVICE_KEYS, device).await?;
        let mut is_other = false;
        if let Some(keys) = &self.device_keys
            && stored.as_ref() != Some(keys)
        {
            transaction.check_unchanged(&rows::DEVICE_KEYS, device, stored.as_ref());
            transaction.put(&rows::DEVICE_KEYS, device, keys);
            is_other = true;
        }
        let old = snapshot.get(&rows::KEY_COUNTS, device).await?;
        let mut counts = old.clone().unwrap_or_default();
        add_one_time_keys(snapshot, transaction, device, &mut counts, &self.one_time_keys).await?;
        add_fallback_keys(snapshot, transaction, device, &mut counts, &self.fallback_keys).await?;
        if old.as_ref() != Some(&counts) {
            transaction.check_unchanged(&rows::KEY_COUNTS, device, old.as_ref());
            transaction.put(&rows::KEY_COUNTS, device, &counts);
        }
        Ok((counts, is_other))
    }
}

fn checked_device_keys(user_id: &UserId, device_id: &str, keys: &RawValue) -> Result<Bytes, EncryptionError> {
    if keys.get().len() > MOST_DEVICE_KEY_BYTES {
        return Err(EncryptionError::TooLarge("device keys have at most 64 KiB"));
    }
    let mut object = verification::parse(keys.get().as_bytes())
        .ok_or(EncryptionError::InvalidParameter("device_keys are an object of canonical JSON"))?;
    let is = |name: &str, value: &str| object.get(name).and_then(|field| field.as_str()) == Some(value);
    if !is("user_id", user_id.as_str()) || !is("device_id", device_id) {
        return Err(EncryptionError::InvalidParameter("device_keys name another user or device"));
    }
    let key_id = format!("ed25519:{device_id}");
    let key =
        verification::public_keys(&object).find(|(name, _)| *name == key_id).map(|(_, key)| key.to_owned());
    let key = key.ok_or(EncryptionError::InvalidParameter("device_keys lack the device's Ed25519 key"))?;
    if !verification::is_signed_by(&object, user_id.as_str(), &key_id, &key) {
        return Err(EncryptionError::InvalidParameter("device_keys are not signed by the device's own key"));
    }
    object.remove("unsigned");
    // Others' signatures come by an endpoint of their own, where they are checked.
    verification::keep_signature(&mut object, user_id.as_str(), &key_id);
    let canonical = serde_json::to_vec(&object);
    canonical.map(Bytes::from).map_err(|_| EncryptionError::InvalidParameter("device_keys are JSON"))
}

/// Splits `algorithm:id`, and refuses keys that are not what they should be. Whether their signatures are true is left to the
/// claimer, who has to look anyway: it is what uploads would spend their time with.
fn split_key<'k>(
    user_id: &UserId,
    device_id: &str,
    key_id: &'k str,
    key: &RawValue,
) -> Result<(&'k str, &'k str), EncryptionError> {
    let (algorithm, id) = key_id
        .split_once(':')
        .ok_or(EncryptionError::InvalidParameter("a key id is an algorithm, a colon, and an id"))?;
    if key.get().len() > MOST_KEY_BYTES || key_id.len() > 255 {
        return Err(EncryptionError::TooLarge("a key has at most 8 KiB, its id 255 bytes"));
    }
    if algorithm == "signed_curve25519" {
        let object = verification::parse(key.get().as_bytes());
        let signer = format!("ed25519:{device_id}");
        let is_signed = |object| verification::signature_of(object, user_id.as_str(), &signer).is_some();
        if !object.as_ref().is_some_and(is_signed) {
            return Err(EncryptionError::InvalidParameter("a key is not signed by its device"));
        }
    }
    Ok((algorithm, id))
}

async fn add_one_time_keys(
    snapshot: &Snapshot,
    transaction: &mut Transaction,
    device: (&str, &str),
    counts: &mut KeyCountsRow,
    keys: &[UploadedKey<'_>],
) -> Result<(), EncryptionError> {
    if keys.is_empty() {
        return Ok(());
    }
    let stored = snapshot.scan_all(rows::ONE_TIME_KEYS.scan(device)).await?;
    let stored: HashMap<(&str, &str), &str> = stored
        .iter()
        .map(|((_, _, algorithm, _), row)| ((algorithm.as_str(), row.key_id.as_str()), row.key.as_str()))
        .collect();
    let places = keys.iter().map(|key| (device.0, device.1, key.algorithm, key.id));
    let claimed = snapshot.get_many(&rows::CLAIMED_KEYS, places).await?;
    for (key, claimed) in keys.iter().zip(claimed) {
        if let Some(known) = stored.get(&(key.algorithm, key.id)) {
            if *known != key.json {
                return Err(EncryptionError::KeyExists);
            }
            continue;
        }
        if claimed.is_some() {
            // Somebody has it already: a client that did not hear of its first upload sends it again.
            continue;
        }
        if !counts.one_time_keys.contains_key(key.algorithm) && counts.one_time_keys.len() >= MOST_ALGORITHMS
        {
            return Err(EncryptionError::TooLarge("a device has one-time keys of at most 16 algorithms"));
        }
        let count = counts.one_time_keys.entry(key.algorithm.to_owned()).or_default();
        if *count >= MOST_ONE_TIME_KEYS {
            return Err(EncryptionError::TooLarge("a device has at most 1000 one-time keys"));
        }
        *count += 1;
        let row = OneTimeKeyRow { key_id: key.id.to_owned(), key: key.json.to_owned() };
        transaction.put(&rows::ONE_TIME_KEYS, (device.0, device.1, key.algorithm, counts.next), &row);
        counts.next += 1;
    }
    Ok(())
}

async fn add_fallback_keys(
    snapshot: &Snapshot,
    transaction: &mut Transaction,
    device: (&str, &str),
    counts: &mut KeyCountsRow,
    keys: &[UploadedKey<'_>],
) -> Result<(), EncryptionError> {
    for &UploadedKey { algorithm, id, json } in keys {
        let place = (device.0, device.1, algorithm);
        let stored = snapshot.get(&rows::FALLBACK_KEYS, place).await?;
        if stored.as_ref().is_some_and(|row| row.key_id == id && row.key == json) {
            continue;
        }
        let row = FallbackKeyRow { key_id: id.to_owned(), key: json.to_owned(), used: false };
        transaction.check_unchanged(&rows::FALLBACK_KEYS, place, stored.as_ref());
        transaction.put(&rows::FALLBACK_KEYS, place, &row);
        if !counts.unused_fallback.iter().any(|unused| unused == algorithm) {
            if counts.unused_fallback.len() >= MOST_ALGORITHMS {
                return Err(EncryptionError::TooLarge("a device has fallback keys of at most 16 algorithms"));
            }
            counts.unused_fallback.push(algorithm.to_owned());
        }
    }
    Ok(())
}

/// Takes the oldest one-time key of a device, or lends its fallback key.
async fn claim(
    snapshot: &Snapshot,
    transaction: &mut Transaction,
    device: (&str, &str),
    algorithm: &str,
    now: Timestamp,
) -> Result<Option<(String, String)>, EncryptionError> {
    let counts = snapshot.get(&rows::KEY_COUNTS, device).await?;
    let oldest = rows::ONE_TIME_KEYS.scan((device.0, device.1, algorithm)).limit(1);
    if let Some((key, row)) = snapshot.scan(&oldest).await?.rows.into_iter().next() {
        transaction.check_present(&rows::ONE_TIME_KEYS, &key);
        transaction.delete(&rows::ONE_TIME_KEYS, &key);
        let claimed = (device.0, device.1, algorithm, row.key_id.as_str());
        transaction.put(&rows::CLAIMED_KEYS, claimed, &now.millis());
        let mut left = counts.clone().unwrap_or_default();
        if let Some(count) = left.one_time_keys.get_mut(algorithm) {
            *count = count.saturating_sub(1);
        }
        transaction.check_unchanged(&rows::KEY_COUNTS, device, counts.as_ref());
        transaction.put(&rows::KEY_COUNTS, device, &left);
        return Ok(Some((row.key_id, row.key)));
    }
    let place = (device.0, device.1, algorithm);
    let Some(row) = snapshot.get(&rows::FALLBACK_KEYS, place).await? else { return Ok(None) };
    if !row.used {
        transaction.check_unchanged(&rows::FALLBACK_KEYS, place, Some(&row));
        transaction.put(&rows::FALLBACK_KEYS, place, &FallbackKeyRow { used: true, ..row.clone() });
        let mut left = counts.clone().unwrap_or_default();
        left.unused_fallback.retain(|unused| unused != algorithm);
        transaction.check_unchanged(&rows::KEY_COUNTS, device, counts.as_ref());
        transaction.put(&rows::KEY_COUNTS, device, &left);
    }
    Ok(Some((row.key_id, row.key)))
}
