//! Keys of users who belong to a service alone. Such a service may keep them itself: it is asked for one-time keys when there are none
//! left here (MSC3983), and for the keys of devices (MSC3984).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use entente_encryption::UserKeys;
use http::Method;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    AppServiceError, AppServices, Registration,
    client::{Question, UNSTABLE},
};

/// How long a service may take to answer for keys: somebody waits with a message.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A service that does not know the question is not asked again for so long.
const UNKNOWN_FOR: Duration = Duration::from_secs(60 * 60);
/// A service that could not be asked is not asked again for so long.
const AWAY_FOR: Duration = Duration::from_secs(60);

/// What is asked, by the segments of its path.
type Path = [&'static str; 3];

const CLAIM: Path = ["org.matrix.msc3983", "keys", "claim"];
const QUERY: Path = ["org.matrix.msc3984", "keys", "query"];

/// A key that was handed out: for which place among those that were asked for, under which `algorithm:id`, and the key.
pub type ClaimedKey = (usize, String, Box<RawValue>);

impl AppServices {
    /// Hands out one key for each of these users of this server, devices and algorithms: a one-time key if there is one, or else one of
    /// the service whose user it is, or else the fallback key. Devices that have none are left out.
    pub async fn claim_keys(
        &self,
        wanted: &[(&UserId, &str, &str)],
    ) -> Result<Vec<ClaimedKey>, AppServiceError> {
        let mut claimed = self.claim_of_services(wanted).await?;
        let given: BTreeSet<usize> = claimed.iter().map(|(place, ..)| *place).collect();
        let others: Vec<(usize, (&str, &str, &str))> = wanted
            .iter()
            .enumerate()
            .filter(|(place, _)| !given.contains(place))
            .map(|(place, (user_id, device_id, algorithm))| {
                (place, (user_id.localpart(), *device_id, *algorithm))
            })
            .collect();
        let asked: Vec<(&str, &str, &str)> = others.iter().map(|(_, asked)| *asked).collect();
        let kept = self.encryption().claim_keys(&asked, self.environment().now()).await?;
        claimed.extend(
            kept.into_iter().filter_map(|(index, key_id, key)| Some((others.get(index)?.0, key_id, key))),
        );
        Ok(claimed)
    }

    /// Keys of those devices that have no one-time keys here.
    async fn claim_of_services(
        &self,
        wanted: &[(&UserId, &str, &str)],
    ) -> Result<Vec<ClaimedKey>, AppServiceError> {
        let mut claimed = Vec::new();
        for (service, places) in self.keepers(wanted.iter().map(|(user_id, ..)| *user_id), CLAIM) {
            let snapshot = self.store().snapshot().await?;
            let mut asked: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
            let mut exhausted = Vec::new();
            for place in places {
                let Some(&(user_id, device_id, algorithm)) = wanted.get(place) else { continue };
                let localpart = user_id.localpart();
                let counts = self.encryption().one_time_key_counts(&snapshot, localpart, device_id).await?;
                if counts.one_time_keys.get(algorithm).is_none_or(|count| *count == 0) {
                    let of_user = asked.entry(user_id.as_str()).or_default();
                    of_user.entry(device_id).or_default().push(algorithm);
                    exhausted.push(place);
                }
            }
            if asked.is_empty() {
                continue;
            }
            let Some(answer) = self.ask_for_keys(&service, CLAIM, &json!(asked)).await else { continue };
            for place in exhausted {
                let Some((user_id, device_id, algorithm)) = wanted.get(place) else { continue };
                let keys =
                    answer.get(user_id.as_str()).and_then(|devices| devices.get(device_id)?.as_object());
                let of_algorithm = |(key_id, _): &(&String, &Value)| {
                    key_id.split_once(':').is_some_and(|(kind, _)| kind == *algorithm)
                };
                let Some((key_id, key)) = keys.into_iter().flatten().find(of_algorithm) else { continue };
                if let Ok(key) = serde_json::value::to_raw_value(key) {
                    claimed.push((place, key_id.clone(), key));
                }
            }
        }
        Ok(claimed)
    }

    /// Keys of users of this server as `reader` may see them, in their order: those kept here, and over them those that services keep.
    /// No devices named: all.
    pub async fn query_keys(
        &self,
        reader: &UserId,
        wanted: &[(&UserId, Vec<&str>)],
    ) -> Result<Vec<UserKeys>, AppServiceError> {
        let mut found = self.encryption().query_keys(reader, wanted).await?;
        for (service, places) in self.keepers(wanted.iter().map(|(user_id, _)| *user_id), QUERY) {
            let asked: Map<String, Value> = places
                .iter()
                .filter_map(|place| wanted.get(*place))
                .map(|(user_id, devices)| (user_id.to_string(), json!(devices)))
                .collect();
            let Some(answer) = self.ask_for_keys(&service, QUERY, &Value::Object(asked)).await else {
                continue;
            };
            for place in places {
                if let (Some((user_id, devices)), Some(keys)) = (wanted.get(place), found.get_mut(place)) {
                    add_keys(keys, &answer, user_id, devices);
                }
            }
        }
        Ok(found)
    }

    /// The services that may keep keys of users, and the places of their users. Those that use encryption, own the user, and did not
    /// just show that they do not answer.
    fn keepers<'a>(
        &self,
        users: impl Iterator<Item = &'a UserId>,
        path: Path,
    ) -> Vec<(Arc<Registration>, Vec<usize>)> {
        let registry = self.registry();
        let now = self.environment().clock().monotonic();
        let keeps = |service: &&Arc<Registration>| {
            service.url.is_some()
                && service.encryption
                && !self.inner.silences.holds(&silence(service, path), now)
        };
        let candidates: Vec<&Arc<Registration>> = registry.services().iter().filter(keeps).collect();
        let mut keepers: Vec<(Arc<Registration>, Vec<usize>)> = Vec::new();
        if candidates.is_empty() {
            return keepers;
        }
        for (place, user_id) in users.enumerate() {
            let Some(owner) = candidates.iter().find(|service| service.owns_user(user_id)) else {
                continue;
            };
            match keepers.iter_mut().find(|(service, _)| service.id == owner.id) {
                Some((_, places)) => places.push(place),
                None => keepers.push((Arc::clone(owner), vec![place])),
            }
        }
        keepers
    }

    async fn ask_for_keys(&self, service: &Registration, path: Path, body: &Value) -> Option<Value> {
        let question = Question {
            method: Method::POST,
            prefix: &UNSTABLE,
            path: &path,
            legacy_path: None,
            query: &[],
            body: Some(Bytes::from(body.to_string())),
            timeout: TIMEOUT,
        };
        let answer = self.inner.client.ask(service, &question).await.and_then(|body| {
            serde_json::from_slice(&body).map_err(|error| AppServiceError::BadAnswer(error.to_string()))
        });
        let long = match answer {
            Ok(answer) => return Some(answer),
            Err(AppServiceError::Status { status: 404 | 405, .. }) => UNKNOWN_FOR,
            Err(error) => {
                tracing::warn!(service = service.id, %error, "an application service could not be asked for keys");
                AWAY_FOR
            }
        };
        let now = self.environment().clock().monotonic();
        self.inner.silences.note(silence(service, path), now, long);
        None
    }
}

fn silence(service: &Registration, path: Path) -> String {
    format!("{} {}", path.join("/"), service.id)
}

/// Puts what a service answered of one of its users over what was known.
fn add_keys(keys: &mut UserKeys, answer: &Value, user_id: &UserId, wanted: &[&str]) {
    let of_user = |field: &str| answer.get(field)?.get(user_id.as_str());
    let object = |value: &Value| -> Option<CanonicalJsonObject> {
        let object: CanonicalJsonObject = serde_json::from_value(value.clone()).ok()?;
        let is_theirs = object.get("user_id").and_then(CanonicalJsonValue::as_str) == Some(user_id.as_str());
        is_theirs.then_some(object)
    };
    for (device_id, device) in of_user("device_keys").and_then(Value::as_object).into_iter().flatten() {
        let is_wanted = wanted.is_empty() || wanted.contains(&device_id.as_str());
        if let Some(device) = object(device).filter(|_| is_wanted) {
            keys.devices.insert(device_id.clone(), device);
        }
    }
    let key = |field: &str| of_user(field).and_then(object);
    keys.master = key("master_keys").or(keys.master.take());
    keys.self_signing = key("self_signing_keys").or(keys.self_signing.take());
}
