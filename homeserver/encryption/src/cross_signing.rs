use std::collections::BTreeMap;

use entente_storage::{Bytes, LogPosition, Snapshot, Transaction};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UserId};
use serde_json::value::RawValue;

use crate::{
    Change, Encryption, EncryptionError, dehydration,
    device_keys::note_change,
    rows,
    verification::{is_signed_by, keep_signature, parse, public_keys, signature_of, verifies},
};

/// A cross-signing key has at most this many bytes.
const MOST_KEY_BYTES: usize = 64 * 1024;
/// Signatures of one request.
const MOST_SIGNED_KEYS: usize = 1_000;

const MASTER: &str = "master";
const SELF_SIGNING: &str = "self_signing";
const USER_SIGNING: &str = "user_signing";

/// Cross-signing keys that a user uploads (C-S API, `POST /keys/device_signing/upload`).
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossSigningUpload<'a> {
    /// The master key.
    pub master: Option<&'a RawValue>,
    /// The key that signs the user's devices.
    pub self_signing: Option<&'a RawValue>,
    /// The key that signs other users.
    pub user_signing: Option<&'a RawValue>,
}

/// What is known of one user's keys, as one reader may see it: JSON objects.
#[derive(Clone, Debug, Default)]
pub struct UserKeys {
    /// Identity keys by device id.
    pub devices: BTreeMap<String, CanonicalJsonObject>,
    /// The master key.
    pub master: Option<CanonicalJsonObject>,
    /// The key that signs the user's devices.
    pub self_signing: Option<CanonicalJsonObject>,
    /// The key that signs other users; for its owner only.
    pub user_signing: Option<CanonicalJsonObject>,
}

/// Why one of several signatures was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureFailure {
    /// There is no such key.
    NotFound,
    /// The signature is not one, or by a key that may not sign this.
    Invalid(&'static str),
}

