//! Devices and keys of this server's users (S-S API, "Device Management", "End-to-End Encryption").

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
};
use entente_encryption::UserKeys;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::peer::{Peer, parsed};
use crate::{ApiState, MatrixError, client::add_names};

/// Users that one query may name.
const MOST_USERS: usize = 10_000;
/// Keys that one claim may ask for.
const MOST_CLAIMS: usize = 10_000;

#[derive(Deserialize)]
struct Query {
    device_keys: BTreeMap<OwnedUserId, Vec<String>>,
}

#[derive(Deserialize)]
struct Claim {
    one_time_keys: BTreeMap<OwnedUserId, BTreeMap<String, String>>,
}

/// `GET /v1/user/devices/{userId}`.
pub(super) async fn devices(
    State(state): State<ApiState>,
    Path(user_id): Path<String>,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let user_id: OwnedUserId = parsed(&user_id)?;
    require_local(&state, &user_id)?;
    let keys = keys_of(&state, &peer, &[(&user_id, Vec::new())]).await?.pop();
    let keys = keys.ok_or_else(|| MatrixError::not_found("there is no such user"))?;
    let names = state.accounts.device_names(None, user_id.localpart()).await?;
    let name_of =
        |device_id: &str| names.iter().find(|(id, _)| id == device_id).and_then(|(_, name)| name.clone());
    let devices: Vec<Value> = keys
        .devices
        .iter()
        .map(|(device_id, keys)| {
            json!({ "device_id": device_id, "keys": keys, "device_display_name": name_of(device_id) })
        })
        .collect();
    // It grows with time, which is all that is asked of it.
    let stream_id = state.limits.clock().now().millis();
    let mut body = json!({ "user_id": user_id, "stream_id": stream_id, "devices": devices });
    if let Some(master) = keys.master {
        body["master_key"] = json!(master);
    }
    if let Some(self_signing) = keys.self_signing {
        body["self_signing_key"] = json!(self_signing);
    }
    Ok(Json(body))
}

/// `POST /v1/user/keys/query`.
pub(super) async fn query(State(state): State<ApiState>, peer: Peer) -> Result<Json<Value>, MatrixError> {
    let body = peer.json()?;
    let Query { device_keys } = serde_json::from_value(body).map_err(MatrixError::bad_json)?;
    if device_keys.len() > MOST_USERS {
        return Err(MatrixError::invalid_param("a query names at most 10000 users"));
    }
    let wanted: Vec<(&UserId, Vec<&str>)> = device_keys
        .iter()
        .filter(|(user_id, _)| require_local(&state, user_id).is_ok())
        .map(|(user_id, devices)| (&**user_id, devices.iter().map(String::as_str).collect()))
        .collect();
    let mut found = keys_of(&state, &peer, &wanted).await?;
    for ((user_id, _), keys) in wanted.iter().zip(&mut found) {
        add_names(keys, state.accounts.device_names(None, user_id.localpart()).await?);
    }
    let users = || wanted.iter().map(|(user_id, _)| *user_id).zip(&found);
    let devices: BTreeMap<_, _> = users().map(|(user_id, keys)| (user_id, &keys.devices)).collect();
    let master: BTreeMap<_, _> =
        users().filter_map(|(user_id, keys)| Some((user_id, keys.master.as_ref()?))).collect();
    let own: BTreeMap<_, _> =
        users().filter_map(|(user_id, keys)| Some((user_id, keys.self_signing.as_ref()?))).collect();
    Ok(Json(json!({ "device_keys": devices, "master_keys": master, "self_signing_keys": own })))
}

/// `POST /v1/user/keys/claim`.
pub(super) async fn claim(State(state): State<ApiState>, peer: Peer) -> Result<Json<Value>, MatrixError> {
    let body = peer.json()?;
    let Claim { one_time_keys } = serde_json::from_value(body).map_err(MatrixError::bad_json)?;
    let wanted: Vec<(&OwnedUserId, &str, &str)> = one_time_keys
        .iter()
        .filter(|(user_id, _)| require_local(&state, user_id).is_ok())
        .flat_map(|(user_id, devices)| {
            devices.iter().map(move |(device, kind)| (user_id, device.as_str(), kind.as_str()))
        })
        .collect();
    if wanted.len() > MOST_CLAIMS {
        return Err(MatrixError::invalid_param("a claim asks for at most 10000 keys"));
    }
    let asked: Vec<(&UserId, &str, &str)> =
        wanted.iter().map(|(user_id, device, kind)| (&***user_id, *device, *kind)).collect();
    let mut claimed: BTreeMap<&OwnedUserId, BTreeMap<&str, BTreeMap<String, _>>> = BTreeMap::new();
    for (place, key_id, key) in state.appservices.claim_keys(&asked).await? {
        let Some((user_id, device_id, _)) = wanted.get(place) else { continue };
        claimed.entry(user_id).or_default().entry(device_id).or_default().insert(key_id, key);
    }
    Ok(Json(json!({ "one_time_keys": claimed })))
}

fn require_local(state: &ApiState, user_id: &UserId) -> Result<(), MatrixError> {
    if user_id.server_name() == state.rooms.server_name() {
        Ok(())
    } else {
        Err(MatrixError::invalid_param("that user is not of this server"))
    }
}

/// Keys as everybody sees them: without the signatures that only their makers see.
async fn keys_of(
    state: &ApiState,
    peer: &Peer,
    wanted: &[(&UserId, Vec<&str>)],
) -> Result<Vec<UserKeys>, MatrixError> {
    // Nobody has this name.
    let nobody = UserId::parse_with_server_name("", &peer.origin).map_err(MatrixError::internal)?;
    Ok(state.appservices.query_keys(&nobody, wanted).await?)
}
