//! What is private here and reads headers of requests, for the fuzz targets in `tests/fuzz`. Only with the feature `fuzzing`.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::{
    address,
    media::{
        headers::Described,
        range::{Asked, asked},
    },
};

/// What a request asks for of a file of `size` bytes: a part that is not empty, nothing that there is, or (`None`) all of it.
pub fn range(headers: &HeaderMap, size: u64) -> Option<Range<u64>> {
    match asked(headers, size, "\"tag\"") {
        Asked::Whole => None,
        Asked::Part(part) => Some(part),
        Asked::Nothing => Some(0..0),
    }
}

/// The headers of a file that somebody uploaded under this name, as this type.
pub fn file_headers(content_type: Option<&str>, filename: Option<&str>) -> HeaderMap {
    Described { content_type, filename, etag: "\"tag\"", public: false }.headers()
}

/// Where a request comes from that came from `peer`, with these headers.
pub fn client_address(peer: SocketAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> IpAddr {
    address::client_address(peer, headers, trusted_proxies)
}
