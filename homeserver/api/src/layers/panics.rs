use std::any::Any;

use axum::response::{IntoResponse, Response};

use crate::MatrixError;

/// The answer to a request whose handler panicked: the others go on.
pub(super) fn respond(payload: Box<dyn Any + Send + 'static>) -> Response {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    MatrixError::internal(format!("a handler panicked: {}", text.unwrap_or_default())).into_response()
}
