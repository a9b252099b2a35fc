//! What servers say of their keys: as it comes, and signed with a key that it names.
#![no_main]

use entente_federation::fuzzing::key_answer;
use libfuzzer_sys::fuzz_target;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    serde::{Base64, base64::Standard},
    server_name,
    signatures::{Ed25519KeyPair, sign_json},
};

const KEY_ID: &str = "ed25519:1";
/// What stands before the seed of a private key (RFC 8410).
const DER_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

fuzz_target!(|json: &[u8]| {
    let server = server_name!("a.example");
    let Ok(mut answer) = serde_json::from_slice::<CanonicalJsonObject>(json) else { return };
    assert_eq!(key_answer(server, answer.clone()), None, "nobody signed it");
    let document = [DER_HEAD.as_slice(), &[7; 32]].concat();
    let pair = Ed25519KeyPair::from_der(&document, "1".to_owned()).expect("it is a private key");
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    answer.insert("server_name".to_owned(), text(server.as_str()));
    let key = Base64::<Standard>::new(pair.public_key().to_vec()).encode();
    let key = CanonicalJsonObject::from([("key".to_owned(), text(&key))]);
    match answer
        .entry("verify_keys".to_owned())
        .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()))
    {
        CanonicalJsonValue::Object(keys) => keys.insert(KEY_ID.to_owned(), CanonicalJsonValue::Object(key)),
        _ => return,
    };
    if sign_json(server.as_str(), &pair, &mut answer).is_ok() {
        assert!(key_answer(server, answer).is_none_or(|keys| (1..=100).contains(&keys)));
    }
});
