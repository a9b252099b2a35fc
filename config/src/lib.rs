//! The settings of an Entente server: their types, defaults and checks, and the commented example file.
//!
//! [`Config::load`] reads them from a TOML file and from environment variables, and says everything that is wrong with them at
//! once, with file and line. The environment is an argument; nothing here looks at the process's own.
//!
//! [`EXAMPLE`] shows and explains every setting; a test keeps it in step with the types.

mod config;
mod example;
mod problem;
mod reading;
mod sections;
mod validation;
mod values;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use example::EXAMPLE;
pub use problem::{ConfigError, Place, Problem};
pub use sections::{
    Accounts, Acme, Admin, ApplicationServices, Argon2, Calls, Engine, Federation, FederationDirection,
    FederationPeer, FederationPolicy, FileMedia, FjallStorage, IdentityServer, Limits, Listener, Log,
    LogFormat, Login, Media, MediaStore, Metrics, Outbound, PerSecond, PostgresqlStorage, Presence, Previews,
    Push, PushPolicy, Rate, RateLimits, Registration, RemoteUsers, Resource, Rooms, S3Media, Sfu,
    SledStorage, Storage, Support, SupportContact, ThumbnailMethod, ThumbnailSize, Thumbnails, Tls, Turn,
};
pub use values::{
    ByteSize, Day, DomainName, EmailAddress, InvalidValue, Localpart, MatrixId, RoomVersion, Secret,
    ServerName, ServerNamePattern, SupportRole, TimeSpan,
};
