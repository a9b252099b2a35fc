//! Requests to servers whose addresses somebody else chose: a link in a message, a push gateway, another homeserver.
//!
//! - [`AddressPolicy`]: at which addresses nothing is ever contacted. By default everything that is not the public internet.
//! - [`UrlPolicy`]: which URLs are asked at all: scheme, port, no credentials, no address that the policy denies.
//! - [`GuardedResolver`]: holds every address that a name resolves to against the policy, and hands only those on that it
//!   allows. The connection is made to exactly these, so a name cannot become another address in between.
//! - [`Route`]: the way there, straight or through a proxy. A proxy is told the addresses that the policy let through, not names.
//! - [`Client`]: requests by such a resolver and route. It follows no redirects.
//! - [`Fetcher`]: `GET` with redirects, each checked like the first URL, bounded in bytes and time.

mod address_policy;
mod client;
mod connection;
mod fetch;
mod ranges;
mod resolver;
mod route;
mod url_policy;

pub use self::{
    address_policy::AddressPolicy,
    client::{Answer, Client, ClientError, ClientSettings, Request, RequestError, public_tls},
    connection::Connection,
    fetch::{FetchError, FetchLimits, Fetched, Fetcher},
    ranges::is_private as is_private_address,
    resolver::{AddressRefused, GuardedResolver, Lookup, Resolution, SystemLookup},
    route::{ProxyProtocol, ProxySettings, Route},
    url_policy::{UrlPolicy, UrlRefused},
};
