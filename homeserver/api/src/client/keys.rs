use std::collections::BTreeMap;

use axum::extract::State;
use entente_accounts::Session;
use entente_encryption::{KeyUpload, UserKeys};
use entente_rooms::ObjectWriter;
use entente_sync::SyncToken;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedDeviceId, OwnedUserId, UInt, UserId,
    api::client::keys::{claim_keys, get_key_changes, get_keys, upload_keys},
    serde::Raw,
};

use serde_json::{Map, Value, json};

use super::remote;
use crate::{ApiState, MatrixError, endpoint::Json};

/// Users that one query may name.
const MOST_USERS: usize = 10_000;
/// Keys that one claim may ask for.
const MOST_CLAIMS: usize = 10_000;

/// `POST /keys/upload`.
pub(super) async fn upload(
    State(state): State<ApiState>,
    session: Session,
    request: upload_keys::v3::Request,
) -> Result<upload_keys::v3::Response, MatrixError> {
    if session.device_id.as_str().is_empty() {
        return Err(MatrixError::invalid_param(
            "an application service says by device_id whose keys these are",
        ));
    }
    let upload = KeyUpload {
        device_keys: request.device_keys.as_ref().map(Raw::json),
        one_time_keys: request.one_time_keys.iter().map(|(id, key)| (id.as_str(), key.json())).collect(),
        fallback_keys: request.fallback_keys.iter().map(|(id, key)| (id.as_str(), key.json())).collect(),
    };
    let device_id = session.device_id.as_str();
    let counts = state.encryption.upload_keys(&session.user_id, device_id, &upload).await?;
    let counts = counts.one_time_keys.into_iter();
    let counts = counts.map(|(algorithm, count)| (algorithm.into(), UInt::new_saturating(count)));
    Ok(upload_keys::v3::Response::new(counts.collect()))
}

/// `POST /keys/query`.
pub(super) async fn query(
    State(state): State<ApiState>,
    session: Session,
    request: get_keys::v3::Request,
) -> Result<Json, MatrixError> {
    if request.device_keys.len() > MOST_USERS {
        return Err(MatrixError::invalid_param("a query names at most 10000 users"));
    }
    let (local, remote) = split(&state, &request.device_keys);
    let wanted: Vec<(&UserId, Vec<&str>)> = local
        .iter()
        .map(|(user_id, devices)| (*user_id, devices.iter().map(|device_id| device_id.as_str()).collect()))
        .collect();
    let mut found = state.appservices.query_keys(&session.user_id, &wanted).await?;
    for ((user_id, _), keys) in wanted.iter().zip(&mut found) {
        if !keys.devices.is_empty() {
            add_names(keys, state.accounts.device_names(None, user_id.localpart()).await?);
        }
    }
    let users = || wanted.iter().map(|(user_id, _)| *user_id).zip(&found);
    let asked = remote.iter().map(|(user_id, devices)| {
        let devices = devices.iter().map(|device_id| CanonicalJsonValue::String(device_id.to_string()));
        (*user_id, CanonicalJsonValue::Array(devices.collect()))
    });
    let elsewhere = remote::keys(&state, "query", "device_keys", asked.collect(), request.timeout).await;
    // What the reader signed of other servers' users only this server has.
    let owners: Vec<&str> = remote.iter().map(|(user_id, _)| user_id.as_str()).collect();
    let signatures = state.encryption.signatures_by(&session.user_id, &owners).await?;
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("failures", &elsewhere.failures);
    let mut devices = elsewhere.of("device_keys");
    devices.extend(users().map(|(user_id, keys)| (user_id.to_string(), json!(keys.devices))));
    writer.value("device_keys", devices);
    let of_kind = |name: &str, kind: fn(&UserKeys) -> Option<&CanonicalJsonObject>| {
        let mut keys = elsewhere.of(name);
        let local = users().filter_map(|(user_id, keys)| Some((user_id.to_string(), json!(kind(keys)?))));
        keys.extend(local);
        keys
    };
    let mut masters = of_kind("master_keys", |keys| keys.master.as_ref());
    add_signatures(&session.user_id, signatures, &mut masters);
    writer.value("master_keys", masters);
    writer.value("self_signing_keys", of_kind("self_signing_keys", |keys| keys.self_signing.as_ref()));
    writer.value("user_signing_keys", of_kind("user_signing_keys", |keys| keys.user_signing.as_ref()));
    writer.end();
    Ok(Json(json))
}

