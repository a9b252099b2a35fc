//! Key backups (C-S API, "Server-side key backups").

use std::collections::BTreeMap;

use axum::extract::State;
use entente_accounts::Session;
use entente_encryption::{BackedUpKey, BackupKey, BackupState, BackupVersion, KeyScope};
use ruma::{
    OwnedRoomId, UInt,
    api::client::backup::{
        BackupAlgorithm, KeyBackupData, RoomKeyBackup, add_backup_keys, add_backup_keys_for_room,
        add_backup_keys_for_session, create_backup_version, delete_backup_keys, delete_backup_keys_for_room,
        delete_backup_keys_for_session, delete_backup_version, get_backup_info, get_backup_keys,
        get_backup_keys_for_room, get_backup_keys_for_session, get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};

use crate::{ApiState, MatrixError};

/// `POST /room_keys/version`.
pub(super) async fn create(
    State(state): State<ApiState>,
    session: Session,
    request: create_backup_version::v3::Request,
) -> Result<create_backup_version::v3::Response, MatrixError> {
    let version = state.encryption.create_backup(&session.user_id, request.algorithm.json().get()).await?;
    Ok(create_backup_version::v3::Response::new(version))
}

/// `GET /room_keys/version`.
pub(super) async fn latest(
    State(state): State<ApiState>,
    session: Session,
    _: get_latest_backup_info::v3::Request,
) -> Result<get_latest_backup_info::v3::Response, MatrixError> {
    let (algorithm, count, backup) = render(state.encryption.backup(&session.user_id, None).await?)?;
    Ok(get_latest_backup_info::v3::Response::new(algorithm, count, backup.state.etag, backup.version))
}

/// `GET /room_keys/version/{version}`.
pub(super) async fn get(
    State(state): State<ApiState>,
    session: Session,
    request: get_backup_info::v3::Request,
) -> Result<get_backup_info::v3::Response, MatrixError> {
    let backup = state.encryption.backup(&session.user_id, Some(&request.version)).await?;
    let (algorithm, count, backup) = render(backup)?;
    Ok(get_backup_info::v3::Response::new(algorithm, count, backup.state.etag, backup.version))
}

/// `PUT /room_keys/version/{version}`.
pub(super) async fn update(
    State(state): State<ApiState>,
    session: Session,
    request: update_backup_version::v3::Request,
) -> Result<update_backup_version::v3::Response, MatrixError> {
    let description = request.algorithm.json().get();
    state.encryption.update_backup(&session.user_id, &request.version, description).await?;
    Ok(update_backup_version::v3::Response::new())
}

/// `DELETE /room_keys/version/{version}`.
pub(super) async fn delete(
    State(state): State<ApiState>,
    session: Session,
    request: delete_backup_version::v3::Request,
) -> Result<delete_backup_version::v3::Response, MatrixError> {
    state.encryption.delete_backup(&session.user_id, &request.version).await?;
    Ok(delete_backup_version::v3::Response::new())
}

/// `PUT /room_keys/keys`.
pub(super) async fn put_keys(
    State(state): State<ApiState>,
    session: Session,
    request: add_backup_keys::v3::Request,
) -> Result<add_backup_keys::v3::Response, MatrixError> {
    let keys: Vec<BackupKey<'_>> =
        request.rooms.iter().flat_map(|(room_id, room)| keys_of(room_id.as_str(), &room.sessions)).collect();
    let (etag, count) = put(&state, &session, &request.version, &keys).await?;
    Ok(add_backup_keys::v3::Response::new(etag, count))
}

/// `PUT /room_keys/keys/{roomId}`.
pub(super) async fn put_room_keys(
    State(state): State<ApiState>,
    session: Session,
    request: add_backup_keys_for_room::v3::Request,
) -> Result<add_backup_keys_for_room::v3::Response, MatrixError> {
    let keys: Vec<BackupKey<'_>> = keys_of(request.room_id.as_str(), &request.sessions).collect();
    let (etag, count) = put(&state, &session, &request.version, &keys).await?;
    Ok(add_backup_keys_for_room::v3::Response::new(etag, count))
}

/// `PUT /room_keys/keys/{roomId}/{sessionId}`.
pub(super) async fn put_session_key(
    State(state): State<ApiState>,
    session: Session,
    request: add_backup_keys_for_session::v3::Request,
) -> Result<add_backup_keys_for_session::v3::Response, MatrixError> {
    let key = BackupKey {
        room_id: request.room_id.as_str(),
        session_id: &request.session_id,
        data: request.session_data.json().get(),
    };
    let (etag, count) = put(&state, &session, &request.version, &[key]).await?;
    Ok(add_backup_keys_for_session::v3::Response::new(etag, count))
}

/// `GET /room_keys/keys`.
pub(super) async fn get_keys(
    State(state): State<ApiState>,
    session: Session,
    request: get_backup_keys::v3::Request,
) -> Result<get_backup_keys::v3::Response, MatrixError> {
    let keys = state.encryption.backup_keys(&session.user_id, &request.version, KeyScope::All).await?;
    let mut rooms: BTreeMap<OwnedRoomId, RoomKeyBackup> = BTreeMap::new();
    for key in keys {
        let room_id = key.room_id.as_str().try_into().map_err(MatrixError::internal)?;
        let room = rooms.entry(room_id).or_insert_with(|| RoomKeyBackup::new(BTreeMap::new()));
        let (session_id, data) = raw(key)?;
        room.sessions.insert(session_id, data);
    }
    Ok(get_backup_keys::v3::Response::new(rooms))
}

/// `GET /room_keys/keys/{roomId}`.
pub(super) async fn get_room_keys(
    State(state): State<ApiState>,
    session: Session,
    request: get_backup_keys_for_room::v3::Request,
) -> Result<get_backup_keys_for_room::v3::Response, MatrixError> {
    let scope = KeyScope::Room(request.room_id.as_str());
    let keys = state.encryption.backup_keys(&session.user_id, &request.version, scope).await?;
    let sessions = keys.into_iter().map(raw).collect::<Result<_, _>>()?;
    Ok(get_backup_keys_for_room::v3::Response::new(sessions))
}

/// `GET /room_keys/keys/{roomId}/{sessionId}`.
pub(super) async fn get_session_key(
    State(state): State<ApiState>,
    session: Session,
    request: get_backup_keys_for_session::v3::Request,
) -> Result<get_backup_keys_for_session::v3::Response, MatrixError> {
    let scope = KeyScope::Session(request.room_id.as_str(), &request.session_id);
    let keys = state.encryption.backup_keys(&session.user_id, &request.version, scope).await?;
    let key = keys.into_iter().next().ok_or_else(|| MatrixError::not_found("that key was not backed up"))?;
    Ok(get_backup_keys_for_session::v3::Response::new(raw(key)?.1))
}

/// `DELETE /room_keys/keys`.
pub(super) async fn delete_keys(
    State(state): State<ApiState>,
    session: Session,
    request: delete_backup_keys::v3::Request,
) -> Result<delete_backup_keys::v3::Response, MatrixError> {
    let (etag, count) = remove(&state, &session, &request.version, KeyScope::All).await?;
    Ok(delete_backup_keys::v3::Response::new(etag, count))
}

/// `DELETE /room_keys/keys/{roomId}`.
pub(super) async fn delete_room_keys(
    State(state): State<ApiState>,
    session: Session,
    request: delete_backup_keys_for_room::v3::Request,
) -> Result<delete_backup_keys_for_room::v3::Response, MatrixError> {
    let scope = KeyScope::Room(request.room_id.as_str());
    let (etag, count) = remove(&state, &session, &request.version, scope).await?;
    Ok(delete_backup_keys_for_room::v3::Response::new(etag, count))
}

/// `DELETE /room_keys/keys/{roomId}/{sessionId}`.
pub(super) async fn delete_session_key(
    State(state): State<ApiState>,
    session: Session,
    request: delete_backup_keys_for_session::v3::Request,
) -> Result<delete_backup_keys_for_session::v3::Response, MatrixError> {
    let scope = KeyScope::Session(request.room_id.as_str(), &request.session_id);
    let (etag, count) = remove(&state, &session, &request.version, scope).await?;
    Ok(delete_backup_keys_for_session::v3::Response::new(etag, count))
}

fn keys_of<'a>(
    room_id: &'a str,
    sessions: &'a BTreeMap<String, Raw<KeyBackupData>>,
) -> impl Iterator<Item = BackupKey<'a>> {
    sessions.iter().map(move |(session_id, data)| BackupKey { room_id, session_id, data: data.json().get() })
}

