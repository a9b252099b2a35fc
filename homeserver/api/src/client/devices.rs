use axum::{extract::State, http::StatusCode};
use entente_accounts::{Operation, Session};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::{
        device::{Device, delete_device, delete_devices, get_device, get_devices, update_device},
        uiaa::AuthData,
    },
};

use super::interactive::prove;
use crate::{ApiState, MatrixError, endpoint::Json};

/// A request may name at most this many devices.
const MOST_DEVICES: usize = 1_000;

/// `GET /devices`.
pub(super) async fn list(
    State(state): State<ApiState>,
    session: Session,
    _: get_devices::v3::Request,
) -> Result<get_devices::v3::Response, MatrixError> {
    let devices = state.accounts.devices(&session.user_id).await?;
    Ok(get_devices::v3::Response::new(devices.into_iter().map(render).collect()))
}

/// `GET /devices/{deviceId}`.
pub(super) async fn get(
    State(state): State<ApiState>,
    session: Session,
    request: get_device::v3::Request,
) -> Result<get_device::v3::Response, MatrixError> {
    let device = state.accounts.device(&session.user_id, request.device_id.as_str()).await?;
    Ok(get_device::v3::Response::new(render(device)))
}

/// `PUT /devices/{deviceId}`. 201 for a device that was made by it, which only application services can do (MSC4190).
pub(super) async fn update(
    State(state): State<ApiState>,
    session: Session,
    request: update_device::v3::Request,
) -> Result<(StatusCode, Json), MatrixError> {
    let (user_id, device_id) = (&session.user_id, request.device_id.as_str());
    let mut status = StatusCode::OK;
    match request.display_name.as_deref() {
        name if session.service.is_some() => {
            if state.accounts.put_device(user_id, device_id, name).await? {
                status = StatusCode::CREATED;
            }
        }
        Some(name) => state.accounts.rename_device(user_id, device_id, Some(name)).await?,
        // Nothing to change, but a device that is not there is still an error.
        None => drop(state.accounts.device(user_id, device_id).await?),
    }
    Ok((status, Json(b"{}".to_vec())))
}

/// `DELETE /devices/{deviceId}`.
pub(super) async fn delete(
    State(state): State<ApiState>,
    session: Session,
    request: delete_device::v3::Request,
) -> Result<delete_device::v3::Response, MatrixError> {
    prove_unless_service(&state, &session, request.auth.as_ref()).await?;
    state.accounts.delete_devices(&session.user_id, &[request.device_id.as_str()]).await?;
    state.accounts.end_interactive_session(request.auth.as_ref()).await?;
    Ok(delete_device::v3::Response::new())
}

/// `POST /delete_devices`.
pub(super) async fn delete_many(
    State(state): State<ApiState>,
    session: Session,
    request: delete_devices::v3::Request,
) -> Result<delete_devices::v3::Response, MatrixError> {
    if request.devices.len() > MOST_DEVICES {
        return Err(MatrixError::invalid_param("a request may name at most 1000 devices"));
    }
    prove_unless_service(&state, &session, request.auth.as_ref()).await?;
    let device_ids: Vec<&str> = request.devices.iter().map(|device_id| device_id.as_str()).collect();
    state.accounts.delete_devices(&session.user_id, &device_ids).await?;
    state.accounts.end_interactive_session(request.auth.as_ref()).await?;
    Ok(delete_devices::v3::Response::new())
}

/// An application service has proved all it can by its token (MSC4190).
async fn prove_unless_service(
    state: &ApiState,
    session: &Session,
    auth: Option<&AuthData>,
) -> Result<(), MatrixError> {
    match session.service {
        Some(_) => Ok(()),
        None => prove(state, Operation::DeleteDevices, session, auth).await,
    }
}

fn render(device: entente_accounts::Device) -> Device {
    let mut rendered = Device::new(device.device_id);
    rendered.display_name = device.display_name;
    rendered.last_seen_ip = device.last_seen_address;
    rendered.last_seen_ts = device.last_seen_at.and_then(UInt::new).map(MilliSecondsSinceUnixEpoch);
    rendered
}