/// Adds signatures to master keys: the owner, the key, the signing key and the signature of each.
fn add_signatures(
    signer: &UserId,
    signatures: Vec<(String, String, String, String)>,
    masters: &mut Map<String, Value>,
) {
    for (owner, key, signing_key, signature) in signatures {
        let Some(master) = masters.get_mut(&owner).and_then(Value::as_object_mut) else { continue };
        let keys = master.get("keys").and_then(Value::as_object);
        if !keys.is_some_and(|keys| keys.contains_key(&format!("ed25519:{key}"))) {
            continue;
        }
        let all = master.entry("signatures").or_insert_with(|| json!({}));
        let Some(all) = all.as_object_mut() else { continue };
        let of_signer = all.entry(signer.as_str()).or_insert_with(|| json!({}));
        if let Some(of_signer) = of_signer.as_object_mut() {
            of_signer.insert(signing_key, Value::String(signature));
        }
    }
}

/// Names of devices are shown beside their keys, unsigned.
pub(crate) fn add_names(keys: &mut UserKeys, names: Vec<(String, Option<String>)>) {
    for (device_id, name) in names {
        if let (Some(name), Some(device)) = (name, keys.devices.get_mut(&device_id)) {
            let name = (String::from("device_display_name"), CanonicalJsonValue::String(name));
            let unsigned = CanonicalJsonValue::Object(CanonicalJsonObject::from([name]));
            device.insert(String::from("unsigned"), unsigned);
        }
    }
}

type Asked<'a, T> = Vec<(&'a UserId, &'a T)>;

/// Users of this server, and those of others.
fn split<'a, T>(state: &ApiState, users: &'a BTreeMap<OwnedUserId, T>) -> (Asked<'a, T>, Asked<'a, T>) {
    let here = state.accounts.server_name();
    users
        .iter()
        .map(|(user_id, asked)| (&**user_id, asked))
        .partition(|(user_id, _)| user_id.server_name() == here)
}

/// `POST /keys/claim`.
pub(super) async fn claim(
    State(state): State<ApiState>,
    _: Session,
    request: claim_keys::v3::Request,
) -> Result<Json, MatrixError> {
    // Also who is suspended may: verifying one's devices needs it (C-S API, "Account suspension").
    let (local, remote) = split(&state, &request.one_time_keys);
    let wanted: Vec<(&UserId, &OwnedDeviceId, String)> = local
        .iter()
        .flat_map(|(user_id, devices)| {
            devices.iter().map(|(device_id, algorithm)| (*user_id, device_id, algorithm.to_string()))
        })
        .collect();
    if wanted.len() > MOST_CLAIMS {
        return Err(MatrixError::invalid_param("a claim asks for at most 10000 keys"));
    }
    let asked: Vec<(&UserId, &str, &str)> = wanted
        .iter()
        .map(|(user_id, device_id, algorithm)| (*user_id, device_id.as_str(), algorithm.as_str()))
        .collect();
    let elsewhere = remote.iter().map(|(user_id, devices)| {
        let devices = devices.iter().map(|(device_id, algorithm)| {
            (device_id.to_string(), CanonicalJsonValue::String(algorithm.to_string()))
        });
        (*user_id, CanonicalJsonValue::Object(devices.collect()))
    });
    let elsewhere =
        remote::keys(&state, "claim", "one_time_keys", elsewhere.collect(), request.timeout).await;
    let mut claimed: BTreeMap<&UserId, BTreeMap<&str, BTreeMap<String, _>>> = BTreeMap::new();
    for (place, key_id, key) in state.appservices.claim_keys(&asked).await? {
        let Some((user_id, device_id, _)) = wanted.get(place) else { continue };
        let of_device = claimed.entry(user_id).or_default().entry(device_id.as_str()).or_default();
        of_device.insert(key_id, key);
    }
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("failures", &elsewhere.failures);
    let mut keys = elsewhere.of("one_time_keys");
    keys.extend(claimed.into_iter().map(|(user_id, keys)| (user_id.to_string(), json!(keys))));
    writer.value("one_time_keys", keys);
    writer.end();
    Ok(Json(json))
}

/// `GET /keys/changes`.
pub(super) async fn changes(
    State(state): State<ApiState>,
    session: Session,
    request: get_key_changes::v3::Request,
) -> Result<get_key_changes::v3::Response, MatrixError> {
    let none_of_ours = || MatrixError::invalid_param("that is none of this server's tokens");
    let from = SyncToken::parse(&request.from).ok_or_else(none_of_ours)?;
    SyncToken::parse(&request.to).ok_or_else(none_of_ours)?;
    let (changed, left) = state.sync.key_changes(&session.user_id, &session.device_id, from).await?;
    Ok(get_key_changes::v3::Response::new(changed, left))
}
