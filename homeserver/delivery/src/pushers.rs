//! Pushers, set and read (C-S API, "Push Notifications").

use entente_accounts::AccountError;
use entente_storage::{Snapshot, Transaction};
use serde_json::{Map, Value};
use url::Url;

use crate::{
    Change, Delivery, DeliveryError,
    rows::{self, NumberRow, PusherRow},
};

/// Pushers of one user.
const MOST_PUSHERS: usize = 50;
const MOST_APP_ID_BYTES: usize = 64;
const MOST_PUSHKEY_BYTES: usize = 512;
const MOST_TEXT_BYTES: usize = 255;
const MOST_DATA_BYTES: usize = 4_096;
/// The path of a gateway (C-S API, `POST /pushers/set`).
const PATH: &str = "/_matrix/push/v1/notify";

/// Where a user is told of events.
#[derive(Clone, Debug, PartialEq)]
pub struct Pusher {
    /// The app.
    pub app_id: String,
    /// By what the gateway knows the app on the device.
    pub pushkey: String,
    /// The app's name.
    pub app_display_name: String,
    /// The device's name.
    pub device_display_name: String,
    /// Which rules are asked, by the client's own naming.
    pub profile_tag: Option<String>,
    /// The language to speak.
    pub lang: String,
    /// What the gateway is told, with its `url`.
    pub data: Map<String, Value>,
    /// Whether anything is sent to it (MSC3881).
    pub enabled: bool,
    /// The device that set it (MSC3881).
    pub device_id: String,
}

/// How much a gateway is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The event.
    Full,
    /// Where it is.
    EventIdOnly,
}

impl Pusher {
    fn check(&self) -> Result<(), DeliveryError> {
        let bounds = [
            ("app_id", &self.app_id, MOST_APP_ID_BYTES),
            ("pushkey", &self.pushkey, MOST_PUSHKEY_BYTES),
            ("app_display_name", &self.app_display_name, MOST_TEXT_BYTES),
            ("device_display_name", &self.device_display_name, MOST_TEXT_BYTES),
            ("lang", &self.lang, MOST_TEXT_BYTES),
        ];
        for (name, text, most) in bounds {
            if text.len() > most {
                return Err(DeliveryError::InvalidParameter(format!("{name} has at most {most} bytes")));
            }
        }
        if self.profile_tag.as_ref().is_some_and(|tag| tag.len() > MOST_TEXT_BYTES) {
            return Err(DeliveryError::InvalidParameter(String::from("profile_tag has at most 255 bytes")));
        }
        if self.app_id.is_empty() || self.pushkey.is_empty() {
            return Err(DeliveryError::InvalidParameter(String::from("app_id and pushkey are not empty")));
        }
        Ok(())
    }

    fn url(&self) -> Result<Url, DeliveryError> {
        let bad = |message: &str| DeliveryError::InvalidParameter(message.to_owned());
        let url = self.data.get("url").and_then(Value::as_str);
        let url = url.ok_or_else(|| bad("data.url names the gateway"))?;
        let url = Url::parse(url).map_err(|_| bad("data.url is no URL"))?;
        if url.path() != PATH {
            return Err(bad("the path of a gateway is /_matrix/push/v1/notify"));
        }
        Ok(url)
    }
}

impl Delivery {
    /// The pushers of a user.
    pub async fn pushers(&self, localpart: &str) -> Result<Vec<Pusher>, DeliveryError> {
        let snapshot = self.inner.store.snapshot().await?;
        let rows = snapshot.scan_all(rows::PUSHERS.scan((localpart,))).await?;
        Ok(rows.into_iter().map(|((_, app_id, pushkey), row)| shown(app_id, pushkey, row)).collect())
    }

