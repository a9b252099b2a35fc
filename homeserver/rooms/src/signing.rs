use std::sync::Arc;

use entente_environment::{Environment, Randomness, Timestamp};
use entente_storage::{Bytes, Snapshot, Store, Transaction};
use parking_lot::RwLock;
use ruma::{
    CanonicalJsonObject, OwnedServerName, ServerName,
    canonical_json::redact,
    room_version_rules::RedactionRules,
    serde::Base64,
    signatures::{Ed25519KeyPair, JsonError, hash_and_sign_event, sign_json},
};

use crate::{
    RoomError,
    rows::{self, RetiredKeyRow},
};

/// What precedes the seed of an Ed25519 key in PKCS #8 (RFC 8410).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The keys with which this server signs events and requests (S-S API, "Signing Events", "Request Authentication"). One signs;
/// those before it stay known, so that others can go on verifying what they signed. Cheap to clone.
#[derive(Clone)]
pub struct SigningKeys {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    environment: Environment,
    server_name: OwnedServerName,
    current: RwLock<Arc<Ed25519KeyPair>>,
}

/// The public half of a key that does not sign any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredKey {
    /// Its name, without the algorithm.
    pub version: String,
    /// The Ed25519 key.
    pub public_key: Vec<u8>,
    /// When it last signed.
    pub expired_at: Timestamp,
}

impl SigningKeys {
    /// The keys in the store; the first is made there when there is none.
    pub async fn load(
        store: Store,
        environment: Environment,
        server_name: OwnedServerName,
    ) -> Result<Self, RoomError> {
        let randomness = environment.randomness();
        let ((version, seed), _) = store
            .run(async |snapshot| {
                if let Some(newest) = newest(&snapshot).await? {
                    return Ok((Transaction::new(), newest));
                }
                let (version, seed) = generate("a", randomness);
                let mut transaction = Transaction::new();
                transaction.check_absent(&rows::SIGNING_KEYS, version.as_str());
                transaction.put(&rows::SIGNING_KEYS, version.as_str(), &seed);
                Ok::<_, RoomError>((transaction, (version, seed)))
            })
            .await?;
        let current = RwLock::new(Arc::new(key_pair(version, &seed)?));
        Ok(Self { inner: Arc::new(Inner { store, environment, server_name, current }) })
    }

    /// The server that they belong to.
    pub fn server_name(&self) -> &ServerName {
        &self.inner.server_name
    }

    /// The key that signs.
    pub fn current(&self) -> Arc<Ed25519KeyPair> {
        Arc::clone(&self.inner.current.read())
    }

    /// Adds this server's signature to an object (appendices, "Signing JSON").
    pub fn sign(&self, object: &mut CanonicalJsonObject) -> Result<(), RoomError> {
        sign_json(self.inner.server_name.as_str(), &*self.current(), object)
            .map_err(|error| RoomError::Internal(format!("an object cannot be signed: {error}")))
    }

    /// Its name (`ed25519:…`), and its public half.
    pub(crate) fn public_key(&self) -> (String, Base64) {
        let key = self.current();
        (format!("ed25519:{}", key.version()), Base64::new(key.public_key().to_vec()))
    }

    /// Adds this server's signature to an event that another server hashed and signed.
    pub(crate) fn cosign(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RedactionRules,
    ) -> Result<(), RoomError> {
        let mut redacted = redact(event.clone(), rules, None)
            .map_err(|error| RoomError::BadEvent(format!("the event cannot be signed: {error}")))?;
        sign_json(self.server_name().as_str(), &*self.current(), &mut redacted)
            .map_err(|error| RoomError::BadEvent(format!("the event cannot be signed: {error}")))?;
        if let Some(signatures) = redacted.remove("signatures") {
            event.insert(String::from("signatures"), signatures);
        }
        Ok(())
    }

    /// Adds an event's content hash and this server's signature.
    pub(crate) fn hash_and_sign(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RedactionRules,
    ) -> Result<(), RoomError> {
        hash_and_sign_event(self.inner.server_name.as_str(), &*self.current(), event, rules)
            .map_err(unhashable)
    }

