//! What the homeserver pushes.

use std::collections::{BTreeMap, BTreeSet};

use matrix_sdk::ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, UInt,
    api::client::sync::sync_events::DeviceLists,
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// How many one-time keys of each kind a device still has on the server, by user and device.
pub(crate) type KeyCounts =
    BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, BTreeMap<OneTimeKeyAlgorithm, UInt>>>;
/// Which kinds of fallback keys of a device are unused, by user and device.
pub(crate) type FallbackKeys = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Vec<OneTimeKeyAlgorithm>>>;

/// The body of a transaction. What newer or older homeservers call by another name is taken by either; the names of the proposals
/// (MSC2409, MSC3202, MSC4203) are those that are in use.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Transaction {
    pub(crate) events: Vec<Box<RawValue>>,
    ephemeral: Vec<Box<RawValue>>,
    #[serde(rename = "de.sorunome.msc2409.ephemeral")]
    unstable_ephemeral: Vec<Box<RawValue>>,
    to_device: Vec<Box<RawValue>>,
    #[serde(rename = "de.sorunome.msc2409.to_device")]
    unstable_to_device: Vec<Box<RawValue>>,
    device_lists: Option<DeviceLists>,
    #[serde(rename = "org.matrix.msc3202.device_lists")]
    unstable_device_lists: Option<DeviceLists>,
    device_one_time_keys_count: KeyCounts,
    #[serde(rename = "org.matrix.msc3202.device_one_time_keys_count")]
    unstable_device_one_time_keys_count: KeyCounts,
    device_unused_fallback_key_types: FallbackKeys,
    #[serde(rename = "org.matrix.msc3202.device_unused_fallback_key_types")]
    unstable_device_unused_fallback_key_types: FallbackKeys,
}

/// Whom a message to a device is for.
#[derive(Deserialize)]
pub(crate) struct Recipient {
    pub(crate) to_user_id: OwnedUserId,
    pub(crate) to_device_id: OwnedDeviceId,
}

/// What is for the encryption of the service's users.
#[derive(Default)]
pub(crate) struct DeviceChanges {
    pub(crate) to_device: BTreeMap<(OwnedUserId, OwnedDeviceId), Vec<Box<RawValue>>>,
    pub(crate) lists: DeviceLists,
    pub(crate) counts: KeyCounts,
    pub(crate) fallback_keys: FallbackKeys,
}

/// The parts of a room's event that are read of any.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) event_id: OwnedEventId,
    pub(crate) room_id: OwnedRoomId,
    pub(crate) sender: OwnedUserId,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    #[serde(default)]
    pub(crate) state_key: Option<String>,
    #[serde(default)]
    pub(crate) origin_server_ts: u64,
    #[serde(default, rename = "msc4354_sticky", deserialize_with = "duration_ms")]
    pub(crate) sticky_ms: Option<u64>,
    pub(crate) content: Box<RawValue>,
}

/// For how long an event sticks (MSC4354). Anything else in its place makes it nothing.
fn duration_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let sticky = serde_json::Value::deserialize(deserializer)?;
    Ok(sticky.get("duration_ms").and_then(serde_json::Value::as_u64))
}

/// Something that happens in a room and is not kept: typing, receipts.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct EphemeralEnvelope {
    pub(crate) room_id: OwnedRoomId,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) content: Box<RawValue>,
}

impl Transaction {
    /// What happens in rooms and is not kept; a homeserver that says it under two names says it once.
    pub(crate) fn ephemeral(&self) -> &[Box<RawValue>] {
        if self.ephemeral.is_empty() { &self.unstable_ephemeral } else { &self.ephemeral }
    }

    /// Takes what is for encryption out of it. What is for nobody that can be read is dropped.
    pub(crate) fn take_device_changes(&mut self) -> DeviceChanges {
        let messages = either(
            std::mem::take(&mut self.to_device),
            std::mem::take(&mut self.unstable_to_device),
            Vec::is_empty,
        );
        let mut changes = DeviceChanges {
            lists: self.device_lists.take().or(self.unstable_device_lists.take()).unwrap_or_default(),
            counts: either(
                std::mem::take(&mut self.device_one_time_keys_count),
                std::mem::take(&mut self.unstable_device_one_time_keys_count),
                BTreeMap::is_empty,
            ),
            fallback_keys: either(
                std::mem::take(&mut self.device_unused_fallback_key_types),
                std::mem::take(&mut self.unstable_device_unused_fallback_key_types),
                BTreeMap::is_empty,
            ),
            to_device: BTreeMap::new(),
        };
        for message in messages {
            if let Ok(recipient) = serde_json::from_str::<Recipient>(message.get()) {
                changes
                    .to_device
                    .entry((recipient.to_user_id, recipient.to_device_id))
                    .or_default()
                    .push(message);
            }
        }
        changes
    }
}

impl DeviceChanges {
    /// The users that something is said about, other than by device lists.
    pub(crate) fn users(&self) -> BTreeSet<OwnedUserId> {
        let addressed = self.to_device.keys().map(|(user_id, _)| user_id);
        addressed.chain(self.counts.keys()).chain(self.fallback_keys.keys()).cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.users().is_empty() && self.lists.is_empty()
    }
}

fn either<T>(stable: T, unstable: T, is_empty: impl Fn(&T) -> bool) -> T {
    if is_empty(&stable) { unstable } else { stable }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changes(body: serde_json::Value) -> DeviceChanges {
        serde_json::from_value::<Transaction>(body).unwrap().take_device_changes()
    }

    #[test]
    fn both_names_are_understood_and_counted_once() {
        let message = json!({ "type": "m.dummy", "sender": "@a:x", "content": {}, "to_user_id": "@bot:x", "to_device_id": "D" });
        for body in [
            json!({ "to_device": [message] }),
            json!({ "de.sorunome.msc2409.to_device": [message] }),
            json!({ "to_device": [message], "de.sorunome.msc2409.to_device": [message] }),
        ] {
            let changes = changes(body);
            assert_eq!(changes.to_device.values().map(Vec::len).sum::<usize>(), 1);
            assert_eq!(changes.users().len(), 1);
        }
    }

    #[test]
    fn a_message_for_nobody_is_dropped() {
        assert!(changes(json!({ "to_device": [{ "type": "m.dummy" }, 7] })).is_empty());
    }

    #[test]
    fn what_sticks_says_for_how_long() {
        let sticky = |sticky: serde_json::Value| {
            let event = json!({
                "event_id": "$1", "room_id": "!r:x", "sender": "@a:x", "type": "m.dummy", "content": {},
                "msc4354_sticky": sticky,
            });
            serde_json::from_value::<Envelope>(event).unwrap().sticky_ms
        };
        assert_eq!(sticky(json!({ "duration_ms": 7 })), Some(7));
        for other in [json!(null), json!(7), json!({ "duration_ms": -1 }), json!([{}])] {
            assert_eq!(sticky(other), None);
        }
    }

    #[test]
    fn counts_and_lists_are_read() {
        let changes = changes(json!({
            "org.matrix.msc3202.device_one_time_keys_count": { "@bot:x": { "D": { "signed_curve25519": 3 } } },
            "org.matrix.msc3202.device_unused_fallback_key_types": { "@bot:x": { "D": ["signed_curve25519"] } },
            "org.matrix.msc3202.device_lists": { "changed": ["@a:x"], "left": [] },
        }));
        assert_eq!(changes.lists.changed.len(), 1);
        assert_eq!(changes.counts.len(), 1);
        assert_eq!(changes.fallback_keys.len(), 1);
    }
}
