//! Requests to application services (A-S API). Where they are is the operator's own choice: private addresses too.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use entente_outbound::{
    AddressPolicy, Client, ClientSettings, GuardedResolver, Request, RequestError, Route, SystemLookup,
    public_tls,
};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use url::Url;

use crate::{AppServiceError, Registration};

/// A transaction may take so long.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// A question that a user waits for may take so long.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer has at most this many bytes.
const MOST_ANSWER_BYTES: usize = 1024 * 1024;
/// Of an error so much is told.
const MOST_ERROR_BYTES: usize = 4_096;

/// Where what services are asked is in the spec, and where it is before that.
pub(crate) const STABLE: [&str; 3] = ["_matrix", "app", "v1"];
pub(crate) const UNSTABLE: [&str; 3] = ["_matrix", "app", "unstable"];

/// Speaks to services. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ServiceClient {
    http: Client,
}

/// What is asked of a service.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    /// The first segments of the path.
    pub(crate) prefix: &'a [&'a str],
    /// The segments behind them.
    pub(crate) path: &'a [&'a str],
    /// Where services had it before that: the segments of the whole path; `None`: nowhere.
    pub(crate) legacy_path: Option<&'a [&'a str]>,
    pub(crate) query: &'a [(String, String)],
    pub(crate) body: Option<Bytes>,
    pub(crate) timeout: Duration,
}

impl<'a> Question<'a> {
    pub(crate) fn get(path: &'a [&'a str], legacy_path: &'a [&'a str]) -> Self {
        let legacy_path = Some(legacy_path);
        Self {
            method: Method::GET,
            prefix: &STABLE,
            path,
            legacy_path,
            query: &[],
            body: None,
            timeout: QUERY_TIMEOUT,
        }
    }
}

impl ServiceClient {
    pub(crate) fn new() -> Result<Self, AppServiceError> {
        let settings = ClientSettings {
            user_agent: String::from("Entente"),
            connect_timeout: Duration::from_secs(10),
            request_timeout: TRANSACTION_TIMEOUT,
            idle_connections: 2,
            route: Route::direct(),
        };
        let policy = AddressPolicy::public_internet().with_private_addresses(true);
        let resolver = GuardedResolver::new(Arc::new(policy), Arc::new(SystemLookup));
        let made = public_tls(&[]).and_then(|tls| Client::new(&settings, resolver, tls));
        Ok(Self { http: made.map_err(|error| AppServiceError::Internal(error.to_string()))? })
    }

    /// Hands a transaction over. It was taken if this returns without error.
    pub(crate) async fn send_transaction(
        &self,
        service: &Registration,
        transaction_id: &str,
        body: Bytes,
    ) -> Result<(), AppServiceError> {
        let question = Question {
            method: Method::PUT,
            prefix: &STABLE,
            path: &["transactions", transaction_id],
            legacy_path: Some(&["transactions", transaction_id]),
            query: &[],
            body: Some(body),
            timeout: TRANSACTION_TIMEOUT,
        };
        self.ask(service, &question).await.map(|_| ())
    }

    /// Asks, and where the service does not know the path, asks under the one from before (A-S API, "Legacy routes").
    pub(crate) async fn ask(
        &self,
        service: &Registration,
        question: &Question<'_>,
    ) -> Result<Bytes, AppServiceError> {
        let base = service.url.as_ref().ok_or(AppServiceError::NoUrl)?;
        let path: Vec<&str> = question.prefix.iter().chain(question.path).copied().collect();
        let answer = self.ask_at(service, question, url_of(base, &path, question.query)?, false).await;
        match (answer, question.legacy_path) {
            (Err(AppServiceError::Status { status, body }), Some(legacy))
                if is_unrecognized(status, &body) =>
            {
                let url = url_of(base, legacy, question.query)?;
                match self.ask_at(service, question, url, true).await {
                    // It knows neither.
                    Err(AppServiceError::Status { status: 404 | 405, .. }) => {
                        Err(AppServiceError::Status { status, body })
                    }
                    answer => answer,
                }
            }
            (answer, _) => answer,
        }
    }

    /// The token stands in the URL too where services are so old that they look for it only there: elsewhere it would only end up
    /// in log files.
    async fn ask_at(
        &self,
        service: &Registration,
        question: &Question<'_>,
        mut url: Url,
        token_in_url: bool,
    ) -> Result<Bytes, AppServiceError> {
        if token_in_url {
            url.query_pairs_mut().append_pair("access_token", &service.hs_token);
        }
        let mut request = Request::new(question.method.clone(), url, MOST_ANSWER_BYTES);
        request.timeout = Some(question.timeout);
        if let Some(body) = &question.body {
            request = request.with_json(body.clone());
        }
        let token = HeaderValue::try_from(format!("Bearer {}", service.hs_token));
        let mut token = token.map_err(|error| AppServiceError::Internal(error.to_string()))?;
        token.set_sensitive(true);
        request.headers.insert(header::AUTHORIZATION, token);
        let answer = self.http.ask(request).await.map_err(failure)?;
        if answer.status != StatusCode::OK {
            let said = answer.body.get(..MOST_ERROR_BYTES).unwrap_or(&answer.body);
            let body = String::from_utf8_lossy(said).into_owned();
            return Err(AppServiceError::Status { status: answer.status.as_u16(), body });
        }
        if answer.is_cut_short {
            return Err(AppServiceError::BadAnswer(format!("more than {MOST_ANSWER_BYTES} bytes")));
        }
        Ok(answer.body)
    }
}

/// A service that does not know a path says so by `M_UNRECOGNIZED`, or by whatever its HTTP library says of unknown paths.
fn is_unrecognized(status: u16, body: &str) -> bool {
    let errcode = serde_json::from_str::<Value>(body).ok();
    let errcode = errcode.as_ref().and_then(|body| body.get("errcode")).and_then(Value::as_str);
    match status {
        404 => errcode.is_none_or(|errcode| errcode == "M_UNRECOGNIZED"),
        405 => errcode == Some("M_UNRECOGNIZED"),
        _ => false,
    }
}

fn url_of(base: &Url, path: &[&str], query: &[(String, String)]) -> Result<Url, AppServiceError> {
    let mut url = base.clone();
    let mut segments = url.path_segments_mut().map_err(|()| AppServiceError::NoUrl)?;
    segments.pop_if_empty().extend(path);
    drop(segments);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url)
}

/// The error does not name the URL, which may hold the token.
fn failure(error: RequestError) -> AppServiceError {
    match error {
        RequestError::TimedOut => AppServiceError::TimedOut,
        error => AppServiceError::Unreachable(error.to_string()),
    }
}