impl Encryption {
    /// Stores cross-signing keys. Replacing keys that are there needs proof of who asks: [`EncryptionError::ProofNeeded`] without.
    pub async fn upload_cross_signing_keys(
        &self,
        user_id: &UserId,
        upload: &CrossSigningUpload<'_>,
        proved: bool,
    ) -> Result<(), EncryptionError> {
        let localpart = user_id.localpart();
        self.store
            .run(async |snapshot| {
                let stored = CrossSigningKeys::read(&snapshot, localpart).await?;
                if !proved && stored.differs_from(upload) {
                    return Err(EncryptionError::ProofNeeded);
                }
                let new_master = upload.master.map(|key| checked(user_id, MASTER, key)).transpose()?;
                let master = new_master.clone().or_else(|| stored.master.as_ref().and_then(|key| parse(key)));
                let mut transaction = Transaction::new();
                // Concurrent first uploads must not both pass for the first.
                transaction.check_unchanged(
                    &rows::CROSS_SIGNING_KEYS,
                    (localpart, MASTER),
                    stored.master.as_ref(),
                );
                if new_master.is_some() && !same_key(new_master.as_ref(), stored.master.as_ref()) {
                    // Under another master key the keys below it are nobody's.
                    transaction.delete(&rows::CROSS_SIGNING_KEYS, (localpart, SELF_SIGNING));
                    transaction.delete(&rows::CROSS_SIGNING_KEYS, (localpart, USER_SIGNING));
                }
                let mut put = |usage: &str, key: &CanonicalJsonObject, old: &Option<Bytes>| {
                    let json = serde_json::to_vec(key).map(Bytes::from);
                    let json = json.map_err(|_| EncryptionError::InvalidParameter("a key is JSON"))?;
                    if old.as_ref() != Some(&json) {
                        transaction.check_unchanged(
                            &rows::CROSS_SIGNING_KEYS,
                            (localpart, usage),
                            old.as_ref(),
                        );
                        transaction.put(&rows::CROSS_SIGNING_KEYS, (localpart, usage), &json);
                    }
                    Ok::<_, EncryptionError>(())
                };
                if let Some(key) = new_master.clone() {
                    put(MASTER, &with_device_signatures(&snapshot, user_id, key).await?, &stored.master)?;
                }
                let others = [
                    (SELF_SIGNING, upload.self_signing, &stored.self_signing),
                    (USER_SIGNING, upload.user_signing, &stored.user_signing),
                ];
                for (usage, sent, old) in others {
                    let Some(sent) = sent else { continue };
                    let mut key = checked(user_id, usage, sent)?;
                    let master = master.as_ref().ok_or(EncryptionError::InvalidParameter(
                        "a master key must come first or with it",
                    ))?;
                    let (name, public_key) = public_keys(master).next().unwrap_or_default();
                    if !is_signed_by(&key, user_id.as_str(), name, public_key) {
                        return Err(EncryptionError::InvalidSignature(
                            "a key is not signed by the master key",
                        ));
                    }
                    keep_signature(&mut key, user_id.as_str(), name);
                    put(usage, &key, old)?;
                }
                if !transaction.is_empty() {
                    note_change(&mut transaction, user_id);
                }
                Ok((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// Keeps signatures of keys (C-S API, `POST /keys/signatures/upload`): whose key, which, and the key with the new signatures.
    /// `elsewhere` are the master keys of other servers' users, as those tell them. Answers which of the signatures were not kept, by
    /// their places.
    pub async fn upload_signatures(
        &self,
        signer: &UserId,
        signed: &[(&UserId, &str, &RawValue)],
        elsewhere: &BTreeMap<OwnedUserId, CanonicalJsonObject>,
    ) -> Result<Vec<(usize, SignatureFailure)>, EncryptionError> {
        if signed.len() > MOST_SIGNED_KEYS {
            return Err(EncryptionError::TooLarge("one request has at most 1000 signed keys"));
        }
        let (failures, _) = self
            .store
            .run(async |snapshot| {
                let own = CrossSigningKeys::read(&snapshot, signer.localpart()).await?;
                let mut transaction = Transaction::new();
                let mut changed: Vec<&UserId> = Vec::new();
                let mut failures = Vec::new();
                for (place, (owner, key_id, sent)) in signed.iter().enumerate() {
                    let sent = parse(sent.get().as_bytes()).unwrap_or_default();
                    let master = if owner.server_name() == signer.server_name() {
                        stored_master(&snapshot, owner).await?
                    } else {
                        elsewhere.get(*owner).cloned()
                    };
                    let key = (*owner, *key_id, master);
                    match find_signatures(&snapshot, signer, &own, key, &sent).await? {
                        Ok(signatures) => {
                            for (signing_key, signature) in signatures {
                                let row = (owner.as_str(), *key_id, signer.as_str(), signing_key.as_str());
                                if snapshot.get(&rows::SIGNATURES, row).await?.as_ref() != Some(&signature) {
                                    transaction.put(&rows::SIGNATURES, row, &signature);
                                    if !changed.contains(owner) {
                                        changed.push(owner);
                                    }
                                }
                            }
                        }
                        Err(failure) => failures.push((place, failure)),
                    }
                }
                for owner in changed {
                    if owner == signer {
                        note_change(&mut transaction, owner);
                    } else {
                        note_signed(&mut transaction, signer, owner);
                    }
                }
                Ok::<_, EncryptionError>((transaction, failures))
            })
            .await?;
        Ok(failures)
    }

    /// What a user signed of the keys of some others: the owner, the key, the signing key, and the signature.
    pub async fn signatures_by(
        &self,
        signer: &UserId,
        owners: &[&str],
    ) -> Result<Vec<(String, String, String, String)>, EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        let mut found = Vec::new();
        for owner in owners {
            for ((owner, key, by, signing_key), signature) in
                snapshot.scan_all(rows::SIGNATURES.scan((*owner,))).await?
            {
                if by == signer.as_str() {
                    found.push((owner, key, signing_key, signature));
                }
            }
        }
        Ok(found)
    }

    /// The keys of local users, as a reader may see them; of some devices, or of all if none is named.
    pub async fn query_keys(
        &self,
        reader: &UserId,
        wanted: &[(&UserId, Vec<&str>)],
    ) -> Result<Vec<UserKeys>, EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        let mut found = Vec::with_capacity(wanted.len());
        for (user_id, devices) in wanted {
            found.push(keys_of(&snapshot, reader, user_id, devices).await?);
        }
        Ok(found)
    }
}

/// Tells a user's own devices that they signed somebody's keys: nobody else sees these signatures.
fn note_signed(transaction: &mut Transaction, signer: &UserId, owner: &UserId) {
    let key = (signer.localpart(), LogPosition::AT_COMMIT, owner.as_str());
    transaction.put(&rows::SIGNED_OTHERS, key, &());
    Change::SignedOthers { signer: signer.localpart().to_owned() }.log_in(transaction);
}

async fn keys_of(
    snapshot: &Snapshot,
    reader: &UserId,
    user_id: &UserId,
    devices: &[&str],
) -> Result<UserKeys, EncryptionError> {
    let localpart = user_id.localpart();
    let own = CrossSigningKeys::read(snapshot, localpart).await?;
    let signatures = snapshot.scan_all(rows::SIGNATURES.scan((user_id.as_str(),))).await?;
    let visible: Vec<_> = signatures
        .into_iter()
        .filter(|((_, _, signer, _), _)| signer == user_id.as_str() || signer == reader.as_str())
        .collect();
    let with_signatures = |key_id: &str, json: &Bytes| {
        let mut object = parse(json)?;
        for ((_, signed, signer, signing_key), signature) in &visible {
            if signed == key_id {
                add_signature(&mut object, signer, signing_key, signature);
            }
        }
        Some(object)
    };
    let stored = if devices.is_empty() {
        let rows = snapshot.scan_all(rows::DEVICE_KEYS.scan((localpart,))).await?;
        rows.into_iter().map(|((_, device_id), json)| (device_id, Some(json))).collect()
    } else {
        let rows =
            snapshot.get_many(&rows::DEVICE_KEYS, devices.iter().map(|device| (localpart, *device))).await?;
        devices.iter().map(|device| (*device).to_owned()).zip(rows).collect::<Vec<_>>()
    };
    let mut keys = UserKeys::default();
    for (device_id, json) in stored {
        if let Some(object) = json.and_then(|json| with_signatures(&device_id, &json)) {
            keys.devices.insert(device_id, object);
        }
    }
    dehydration::add_name(snapshot, localpart, &mut keys.devices).await?;
    let cross_signing = |json: &Option<Bytes>| {
        let json = json.as_ref()?;
        let object = parse(json)?;
        let (_, public_key) = public_keys(&object).next()?;
        with_signatures(public_key, json)
    };
    keys.master = cross_signing(&own.master);
    keys.self_signing = cross_signing(&own.self_signing);
    if reader == user_id {
        keys.user_signing = cross_signing(&own.user_signing);
    }
    Ok(keys)
}

fn add_signature(object: &mut CanonicalJsonObject, signer: &str, signing_key: &str, signature: &str) {
    let signatures = object.entry(String::from("signatures"));
    let signatures = signatures.or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    let CanonicalJsonValue::Object(signatures) = signatures else { return };
    let of_signer = signatures.entry(signer.to_owned());
    let of_signer = of_signer.or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    if let CanonicalJsonValue::Object(of_signer) = of_signer {
        of_signer.insert(signing_key.to_owned(), CanonicalJsonValue::String(signature.to_owned()));
    }
}

/// The stored cross-signing keys of a user.
struct CrossSigningKeys {
    master: Option<Bytes>,
    self_signing: Option<Bytes>,
    user_signing: Option<Bytes>,
}

impl CrossSigningKeys {
    /// Whether an upload replaces keys that are there.
    fn differs_from(&self, upload: &CrossSigningUpload<'_>) -> bool {
        let differs = |sent: Option<&RawValue>, stored: &Option<Bytes>| {
            let sent = sent.and_then(|sent| parse(sent.get().as_bytes()));
            sent.is_some() && !same_key(sent.as_ref(), stored.as_ref())
        };
        self.master.is_some()
            && (differs(upload.master, &self.master)
                || differs(upload.self_signing, &self.self_signing)
                || differs(upload.user_signing, &self.user_signing))
    }

    async fn read(snapshot: &Snapshot, localpart: &str) -> Result<Self, EncryptionError> {
        let mut batch = snapshot.batch();
        let master = batch.get(&rows::CROSS_SIGNING_KEYS, (localpart, MASTER));
        let self_signing = batch.get(&rows::CROSS_SIGNING_KEYS, (localpart, SELF_SIGNING));
        let user_signing = batch.get(&rows::CROSS_SIGNING_KEYS, (localpart, USER_SIGNING));
        let mut found = batch.read().await?;
        Ok(Self {
            master: found.take(&master)?,
            self_signing: found.take(&self_signing)?,
            user_signing: found.take(&user_signing)?,
        })
    }
}

/// A cross-signing key that names its owner, its use, and just one public key.
fn checked(user_id: &UserId, usage: &str, key: &RawValue) -> Result<CanonicalJsonObject, EncryptionError> {
    if key.get().len() > MOST_KEY_BYTES {
        return Err(EncryptionError::TooLarge("a cross-signing key has at most 64 KiB"));
    }
    let object = parse(key.get().as_bytes())
        .ok_or(EncryptionError::InvalidParameter("a cross-signing key is an object of canonical JSON"))?;
    if object.get("user_id").and_then(CanonicalJsonValue::as_str) != Some(user_id.as_str()) {
        return Err(EncryptionError::InvalidParameter("a cross-signing key names another user"));
    }
    let usages = object.get("usage").and_then(CanonicalJsonValue::as_array).unwrap_or_default();
    if !usages.iter().any(|named| named.as_str() == Some(usage)) {
        return Err(EncryptionError::InvalidParameter("a cross-signing key is for another use"));
    }
    let mut keys = public_keys(&object);
    match (keys.next(), keys.next()) {
        (Some((name, key)), None) if name == format!("ed25519:{key}") => {}
        _ => {
            return Err(EncryptionError::InvalidParameter(
                "a cross-signing key has one Ed25519 key, named by itself",
            ));
        }
    }
    drop(keys);
    Ok(object)
}

/// A master key with those of its signatures that the user's own devices made.
async fn with_device_signatures(
    snapshot: &Snapshot,
    user_id: &UserId,
    mut key: CanonicalJsonObject,
) -> Result<CanonicalJsonObject, EncryptionError> {
    let mut of_devices = CanonicalJsonObject::new();
    for (name, public_key) in device_keys_of(snapshot, user_id).await? {
        if let Some(signature) = signature_of(&key, user_id.as_str(), &name)
            && verifies(&key, signature, &public_key)
        {
            of_devices.insert(name, CanonicalJsonValue::String(signature.to_owned()));
        }
    }
    let signatures = [(user_id.to_string(), CanonicalJsonValue::Object(of_devices))];
    let signatures = CanonicalJsonObject::from(signatures);
    key.insert(String::from("signatures"), CanonicalJsonValue::Object(signatures));
    Ok(key)
}

/// Whether both are the same key, whoever signed it.
fn same_key(sent: Option<&CanonicalJsonObject>, stored: Option<&Bytes>) -> bool {
    sent.map(without_signatures) == stored.and_then(|key| parse(key)).as_ref().map(without_signatures)
}

/// The valid signatures of a user's device by their self-signing key, each with the name of the key.
pub(crate) async fn self_signatures(
    snapshot: &Snapshot,
    user_id: &UserId,
    device: &CanonicalJsonObject,
) -> Result<Vec<(String, String)>, EncryptionError> {
    let own = CrossSigningKeys::read(snapshot, user_id.localpart()).await?;
    Ok(valid_signatures(keys_in(own.self_signing.as_ref()), user_id, device))
}

fn valid_signatures(
    keys: Vec<(String, String)>,
    signer: &UserId,
    signed: &CanonicalJsonObject,
) -> Vec<(String, String)> {
    let mut valid = Vec::new();
    for (name, public_key) in keys {
        if let Some(signature) = signature_of(signed, signer.as_str(), &name)
            && verifies(signed, signature, &public_key)
        {
            valid.push((name, signature.to_owned()));
        }
    }
    valid
}

/// The valid signatures of `signer` on a key, each with the key that made it. The key is named by its owner and its id, and comes with
/// the owner's master key.
async fn find_signatures(
    snapshot: &Snapshot,
    signer: &UserId,
    own: &CrossSigningKeys,
    (owner, key_id, master): (&UserId, &str, Option<CanonicalJsonObject>),
    sent: &CanonicalJsonObject,
) -> Result<Result<Vec<(String, String)>, SignatureFailure>, EncryptionError> {
    let is_own = owner == signer;
    let is_named = |master: &CanonicalJsonObject| public_keys(master).any(|(_, key)| key == key_id);
    let (target, signing_keys) = if let Some(target) = master.filter(is_named) {
        let keys =
            if is_own { device_keys_of(snapshot, signer).await? } else { keys_in(own.user_signing.as_ref()) };
        (target, keys)
    } else if is_own {
        match snapshot
            .get(&rows::DEVICE_KEYS, (owner.localpart(), key_id))
            .await?
            .and_then(|json| parse(&json))
        {
            Some(target) => (target, keys_in(own.self_signing.as_ref())),
            None => return Ok(Err(SignatureFailure::NotFound)),
        }
    } else {
        return Ok(Err(SignatureFailure::NotFound));
    };
    if without_signatures(sent) != without_signatures(&target) {
        return Ok(Err(SignatureFailure::Invalid("the key is not the one that is stored")));
    }
    // But for its signatures, what was sent is what is stored.
    let valid = valid_signatures(signing_keys, signer, sent);
    if valid.is_empty() {
        return Ok(Err(SignatureFailure::Invalid("no signature is a valid one by a key that may sign this")));
    }
    Ok(Ok(valid))
}

/// The master key of a user of this server.
async fn stored_master(
    snapshot: &Snapshot,
    owner: &UserId,
) -> Result<Option<CanonicalJsonObject>, EncryptionError> {
    let stored = snapshot.get(&rows::CROSS_SIGNING_KEYS, (owner.localpart(), MASTER)).await?;
    Ok(stored.and_then(|json| parse(&json)))
}

async fn device_keys_of(
    snapshot: &Snapshot,
    user_id: &UserId,
) -> Result<Vec<(String, String)>, EncryptionError> {
    let rows = snapshot.scan_all(rows::DEVICE_KEYS.scan((user_id.localpart(),))).await?;
    Ok(rows.into_iter().flat_map(|(_, json)| keys_in(Some(&json))).collect())
}

fn keys_in(json: Option<&Bytes>) -> Vec<(String, String)> {
    let object = json.and_then(|json| parse(json)).unwrap_or_default();
    public_keys(&object)
        .filter(|(name, _)| name.starts_with("ed25519:"))
        .map(|(name, key)| (name.to_owned(), key.to_owned()))
        .collect()
}

fn without_signatures(object: &CanonicalJsonObject) -> CanonicalJsonObject {
    let mut object = object.clone();
    object.remove("signatures");
    object.remove("unsigned");
    object
}
