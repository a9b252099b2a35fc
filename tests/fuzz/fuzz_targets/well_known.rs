//! What servers say of where they are: a line of `Cache-Control`, one of `Expires`, and the body.
#![no_main]

use entente_federation::{discovery::Authority, fuzzing::well_known};
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;

const MINUTE: u64 = 60 * 1_000;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [header::CACHE_CONTROL, header::EXPIRES] {
        let line = lines.next().unwrap_or_default();
        if let Ok(value) = HeaderValue::from_bytes(line)
            && !line.is_empty()
        {
            headers.insert(name, value);
        }
    }
    let (delegated, lifetime) = well_known(&headers, lines.next().unwrap_or_default());
    assert!((5 * MINUTE..=48 * 60 * MINUTE).contains(&lifetime), "{lifetime}");
    if let Some(delegated) = delegated {
        let again = Authority::parse(&delegated).map(|authority| authority.to_string());
        assert_eq!(again, Some(delegated));
    }
});
