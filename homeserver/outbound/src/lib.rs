//! Requests to servers whose addresses somebody else chose: a link in a message, a push gateway, another homeserver.
//!
//! - [`AddressPolicy`]: at which addresses nothing is ever contacted. By default everything that is not the public internet.
//! - [`UrlPolicy`]: which URLs are asked at all: scheme, port, no credentials, no address that the policy denies.
//! - [`GuardedResolver`]: holds every address that a name resolves to against the policy, and hands only those on that it
//!   allows. The connection is made to exactly these, so a name cannot become another address in between.
//! - [`client()`]: a `reqwest` client with such a resolver. It follows no redirects.
//! - [`Fetcher`]: `GET` with redirects, each checked like the first URL, bounded in bytes and time.

mod address_policy;
mod client;
mod fetch;
mod ranges;
mod resolver;
mod url_policy;

pub use self::{
    address_policy::AddressPolicy,
    client::{ClientError, ClientSettings, client, public_tls},
    fetch::{FetchError, FetchLimits, Fetched, Fetcher},
    resolver::{AddressRefused, GuardedResolver, Lookup, Resolution, SystemLookup},
    url_policy::{UrlPolicy, UrlRefused},
};
