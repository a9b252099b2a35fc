use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{ApiState, MatrixError};

/// Ends a request that takes too long. What it handed to the store is stored all the same, as a whole or not at all.
pub(super) async fn limit(state: &ApiState, request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(state.http.request_timeout, next.run(request)).await;
    answered.unwrap_or_else(|_| {
        tracing::info!("a request took too long");
        MatrixError::timed_out().into_response()
    })
}