    /// The keys that signed before the current one.
    pub async fn retired(&self) -> Result<Vec<RetiredKey>, RoomError> {
        let snapshot = self.inner.store.snapshot().await?;
        let retired = snapshot.scan_all(rows::RETIRED_SIGNING_KEYS.scan(())).await?;
        let key = |(version, row): (String, RetiredKeyRow)| RetiredKey {
            version,
            public_key: row.public_key,
            expired_at: Timestamp(row.expired_at),
        };
        Ok(retired.into_iter().map(key).collect())
    }

    /// Signs with a new key from now on, and retires the one before: its public half stays, its secret is deleted. Answers the
    /// new key's name. Other nodes of this server sign with the old key until they are started again.
    pub async fn rotate(&self) -> Result<String, RoomError> {
        let Inner { store, environment, .. } = &*self.inner;
        let ((version, seed), _) = store
            .run(async |snapshot| {
                let (old_version, old_seed) = newest(&snapshot)
                    .await?
                    .ok_or_else(|| RoomError::Internal(String::from("there is no signing key")))?;
                let old = key_pair(old_version.clone(), &old_seed)?;
                let (version, seed) = generate(&next_generation(&old_version), environment.randomness());
                let retired = RetiredKeyRow {
                    public_key: old.public_key().to_vec(),
                    expired_at: environment.now().millis(),
                };
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::SIGNING_KEYS, old_version.as_str(), Some(&old_seed));
                transaction.delete(&rows::SIGNING_KEYS, old_version.as_str());
                transaction.put(&rows::SIGNING_KEYS, version.as_str(), &seed);
                transaction.put(&rows::RETIRED_SIGNING_KEYS, old_version.as_str(), &retired);
                Ok::<_, RoomError>((transaction, (version, seed)))
            })
            .await?;
        *self.inner.current.write() = Arc::new(key_pair(version.clone(), &seed)?);
        Ok(format!("ed25519:{version}"))
    }
}

/// The newest key is the last by name.
async fn newest(snapshot: &Snapshot) -> Result<Option<(String, Bytes)>, RoomError> {
    let newest = rows::SIGNING_KEYS.scan(()).reverse().limit(1);
    Ok(snapshot.scan(&newest).await?.rows.into_iter().next())
}

fn generate(generation: &str, randomness: &Randomness) -> (String, Bytes) {
    let version = format!("{generation}_{}", randomness.alphanumeric(6));
    (version, Bytes::copy_from_slice(&randomness.bytes::<32>()))
}

/// What the name of the next key begins with, so that it comes behind that of the one before: a, b, … z, za, zb, …
fn next_generation(version: &str) -> String {
    let generation = version.split('_').next().unwrap_or_default();
    let mut letters: Vec<char> = generation.chars().collect();
    match letters.pop() {
        Some(last @ 'a'..='y') => letters.extend(char::from_u32(u32::from(last) + 1)),
        Some(last) => letters.extend([last, 'a']),
        None => letters.push('a'),
    }
    letters.into_iter().collect()
}

fn key_pair(version: String, seed: &[u8]) -> Result<Ed25519KeyPair, RoomError> {
    let document = [&PKCS8_PREFIX, seed].concat();
    Ed25519KeyPair::from_der(&document, version)
        .map_err(|error| RoomError::Internal(format!("the signing key: {error}")))
}

/// Why an event has no hash.
pub(crate) fn unhashable(error: JsonError) -> RoomError {
    match error {
        JsonError::PduTooLarge => {
            RoomError::TooLarge("an event has at most 65535 bytes, with what the server adds to it")
        }
        error => RoomError::BadEvent(format!("the event has no hash: {error}")),
    }
}

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let server_name = &self.inner.server_name;
        formatter.debug_struct("SigningKeys").field("server_name", server_name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_in_the_order_of_their_names() {
        let mut version = String::from("a_zzzzzz");
        for _ in 0..60 {
            let next = format!("{}_000000", next_generation(&version));
            assert!(next > version, "{next} {version}");
            version = next;
        }
        assert_eq!(next_generation("z_x"), "za");
    }
}
