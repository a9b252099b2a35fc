//! Headers of requests for files, and what uploads make of the headers of answers.
#![no_main]

use std::net::SocketAddr;

use entente_api::fuzzing::{client_address, file_headers, range};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    range: &'a [u8],
    if_range: Option<&'a [u8]>,
    size: u64,
    content_type: Option<&'a str>,
    filename: Option<&'a str>,
    forwarded: Vec<&'a [u8]>,
}

fuzz_target!(|input: Input| {
    let mut headers = HeaderMap::new();
    let mut put = |name: HeaderName, value: &[u8]| {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    };
    put(header::RANGE, input.range);
    if let Some(if_range) = input.if_range {
        put(header::IF_RANGE, if_range);
    }
    for forwarded in input.forwarded {
        put(HeaderName::from_static("x-forwarded-for"), forwarded);
    }
    if let Some(part) = range(&headers, input.size) {
        assert!(part.start <= part.end && part.end <= input.size, "{part:?} of {}", input.size);
    }
    let given = file_headers(input.content_type, input.filename);
    let disposition = given.get(header::CONTENT_DISPOSITION).and_then(|value| value.to_str().ok());
    let disposition = disposition.expect("it is always said");
    assert!(disposition.starts_with("inline") || disposition.starts_with("attachment"));
    assert!(!disposition.contains(['\r', '\n']));
    let proxies: [IpNet; 1] = ["127.0.0.0/8".parse().expect("it is a range")];
    let peer: SocketAddr = ([127, 0, 0, 1], 1).into();
    client_address(peer, &headers, &proxies);
    let stranger: SocketAddr = ([203, 0, 113, 9], 1).into();
    assert_eq!(client_address(stranger, &headers, &proxies), stranger.ip(), "nobody vouches for it");
});
