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
    CollectStrategy, DecryptionSettings, EncryptionSyncChanges, MegolmError, OlmMachine, TrustRequirement,
    types::events::room::encrypted::RoomEncryptedEventContent,
    types::requests::{
        AnyIncomingResponse, AnyOutgoingRequest, OutgoingRequest, ToDeviceRequest, UploadSigningKeysRequest,
    },
};
use matrix_sdk_sqlite::{SqliteCryptoStore, SqliteStoreConfig};
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
    pub(super) settings: EncryptionSettings,
    /// One conversation with the homeserver about keys at a time, as the machine wants it.
    turn: Mutex<()>,
}

impl Device {
    /// Opens the key store and makes everything known to the homeserver that it does not know. Takes over what a former device had,
    /// which the homeserver no longer knows.
    pub(super) async fn open(
        bridge: &Bridge,
        user_id: &UserId,
        device_id: &DeviceId,
        former: Option<&DeviceId>,
        directory: &Path,
        settings: &EncryptionSettings,
    ) -> Result<Self, Error> {
        let device = Self {
            homeserver: bridge.homeserver().clone(),
            user_id: user_id.to_owned(),
            id: device_id.to_owned(),
            machine: open_machine(user_id, device_id, directory, settings).await?,
            settings: settings.clone(),
            turn: Mutex::new(()),
        };
        // Whose devices changed while nobody listened is not told afterwards.
        device.machine.mark_all_tracked_users_as_dirty().await.map_err(Error::encryption)?;
        let turn = device.turn.lock().await;
        device.speak().await?;
        if let Some(former) = former {
            let former = open_machine(user_id, former, directory, settings).await?;
            if let Err(error) = device.inherit(&former).await {
                tracing::warn!(user.id = %user_id, %error, "the former device's keys are lost");
            }
        }
        device.sign_itself().await?;
        drop(turn);
        Ok(device)
    }

    /// Takes over the user's identity and the keys of what was said, so that others need not verify the user again.
    async fn inherit(&self, former: &OlmMachine) -> Result<(), Error> {
        let room_keys = former.store().export_room_keys(|_| true).await.map_err(Error::encryption)?;
        let imported = self.machine.store().import_exported_room_keys(room_keys, |_, _| {}).await;
        imported.map_err(Error::encryption)?;
        if let Some(keys) = former.export_cross_signing_keys().await.map_err(Error::encryption)? {
            self.machine.import_cross_signing_keys(keys).await.map_err(Error::encryption)?;
        }
        Ok(())
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

    /// Takes in what is for this device, and adds to `sessions` those for which keys came, whatever fails behind that.
    pub(super) async fn receive(
        &self,
        changes: &mut DeviceChanges,
        sessions: &mut Vec<String>,
    ) -> Result<(), Error> {
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
        let has_new_keys = !keys.is_empty();
        sessions.extend(keys.into_iter().map(|key| key.session_id));
        self.speak().await?;
        if has_new_keys {
            self.back_up().await;
        }
        Ok(())
    }

    /// Decrypts an event of a room, if the key of its session is in the store.
    pub(super) async fn decrypt(&self, room_id: &RoomId, session_id: &str, raw: &RawValue) -> Decryption {
        let missing = || Decryption::KeyMissing { session_id: session_id.to_owned() };
        match self.machine.store().get_inbound_group_session(room_id, session_id).await {
            Ok(Some(_)) => {}
            Ok(None) => return missing(),
            Err(error) => {
                tracing::error!(user.id = %self.user_id, %error, "the key store cannot be read");
                return missing();
            }
        }
        let event = Raw::from_json(raw.to_owned());
        let decrypted = match self.machine.decrypt_room_event(&event, room_id, &self.trust()).await {
            Ok(decrypted) => decrypted,
            // The key came for what is said later, or cannot be read now.
            Err(MegolmError::MissingRoomKey(_) | MegolmError::Decryption(_) | MegolmError::Store(_)) => {
                return missing();
            }
            Err(error) => {
                tracing::warn!(room.id = %room_id, %error, "an event cannot be decrypted");
                return Decryption::Impossible;
            }
        };
        let Ok(mut envelope) = serde_json::from_str::<Envelope>(decrypted.event.json().get()) else {
            return Decryption::Impossible;
        };
        // What was encrypted is no state, whatever it says of itself: the room's rules have not seen it.
        envelope.state_key = None;
        Decryption::Done(Box::new(Incoming { envelope, encryption: Some(decrypted.encryption_info) }))
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
        let has_identity = own.is_some() && self.machine.cross_signing_status().await.is_complete();
        if has_identity && (self.is_signed().await? || self.sign_with_known_identity().await?) {
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
        self.learn_of_itself().await
    }

    async fn own_device(&self) -> Result<Option<matrix_sdk_crypto::Device>, Error> {
        self.machine.get_device(&self.user_id, &self.id, None).await.map_err(Error::encryption)
    }

    async fn is_signed(&self) -> Result<bool, Error> {
        Ok(self.own_device().await?.is_some_and(|device| device.is_cross_signed_by_owner()))
    }

    /// Signs the device with the keys in the store, and says whether the homeserver knows them and took it.
    async fn sign_with_known_identity(&self) -> Result<bool, Error> {
        let Some(device) = self.own_device().await? else { return Ok(false) };
        let request = device.verify().await.map_err(Error::encryption)?;
        match self.homeserver.typed(self.identity(), request).await {
            Err(error) if error.is_temporary() => return Err(error),
            Err(error) => tracing::debug!(%error, "the homeserver does not know the identity"),
            Ok(_) => {}
        }
        self.learn_of_itself().await?;
        self.is_signed().await
    }

    /// The machine learns of its own signatures as everybody else does.
    async fn learn_of_itself(&self) -> Result<(), Error> {
        let (id, query) = self.machine.query_keys_for_users([self.user_id.as_ref()]);
        let mut request = get_keys::v3::Request::new();
        request.device_keys = query.device_keys;
        let response = self.homeserver.typed(self.identity(), request).await?;
        self.machine.mark_request_as_sent(&id, &response).await.map_err(Error::encryption)
    }
}

async fn open_machine(
    user_id: &UserId,
    device_id: &DeviceId,
    directory: &Path,
    settings: &EncryptionSettings,
) -> Result<OlmMachine, Error> {
    let config = SqliteStoreConfig::with_low_memory_config(directory.join(device_id.as_str()))
        .passphrase(settings.passphrase.as_deref());
    let store = SqliteCryptoStore::open_with_config(&config).await.map_err(Error::encryption)?;
    OlmMachine::with_store(user_id, device_id, store, None).await.map_err(Error::encryption)
}

fn signing_keys(keys: UploadSigningKeysRequest) -> upload_signing_keys::v3::Request {
    let mut request = upload_signing_keys::v3::Request::new();
    request.master_key = keys.master_key.map(|key| key.to_raw());
    request.self_signing_key = keys.self_signing_key.map(|key| key.to_raw());
    request.user_signing_key = keys.user_signing_key.map(|key| key.to_raw());
    request
}
