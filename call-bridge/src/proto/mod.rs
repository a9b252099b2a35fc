//! LiveKit's messages, made from `proto/livekit.proto`.

mod bounded;
mod json;
mod relay;

pub(crate) use self::{
    bounded::{ReadError, read},
    json::{JsonError, from_json, to_json, to_short_json},
    relay::{DataHeader, relayed},
};

#[expect(
    missing_docs,
    clippy::enum_variant_names,
    clippy::large_enum_variant,
    clippy::pedantic,
    unreachable_pub,
    reason = "made by prost; what a field is for stands in the .proto file"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/livekit.rs"));
}

pub use self::generated::*;

/// The description of all messages, from which their JSON form follows.
const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/livekit.bin"));

impl From<signal_response::Message> for SignalResponse {
    fn from(message: signal_response::Message) -> Self {
        Self { message: Some(message) }
    }
}
