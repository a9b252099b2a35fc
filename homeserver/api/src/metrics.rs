//! What the server tells Prometheus, on a listener of its own.

mod calls;

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use entente_call_bridge::CallBridge;
use entente_turn::{TurnFigures, TurnServer};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use self::calls::Calling;

/// The counters and the registry that they are in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram>,
    in_flight: Gauge,
    calls: Option<(CallBridge, Calling)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// Counts a request among those in flight until it is dropped.
pub(crate) struct RequestInFlight(Gauge);

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Fresh counters, and the figures of TURN and of calls, if they are served.
    pub fn new(turn: Option<TurnServer>, bridge: Option<CallBridge>) -> Self {
        let mut registry = Registry::with_prefix("entente");
        if let Some(turn) = turn {
            registry.register_collector(Box::new(Relaying(turn)));
        }
        let calls = bridge.map(|bridge| (bridge, Calling::default()));
        if let Some((_, calling)) = &calls {
            registry.register_collector(Box::new(calling.clone()));
        }
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("http_requests", "Answered HTTP requests", requests.clone());
        let durations = Family::<RouteLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.000_5, 2.5, 12))
        });
        registry.register("http_request_duration_seconds", "Time to answer", durations.clone());
        let in_flight = Gauge::default();
        registry.register("http_requests_in_flight", "Requests being worked on", in_flight.clone());
        Self { registry: Arc::new(registry), requests, durations, in_flight, calls }
    }

    pub(crate) fn request_began(&self) -> RequestInFlight {
        self.in_flight.inc();
        RequestInFlight(self.in_flight.clone())
    }

    pub(crate) fn request_ended(&self, method: &Method, route: &str, status: u16, duration: Duration) {
        // A method that nobody serves would be a label of the client's choice.
        let method = if is_standard(method) { method.as_str() } else { "other" };
        let labels = RequestLabels { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
        self.durations
            .get_or_create(&RouteLabels { route: route.to_owned() })
            .observe(duration.as_secs_f64());
    }
}

/// What TURN does, asked whenever Prometheus asks.
#[derive(Debug)]
struct Relaying(TurnServer);

impl Collector for Relaying {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let TurnFigures { allocations, relayed_packets, relayed_bytes } = self.0.figures();
        let allocations = ConstGauge::new(allocations);
        let help = "Addresses through which media is relayed";
        let metric = encoder.encode_descriptor("turn_allocations", help, None, allocations.metric_type())?;
        allocations.encode(metric)?;
        let counters = [
            ("turn_relayed_packets", "Packets that were relayed, both ways", None, relayed_packets),
            ("turn_relayed", "What was relayed, both ways", Some(&Unit::Bytes), relayed_bytes),
        ];
        for (name, help, unit, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)?;
        }
        Ok(())
    }
}

fn is_standard(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS].contains(method)
}

/// `GET /metrics` in the `OpenMetrics` text format.
pub fn metrics_router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(metrics)
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    if let Some((bridge, calling)) = &metrics.calls {
        // The bridge has stopped if it cannot be asked.
        calling.note(&bridge.figures().await.unwrap_or_default());
    }
    let mut text = String::new();
    match encode(&mut text, &metrics.registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "encoding metrics failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
