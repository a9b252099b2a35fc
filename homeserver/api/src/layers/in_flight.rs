use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::sync::Semaphore;

use crate::MatrixError;

/// The places for requests that are worked on.
#[derive(Clone, Debug)]
pub struct InFlight(Arc<Semaphore>);

impl InFlight {
    /// That many places; a request that finds none is answered 503.
    pub fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))))
    }
}

/// Answers 503 when there is no place left: better at once than late. Long polls take none: most of them wait, and those that
/// do not take places of their own.
pub(super) async fn limit(State(in_flight): State<InFlight>, request: Request, next: Next) -> Response {
    if super::is_long_poll(&request) {
        return next.run(request).await;
    }
    match in_flight.0.try_acquire() {
        Ok(_place) => next.run(request).await,
        Err(_) => MatrixError::unavailable("the server has too much to do").into_response(),
    }
}
