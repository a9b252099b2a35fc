use axum::extract::State;
use entente_accounts::Session;
use entente_encryption::{Sender, ToDeviceMessage};
use ruma::{
    api::client::to_device::send_event_to_device::v3::{Request, Response},
    to_device::DeviceIdOrAllDevices,
};
use serde_json::value::RawValue;

use super::membership::active;
use crate::{ApiState, MatrixError};

/// `PUT /sendToDevice/{eventType}/{txnId}`.
pub(super) async fn send(
    State(state): State<ApiState>,
    session: Session,
    request: Request,
) -> Result<Response, MatrixError> {
    active(&session)?;
    let here = state.accounts.server_name();
    let mut addressed: Vec<(&str, String, &RawValue)> = Vec::new();
    for (user_id, messages) in &request.messages {
        if user_id.server_name() != here {
            tracing::debug!(server.name = %user_id.server_name(), "a message to a device of another server is dropped");
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
    state.encryption.send_to_devices(sender, &event_type, &messages, state.limits.clock().now()).await?;
    Ok(Response::new())
}

/// The devices of a local user that messages can be sent to.
async fn devices_of(state: &ApiState, localpart: &str) -> Result<Vec<String>, MatrixError> {
    let names = state.accounts.device_names(None, localpart).await?;
    let mut devices: Vec<String> = names.into_iter().map(|(device_id, _)| device_id).collect();
    if let Some(dehydrated) = state.encryption.dehydrated_device_id(localpart).await?
        && !devices.contains(&dehydrated)
    {
        devices.push(dehydrated);
    }
    Ok(devices)
}
