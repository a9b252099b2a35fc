//! What the service tells Prometheus.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The counters and the registry that they are in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    pub(crate) transactions: Family<OutcomeLabels, Counter>,
    pub(crate) events: Family<OutcomeLabels, Counter>,
    pub(crate) requests: Family<StatusLabels, Counter>,
    pub(crate) rate_limited: Counter,
    pub(crate) waiting_for_keys: Gauge,
    pub(crate) encrypting_users: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StatusLabels {
    status: u16,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("appservice");
        let transactions = Family::default();
        registry.register("transactions", "Transactions of the homeserver, by outcome", transactions.clone());
        let events = Family::default();
        registry.register("events", "Events of rooms, by outcome", events.clone());
        let requests = Family::default();
        registry.register(
            "requests",
            "Requests to the homeserver, by status; 0 is no answer",
            requests.clone(),
        );
        let rate_limited = Counter::default();
        registry.register("rate_limited", "How often the homeserver asked to wait", rate_limited.clone());
        let waiting_for_keys = Gauge::default();
        registry.register("waiting_for_keys", "Events whose key has not come yet", waiting_for_keys.clone());
        let encrypting_users = Gauge::default();
        registry.register("encrypting_users", "Users whose keys are in memory", encrypting_users.clone());
        Self {
            registry: Arc::new(registry),
            transactions,
            events,
            requests,
            rate_limited,
            waiting_for_keys,
            encrypting_users,
        }
    }

    pub(crate) fn transaction(&self, outcome: &'static str) {
        self.transactions.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn event(&self, outcome: &'static str) {
        self.events.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn request(&self, status: u16) {
        self.requests.get_or_create(&StatusLabels { status }).inc();
    }

    /// All of them, in the text format of `OpenMetrics`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
