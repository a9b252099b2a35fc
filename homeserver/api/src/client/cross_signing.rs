use std::collections::BTreeMap;

use axum::extract::State;
use entente_accounts::{Operation, Session};
use entente_encryption::{CrossSigningUpload, EncryptionError, SignatureFailure};
use entente_rooms::ObjectWriter;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UserId,
    api::client::keys::{upload_signatures, upload_signing_keys},
    serde::Raw,
};
use serde_json::{Value, json, value::RawValue};

use super::{interactive::prove, remote};
use crate::{ApiState, MatrixError, endpoint::Json};

/// `POST /keys/device_signing/upload`. The first keys need no proof (MSC3967).
pub(super) async fn upload(
    State(state): State<ApiState>,
    session: Session,
    request: upload_signing_keys::v3::Request,
) -> Result<upload_signing_keys::v3::Response, MatrixError> {
    let upload = CrossSigningUpload {
        master: request.master_key.as_ref().map(Raw::json),
        self_signing: request.self_signing_key.as_ref().map(Raw::json),
        user_signing: request.user_signing_key.as_ref().map(Raw::json),
    };
    let user_id = &session.user_id;
    match state.encryption.upload_cross_signing_keys(user_id, &upload, false).await {
        Err(EncryptionError::ProofNeeded) => {
            // An application service has proved all it can by its token (MSC4190).
            if session.service.is_none() {
                prove(&state, Operation::ReplaceCrossSigningKeys, &session, request.auth.as_ref()).await?;
            }
            state.encryption.upload_cross_signing_keys(user_id, &upload, true).await?;
            state.accounts.end_interactive_session(request.auth.as_ref()).await?;
        }
        outcome => outcome?,
    }
    Ok(upload_signing_keys::v3::Response::new())
}

/// `POST /keys/signatures/upload`.
pub(super) async fn upload_signatures(
    State(state): State<ApiState>,
    session: Session,
    request: upload_signatures::v3::Request,
) -> Result<Json, MatrixError> {
    let signed: Vec<(&UserId, &str, &RawValue)> = request
        .signed_keys
        .iter()
        .flat_map(|(user_id, keys)| keys.iter().map(|(key_id, key)| (&**user_id, key_id, key)))
        .collect();
    let mut failures: BTreeMap<&UserId, BTreeMap<&str, Value>> = BTreeMap::new();
    let masters = remote_masters(&state, &signed).await;
    for (place, failure) in state.encryption.upload_signatures(&session.user_id, &signed, &masters).await? {
        let Some((user_id, key_id, _)) = signed.get(place) else { continue };
        failures.entry(user_id).or_default().insert(key_id, render(&failure));
    }
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("failures", failures);
    writer.end();
    Ok(Json(json))
}

/// The master keys of those who are users of other servers, as those servers tell them.
async fn remote_masters(
    state: &ApiState,
    signed: &[(&UserId, &str, &RawValue)],
) -> BTreeMap<OwnedUserId, CanonicalJsonObject> {
    let here = state.accounts.server_name();
    let all_devices = || CanonicalJsonValue::Array(Vec::new());
    let owners: BTreeMap<&UserId, CanonicalJsonValue> = signed
        .iter()
        .filter(|(owner, ..)| owner.server_name() != here)
        .map(|(owner, ..)| (*owner, all_devices()))
        .collect();
    if owners.is_empty() {
        return BTreeMap::new();
    }
    let told = remote::keys(state, "query", "device_keys", owners.into_iter().collect(), None).await;
    let master = |(owner, key): (String, Value)| {
        let CanonicalJsonValue::Object(key) = CanonicalJsonValue::try_from(key).ok()? else { return None };
        Some((OwnedUserId::try_from(owner).ok()?, key))
    };
    told.of("master_keys").into_iter().filter_map(master).collect()
}

fn render(failure: &SignatureFailure) -> Value {
    match failure {
        SignatureFailure::NotFound => json!({ "errcode": "M_NOT_FOUND", "error": "there is no such key" }),
        SignatureFailure::Invalid(reason) => json!({ "errcode": "M_INVALID_SIGNATURE", "error": reason }),
    }
}
