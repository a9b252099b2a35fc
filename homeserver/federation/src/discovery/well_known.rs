//! What `/.well-known/matrix/server` says, and for how long that holds.

use std::time::{Duration, UNIX_EPOCH};

use entente_environment::Timestamp;
use http::{HeaderMap, HeaderName, header};
use serde::Deserialize;

use super::Authority;

/// For how long an answer holds that says nothing of it.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// An answer holds at least this long, so that servers that forbid caching are not asked for every request.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// And at most this long (S-S API, "Server discovery", step 3).
const LONGEST_LIFETIME: Duration = Duration::from_secs(48 * 60 * 60);
/// For how long it holds at first that there was no sensible answer.
const FIRST_ERROR_LIFETIME: Duration = SHORTEST_LIFETIME;
/// And after repeated errors (same place: "up to an hour").
const LONGEST_ERROR_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// What a server says of where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WellKnown {
    /// Where; `None` if it said nothing sensible.
    pub delegated: Option<Authority>,
    /// Until when that holds.
    pub until: Timestamp,
    /// How often in a row there was no sensible answer.
    errors: u32,
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "m.server")]
    server: String,
}

impl WellKnown {
    /// How often in a row there was no sensible answer.
    pub(crate) fn errors(&self) -> u32 {
        self.errors
    }

    /// Reads an answer with the status 200, after `errors` errors in a row.
    pub(crate) fn read(headers: &HeaderMap, body: &[u8], errors: u32, now: Timestamp) -> Self {
        let body: Option<Body> = serde_json::from_slice(body).ok();
        let Some(authority) = body.and_then(|body| Authority::parse(&body.server)) else {
            return Self::error(errors, now);
        };
        let until = now.after(lifetime(headers, now));
        Self { delegated: Some(authority), until, errors: 0 }
    }

    /// There was no answer, or not one with the status 200, after `errors` others in a row.
    pub(crate) fn error(errors: u32, now: Timestamp) -> Self {
        let lifetime = FIRST_ERROR_LIFETIME.saturating_mul(1_u32.checked_shl(errors).unwrap_or(u32::MAX));
        let until = now.after(lifetime.min(LONGEST_ERROR_LIFETIME));
        Self { delegated: None, until, errors: errors.saturating_add(1) }
    }
}

/// For how long an answer holds, by its headers (RFC 9111).
fn lifetime(headers: &HeaderMap, now: Timestamp) -> Duration {
    let said = cache_control(headers).or_else(|| expires(headers, now));
    said.unwrap_or(DEFAULT_LIFETIME).clamp(SHORTEST_LIFETIME, LONGEST_LIFETIME)
}

fn cache_control(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    let mut lifetime = None;
    for directive in values.flat_map(|value| value.split(',')) {
        let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            "max-age" => {
                let seconds = argument.trim().trim_matches('"');
                // What is no number is stale at once, what is too large a number is not (RFC 9111, 4.2.1 and 1.2.2).
                let is_number = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
                let seconds = if is_number { seconds.parse().unwrap_or(u64::from(u32::MAX)) } else { 0 };
                lifetime.get_or_insert(Duration::from_secs(seconds));
            }
            _ => {}
        }
    }
    lifetime
}

fn expires(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let date = |name: HeaderName| {
        let date = httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()?;
        Some(Timestamp::default().after(date.duration_since(UNIX_EPOCH).ok()?))
    };
    headers.get(header::EXPIRES)?;
    let Some(expires) = date(header::EXPIRES) else { return Some(Duration::ZERO) };
    // By the clock of the server that says it.
    Some(expires.since(date(header::DATE).unwrap_or(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const SENSIBLE: &[u8] = b"{\"m.server\": \"b.example:443\"}";

    fn hours(headers: &[(HeaderName, &str)]) -> f64 {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        WellKnown::read(&headers, SENSIBLE, 0, NOW).until.since(NOW).as_secs_f64() / 3600.0
    }

    #[test]
    fn lifetimes_follow_the_headers_within_bounds() {
        let close =
            |found: f64, expected: f64| assert!((found - expected).abs() < 0.001, "{found} {expected}");
        let shortest = 5.0 / 60.0;
        close(hours(&[]), 24.0);
        close(hours(&[(header::CACHE_CONTROL, "public, max-age=7200")]), 2.0);
        close(hours(&[(header::CACHE_CONTROL, "max-age=\"7200\"")]), 2.0);
        close(hours(&[(header::CACHE_CONTROL, "max-age=60")]), shortest);
        close(hours(&[(header::CACHE_CONTROL, "max-age=-1")]), shortest);
        close(hours(&[(header::CACHE_CONTROL, "max-age=99999999999999999999999")]), 48.0);
        close(hours(&[(header::CACHE_CONTROL, "Max-Age=7200, No-Store")]), shortest);
        let (date, later) = ("Tue, 14 Nov 2023 22:13:20 GMT", "Wed, 15 Nov 2023 01:13:20 GMT");
        close(hours(&[(header::EXPIRES, later)]), 3.0);
        close(hours(&[(header::EXPIRES, later), (header::DATE, date)]), 3.0);
        close(hours(&[(header::EXPIRES, later), (header::CACHE_CONTROL, "max-age=3600")]), 1.0);
        close(hours(&[(header::EXPIRES, "0")]), shortest);
    }

    #[test]
    fn nonsense_is_an_error_that_lasts_longer_each_time() {
        let read = |body: &str, errors| WellKnown::read(&HeaderMap::new(), body.as_bytes(), errors, NOW);
        for body in ["", "{}", "[]", "{\"m.server\": 1}", "{\"m.server\": \"https://a\"}", "<html>", "\u{0}"]
        {
            let found = read(body, 0);
            assert_eq!((found.delegated, found.errors), (None, 1), "{body}");
        }
        let minutes = |errors| read("", errors).until.since(NOW).as_secs() / 60;
        assert_eq!(
            [minutes(0), minutes(1), minutes(2), minutes(3), minutes(4), minutes(99)],
            [5, 10, 20, 40, 60, 60]
        );
        let sensible = WellKnown::read(&HeaderMap::new(), SENSIBLE, 7, NOW);
        assert_eq!((sensible.errors, sensible.delegated), (0, Authority::parse("b.example:443")));
    }
}
