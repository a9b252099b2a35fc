//! Whether the server lives and is ready, for supervisors and load balancers.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Value, json};

use crate::{ApiState, MatrixError};

/// What does not answer within this time is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks what the server cannot work without whether it is there.
pub trait Readiness: fmt::Debug + Send + Sync {
    /// `Err` says for the operator what is missing.
    fn check(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
}

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/health", get(ready))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
}

/// The process answers.
async fn live() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// The process has what it needs.
async fn ready(State(state): State<ApiState>) -> Result<Json<Value>, MatrixError> {
    match tokio::time::timeout(PATIENCE, state.readiness.check()).await {
        Ok(Ok(())) => Ok(Json(json!({ "status": "ok" }))),
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready");
            Err(MatrixError::unavailable("the store cannot be read"))
        }
        Err(_) => Err(MatrixError::unavailable("the store does not answer")),
    }
}
