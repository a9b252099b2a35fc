//! One device of one user: its keys, and what it has to say to the homeserver.

use std::{collections::BTreeMap, path::Path};

use matrix_sdk::ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, RoomId, UserId,
    api::client::{
        keys::{get_keys, upload_signing_keys},
        to_device::send_event_to_device,
    },
    events::AnyMessageLikeEventContent,
    serde::Raw,
};
use matrix_sdk_crypto::{
    CollectStrategy, DecryptionSettings, EncryptionSyncChanges, EventError, MegolmError, OlmMachine,
    TrustRequirement,
    types::events::room::encrypted::RoomEncryptedEventContent,
    types::requests::{
        AnyIncomingResponse, AnyOutgoingRequest, OutgoingRequest, ToDeviceRequest, UploadSigningKeysRequest,
    },
};
use matrix_sdk_sqlite::{SqliteCryptoStore, SqliteStoreConfig};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use super::Decryption;
use crate::{
    Bridge, EncryptionSettings, Error, Homeserver,
    handlers::Incoming,
    homeserver::Identity,
    rooms::Audience,
    transaction::{DeviceChanges, Envelope},
};

/// How many users are asked for a room key to be made for at once.
const CLAIMED_AT_ONCE: usize = 250;

/// A device and its keys.
pub(crate) struct Device {
    pub(super) homeserver: Homeserver,
    pub(super) user_id: OwnedUserId,
    pub(super) id: OwnedDeviceId,
    pub(super) machine: OlmMachine,
    settings: EncryptionSettings,
    /// One conversation with the homeserver about keys at a time, as the machine wants it.
    turn: Mutex<()>,
}

/// The part of an encrypted event that names its key.
#[derive(Deserialize)]
struct Session {
    #[serde(default)]
    session_id: String,
}

impl Device {
    /// Opens the key store and makes everything known to the homeserver that it does not know.
    pub(super) async fn open(
        bridge: &Bridge,
        user_id: &UserId,
        device_id: &DeviceId,
        directory: &Path,
        settings: &EncryptionSettings,
    ) -> Result<Self, Error> {
        let config =
            SqliteStoreConfig::with_low_memory_config(directory).passphrase(settings.passphrase.as_deref());
        let store = SqliteCryptoStore::open_with_config(&config).await.map_err(Error::encryption)?;
        let machine =
            OlmMachine::with_store(user_id, device_id, store, None).await.map_err(Error::encryption)?;
        let device = Self {
            homeserver: bridge.homeserver().clone(),
            user_id: user_id.to_owned(),
            id: device_id.to_owned(),
            machine,
            settings: settings.clone(),
            turn: Mutex::new(()),
        };
        // Whose devices changed while nobody listened is not told afterwards.
        device.machine.mark_all_tracked_users_as_dirty().await.map_err(Error::encryption)?;
        let turn = device.turn.lock().await;
        device.speak().await?;
        device.sign_itself().await?;
        drop(turn);
        Ok(device)
    }

    pub(crate) fn user_id(&self) -> &UserId {
        &self.user_id
    }

    pub(crate) fn id(&self) -> &DeviceId {
        &self.id
    }

