//! The typed values that settings are made of. Each is checked once, where it is read, and is valid ever after.

mod byte_size;
mod day;
mod domain_name;
mod email_address;
mod identifiers;
mod room_version;
mod secret;
mod server_name;
mod server_name_pattern;
mod time_span;

pub use byte_size::ByteSize;
pub use day::Day;
pub use domain_name::DomainName;
pub use email_address::EmailAddress;
pub use identifiers::{Localpart, MatrixId, SupportRole};
pub use room_version::RoomVersion;
pub use secret::Secret;
pub use server_name::ServerName;
pub use server_name_pattern::ServerNamePattern;
pub use time_span::TimeSpan;

use std::fmt;

/// Why a text is not the value it was meant to be. It reads as the end of "`setting`: …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidValue(String);

impl InvalidValue {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for InvalidValue {}
