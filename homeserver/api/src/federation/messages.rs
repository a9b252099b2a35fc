//! What servers tell each other beside events (S-S API, "EDUs").

use std::time::Duration;

use entente_accounts::{Presence, PresenceState};
use entente_encryption::{Sender, ToDeviceMessage};
use entente_rooms::{NewReceipt, ReceiptType};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{ApiState, MatrixError, client::devices_of};

/// How long somebody of another server types of whom it is not said that they ceased. Servers say again that they go on, some every 40 s.
const TYPING: Duration = Duration::from_secs(60);
/// Receipts of one message that are taken.
const MOST_RECEIPTS: usize = 200;
/// Users of one message whose presence is taken.
const MOST_PRESENCES: usize = 200;

#[derive(Deserialize)]
struct Typing {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    #[serde(rename = "typing")]
    writes: bool,
}

#[derive(Deserialize)]
struct ReceiptOf {
    event_ids: Vec<OwnedEventId>,
    #[serde(default)]
    data: ReceiptData,
}

#[derive(Default, Deserialize)]
struct ReceiptData {
    thread_id: Option<String>,
}

#[derive(Deserialize)]
struct PresenceOf {
    user_id: OwnedUserId,
    presence: String,
    status_msg: Option<String>,
    last_active_ago: Option<u64>,
}

#[derive(Deserialize)]
struct ToDevice {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    message_id: String,
    messages: std::collections::BTreeMap<String, std::collections::BTreeMap<String, Box<RawValue>>>,
}

#[derive(Deserialize)]
struct ChangedUser {
    user_id: OwnedUserId,
}

