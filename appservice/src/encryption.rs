//! End-to-end encryption for the service's users, each with a device and a key store of its own.
//!
//! Devices are made without logging in (MSC4190) and act by the service's token and their id (MSC4326). What a client would get from
//! `/sync` comes in transactions (MSC2409, MSC3202, MSC4203).

mod backup;
mod device;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use matrix_sdk::ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::sync::OnceCell;

pub(crate) use self::device::Device;
use crate::{
    Bridge, Encrypting, EncryptionSettings, Error, Settings,
    handlers::Incoming,
    homeserver::Identity,
    localpart::hexadecimal,
    store::UserRow,
    transaction::{DeviceChanges, Envelope},
};

/// The file with the recovery key of the bot's room keys, in the data directory.
const RECOVERY_KEY: &str = "recovery-key";

/// The encryption of all users of a service.
pub(crate) struct Encryption {
    settings: EncryptionSettings,
    bot_id: OwnedUserId,
    /// The data directory.
    directory: PathBuf,
    devices: Mutex<HashMap<OwnedUserId, Arc<OnceCell<Arc<Device>>>>>,
}

/// The part of an encrypted event that names its key.
#[derive(Deserialize)]
struct Session {
    algorithm: String,
    session_id: String,
}

/// What became of an encrypted event.
pub(crate) enum Decryption {
    /// It can be read.
    Done(Box<Incoming>),
    /// Its key may still come.
    KeyMissing { session_id: String },
    /// It was not meant for us, or is broken.
    Impossible,
}

impl Encryption {
    /// `None` if nobody encrypts.
    pub(crate) fn new(settings: &Settings, bot_id: &UserId) -> Option<Self> {
        (settings.encryption.who != Encrypting::Nobody).then(|| Self {
            settings: settings.encryption.clone(),
            bot_id: bot_id.to_owned(),
            directory: settings.data.clone(),
            devices: Mutex::default(),
        })
    }

    /// Whether this user, who is one of the service's, encrypts.
    pub(crate) fn covers(&self, user_id: &UserId) -> bool {
        self.settings.who == Encrypting::Everybody || user_id == self.bot_id
    }

    /// The user's device. It is opened or made when it is needed first.
    pub(crate) async fn device(&self, bridge: &Bridge, user_id: &UserId) -> Result<Arc<Device>, Error> {
        let cell = {
            let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(devices.entry(user_id.to_owned()).or_default())
        };
        let device = cell.get_or_try_init(|| self.open(bridge, user_id)).await?;
        Ok(Arc::clone(device))
    }

    async fn open(&self, bridge: &Bridge, user_id: &UserId) -> Result<Arc<Device>, Error> {
        bridge.user_by_id(user_id).ensure_registered().await?;
        let device_id = self.device_id(bridge, user_id).await?;
        let device = match self.open_as(bridge, user_id, &device_id, None).await {
            Err(error) if error.is("M_UNKNOWN_DEVICE") => {
                tracing::warn!(user.id = %user_id, device.id = %device_id, "the device was deleted; another takes its place");
                bridge.store().forget_device(user_id.as_str()).await?;
                let next = self.device_id(bridge, user_id).await?;
                self.open_as(bridge, user_id, &next, Some(&device_id)).await?
            }
            opened => opened?,
        };
        if self.settings.key_backup && user_id == self.bot_id {
            device.enable_backup(&self.directory.join(RECOVERY_KEY)).await?;
        }
        bridge.metrics().encrypting_users.inc();
        Ok(Arc::new(device))
    }

    async fn open_as(
        &self,
        bridge: &Bridge,
        user_id: &UserId,
        device_id: &DeviceId,
        former: Option<&DeviceId>,
    ) -> Result<Device, Error> {
        // Any user id makes a name that any file system takes; the devices' are our own.
        let directory = self.directory.join("keys").join(hexadecimal(user_id.as_bytes()));
        Device::open(bridge, user_id, device_id, former, &directory, &self.settings).await
    }

