//! `/.well-known/matrix/server`, remembered for as long as it holds.

use std::time::Duration;

use bytes::Bytes;
use entente_environment::Environment;
use http::{HeaderMap, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use quick_cache::sync::Cache;
use tokio::time::timeout;

use super::Http;
use crate::{
    discovery::{Authority, WellKnown},
    turns::Turns,
};

/// Servers of which it is remembered where they are.
const MOST_SERVERS: usize = 10_000;
/// An answer has at most this many bytes (S-S API, "Server discovery").
const MOST_BYTES: usize = 50 * 1024;
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects that are followed.
const MOST_REDIRECTS: usize = 5;

/// Where servers say that they are.
pub(super) struct Delegations {
    environment: Environment,
    known: Cache<String, WellKnown>,
    asking: Turns,
}

impl Delegations {
    pub(super) fn new(environment: Environment) -> Self {
        Self { environment, known: Cache::new(MOST_SERVERS), asking: Turns::default() }
    }

    /// Where the server of that name says that it is; `None` if it says nothing.
    pub(super) async fn of(&self, name: &str, http: &Http) -> Option<Authority> {
        if let Some(known) = self.fresh(name) {
            return known.delegated;
        }
        let _turn = self.asking.take(name).await;
        if let Some(known) = self.fresh(name) {
            return known.delegated;
        }
        let errors = self.known.get(name).map_or(0, |known| known.errors());
        let now = self.environment.now();
        let found = match timeout(TIMEOUT, fetch(name, http)).await {
            Ok(Some((headers, body))) => WellKnown::read(&headers, &body, errors, now),
            Ok(None) | Err(_) => WellKnown::error(errors, now),
        };
        self.known.insert(name.to_owned(), found.clone());
        found.delegated
    }

    fn fresh(&self, name: &str) -> Option<WellKnown> {
        self.known.get(name).filter(|known| known.until > self.environment.now())
    }
}

async fn fetch(name: &str, http: &Http) -> Option<(HeaderMap, Bytes)> {
    let mut uri: Uri = format!("https://{name}:443/.well-known/matrix/server").parse().ok()?;
    for _ in 0..=MOST_REDIRECTS {
        let request = http::Request::get(uri.clone()).body(Full::default()).ok()?;
        let (head, body) = http.request(request).await.ok()?.into_parts();
        if head.status.is_redirection() {
            uri = redirected(&uri, head.headers.get(header::LOCATION)?.to_str().ok()?)?;
            continue;
        }
        if head.status != StatusCode::OK {
            return None;
        }
        let body = Limited::new(body, MOST_BYTES).collect().await.ok()?.to_bytes();
        return Some((head.headers, body));
    }
    None
}

/// Where a redirect leads: to another path, or to another server, over HTTPS only and on a port that is said.
fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with('/') && !location.starts_with("//") {
        return format!("https://{}{location}", from.authority()?).parse().ok();
    }
    let to: Uri = location.parse().ok()?;
    let authority = to.authority().filter(|authority| !authority.as_str().contains('@'))?;
    if to.scheme_str() != Some("https") {
        return None;
    }
    let port = to.port_u16().unwrap_or(443);
    let path = to.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    format!("https://{}:{port}{path}", authority.host()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_https() {
        let from: Uri = "https://a.example:443/.well-known/matrix/server".parse().expect("a URI");
        let to = |location: &str| redirected(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/there").as_deref(), Some("https://a.example:443/there"));
        assert_eq!(to("https://b.example/x?y").as_deref(), Some("https://b.example:443/x?y"));
        assert_eq!(to("https://b.example:8443/x").as_deref(), Some("https://b.example:8443/x"));
        for refused in ["http://b.example/x", "//b.example/x", "ftp://b.example", "https://u@b.example/x", ""]
        {
            assert_eq!(to(refused), None, "{refused}");
        }
    }
}