/// Takes the messages of a transaction. One that makes no sense is left out with a line in the log; only a store that does not answer
/// fails them all, so that they come again.
pub(super) async fn take(
    state: &ApiState,
    origin: &ServerName,
    messages: Vec<CanonicalJsonObject>,
) -> Result<(), MatrixError> {
    for message in messages {
        let Ok(json) = serde_json::to_value(&message) else { continue };
        let kind = json.get("edu_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let content = json.get("content").cloned().unwrap_or_default();
        let outcome = match kind.as_str() {
            "m.typing" => typing(state, origin, content).await,
            "m.receipt" => receipts(state, origin, content).await,
            "m.presence" => presence(state, origin, &content).await,
            "m.direct_to_device" => to_device(state, origin, &message).await,
            "m.device_list_update" | "m.signing_key_update" => devices(state, origin, content).await,
            _ => Ok(()),
        };
        match outcome {
            Err(error) if error.is_trouble() => return Err(error),
            Err(error) => tracing::info!(%origin, kind, ?error, "a message of another server is left out"),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(content: Value) -> Result<T, MatrixError> {
    serde_json::from_value(content).map_err(MatrixError::bad_json)
}

fn require_own(origin: &ServerName, user_id: &OwnedUserId) -> Result<(), MatrixError> {
    if user_id.server_name() == origin {
        Ok(())
    } else {
        Err(MatrixError::forbidden("a server speaks for its own users only"))
    }
}

async fn typing(state: &ApiState, origin: &ServerName, content: Value) -> Result<(), MatrixError> {
    let Typing { room_id, user_id, writes } = read(content)?;
    require_own(origin, &user_id)?;
    // Whom the room shuts out is not heard in this way either.
    state.federation.rooms.resident_view(origin, &room_id).await?;
    if writes {
        Ok(state.rooms.begin_typing(&room_id, &user_id, TYPING).await?)
    } else {
        Ok(state.rooms.cease_typing(&room_id, &user_id).await?)
    }
}

async fn receipts(state: &ApiState, origin: &ServerName, content: Value) -> Result<(), MatrixError> {
    let mut taken = 0;
    for (room_id, kinds) in content.as_object().into_iter().flatten() {
        let Ok(room_id) = OwnedRoomId::try_from(room_id.as_str()) else { continue };
        if let Err(error) = state.federation.rooms.resident_view(origin, &room_id).await {
            tracing::debug!(%error, %origin, %room_id, "receipts of another server are left out");
            continue;
        }
        for (user_id, receipt) in kinds.get("m.read").and_then(Value::as_object).into_iter().flatten() {
            let Ok(user_id) = OwnedUserId::try_from(user_id.as_str()) else { continue };
            require_own(origin, &user_id)?;
            let ReceiptOf { event_ids, data } = read(receipt.clone())?;
            let Some(event_id) = event_ids.into_iter().next() else { continue };
            let receipt = NewReceipt { receipt_type: ReceiptType::Read, event_id, thread: data.thread_id };
            // An event that has not come yet is nothing that can be read.
            if let Err(error) = state.rooms.acknowledge(&room_id, &user_id, &[receipt]).await {
                tracing::debug!(%error, %room_id, "a receipt of another server is left out");
            }
            taken += 1;
            if taken >= MOST_RECEIPTS {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Users of another server came or went. Those whom nobody here meets are of no interest.
async fn presence(state: &ApiState, origin: &ServerName, content: &Value) -> Result<(), MatrixError> {
    if !state.accounts.settings().presence {
        return Ok(());
    }
    let now = state.limits.clock().now().millis();
    let mut told = std::collections::BTreeMap::new();
    for push in content.get("push").and_then(Value::as_array).into_iter().flatten().take(MOST_PRESENCES) {
        let Ok(PresenceOf { user_id, presence, status_msg, last_active_ago }) = read(push.clone()) else {
            continue;
        };
        require_own(origin, &user_id)?;
        let Some(presence) = PresenceState::from_name(&presence) else { continue };
        if state.rooms.is_met_here(&user_id).await? {
            let last_active_at = last_active_ago.map(|ago| now.saturating_sub(ago));
            told.insert(user_id, Presence { state: presence, status_msg, last_active_at });
        }
    }
    let told: Vec<(OwnedUserId, Presence)> = told.into_iter().collect();
    Ok(state.accounts.hear_presences_elsewhere(&told).await?)
}

async fn to_device(
    state: &ApiState,
    origin: &ServerName,
    message: &CanonicalJsonObject,
) -> Result<(), MatrixError> {
    let content = message.get("content").ok_or_else(|| MatrixError::missing_param("there is no content"))?;
    let content = serde_json::to_string(content).map_err(MatrixError::internal)?;
    let content: ToDevice = serde_json::from_str(&content).map_err(MatrixError::bad_json)?;
    require_own(origin, &content.sender)?;
    let mut addressed: Vec<(String, String, &RawValue)> = Vec::new();
    for (user_id, messages) in &content.messages {
        let Some(localpart) = state.rooms.local(user_id) else { continue };
        let devices = devices_of(state, localpart).await?;
        for (device, json) in messages {
            let meant = devices.iter().filter(|device_id| device == "*" || device == *device_id);
            addressed.extend(meant.map(|device_id| (localpart.to_owned(), device_id.clone(), &**json)));
        }
    }
    let messages: Vec<ToDeviceMessage<'_>> = addressed
        .iter()
        .map(|(localpart, device_id, content)| ToDeviceMessage { localpart, device_id, content })
        .collect();
    // By the server in the device's place: somebody of the same name elsewhere may use the same id.
    let device_id = origin.as_str();
    let sender = Sender { user_id: &content.sender, device_id, transaction_id: &content.message_id };
    let now = state.limits.clock().now();
    Ok(state.encryption.send_to_devices(sender, &content.event_type, &messages, now).await?)
}

/// Devices or keys of a user changed: whoever encrypts for them asks for them again.
async fn devices(state: &ApiState, origin: &ServerName, content: Value) -> Result<(), MatrixError> {
    let ChangedUser { user_id } = read(content)?;
    require_own(origin, &user_id)?;
    Ok(state.encryption.note_devices_changed(&user_id).await?)
}
