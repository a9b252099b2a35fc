//! What belongs to a room beside its timeline: invites, receipts, who types.

use std::sync::Arc;

use entente_rooms::{Event, ObjectWriter, Receipt, RoomView, UserRoom};
use entente_storage::Position;
use serde_json::{Value, json, value::RawValue};

use crate::{SyncError, joined::write_events, response::Making};

/// What somebody sees of a room to which they are invited (C-S API, "Stripped state").
const STRIPPED: [&str; 8] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.history_visibility",
];

/// A room to which the user is invited, or at which they knocked, as it stands in the object of rooms.
pub(crate) async fn invited(
    making: &Making<'_>,
    room: &UserRoom,
    key: &str,
) -> Result<Option<Vec<u8>>, SyncError> {
    let rooms = &making.sync.inner.rooms;
    let view = rooms.view_in(&making.snapshot, room.number, making.redactions).await?;
    let room_id = &view.room.room_id;
    let Some(own) = view.event(room.event).await? else { return Ok(None) };
    let is_ignored = making.ignored.iter().any(|ignored| ignored == own.sender.as_str());
    if is_ignored || !making.request.filter.wants_room(room_id) {
        return Ok(None);
    }
    let events = stripped_state(making, &view, &own).await?;
    let mut json = Vec::new();
    json.extend_from_slice(Value::from(room_id.as_str()).to_string().as_bytes());
    json.push(b':');
    let mut writer = ObjectWriter::begin(&mut json);
    writer.key(key);
    write_events(writer.json, &events, |json, event| event.write(&view, json));
    writer.end();
    Ok(Some(json))
}

/// An event as it shows a room to somebody who is not in it.
pub(crate) enum Stripped {
    /// An event of a room that this server knows.
    Known(Arc<Event>),
    /// What another server told.
    Told(Box<RawValue>),
}

impl Stripped {
    pub(crate) fn write(&self, view: &RoomView, json: &mut Vec<u8>) {
        match self {
            Self::Known(event) => view.write_stripped(json, event),
            Self::Told(told) => json.extend_from_slice(told.get().as_bytes()),
        }
    }
}

/// The state by which somebody sees a room in which they are not, with their own membership event.
pub(crate) async fn stripped_state(
    making: &Making<'_>,
    view: &RoomView,
    own: &Arc<Event>,
) -> Result<Vec<Stripped>, SyncError> {
    let mut keys: Vec<(&str, &str)> = STRIPPED.iter().map(|event_type| (*event_type, "")).collect();
    if own.sender != making.request.user_id {
        keys.push(("m.room.member", own.sender.as_str()));
    }
    let known = view.state_events(own.state_before(), &keys).await?.into_iter().flatten();
    let mut events: Vec<Stripped> = known.map(Stripped::Known).collect();
    if events.is_empty() {
        let told = view.told_state(&making.request.user_id).await?;
        events.extend(told.into_iter().map(Stripped::Told));
    }
    events.push(Stripped::Known(Arc::clone(own)));
    Ok(events)
}

/// The receipts of a room that came after a position, as an `m.receipt` event.
pub(crate) async fn receipts(
    making: &Making<'_>,
    view: &RoomView,
    since: Option<&Position>,
) -> Result<Option<Value>, SyncError> {
    Ok(receipt_event(making, view.receipts(&making.request.user_id, since).await?))
}

/// Receipts as an `m.receipt` event, those of ignored users left out.
pub(crate) fn receipt_event(making: &Making<'_>, mut receipts: Vec<Receipt>) -> Option<Value> {
    receipts.retain(|receipt| !making.ignored.contains(&receipt.user_id));
    if receipts.is_empty() {
        return None;
    }
    Some(json!({ "type": "m.receipt", "content": entente_rooms::receipt_content(receipts) }))
}

/// Who types in a room, as an `m.typing` event. A client that knows nothing of the room is not told that nobody does.
pub(crate) async fn typing(
    making: &Making<'_>,
    view: &RoomView,
    is_new: bool,
) -> Result<Option<Value>, SyncError> {
    let mut users = view.typing(view.now()).await?;
    users.retain(|user_id| !making.ignored.iter().any(|ignored| ignored == user_id.as_str()));
    if users.is_empty() && is_new {
        return Ok(None);
    }
    Ok(Some(json!({ "type": "m.typing", "content": { "user_ids": users } })))
}
