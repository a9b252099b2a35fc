//! The settings, one file a section. Every section has its defaults in `Default`, and says in `check` which of its settings
//! contradict each other.

mod accounts;
pub(crate) mod acme;
mod admin;
mod calls;
mod federation;
mod limits;
pub(crate) mod listeners;
mod log;
mod login;
mod media;
mod metrics;
mod presence;
mod private_addresses;
mod rate_limits;
mod registration;
mod rooms;
mod storage;
mod support;

pub use accounts::{Accounts, Argon2};
pub use acme::Acme;
pub use admin::Admin;
pub use calls::{Calls, Sfu};
pub use federation::{Federation, FederationDirection, FederationPeer, FederationPolicy};
pub use limits::Limits;
pub use listeners::{Listener, Resource, Tls};
pub use log::{Log, LogFormat};
pub use login::Login;
pub use media::{FileMedia, Media, MediaStore, S3Media};
pub use metrics::Metrics;
pub use presence::Presence;
pub use private_addresses::is_private_address;
pub use rate_limits::{PerSecond, Rate, RateLimits};
pub use registration::Registration;
pub use rooms::Rooms;
pub use storage::{Engine, FjallStorage, PostgresqlStorage, SledStorage, Storage};
pub use support::{Support, SupportContact};
