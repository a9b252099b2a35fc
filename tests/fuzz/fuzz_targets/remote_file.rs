//! Files of other servers, in bodies of several parts. The first byte is the size of the pieces in which it comes, the first line the
//! type.
#![no_main]

use entente_federation::fuzzing::file;
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((piece, rest)) = data.split_first() else { return };
    let mut lines = rest.splitn(2, |byte| *byte == b'\n');
    let Ok(content_type) = HeaderValue::from_bytes(lines.next().unwrap_or_default()) else { return };
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]);
    let body = lines.next().unwrap_or_default();
    let at_once = file(&headers, body, body.len());
    assert_eq!(at_once, file(&headers, body, usize::from(*piece)), "it is the same however it comes");
    if let Some((_, _, bytes)) = at_once {
        assert!(bytes.len() < body.len());
    }
});
