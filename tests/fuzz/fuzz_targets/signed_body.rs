//! Bodies of other servers' requests: canonical JSON, but for numbers in what a transaction carries.
#![no_main]

use entente_federation::fuzzing::signed_body;
use libfuzzer_sys::fuzz_target;
use ruma::CanonicalJsonValue;

fuzz_target!(|body: &[u8]| {
    let Some((value, text)) = signed_body(body) else { return };
    let Some(text) = text else {
        let canonical = value.to_string();
        let again: CanonicalJsonValue = serde_json::from_str(&canonical).expect("it is canonical JSON");
        assert_eq!(again, value);
        return;
    };
    // What is in canonical order already stays as it is.
    assert_eq!(signed_body(text.as_bytes()), Some((value, Some(text))));
});