async fn put(
    state: &ApiState,
    session: &Session,
    version: &str,
    keys: &[BackupKey<'_>],
) -> Result<(String, UInt), MatrixError> {
    render_state(state.encryption.put_backup_keys(&session.user_id, version, keys).await?)
}

async fn remove(
    state: &ApiState,
    session: &Session,
    version: &str,
    scope: KeyScope<'_>,
) -> Result<(String, UInt), MatrixError> {
    render_state(state.encryption.delete_backup_keys(&session.user_id, version, scope).await?)
}

fn render_state(state: BackupState) -> Result<(String, UInt), MatrixError> {
    let count = UInt::try_from(state.count).map_err(MatrixError::internal)?;
    Ok((state.etag, count))
}

fn render(backup: BackupVersion) -> Result<(Raw<BackupAlgorithm>, UInt, BackupVersion), MatrixError> {
    let algorithm = Raw::from_json_string(backup.description.clone()).map_err(MatrixError::internal)?;
    let count = UInt::try_from(backup.state.count).map_err(MatrixError::internal)?;
    Ok((algorithm, count, backup))
}

fn raw(key: BackedUpKey) -> Result<(String, Raw<KeyBackupData>), MatrixError> {
    let text = String::from_utf8(key.data.to_vec()).map_err(MatrixError::internal)?;
    Ok((key.session_id, Raw::from_json_string(text).map_err(MatrixError::internal)?))
}
