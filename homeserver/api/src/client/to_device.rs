use std::collections::BTreeMap;

use axum::extract::State;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use entente_accounts::Session;
use entente_encryption::{Sender, ToDeviceMessage};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName,
    api::client::to_device::send_event_to_device::v3::{Request, Response},
    events::AnyToDeviceEventContent,
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::create_room::canonical;
use crate::{ApiState, MatrixError};

/// `PUT /sendToDevice/{eventType}/{txnId}`.
pub(super) async fn send(
    State(state): State<ApiState>,
    session: Session,
    request: Request,
) -> Result<Response, MatrixError> {
    // Also who is suspended may: verifying one's devices needs it (C-S API, "Account suspension").
    let here = state.accounts.server_name();
    let mut addressed: Vec<(&str, String, &RawValue)> = Vec::new();
    let mut elsewhere: BTreeMap<OwnedServerName, CanonicalJsonObject> = BTreeMap::new();
    for (user_id, messages) in &request.messages {
        if user_id.server_name() != here {
            let of_server = elsewhere.entry(user_id.server_name().to_owned()).or_default();
            of_server.insert(user_id.to_string(), contents(messages)?);
            continue;
        }
        let devices = devices_of(&state, user_id.localpart()).await?;
        for (device, content) in messages {
            let is_meant = |device_id: &str| match device {
                DeviceIdOrAllDevices::AllDevices => true,
                DeviceIdOrAllDevices::DeviceId(meant) => meant.as_str() == device_id,
            };
            let meant = devices.iter().filter(|device_id| is_meant(device_id));
            addressed.extend(meant.map(|device_id| (user_id.localpart(), device_id.clone(), content.json())));
        }
    }
    let messages: Vec<ToDeviceMessage<'_>> = addressed
        .iter()
        .map(|(localpart, device_id, content)| ToDeviceMessage { localpart, device_id, content })
        .collect();
    let sender = Sender {
        user_id: &session.user_id,
        device_id: session.device_id.as_str(),
        transaction_id: request.txn_id.as_str(),
    };
    let event_type = request.event_type.to_string();
    if !elsewhere.is_empty() {
        // Put down first: whoever gets it twice after a crash knows it by its id.
        let messages = elsewhere.into_iter().map(|(server, messages)| {
            let message = outward(&session, &event_type, request.txn_id.as_str(), messages);
            (server, message)
        });
        state.federation.outbox.put_messages(messages.collect()).await?;
    }
    state.encryption.send_to_devices(sender, &event_type, &messages, state.limits.clock().now()).await?;
    Ok(Response::new())
}

/// Messages for the devices of one user of another server.
fn contents(
    messages: &BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>,
) -> Result<CanonicalJsonValue, MatrixError> {
    let mut contents = CanonicalJsonObject::new();
    for (device, content) in messages {
        let content = CanonicalJsonValue::Object(canonical(content.json().get())?);
        contents.insert(device.to_string(), content);
    }
    Ok(CanonicalJsonValue::Object(contents))
}

/// Messages as other servers get them (S-S API, `m.direct_to_device`).
fn outward(
    session: &Session,
    event_type: &str,
    transaction_id: &str,
    messages: CanonicalJsonObject,
) -> CanonicalJsonObject {
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let message_id = message_id(session, transaction_id);
    let content = CanonicalJsonObject::from([
        (String::from("sender"), text(session.user_id.as_str())),
        (String::from("type"), text(event_type)),
        (String::from("message_id"), text(&message_id)),
        (String::from("messages"), CanonicalJsonValue::Object(messages)),
    ]);
    CanonicalJsonObject::from([
        (String::from("edu_type"), text("m.direct_to_device")),
        (String::from("content"), CanonicalJsonValue::Object(content)),
    ])
}

/// The same for a retry, so that it is taken once, and no other user's or device's. Of limited length, whatever clients name things.
fn message_id(session: &Session, transaction_id: &str) -> String {
    let mut digest = Sha256::new();
    for part in [session.user_id.as_str(), session.device_id.as_str(), transaction_id] {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    URL_SAFE_NO_PAD.encode(digest.finalize())
}

/// The devices of a local user that messages can be sent to.
pub(crate) async fn devices_of(state: &ApiState, localpart: &str) -> Result<Vec<String>, MatrixError> {
    let names = state.accounts.device_names(None, localpart).await?;
    let mut devices: Vec<String> = names.into_iter().map(|(device_id, _)| device_id).collect();
    if let Some(dehydrated) = state.encryption.dehydrated_device_id(localpart).await?
        && !devices.contains(&dehydrated)
    {
        devices.push(dehydrated);
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn message_ids_are_the_same_for_retries_only() {
        let of = |user_id: &ruma::UserId, device: &str, transaction: &str| {
            let session = Session {
                user_id: user_id.to_owned(),
                device_id: device.into(),
                admin: false,
                suspended: false,
                guest: false,
                service: None,
                rate_limited: true,
            };
            message_id(&session, transaction)
        };
        let (ann, bob) = (user_id!("@irc_ann:example.org"), user_id!("@irc_bob:example.org"));
        let first = of(ann, "", "1");
        assert_eq!(first, of(ann, "", "1"));
        for other in [of(bob, "", "1"), of(ann, "", "2"), of(ann, "1", ""), of(ann, "D", "1")] {
            assert_ne!(first, other);
        }
    }
}
