use std::sync::Arc;

use entente_environment::Randomness;
use entente_storage::{Bytes, Store, Transaction};
use ruma::{
    CanonicalJsonObject, OwnedServerName, ServerName,
    canonical_json::redact,
    room_version_rules::RedactionRules,
    serde::Base64,
    signatures::{Ed25519KeyPair, JsonError, hash_and_sign_event, sign_json},
};

use crate::{RoomError, rows};

/// What precedes the seed of an Ed25519 key in PKCS #8 (RFC 8410).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The key with which this server signs events (S-S API, "Signing Events").
#[derive(Clone)]
pub(crate) struct SigningKey {
    server_name: OwnedServerName,
    key: Arc<Ed25519KeyPair>,
}

impl SigningKey {
    /// The newest key in the store; made there when there is none.
    pub(crate) async fn load(
        store: &Store,
        randomness: &Randomness,
        server_name: OwnedServerName,
    ) -> Result<Self, RoomError> {
        let ((version, seed), _) = store
            .run(async |snapshot| {
                let newest = rows::SIGNING_KEYS.scan(()).reverse().limit(1);
                if let Some(key) = snapshot.scan(&newest).await?.rows.into_iter().next() {
                    return Ok((Transaction::new(), key));
                }
                let version = format!("a_{}", randomness.alphanumeric(6));
                let seed = Bytes::copy_from_slice(&randomness.bytes::<32>());
                let mut transaction = Transaction::new();
                transaction.check_absent(&rows::SIGNING_KEYS, version.as_str());
                transaction.put(&rows::SIGNING_KEYS, version.as_str(), &seed);
                Ok::<_, RoomError>((transaction, (version, seed)))
            })
            .await?;
        let document = [&PKCS8_PREFIX, seed.as_ref()].concat();
        let key = Ed25519KeyPair::from_der(&document, version)
            .map_err(|error| RoomError::Internal(format!("the signing key: {error}")))?;
        Ok(Self { server_name, key: Arc::new(key) })
    }

    /// The server that it belongs to.
    pub(crate) fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// Its name (`ed25519:…`), and its public half.
    pub(crate) fn public_key(&self) -> (String, Base64) {
        (format!("ed25519:{}", self.key.version()), Base64::new(self.key.public_key().to_vec()))
    }

    /// Adds this server's signature to an event that another server hashed and signed.
    pub(crate) fn cosign(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RedactionRules,
    ) -> Result<(), RoomError> {
        let mut redacted = redact(event.clone(), rules, None)
            .map_err(|error| RoomError::BadEvent(format!("the event cannot be signed: {error}")))?;
        sign_json(self.server_name.as_str(), &*self.key, &mut redacted)
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
        hash_and_sign_event(self.server_name.as_str(), &*self.key, event, rules).map_err(unhashable)
    }
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

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SigningKey").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
