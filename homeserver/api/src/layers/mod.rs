//! What every request goes through, from the outside in: panics are caught, the request gets its id and its log line, CORS
//! headers, its place among those in flight, the client's address, a time limit, and compression of the answer.

mod address;
mod cors;
mod in_flight;
mod observe;
mod panics;
mod timeout;

use std::time::Duration;

use axum::{
    Router,
    extract::{MatchedPath, Request},
    middleware::{from_fn, from_fn_with_state},
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

/// Puts the layers around the routes.
pub(crate) fn around(routes: Router<ApiState>, state: &ApiState) -> Router<ApiState> {
    routes
        .layer(
            CompressionLayer::new()
                .gzip(true)
                .compress_when(SizeAbove::new(COMPRESS_FROM_BYTES).and(NotUncompressed)),
        )
        .layer(from_fn_with_state(state.clone(), timeout::limit))
        .layer(from_fn(address::find))
        .layer(from_fn_with_state(state.in_flight.clone(), in_flight::limit))
        .layer(cors::layer())
        .layer(CatchPanicLayer::custom(panics::respond))
        .layer(from_fn_with_state(state.clone(), observe::observe))
}