    /// Closes a device that the homeserver no longer knows. Whoever needs it opens another in its place.
    pub(crate) fn close(&self, bridge: &Bridge, device: &Arc<Device>) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = devices.get(device.user_id()).and_then(|cell| cell.get());
        if opened.is_some_and(|opened| Arc::ptr_eq(opened, device)) {
            devices.remove(device.user_id());
            bridge.metrics().encrypting_users.dec();
        }
    }

    /// The id of the user's device, which the homeserver knows before it is remembered.
    async fn device_id(&self, bridge: &Bridge, user_id: &UserId) -> Result<OwnedDeviceId, Error> {
        let row = bridge.store().user(user_id.as_str()).await?.unwrap_or_default();
        if let Some(device_id) = row.device_id {
            return Ok(device_id.into());
        }
        let device_id: OwnedDeviceId = format!("AS{}", bridge.environment().randomness().readable(10)).into();
        make_device(bridge, user_id, &device_id).await?;
        let row = UserRow { device_id: Some(device_id.to_string()), ..UserRow::default() };
        bridge.store().put_user(user_id.as_str(), row).await?;
        Ok(device_id)
    }

    /// Opens the devices of the bot and of all who had one before: they missed what was said while the service was away.
    pub(crate) async fn open_all(&self, bridge: &Bridge) -> Result<(), Error> {
        self.device(bridge, &self.bot_id).await?;
        for user_id in bridge.store().encrypting_users().await? {
            if let Ok(user_id) = UserId::parse(user_id)
                && self.covers(&user_id)
            {
                self.try_device(bridge, &user_id).await?;
            }
        }
        Ok(())
    }

    /// Opens a user's device. If the homeserver refuses it for good, the others go on without: the user may be deactivated.
    async fn try_device(&self, bridge: &Bridge, user_id: &UserId) -> Result<(), Error> {
        match self.device(bridge, user_id).await {
            Err(error) => go_on_after(error, user_id),
            Ok(_) => Ok(()),
        }
    }

    /// The devices that are open, the bot's first.
    fn opened(&self) -> Vec<Arc<Device>> {
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let mut opened: Vec<_> = devices.values().filter_map(|cell| cell.get().cloned()).collect();
        drop(devices);
        opened.sort_by_key(|device| device.user_id() != self.bot_id);
        opened
    }

    /// Takes in what is for devices, and says for which sessions keys came.
    pub(crate) async fn receive(
        &self,
        bridge: &Bridge,
        mut changes: DeviceChanges,
    ) -> Result<Vec<String>, Error> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        for user_id in changes.users() {
            if bridge.owns(&user_id)
                && self.covers(&user_id)
                && bridge.store().user(user_id.as_str()).await?.is_some()
            {
                self.try_device(bridge, &user_id).await?;
            }
        }
        let mut sessions = Vec::new();
        for device in self.opened() {
            match device.receive(&mut changes, &mut sessions).await {
                Err(error) if error.is("M_UNKNOWN_DEVICE") => {
                    self.close(bridge, &device);
                    self.try_device(bridge, device.user_id()).await?;
                }
                Err(error) => go_on_after(error, device.user_id())?,
                Ok(()) => {}
            }
        }
        Ok(sessions)
    }

    /// Decrypts an event with the keys of whoever of the service's users has them.
    pub(crate) async fn decrypt(&self, bridge: &Bridge, envelope: &Envelope, raw: &RawValue) -> Decryption {
        let session = serde_json::from_str::<Session>(envelope.content.get()).ok();
        let Some(session) = session.filter(|session| session.algorithm == "m.megolm.v1.aes-sha2") else {
            return Decryption::Impossible;
        };
        let room_id = &envelope.room_id;
        let members = bridge.rooms().known_members(room_id);
        let is_there =
            |device: &Arc<Device>| members.as_ref().is_none_or(|members| members.contains(device.user_id()));
        let mut outcome = Decryption::Impossible;
        for device in self.opened().into_iter().filter(is_there) {
            match device.decrypt(room_id, &session.session_id, raw).await {
                Decryption::Impossible => {}
                Decryption::Done(mut incoming) => {
                    // That is said outside of what was encrypted.
                    incoming.envelope.sticky_ms = envelope.sticky_ms;
                    return Decryption::Done(incoming);
                }
                missing @ Decryption::KeyMissing { .. } => outcome = missing,
            }
        }
        outcome
    }
}

/// Whether the others go on when something fails for one of the service's users: not if it may work later.
fn go_on_after(error: Error, user_id: &UserId) -> Result<(), Error> {
    if error.is_temporary() {
        return Err(error);
    }
    tracing::warn!(user.id = %user_id, %error, "the user's device cannot be used");
    Ok(())
}

async fn make_device(bridge: &Bridge, user_id: &UserId, device_id: &DeviceId) -> Result<(), Error> {
    let body = json!({ "display_name": format!("Service {}", bridge.registration().id) });
    let path = ["v3", "devices", device_id.as_str()];
    let made: Result<serde_json::Value, _> =
        bridge.homeserver().put(Identity::user(user_id), &path, &body).await;
    match made {
        Ok(_) => Ok(()),
        Err(error @ Error::Refused { status: 404, .. }) => Err(Error::Encryption(format!(
            "{error}: the homeserver makes no devices for services (MSC4190); is `io.element.msc4190` set in its \
             registration file?"
        ))),
        Err(error) => Err(error),
    }
}
