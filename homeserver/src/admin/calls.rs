//! How calls fare, in words.

use std::fmt::Write as _;

use entente_api::CallMember;
use entente_call_bridge::{CallBridge, CallFigures, ConnectionFigures, ParticipantFigures};

/// What is said of all calls; the error says why nothing can be.
pub(super) async fn describe(bridge: Option<&CallBridge>) -> Result<String, String> {
    let bridge = bridge.ok_or_else(|| String::from("the server does not run, or forwards no calls"))?;
    let calls = bridge.figures().await.map_err(|error| error.to_string())?;
    Ok(in_words(&calls))
}

fn in_words(calls: &[CallFigures]) -> String {
    if calls.is_empty() {
        return String::from("nobody is in a call");
    }
    let mut text = String::new();
    for call in calls {
        // Writing to a string does not fail, here and below.
        let _ = writeln!(text, "call {}", call.room);
        for participant in &call.participants {
            write_participant(&mut text, participant);
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn write_participant(text: &mut String, participant: &ParticipantFigures) {
    let quality = participant.quality.to_lowercase();
    let _ = match CallMember::from_owner(&participant.owner) {
        Some(CallMember { room_id, user_id }) => writeln!(text, "  {user_id} in {room_id}: {quality}"),
        None => writeln!(text, "  {}: {quality}", participant.identity),
    };
    for connection in &participant.connections {
        let _ = writeln!(text, "    {}", path(connection));
    }
    for published in &participant.published {
        let layers: Vec<String> = published
            .layers
            .iter()
            .map(|(layer, rate)| format!("layer {layer} {}", kilobits(*rate)))
            .collect();
        let layers = if layers.is_empty() { String::from("nothing comes") } else { layers.join(", ") };
        let muted = if published.muted { ", muted" } else { "" };
        let source = published.source.to_lowercase();
        let _ = writeln!(text, "    sends {source} {}{muted}: {layers}", published.track);
    }
    for subscribed in &participant.subscribed {
        let got = match subscribed.layer {
            _ if subscribed.paused => String::from("paused, the path carries no more"),
            Some(layer) => format!("layer {layer} of {}", subscribed.layers),
            None => String::from("nothing"),
        };
        let _ = writeln!(text, "    gets {}: {got}", subscribed.track);
    }
}

fn path(connection: &ConnectionFigures) -> String {
    let address = |address: Option<std::net::SocketAddr>| {
        address.map_or_else(|| String::from("nowhere"), |address| address.to_string())
    };
    let share =
        |loss: Option<f32>| loss.map_or_else(|| String::from("?"), |loss| format!("{:.1} %", loss * 100.0));
    let time = |time: Option<std::time::Duration>| {
        time.map_or_else(|| String::from("?"), |time| format!("{} ms", time.as_millis()))
    };
    let relay = if connection.is_relayed { ", a relay here" } else { "" };
    let estimate =
        connection.estimate.map(|rate| format!(" of about {}", kilobits(rate))).unwrap_or_default();
    format!(
        "from {} to {}{relay}; there and back {}; lost {} to it, {} from it; jitter {}; {}{estimate} to it, {} from it",
        address(connection.local),
        address(connection.remote),
        time(connection.round_trip),
        share(connection.loss_to),
        share(connection.loss_from),
        time(connection.jitter),
        kilobits(connection.bitrate_to),
        kilobits(connection.bitrate_from),
    )
}

fn kilobits(rate: u64) -> String {
    format!("{} kbit/s", rate / 1_000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use entente_call_bridge::{PublishedFigures, SubscribedFigures};

    use super::*;

    #[test]
    fn a_call_is_told_in_words() {
        assert_eq!(in_words(&[]), "nobody is in a call");
        let connection = ConnectionFigures {
            local: Some("192.0.2.1:7882".parse().unwrap()),
            remote: Some("192.0.2.9:5000".parse().unwrap()),
            loss_to: Some(0.125),
            round_trip: Some(Duration::from_millis(23)),
            bitrate_to: 1_200_000,
            estimate: Some(2_000_000),
            ..ConnectionFigures::default()
        };
        let participant = ParticipantFigures {
            identity: "hash".to_owned(),
            owner: r#"["!room:a","@alice:a"]"#.to_owned(),
            quality: "POOR",
            connections: vec![connection],
            published: vec![PublishedFigures {
                track: "TR_1".to_owned(),
                source: "CAMERA",
                muted: false,
                layers: vec![(0, 150_000), (1, 450_000)],
            }],
            subscribed: vec![SubscribedFigures {
                track: "TR_2".to_owned(),
                layer: Some(1),
                layers: 3,
                paused: false,
            }],
        };
        let told = in_words(&[CallFigures { room: "name".to_owned(), participants: vec![participant] }]);
        let expected = "call name
  @alice:a in !room:a: poor
    from 192.0.2.1:7882 to 192.0.2.9:5000; there and back 23 ms; lost 12.5 % to it, ? from it; jitter ?; 1200 kbit/s of about 2000 kbit/s to it, 0 kbit/s from it
    sends camera TR_1: layer 0 150 kbit/s, layer 1 450 kbit/s
    gets TR_2: layer 1 of 3";
        assert_eq!(told, expected);
    }
}
