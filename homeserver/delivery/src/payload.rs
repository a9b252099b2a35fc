//! What gateways are told (Push Gateway API, `POST /_matrix/push/v1/notify`).

use entente_rooms::{Event, RoomView};
use entente_sync::Names;
use ruma::events::TimelineEventType;
use serde_json::{Map, Value, json};

use crate::{
    Format, Pusher,
    rows::{PusherRow, QueuedRow},
};

/// Gateways pass a few KiB on; the content of a larger event is left out.
const MOST_CONTENT_BYTES: usize = 16 * 1024;

impl Pusher {
    pub(crate) fn format(&self, include_content: bool) -> Format {
        let asked = self.data.get("format").and_then(Value::as_str);
        if asked == Some("event_id_only") || !include_content { Format::EventIdOnly } else { Format::Full }
    }
}

/// The body for an event, or for nothing but the number of unread ones.
pub(crate) fn body(
    pusher: &Pusher,
    row: &PusherRow,
    queued: &QueuedRow,
    unread: u64,
    event: Option<Value>,
) -> Value {
    let mut data = pusher.data.clone();
    data.remove("url");
    let mut device = json!({
        "app_id": pusher.app_id,
        "pushkey": pusher.pushkey,
        "pushkey_ts": row.set_at / 1_000,
        "data": data,
    });
    if queued.event.is_some() {
        let mut tweaks = Map::new();
        if queued.highlight {
            tweaks.insert(String::from("highlight"), json!(true));
        }
        if let Some(sound) = &queued.sound {
            tweaks.insert(String::from("sound"), json!(sound));
        }
        device["tweaks"] = Value::Object(tweaks);
    }
    let mut notification = event.unwrap_or_else(|| json!({}));
    notification["counts"] = json!({ "unread": unread });
    notification["devices"] = json!([device]);
    json!({ "notification": notification })
}

/// What is told of an event.
pub(crate) fn told(
    view: &RoomView,
    event: &Event,
    names: Option<Names>,
    queued: &QueuedRow,
    user_id: &ruma::UserId,
) -> Value {
    let is_urgent =
        queued.highlight || queued.sound.is_some() || event.event_type == TimelineEventType::RoomEncrypted;
    let mut told = json!({
        "event_id": event.event_id,
        "room_id": view.room.room_id,
        "prio": if is_urgent { "high" } else { "low" },
    });
    let Some(names) = names else { return told };
    told["type"] = json!(event.event_type.to_string());
    told["sender"] = json!(event.sender);
    if event.state_key.as_deref() == Some(user_id.as_str()) {
        told["user_is_target"] = json!(true);
    }
    for (name, value) in
        [("sender_display_name", names.sender), ("room_name", names.room), ("room_alias", names.alias)]
    {
        if let Some(value) = value {
            told[name] = json!(value);
        }
    }
    let content = event.content_bytes();
    if content.len() <= MOST_CONTENT_BYTES
        && let Ok(content) = serde_json::from_slice::<Value>(content)
    {
        told["content"] = content;
    }
    told
}
