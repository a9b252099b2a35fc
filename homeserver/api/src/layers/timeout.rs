use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{ApiState, MatrixError};

/// Ends a request that takes too long, long polls aside. What it handed to the store is stored all the same, as a whole or
/// not at all.
pub(super) async fn limit(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    if super::is_long_poll(&request) {
        return next.run(request).await;
    }
    match tokio::time::timeout(state.http.request_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => MatrixError::timed_out().into_response(),
    }
}
