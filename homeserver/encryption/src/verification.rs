//! Signatures of keys: what is signed wrongly is not kept.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, SigningKeyAlgorithm,
    serde::Base64,
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};

/// Whether `object` carries a valid signature of `user_id` by the Ed25519 key `public_key` (unpadded base64), under the name
/// `key_id` (`ed25519:…`).
pub(crate) fn is_signed_by(
    object: &CanonicalJsonObject,
    user_id: &str,
    key_id: &str,
    public_key: &str,
) -> bool {
    signature_of(object, user_id, key_id).is_some_and(|signature| verifies(object, signature, public_key))
}

/// Whether `signature` (unpadded base64) is one of `object` by `public_key`.
pub(crate) fn verifies(object: &CanonicalJsonObject, signature: &str, public_key: &str) -> bool {
    let (Ok(signature), Ok(public_key)) = (
        Base64::<ruma::serde::base64::Standard>::parse(signature),
        Base64::<ruma::serde::base64::Standard>::parse(public_key),
    ) else {
        return false;
    };
    let Ok(signed) = to_canonical_json_string_for_signing(object) else { return false };
    verify_canonical_json_bytes(
        &SigningKeyAlgorithm::Ed25519,
        public_key.as_bytes(),
        signature.as_bytes(),
        signed.as_bytes(),
    )
    .is_ok()
}

/// The signature of a user with a key.
pub(crate) fn signature_of<'a>(
    object: &'a CanonicalJsonObject,
    user_id: &str,
    key_id: &str,
) -> Option<&'a str> {
    object.get("signatures")?.as_object()?.get(user_id)?.as_object()?.get(key_id)?.as_str()
}

/// The public keys of device or cross-signing keys: their names and values.
pub(crate) fn public_keys(object: &CanonicalJsonObject) -> impl Iterator<Item = (&str, &str)> {
    let keys = object.get("keys").and_then(CanonicalJsonValue::as_object);
    keys.into_iter().flatten().filter_map(|(name, key)| Some((name.as_str(), key.as_str()?)))
}

/// Reads stored or sent JSON.
pub(crate) fn parse(json: &[u8]) -> Option<CanonicalJsonObject> {
    serde_json::from_slice(json).ok()
}

/// Leaves of all signatures only that of a user with a key, which was checked.
pub(crate) fn keep_signature(object: &mut CanonicalJsonObject, user_id: &str, key_id: &str) {
    let kept = signature_of(object, user_id, key_id).map(str::to_owned);
    let mut signatures = CanonicalJsonObject::new();
    if let Some(signature) = kept {
        let of_user = CanonicalJsonObject::from([(key_id.to_owned(), CanonicalJsonValue::String(signature))]);
        signatures.insert(user_id.to_owned(), CanonicalJsonValue::Object(of_user));
    }
    object.insert(String::from("signatures"), CanonicalJsonValue::Object(signatures));
}
