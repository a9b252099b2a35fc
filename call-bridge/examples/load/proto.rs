//! LiveKit's messages, from the same description as the bridge's.

#![expect(
    clippy::enum_variant_names,
    clippy::large_enum_variant,
    clippy::pedantic,
    unreachable_pub,
    reason = "made by prost; what a field is for stands in the .proto file"
)]
#![allow(
    dead_code,
    reason = "not all of it is said here, which the compiler does not count as dead if that is expected"
)]

include!(concat!(env!("OUT_DIR"), "/livekit.rs"));
