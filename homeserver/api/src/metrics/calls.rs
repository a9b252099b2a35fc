//! How calls fare, all of them together: who is in them is for operators who ask by name.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use entente_call_bridge::CallFigures;
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::gauge::ConstGauge,
    registry::Unit,
};

/// What is told of calls, as they were when Prometheus asked last. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Calling(Arc<Mutex<Summary>>);

#[derive(Debug, Default, PartialEq)]
struct Summary {
    calls: usize,
    participants: BTreeMap<ParticipantLabels, u64>,
    /// To participants and from them: bits per second, and the largest share of packets that was lost.
    bitrate: (u64, u64),
    loss: (f32, f32),
    jitter: Duration,
    round_trip: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct ParticipantLabels {
    quality: &'static str,
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

impl Summary {
    fn of(calls: &[CallFigures]) -> Self {
        let mut summary = Self { calls: calls.len(), ..Self::default() };
        for participant in calls.iter().flat_map(|call| &call.participants) {
            let is_relayed = participant.connections.iter().any(|connection| connection.is_relayed);
            let path = if is_relayed { "relay" } else { "direct" };
            *summary
                .participants
                .entry(ParticipantLabels { quality: participant.quality, path })
                .or_default() += 1;
            for connection in &participant.connections {
                summary.bitrate.0 += connection.bitrate_to;
                summary.bitrate.1 += connection.bitrate_from;
                summary.loss.0 = summary.loss.0.max(connection.loss_to.unwrap_or_default());
                summary.loss.1 = summary.loss.1.max(connection.loss_from.unwrap_or_default());
                summary.jitter = summary.jitter.max(connection.jitter.unwrap_or_default());
                summary.round_trip = summary.round_trip.max(connection.round_trip.unwrap_or_default());
            }
        }
        summary
    }
}

impl Calling {
    /// How all calls fare now.
    pub(super) fn note(&self, calls: &[CallFigures]) {
        *self.0.lock() = Summary::of(calls);
    }
}

impl Collector for Calling {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let summary = self.0.lock();
        let calls = ConstGauge::new(summary.calls);
        let help = "Calls with somebody in them";
        calls.encode(encoder.encode_descriptor("calls", help, None, calls.metric_type())?)?;

        let kind = ConstGauge::new(0_u64).metric_type();
        let help = "Participants by what clients are told of their connections, and whether a relay of ours is between";
        let mut described = encoder.encode_descriptor("call_participants", help, None, kind)?;
        for (labels, count) in &summary.participants {
            ConstGauge::new(*count).encode(described.encode_family(labels)?)?;
        }

        let help = "What all participants together are sent, and send, in bits per second";
        let mut described = encoder.encode_descriptor("call_bitrate", help, None, kind)?;
        for (direction, value) in [("to", summary.bitrate.0), ("from", summary.bitrate.1)] {
            ConstGauge::new(value).encode(described.encode_family(&DirectionLabels { direction })?)?;
        }

        let help =
            "The largest share of packets, from 0 to 1, that was lost on the way to and from a participant";
        let mut described = encoder.encode_descriptor("call_loss_worst", help, None, kind)?;
        for (direction, value) in [("to", summary.loss.0), ("from", summary.loss.1)] {
            ConstGauge::new(f64::from(value))
                .encode(described.encode_family(&DirectionLabels { direction })?)?;
        }

        for (name, help, value) in [
            ("call_jitter_worst", "The largest jitter of what a participant sends", summary.jitter),
            ("call_round_trip_worst", "The longest way to a participant and back", summary.round_trip),
        ] {
            let gauge = ConstGauge::new(value.as_secs_f64());
            gauge.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use entente_call_bridge::{ConnectionFigures, ParticipantFigures};
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    fn participant(quality: &'static str, connection: ConnectionFigures) -> ParticipantFigures {
        ParticipantFigures {
            identity: "@alice:example.org:DEVICE".to_owned(),
            owner: String::new(),
            quality,
            connections: vec![connection],
            published: Vec::new(),
            subscribed: Vec::new(),
        }
    }

    #[test]
    fn the_worst_is_told_and_nobody_named() {
        let good =
            ConnectionFigures { bitrate_to: 1_000, loss_to: Some(0.25), ..ConnectionFigures::default() };
        let relayed = ConnectionFigures {
            bitrate_to: 500,
            is_relayed: true,
            round_trip: Some(Duration::from_millis(250)),
            ..ConnectionFigures::default()
        };
        let participants =
            vec![participant("POOR", good.clone()), participant("POOR", good), participant("GOOD", relayed)];
        let calling = Calling::default();
        calling.note(&[CallFigures { room: "room".to_owned(), participants }]);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(calling));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "calls 1",
            r#"call_participants{quality="GOOD",path="relay"} 1"#,
            r#"call_participants{quality="POOR",path="direct"} 2"#,
            r#"call_bitrate{direction="to"} 2500"#,
            r#"call_loss_worst{direction="to"} 0.25"#,
            r#"call_loss_worst{direction="from"} 0.0"#,
            "call_round_trip_worst_seconds 0.25",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
        assert!(!text.contains("alice"));
    }
}
