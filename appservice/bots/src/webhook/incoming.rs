//! What other programs tell rooms.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::to_bytes,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use entente_appservice::{Bridge, message::RoomMessageEventContent};
use serde_json::{Value, json};

use super::{
    IncomingOptions, LEAST_SECRET, OptionsError,
    signature::{is_same, sign},
    template::{TemplateError, Templates},
};

/// The largest body, in bytes.
const MOST_BYTES: usize = 256 * 1024;
/// The longest id that a caller gives a delivery, in bytes.
const MOST_ID_BYTES: usize = 255;
/// Headers that name a delivery, so that one that is repeated is recognised.
const DELIVERY_HEADERS: [&str; 3] = ["idempotency-key", "x-github-delivery", "x-gitlab-event-uuid"];

/// A hook and how often it was called in this minute.
#[derive(Debug)]
pub(super) struct Hook {
    options: IncomingOptions,
    templates: Templates,
    calls: Mutex<(u64, u32)>,
}

/// All hooks, by name.
pub(super) type Hooks = Arc<HashMap<String, Hook>>;

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// 404
    #[error("there is no such hook, or this is not its secret")]
    Unknown,
    /// 413
    #[error("a body may have {MOST_BYTES} bytes")]
    TooLarge,
    /// 400
    #[error("the body is neither JSON nor text")]
    BadBody,
    /// 422
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// 429
    #[error("too many calls; wait a minute")]
    TooMany,
    /// 502, or 503 if it may work later
    #[error("the message cannot be sent")]
    NotSent {
        /// Whether it is worth another try.
        is_temporary: bool,
    },
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BadBody => StatusCode::BAD_REQUEST,
            Self::Template(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::NotSent { is_temporary: true } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotSent { is_temporary: false } => StatusCode::BAD_GATEWAY,
        };
        let body = json!({ "error": self.to_string() }).to_string();
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("60"));
        }
        response
    }
}

pub(super) fn hooks(options: Vec<IncomingOptions>) -> Result<Hooks, OptionsError> {
    let mut hooks = HashMap::new();
    for options in options {
        let name = options.name.clone();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || !name.bytes().all(is_plain) || hooks.contains_key(&name) {
            return Err(OptionsError::BadName(name));
        }
        if options.secret.len() < LEAST_SECRET {
            return Err(OptionsError::WeakSecret(name));
        }
        let templates = Templates::new(options.template.clone(), options.html_template.clone())
            .map_err(|error| OptionsError::Template(name.clone(), error))?;
        hooks.insert(name, Hook { options, templates, calls: Mutex::default() });
    }
    Ok(Arc::new(hooks))
}

pub(super) fn start(bridge: &Bridge, address: SocketAddr, hooks: Hooks) {
    let router = router(bridge.clone(), hooks);
    let shutdown = bridge.shutdown().clone();
    bridge.spawn(async move {
        let served = async {
            let listener = tokio::net::TcpListener::bind(address).await?;
            axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned()).await
        };
        if let Err(error) = served.await {
            tracing::error!(listener.address = %address, %error, "hooks cannot be listened for");
            shutdown.cancel();
        }
    });
}

/// The endpoints of incoming hooks.
fn router(bridge: Bridge, hooks: Hooks) -> Router {
    Router::new()
        .route("/hooks/{name}", post(call))
        .route("/health", get(|| async { "ok\n" }))
        .with_state((bridge, hooks))
}

