//! What a server says of its keys (S-S API, "Publishing Keys").

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ServerName,
    serde::{Base64, base64::Standard},
    signatures::{PublicKeyMap, verify_json},
};

use crate::FederationError;

/// Keys of one server that are looked at.
const MOST_KEYS: usize = 100;

/// The keys of a server, as it signed them.
#[derive(Debug)]
pub(crate) struct KeyAnswer {
    /// Until when the current keys are good: ms since 1970.
    pub(super) valid_until: u64,
    /// The current keys.
    pub(crate) current: BTreeMap<String, Vec<u8>>,
    /// Keys that do not sign any more, and when they last did.
    pub(super) old: BTreeMap<String, (Vec<u8>, u64)>,
}

impl KeyAnswer {
    /// Reads an answer and checks that it is signed by one of the keys that it names.
    pub(crate) fn verify(
        server: &ServerName,
        mut answer: CanonicalJsonObject,
    ) -> Result<Self, FederationError> {
        let bad = |reason: &str| FederationError::BadAnswer {
            server: server.to_owned(),
            reason: reason.to_owned(),
        };
        let name = answer.get("server_name").and_then(CanonicalJsonValue::as_str);
        if name != Some(server.as_str()) {
            return Err(bad("the keys are another server's"));
        }
        // Whoever passed it on may have signed it as well.
        let own = answer.get("signatures").and_then(CanonicalJsonValue::as_object);
        let own = own.and_then(|signatures| signatures.get(server.as_str())).cloned();
        let own = own.ok_or_else(|| bad("the keys are not signed"))?;
        let own = CanonicalJsonObject::from([(server.to_string(), own)]);
        answer.insert(String::from("signatures"), CanonicalJsonValue::Object(own));
        let current: BTreeMap<String, Vec<u8>> =
            keys(&answer, "verify_keys").map(|(key_id, key, _)| (key_id, key)).collect();
        let old = keys(&answer, "old_verify_keys");
        let old = old
            .filter_map(|(key_id, key, object)| Some((key_id, (key, whole(object, "expired_ts")?))))
            .collect();
        let by_id = current.iter().map(|(key_id, key)| (key_id.clone(), Base64::new(key.clone())));
        let known = PublicKeyMap::from([(server.to_string(), by_id.collect())]);
        verify_json(&known, &answer)
            .map_err(|error| bad(&format!("the keys are not signed well: {error}")))?;
        let valid_until = whole(&answer, "valid_until_ts")
            .ok_or_else(|| bad("it is not said until when the keys are good"))?;
        Ok(Self { valid_until, current, old })
    }
}

fn keys<'a>(
    answer: &'a CanonicalJsonObject,
    field: &str,
) -> impl Iterator<Item = (String, Vec<u8>, &'a CanonicalJsonObject)> {
    let keys = answer.get(field).and_then(CanonicalJsonValue::as_object).into_iter().flatten();
    keys.take(MOST_KEYS).filter_map(|(key_id, key)| {
        let object = key.as_object()?;
        let key = Base64::<Standard>::parse(object.get("key")?.as_str()?).ok()?;
        let is_ed25519 = key_id.starts_with("ed25519:") && key.as_bytes().len() == 32;
        is_ed25519.then(|| (key_id.clone(), key.into_inner(), object))
    })
}

fn whole(object: &CanonicalJsonObject, field: &str) -> Option<u64> {
    let number = object.get(field).and_then(CanonicalJsonValue::as_integer)?;
    u64::try_from(i64::from(number)).ok()
}

#[cfg(test)]
mod tests {
    use ruma::{
        server_name,
        signatures::{Ed25519KeyPair, sign_json},
    };
    use serde_json::json;

    use super::*;

    fn pair(seed: u8) -> Ed25519KeyPair {
        let document = [
            [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20]
                .as_slice(),
            &[seed; 32],
        ]
        .concat();
        Ed25519KeyPair::from_der(&document, seed.to_string()).unwrap()
    }

    fn answer(server: &str, signed_by: u8) -> CanonicalJsonObject {
        let key = |seed| Base64::<Standard>::new(pair(seed).public_key().to_vec()).encode();
        let answer = json!({
            "server_name": server,
            "valid_until_ts": 1_000,
            "verify_keys": { "ed25519:1": { "key": key(1) }, "ed25519:x": { "key": "short" }, "other:1": { "key": key(1) } },
            "old_verify_keys": { "ed25519:2": { "key": key(2), "expired_ts": 500 }, "ed25519:3": { "key": key(3) } },
        });
        let CanonicalJsonValue::Object(mut answer) = CanonicalJsonValue::try_from(answer).unwrap() else {
            panic!()
        };
        sign_json(server, &pair(signed_by), &mut answer).unwrap();
        answer
    }

    #[test]
    fn signed_keys_are_read() {
        let mut answer = answer("a.example", 1);
        sign_json("notary.example", &pair(9), &mut answer).unwrap();
        let read = KeyAnswer::verify(server_name!("a.example"), answer).unwrap();
        assert_eq!(read.valid_until, 1_000);
        assert_eq!(read.current.keys().collect::<Vec<_>>(), ["ed25519:1"]);
        assert_eq!(
            read.old.iter().map(|(id, (_, at))| (id.as_str(), *at)).collect::<Vec<_>>(),
            [("ed25519:2", 500)]
        );
    }

    #[test]
    fn what_is_not_signed_by_them_is_refused() {
        let verify = |answer| KeyAnswer::verify(server_name!("a.example"), answer);
        assert!(verify(answer("b.example", 1)).is_err());
        assert!(verify(answer("a.example", 2)).is_err(), "an old key signs nothing new");
        let mut changed = answer("a.example", 1);
        changed.insert("valid_until_ts".to_owned(), CanonicalJsonValue::Integer(9_999.into()));
        assert!(verify(changed).is_err());
        let mut unsigned = answer("a.example", 1);
        unsigned.remove("signatures");
        assert!(verify(unsigned).is_err());
    }
}
