//! `[limits]`: what one request, and all of them together, may take.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{
    validation::Contradictions,
    values::{ByteSize, TimeSpan},
};

/// What one request, and all of them together, may take. Beyond them requests are answered 413, 431, 408 or 503.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// The largest body of a client's request, in bytes. Uploads have `media.max_upload_size`.
    pub max_client_body: ByteSize,
    /// The largest transaction of another server, in bytes: it holds 50 events of 64 KiB and 100 EDUs.
    pub max_federation_body: ByteSize,
    /// The largest header of a request, in bytes.
    pub max_header_size: ByteSize,
    /// How long a client may take to send the header.
    pub header_timeout: TimeSpan,
    /// How long a request may take to be answered; uploads, downloads and waiting syncs have times of their own.
    pub request_timeout: TimeSpan,
    /// How long a sync may wait for news, whatever the client asks for.
    pub max_sync_timeout: TimeSpan,
    /// The most connections on all listeners together.
    pub max_connections: NonZeroU32,
    /// The most requests being answered at once, not counting syncs that wait; more are answered with 503 and `Retry-After`.
    pub max_requests_in_flight: NonZeroU32,
    /// How long requests may take to end when the server is told to stop.
    pub shutdown_timeout: TimeSpan,
}

impl Default for Limits {
    fn default() -> Self {
        let constant = |number| NonZeroU32::new(number).expect("a constant above zero");
        Self {
            max_client_body: ByteSize::mebibytes(1),
            max_federation_body: ByteSize::mebibytes(16),
            max_header_size: ByteSize::kibibytes(64),
            header_timeout: TimeSpan::seconds(10),
            request_timeout: TimeSpan::minutes(1),
            max_sync_timeout: TimeSpan::minutes(2),
            max_connections: constant(10_000),
            max_requests_in_flight: constant(1_000),
            shutdown_timeout: TimeSpan::seconds(20),
        }
    }
}

/// An event has up to 64 KiB, and comes in a request with a little more than itself.
const MINIMUM_BODY: ByteSize = ByteSize::kibibytes(128);
/// A header of less has no room for tokens and the signatures of other servers.
const MINIMUM_HEADER: ByteSize = ByteSize::kibibytes(8);

impl Limits {
    pub(crate) fn check(&self, found: &mut Contradictions) {
        let sizes = [
            ("limits.max_client_body", self.max_client_body, MINIMUM_BODY),
            ("limits.max_federation_body", self.max_federation_body, MINIMUM_BODY),
            ("limits.max_header_size", self.max_header_size, MINIMUM_HEADER),
        ];
        for (setting, _, minimum) in sizes.into_iter().filter(|(_, size, minimum)| size < minimum) {
            found.add(&[setting], format!("at least {minimum} is needed"));
        }
        found.refuse_zero_spans(&[
            ("limits.header_timeout", Some(self.header_timeout)),
            ("limits.request_timeout", Some(self.request_timeout)),
        ]);
    }
}
