//! Events of other servers, in every room version. The first byte is the version, the rest JSON.
#![no_main]

use std::collections::BTreeMap;

use entente_rooms::{Pdu, ROOM_VERSIONS, fuzzing};
use libfuzzer_sys::fuzz_target;
use ruma::{
    CanonicalJsonObject,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{Ed25519KeyPair, PublicKeyMap, hash_and_sign_event},
};

const KEY_ID: &str = "ed25519:1";
/// What stands before the seed of a private key (RFC 8410).
const DER_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

fn key_pair() -> Ed25519KeyPair {
    let document = [DER_HEAD.as_slice(), &[7; 32]].concat();
    Ed25519KeyPair::from_der(&document, "1".to_owned()).expect("it is a private key")
}

fuzz_target!(|data: &[u8]| {
    let Some((version, json)) = data.split_first() else { return };
    let version = &ROOM_VERSIONS[usize::from(*version) % ROOM_VERSIONS.len()];
    let rules = version.rules().expect("it is a known version");
    if let Some(event) = fuzzing::event(json) {
        fuzzing::ask_everything(&event);
    }
    let Ok(object) = serde_json::from_slice::<CanonicalJsonObject>(json) else { return };
    let Ok(pdu) = Pdu::new(object.clone(), &rules) else { return };
    let stored = serde_json::to_vec(&object).expect("it was JSON");
    assert!(fuzzing::event(&stored).is_some(), "what is taken in can be read again");
    let _ = (pdu.origin_server_ts(), pdu.sender());
    // What is added on the way is no part of what an event is.
    let mut on_the_way = object.clone();
    on_the_way.remove("unsigned");
    let on_the_way = Pdu::new(on_the_way, &rules).expect("it is as good without unsigned");
    assert_eq!(on_the_way.event_id(), pdu.event_id());
    let Ok(required) = pdu.required_signatures(&rules) else { return };
    // Some invites need no signature of a server.
    assert!(required.is_empty() || pdu.verify(&BTreeMap::new(), &rules).is_err(), "nobody signed it");
    let servers = required.iter().map(|(server, _)| server.as_str());
    sign_and_verify(object, servers, &rules);
});

/// What all of them signed is accepted, and read as it was written.
fn sign_and_verify<'a>(
    mut object: CanonicalJsonObject,
    servers: impl Iterator<Item = &'a str> + Clone,
    rules: &RoomVersionRules,
) {
    let pair = key_pair();
    object.remove("signatures");
    for server in servers.clone() {
        if hash_and_sign_event(server, &pair, &mut object, &rules.redaction).is_err() {
            return;
        }
    }
    let Ok(pdu) = Pdu::new(object, rules) else { return };
    let event_id = pdu.event_id().clone();
    let key = || BTreeMap::from([(KEY_ID.to_owned(), Base64::new(pair.public_key().to_vec()))]);
    let keys: PublicKeyMap = servers.map(|server| (server.to_owned(), key())).collect();
    // What names events that are none is refused only now.
    if let Ok(verified) = pdu.verify(&keys, rules) {
        assert_eq!(verified.event_id, event_id);
    }
}
