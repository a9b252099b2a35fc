use std::sync::atomic::{AtomicU64, Ordering};

use axum::{
    extract::{MatchedPath, Request, State},
    http::HeaderValue,
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

use crate::ApiState;

/// Gives the request an id, which its log lines and its answer carry, and counts it. Neither the path nor the query is
/// logged: they can hold names and tokens. The route is.
pub(super) async fn observe(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let request_id = format!("{:x}", NEXT.fetch_add(1, Ordering::Relaxed));
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let span =
        tracing::info_span!("request", request.id = %request_id, http.method = %method, http.route = %route);
    let clock = state.limits.clock();
    let began_at = clock.monotonic();
    let in_flight = state.metrics.request_began();
    let mut response = next.run(request).instrument(span.clone()).await;
    drop(in_flight);
    let duration = clock.monotonic().saturating_duration_since(began_at);
    let status = response.status().as_u16();
    state.metrics.request_ended(&method, &route, status, duration);
    let duration_ms = duration.as_secs_f64() * 1_000.0;
    span.in_scope(|| tracing::debug!(http.status = status, duration.ms = duration_ms, "answered"));
    if let Ok(value) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}