    pub(super) fn identity(&self) -> Identity<'_> {
        Identity::device(&self.user_id, &self.id)
    }

    /// Takes in what is for this device, and says for which sessions keys came.
    pub(super) async fn receive(&self, changes: &mut DeviceChanges) -> Result<Vec<String>, Error> {
        let messages = changes.to_device.remove(&(self.user_id.clone(), self.id.clone())).unwrap_or_default();
        let counts = changes.counts.get(&self.user_id).and_then(|devices| devices.get(&self.id));
        let fallback_keys =
            changes.fallback_keys.get(&self.user_id).and_then(|devices| devices.get(&self.id));
        let no_counts = BTreeMap::new();
        let sync_changes = EncryptionSyncChanges {
            to_device_events: messages.into_iter().map(Raw::from_json).collect(),
            changed_devices: &changes.lists,
            one_time_keys_counts: counts.unwrap_or(&no_counts),
            unused_fallback_keys: fallback_keys.map(Vec::as_slice),
            next_batch_token: None,
        };
        let _turn = self.turn.lock().await;
        let received = self.machine.receive_sync_changes(sync_changes, &self.trust()).await;
        let (_, keys) = received.map_err(Error::encryption)?;
        self.speak().await?;
        if !keys.is_empty() {
            self.back_up().await;
        }
        Ok(keys.into_iter().map(|key| key.session_id).collect())
    }

    /// Decrypts an event of a room.
    pub(super) async fn decrypt(&self, room_id: &RoomId, raw: &RawValue) -> Result<Decryption, Error> {
        let event = Raw::from_json(raw.to_owned());
        let decrypted = match self.machine.decrypt_room_event(&event, room_id, &self.trust()).await {
            Ok(decrypted) => decrypted,
            Err(MegolmError::MissingRoomKey(_) | MegolmError::Decryption(_)) => {
                let session = serde_json::from_str::<Envelope>(raw.get())
                    .and_then(|envelope| serde_json::from_str::<Session>(envelope.content.get()));
                return Ok(session.map_or(Decryption::Impossible, |session| Decryption::KeyMissing {
                    session_id: session.session_id,
                }));
            }
            Err(MegolmError::Store(error)) => return Err(Error::encryption(error)),
            Err(MegolmError::EventError(EventError::UnsupportedAlgorithm)) => {
                return Ok(Decryption::Impossible);
            }
            Err(error) => {
                tracing::warn!(room.id = %room_id, %error, "an event cannot be decrypted");
                return Ok(Decryption::Impossible);
            }
        };
        let envelope = serde_json::from_str::<Envelope>(decrypted.event.json().get());
        Ok(envelope.map_or(Decryption::Impossible, |envelope| {
            Decryption::Done(Box::new(Incoming { envelope, encryption: Some(decrypted.encryption_info) }))
        }))
    }

    fn trust(&self) -> DecryptionSettings {
        let sender_device_trust_requirement = if self.settings.only_cross_signed {
            TrustRequirement::CrossSigned
        } else {
            TrustRequirement::Untrusted
        };
        DecryptionSettings { sender_device_trust_requirement }
    }

    /// Encrypts something for a room, after everybody there got the key.
    pub(crate) async fn encrypt(
        &self,
        room_id: &RoomId,
        audience: &Audience,
        event_type: &str,
        content: &RawValue,
    ) -> Result<Raw<RoomEncryptedEventContent>, Error> {
        let strategy = if self.settings.only_cross_signed {
            CollectStrategy::IdentityBasedStrategy
        } else {
            CollectStrategy::AllDevices
        };
        let settings = matrix_sdk_crypto::EncryptionSettings::new(
            audience.settings.clone(),
            audience.history_visibility.clone(),
            strategy,
        );
        let _turn = self.turn.lock().await;
        let members = || audience.members.iter().map(AsRef::<UserId>::as_ref);
        self.machine.update_tracked_users(members()).await.map_err(Error::encryption)?;
        self.speak().await?;
        let everybody: Vec<&UserId> = members().collect();
        for some in everybody.chunks(CLAIMED_AT_ONCE) {
            let missing =
                self.machine.get_missing_sessions(some.iter().copied()).await.map_err(Error::encryption)?;
            if let Some((id, request)) = missing {
                let response = self.homeserver.typed(self.identity(), request).await?;
                self.machine.mark_request_as_sent(&id, &response).await.map_err(Error::encryption)?;
            }
        }
        let shared = self.machine.share_room_key(room_id, members(), settings).await;
        for request in shared.map_err(Error::encryption)? {
            self.send_to_devices(&request).await?;
        }
        let content = Raw::<AnyMessageLikeEventContent>::from_json(content.to_owned());
        let encrypted = self.machine.encrypt_room_event_raw(room_id, event_type, &content).await;
        Ok(encrypted.map_err(Error::encryption)?.content)
    }

    /// Sends what the machine has to say, until it has nothing more.
    async fn speak(&self) -> Result<(), Error> {
        // Each answer can lead to more: fifty one-time keys after the device's own. It ends, or something is wrong.
        for _ in 0..10 {
            let requests = self.machine.outgoing_requests().await.map_err(Error::encryption)?;
            if requests.is_empty() {
                break;
            }
            for request in requests {
                self.send(&request).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, outgoing: &OutgoingRequest) -> Result<(), Error> {
        let (id, identity) = (outgoing.request_id(), self.identity());
        match outgoing.request() {
            AnyOutgoingRequest::KeysUpload(request) => {
                let response = self.homeserver.typed(identity, request.clone()).await?;
                self.machine.mark_request_as_sent(id, &response).await
            }
            AnyOutgoingRequest::KeysQuery(query) => {
                let mut request = get_keys::v3::Request::new();
                request.device_keys.clone_from(&query.device_keys);
                let response = self.homeserver.typed(identity, request).await?;
                self.machine.mark_request_as_sent(id, &response).await
            }
            AnyOutgoingRequest::KeysClaim(request) => {
                let response = self.homeserver.typed(identity, request.clone()).await?;
                self.machine.mark_request_as_sent(id, &response).await
            }
            AnyOutgoingRequest::ToDeviceRequest(request) => return self.send_to_devices(request).await,
            AnyOutgoingRequest::SignatureUpload(request) => {
                let response = self.homeserver.typed(identity, request.clone()).await?;
                self.machine.mark_request_as_sent(id, &response).await
            }
            // Verifications in rooms are not taken part in.
            AnyOutgoingRequest::RoomMessage(_) => return Ok(()),
        }
        .map_err(Error::encryption)
    }

    async fn send_to_devices(&self, request: &ToDeviceRequest) -> Result<(), Error> {
        let wire = send_event_to_device::v3::Request::new_raw(
            request.event_type.clone(),
            request.txn_id.clone(),
            request.messages.clone(),
        );
        let response = self.homeserver.typed(self.identity(), wire).await?;
        self.machine.mark_request_as_sent(&request.txn_id, &response).await.map_err(Error::encryption)
    }

    /// Makes the user's cross-signing keys, if there are none in the store, and signs the device with them. Homeservers let services
    /// replace keys without asking a person (MSC4190).
    async fn sign_itself(&self) -> Result<(), Error> {
        let own = self.machine.get_identity(&self.user_id, None).await.map_err(Error::encryption)?;
        let device =
            self.machine.get_device(&self.user_id, &self.id, None).await.map_err(Error::encryption)?;
        let is_signed = device.is_some_and(|device| device.is_cross_signed_by_owner());
        if own.is_some() && is_signed && self.machine.cross_signing_status().await.is_complete() {
            return Ok(());
        }
        let requests = self.machine.bootstrap_cross_signing(false).await.map_err(Error::encryption)?;
        if let Some(keys) = &requests.upload_keys_req {
            self.send(keys).await?;
        }
        let response =
            self.homeserver.typed(self.identity(), signing_keys(requests.upload_signing_keys_req)).await?;
        let id = matrix_sdk::ruma::TransactionId::new();
        let response = AnyIncomingResponse::SigningKeysUpload(&response);
        self.machine.mark_request_as_sent(&id, response).await.map_err(Error::encryption)?;
        self.homeserver.typed(self.identity(), requests.upload_signatures_req).await?;
        // The machine learns of its own signatures as everybody else does.
        let (id, query) = self.machine.query_keys_for_users([self.user_id.as_ref()]);
        let mut request = get_keys::v3::Request::new();
        request.device_keys = query.device_keys;
        let response = self.homeserver.typed(self.identity(), request).await?;
        self.machine.mark_request_as_sent(&id, &response).await.map_err(Error::encryption)
    }
}

fn signing_keys(keys: UploadSigningKeysRequest) -> upload_signing_keys::v3::Request {
    let mut request = upload_signing_keys::v3::Request::new();
    request.master_key = keys.master_key.map(|key| key.to_raw());
    request.self_signing_key = keys.self_signing_key.map(|key| key.to_raw());
    request.user_signing_key = keys.user_signing_key.map(|key| key.to_raw());
    request
}
