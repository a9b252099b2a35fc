//! One request and its answer.

use std::time::Duration;

use axum::body::Bytes;
use http::{Request, Response, StatusCode, header};
use serde::Deserialize;

use super::Homeserver;
use crate::{Error, localpart::truncate};

/// What is kept of the homeserver's words, in bytes.
const MOST_MESSAGE: usize = 1024;
/// What is read of an answer that says no, in bytes.
const MOST_REFUSAL: usize = 64 * 1024;

/// Why there is no answer that can be used.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was none.
    NoAnswer { reason: String, was_sent: bool },
    /// It says no, or later.
    Status { status: StatusCode, errcode: String, message: String, retry_after: Option<Duration> },
    /// It cannot be taken.
    Bad(Error),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    errcode: Option<String>,
    error: Option<String>,
    retry_after_ms: Option<u64>,
}

impl Failure {
    pub(super) fn is_rate_limit(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS)
    }

    pub(super) fn into_error(self, waited: Duration) -> Error {
        match self {
            Self::NoAnswer { reason, .. } => Error::Unreachable { waited, reason },
            Self::Status { status, errcode, message, .. } => {
                Error::Refused { status: status.as_u16(), errcode, message }
            }
            Self::Bad(error) => error,
        }
    }

    fn of_status(status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> Self {
        let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
        let header = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let from_header = header.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let retry_after = from_header.or(refusal.retry_after_ms.map(Duration::from_millis));
        let mut message = refusal.error.unwrap_or_default();
        truncate(&mut message, MOST_MESSAGE);
        let mut errcode = refusal.errcode.unwrap_or_else(|| "M_UNKNOWN".to_owned());
        truncate(&mut errcode, MOST_MESSAGE);
        Self::Status { status, errcode, message, retry_after }
    }
}

impl Homeserver {
    pub(super) async fn once(
        &self,
        request: &Request<Bytes>,
        most_bytes: usize,
    ) -> Result<Response<Bytes>, Failure> {
        let request = reqwest::Request::try_from(request.clone())
            .map_err(|error| Failure::Bad(Error::Request(error.to_string())))?;
        let mut response = self.inner.client.execute(request).await.map_err(|error| {
            self.inner.metrics.request(0);
            no_answer(&error)
        })?;
        let status = response.status();
        self.inner.metrics.request(status.as_u16());
        let limit = if status.is_success() { most_bytes } else { MOST_REFUSAL };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| no_answer(&error))? {
            if body.len() + chunk.len() > limit {
                return Err(Failure::Bad(Error::TooLarge { limit }));
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(Failure::of_status(status, response.headers(), &body));
        }
        let mut answer = Response::new(Bytes::from(body));
        *answer.status_mut() = status;
        *answer.headers_mut() = response.headers().clone();
        Ok(answer)
    }
}

fn no_answer(error: &reqwest::Error) -> Failure {
    let mut reason = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    // The last cause says what is wrong; the first names the URL, and with it the user.
    while let Some(error) = cause {
        reason = error.to_string();
        cause = error.source();
    }
    Failure::NoAnswer { reason, was_sent: !error.is_connect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_after(header: Option<&'static str>, body: &[u8]) -> Option<Duration> {
        let mut headers = http::HeaderMap::new();
        if let Some(value) = header {
            headers.insert(header::RETRY_AFTER, http::HeaderValue::from_static(value));
        }
        match Failure::of_status(StatusCode::TOO_MANY_REQUESTS, &headers, body) {
            Failure::Status { retry_after, .. } => retry_after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_header_counts_before_the_body() {
        let body = br#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}"#;
        assert_eq!(retry_after(Some("3"), body), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(None, body), Some(Duration::from_millis(1500)));
        assert_eq!(retry_after(Some("soon"), b"no JSON"), None);
    }

    #[test]
    fn words_of_the_homeserver_are_bounded() {
        let body = serde_json::json!({ "errcode": "M_X", "error": "é".repeat(2000) }).to_string();
        let failure = Failure::of_status(StatusCode::FORBIDDEN, &http::HeaderMap::new(), body.as_bytes());
        let Error::Refused { message, .. } = failure.into_error(Duration::ZERO) else { panic!() };
        assert_eq!(message.len(), MOST_MESSAGE);
    }
}
