//! What every request goes through, from the outside in: the request gets its id and its log line, panics are caught, CORS
//! headers, the client's address, its place among those in flight, a time limit, and compression of the answer.

mod address;
mod cors;
mod in_flight;
mod observe;
mod panics;
mod timeout;

use std::time::Duration;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{CompressionLayer, Predicate, predicate::SizeAbove},
};

pub(crate) use self::address::TrustedProxies;
pub use self::in_flight::InFlight;
use crate::ApiState;

/// Smaller answers are sent as they are.
const COMPRESS_FROM_BYTES: u64 = 1024;

/// Bounds on requests.
#[derive(Clone, Copy, Debug)]
pub struct HttpSettings {
    /// The most bytes of a request's body, unless its endpoint says otherwise.
    pub max_request_body: usize,
    /// The longest that a request may take, long polls aside.
    pub request_timeout: Duration,
}

/// Marks an answer that goes out as it is: ranges of files count their own bytes, and most are compressed already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uncompressed;

#[derive(Clone, Copy, Debug)]
struct NotUncompressed;

impl Predicate for NotUncompressed {
    fn should_compress<B>(&self, response: &http::Response<B>) -> bool
    where
        B: axum::body::HttpBody,
    {
        response.extensions().get::<Uncompressed>().is_none()
    }
}

/// Whether a request may wait for as long as it asks to.
fn is_long_poll(request: &Request) -> bool {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    path.is_some_and(|path| {
        crate::client::LONG_POLLS.contains(&path) || crate::media::UPLOADS.contains(&path)
    })
}

/// Notes where a request comes from, and gives it its place and its time. Long polls take no place among those in flight: most
/// of them wait, and those that do not take places of their own.
async fn admit(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    address::note(&mut request);
    if is_long_poll(&request) {
        return next.run(request).await;
    }
    let _place = match state.in_flight.take() {
        Ok(place) => place,
        Err(error) => return error.into_response(),
    };
    // On the heap: a long poll does not hold the place for it.
    Box::pin(timeout::limit(&state, request, next)).await
}

/// Puts the layers around the routes: all at once, and few that wait on their own, since a long poll holds every one of them.
pub(crate) fn around(routes: Router<ApiState>, state: &ApiState) -> Router<ApiState> {
    routes.layer((
        from_fn_with_state(state.clone(), observe::observe),
        CatchPanicLayer::custom(panics::respond),
        cors::layer(),
        from_fn_with_state(state.clone(), admit),
        CompressionLayer::new()
            .gzip(true)
            .compress_when(SizeAbove::new(COMPRESS_FROM_BYTES).and(NotUncompressed)),
    ))
}