    /// Sets a pusher. It is its device's until another one sets it anew; whoever only switches it on or off (MSC3881) does not take it
    /// over. Unless `append`, other users' pushers with its app id and pushkey are deleted: somebody else has the device now.
    pub async fn set_pusher(
        &self,
        localpart: &str,
        pusher: &Pusher,
        append: bool,
    ) -> Result<(), DeliveryError> {
        pusher.check()?;
        self.inner.gateways.check(&pusher.url()?)?;
        let data = Value::Object(pusher.data.clone()).to_string();
        if data.len() > MOST_DATA_BYTES {
            return Err(DeliveryError::InvalidParameter(format!("data has at most {MOST_DATA_BYTES} bytes")));
        }
        let number = u64::from_be_bytes(self.inner.environment.randomness().bytes());
        let (app_id, pushkey) = (pusher.app_id.as_str(), pusher.pushkey.as_str());
        self.inner
            .store
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                let known = snapshot.get(&rows::PUSHERS, (localpart, app_id, pushkey)).await?;
                if known.is_none() && self.count(&snapshot, localpart).await? >= MOST_PUSHERS {
                    return Err(DeliveryError::TooMany);
                }
                if !append {
                    self.forget_others(&snapshot, &mut transaction, localpart, pusher).await?;
                }
                // What waits for it goes to the gateway that it names now.
                let number = known.as_ref().map_or(number, |known| known.number);
                let mut row = PusherRow {
                    number,
                    app_display_name: pusher.app_display_name.clone(),
                    device_display_name: pusher.device_display_name.clone(),
                    profile_tag: pusher.profile_tag.clone(),
                    lang: pusher.lang.clone(),
                    data: data.clone(),
                    device_id: pusher.device_id.clone(),
                    set_at: self.inner.environment.now().millis(),
                    disabled: !pusher.enabled,
                };
                if let Some(known) = known.as_ref().filter(|known| is_switched(known, &row)) {
                    row.device_id.clone_from(&known.device_id);
                    row.set_at = known.set_at;
                }
                let owner = NumberRow {
                    localpart: localpart.to_owned(),
                    app_id: app_id.to_owned(),
                    pushkey: pushkey.to_owned(),
                };
                transaction.check_unchanged(&rows::PUSHERS, (localpart, app_id, pushkey), known.as_ref());
                transaction.put(&rows::PUSHERS, (localpart, app_id, pushkey), &row);
                transaction.put(&rows::PUSHKEYS, (app_id, pushkey, localpart), &());
                transaction.put(&rows::NUMBERS, number, &owner);
                Change::Pushers { localpart: localpart.to_owned() }.log_in(&mut transaction);
                Ok((transaction, ()))
            })
            .await?;
        Ok(())
    }

    async fn count(&self, snapshot: &Snapshot, localpart: &str) -> Result<usize, DeliveryError> {
        let scan = rows::PUSHERS.scan((localpart,)).limit(MOST_PUSHERS);
        Ok(snapshot.scan(&scan).await?.rows.len())
    }

    async fn forget_others(
        &self,
        snapshot: &Snapshot,
        transaction: &mut Transaction,
        localpart: &str,
        pusher: &Pusher,
    ) -> Result<(), DeliveryError> {
        let (app_id, pushkey) = (pusher.app_id.as_str(), pusher.pushkey.as_str());
        let same = snapshot.scan_all(rows::PUSHKEYS.scan((app_id, pushkey))).await?;
        for ((_, _, other), ()) in same.into_iter().filter(|((_, _, other), ())| other != localpart) {
            if let Some(row) = snapshot.get(&rows::PUSHERS, (other.as_str(), app_id, pushkey)).await? {
                delete(transaction, &other, app_id, pushkey, &row);
            }
        }
        Ok(())
    }

    /// Deletes a pusher, if it is there, with all that waits for it.
    pub async fn delete_pusher(
        &self,
        localpart: &str,
        app_id: &str,
        pushkey: &str,
    ) -> Result<(), DeliveryError> {
        let (number, _) = self
            .inner
            .store
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                let row = snapshot.get(&rows::PUSHERS, (localpart, app_id, pushkey)).await?;
                if let Some(row) = &row {
                    transaction.check_unchanged(&rows::PUSHERS, (localpart, app_id, pushkey), Some(row));
                    delete(&mut transaction, localpart, app_id, pushkey, row);
                }
                Ok::<_, DeliveryError>((transaction, row.map(|row| row.number)))
            })
            .await?;
        match number {
            Some(number) => self.empty_queue(number).await,
            None => Ok(()),
        }
    }

    /// Deletes the pushers of devices that are gone.
    pub(crate) async fn forget_devices(&self, localpart: &str) -> Result<(), DeliveryError> {
        let pushers = self.pushers(localpart).await?;
        if pushers.is_empty() {
            return Ok(());
        }
        let user_id = self.inner.accounts.user_id(localpart)?;
        let devices = match self.inner.accounts.devices(&user_id).await {
            Err(AccountError::UserNotFound) => Vec::new(),
            devices => devices?,
        };
        for pusher in pushers {
            if !devices.iter().any(|device| device.device_id.as_str() == pusher.device_id) {
                self.delete_pusher(localpart, &pusher.app_id, &pusher.pushkey).await?;
            }
        }
        Ok(())
    }
}

/// Whether a pusher is as it was, but on or off.
fn is_switched(known: &PusherRow, row: &PusherRow) -> bool {
    let PusherRow { device_id, set_at, disabled, .. } = known;
    let same =
        PusherRow { device_id: device_id.clone(), set_at: *set_at, disabled: *disabled, ..row.clone() };
    known.disabled != row.disabled && *known == same
}

fn delete(transaction: &mut Transaction, localpart: &str, app_id: &str, pushkey: &str, row: &PusherRow) {
    transaction.delete(&rows::PUSHERS, (localpart, app_id, pushkey));
    transaction.delete(&rows::PUSHKEYS, (app_id, pushkey, localpart));
    transaction.delete(&rows::NUMBERS, row.number);
    Change::Pushers { localpart: localpart.to_owned() }.log_in(transaction);
}

pub(crate) fn shown(app_id: String, pushkey: String, row: PusherRow) -> Pusher {
    Pusher {
        app_id,
        pushkey,
        app_display_name: row.app_display_name,
        device_display_name: row.device_display_name,
        profile_tag: row.profile_tag,
        lang: row.lang,
        data: serde_json::from_str(&row.data).unwrap_or_default(),
        enabled: !row.disabled,
        device_id: row.device_id,
    }
}