async fn call(
    State((bridge, hooks)): State<(Bridge, Hooks)>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MOST_BYTES).await.map_err(|_| Refusal::TooLarge)?;
    let hook = hooks.get(&name).filter(|hook| hook.knows(&parts.headers, &body)).ok_or(Refusal::Unknown)?;
    if !hook.take_place(bridge.environment().now().millis()) {
        return Err(Refusal::TooMany);
    }
    let rendered = hook.templates.render(&understand(&body)?)?;
    if rendered.text.trim().is_empty() {
        // The template has nothing to say of it.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let content = match rendered.html {
        Some(html) => RoomMessageEventContent::notice_html(rendered.text, html),
        None => RoomMessageEventContent::notice_plain(rendered.text),
    };
    let room = bridge.bot().in_room(&hook.options.room);
    let sent = match delivery(&parts.headers) {
        Some(id) => bridge.once(&format!("hook {name} {id}"), room.send(content)).await,
        None => room.send(content).await,
    };
    let event_id = sent.map_err(|error| {
        tracing::warn!(hook.name = name, %error, "a hook's message cannot be sent");
        Refusal::NotSent { is_temporary: error.is_temporary() }
    })?;
    let body = json!({ "event_id": event_id }).to_string();
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

impl Hook {
    /// Whether the caller has the secret: as a bearer token, or by a signature of the body in the form that GitHub gave it.
    fn knows(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let secret = &self.options.secret;
        let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let signature = text("x-hub-signature-256").and_then(|value| value.strip_prefix("sha256="));
        bearer.or(text("x-gitlab-token")).is_some_and(|given| is_same(given, secret))
            || signature.is_some_and(|given| is_same(given, &sign(secret, &[body])))
    }

    fn take_place(&self, now: u64) -> bool {
        let minute = now / u64::try_from(Duration::from_secs(60).as_millis()).unwrap_or(1);
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.0 != minute {
            *calls = (minute, 0);
        }
        calls.1 += 1;
        calls.1 <= self.options.calls_per_minute
    }
}

/// What the caller calls this delivery; long names are shortened to a digest.
fn delivery(headers: &HeaderMap) -> Option<String> {
    let value = DELIVERY_HEADERS.iter().find_map(|name| headers.get(*name))?.as_bytes();
    if value.len() > MOST_ID_BYTES {
        return Some(sign("delivery", &[value]));
    }
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The body as JSON, or as a text if it is none.
fn understand(body: &[u8]) -> Result<Value, Refusal> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    std::str::from_utf8(body).map(|text| Value::String(text.to_owned())).map_err(|_| Refusal::BadBody)
}

#[cfg(test)]
mod tests {
    use entente_appservice::ruma::room_id;

    use super::*;

    fn hook() -> Hook {
        let options = IncomingOptions {
            name: "ci".to_owned(),
            room: room_id!("!a:x").to_owned(),
            secret: "0123456789abcdef".to_owned(),
            template: "{{ body }}".to_owned(),
            html_template: None,
            calls_per_minute: 2,
        };
        Arc::into_inner(hooks(vec![options]).unwrap()).unwrap().remove("ci").unwrap()
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn the_secret_or_a_signature_of_the_body_is_needed() {
        let hook = hook();
        assert!(hook.knows(&headers("authorization", "Bearer 0123456789abcdef"), b"{}"));
        assert!(!hook.knows(&headers("authorization", "Bearer 0123456789abcdeg"), b"{}"));
        let signature = format!("sha256={}", sign("0123456789abcdef", &[b"{}"]));
        assert!(hook.knows(&headers("x-hub-signature-256", &signature), b"{}"));
        assert!(!hook.knows(&headers("x-hub-signature-256", &signature), b"{ }"));
        assert!(!hook.knows(&HeaderMap::new(), b"{}"));
    }

    #[test]
    fn calls_are_counted_by_the_minute() {
        let hook = hook();
        let taken: Vec<_> = [0, 1, 59_999, 60_000].into_iter().map(|now| hook.take_place(now)).collect();
        assert_eq!(taken, [true, true, false, true]);
    }

    #[test]
    fn weak_secrets_and_odd_names_are_refused() {
        let weak = IncomingOptions { secret: "short".to_owned(), ..hook().options };
        assert!(matches!(hooks(vec![weak]), Err(OptionsError::WeakSecret(_))));
        let odd = IncomingOptions { name: "a/b".to_owned(), ..hook().options };
        assert!(matches!(hooks(vec![odd]), Err(OptionsError::BadName(_))));
        assert!(matches!(hooks(vec![hook().options, hook().options]), Err(OptionsError::BadName(_))));
    }
}
