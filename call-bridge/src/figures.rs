use std::{net::SocketAddr, time::Duration};

/// How a call fares at the moment.
#[derive(Clone, Debug, PartialEq)]
pub struct CallFigures {
    /// The room's name.
    pub room: String,
    /// Who is there.
    pub participants: Vec<ParticipantFigures>,
}

/// How a participant fares.
#[derive(Clone, Debug, PartialEq)]
pub struct ParticipantFigures {
    /// As in its token.
    pub identity: String,
    /// Whom the application takes it for; empty if the token does not say.
    pub owner: String,
    /// As clients are told: `EXCELLENT`, `GOOD`, `POOR` or `LOST`.
    pub quality: &'static str,
    /// Its peer connections: one or two.
    pub connections: Vec<ConnectionFigures>,
    /// What it sends.
    pub published: Vec<PublishedFigures>,
    /// What it gets.
    pub subscribed: Vec<SubscribedFigures>,
}

/// How a peer connection fares. What is not known yet is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectionFigures {
    /// The address of ours that is used.
    pub local: Option<SocketAddr>,
    /// Where the other side is: the client, a translator in front of it, or a relay.
    pub remote: Option<SocketAddr>,
    /// Whether that is a relay of this server's.
    pub is_relayed: bool,
    /// Of what was sent to it, the share that was lost, from 0 to 1.
    pub loss_to: Option<f32>,
    /// Of what it sent, the share that was lost, from 0 to 1.
    pub loss_from: Option<f32>,
    /// By how much what it sends comes early or late, of its worst stream (RFC 3550, section 6.4.1).
    pub jitter: Option<Duration>,
    /// There and back.
    pub round_trip: Option<Duration>,
    /// What is sent to it, in bits per second.
    pub bitrate_to: u64,
    /// What it sends, in bits per second.
    pub bitrate_from: u64,
    /// What the path to it can probably carry, in bits per second.
    pub estimate: Option<u64>,
}

/// How something fares that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedFigures {
    /// The track's id.
    pub track: String,
    /// What it shows, as LiveKit's protocol names it, such as `SCREEN_SHARE`.
    pub source: &'static str,
    /// Whether it is muted.
    pub muted: bool,
    /// The layers that are coming, with their bits per second, by their numbers from 0, the smallest.
    pub layers: Vec<(usize, u64)>,
}

/// How something fares that is got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribedFigures {
    /// The track's id.
    pub track: String,
    /// The layer that is forwarded; `None`: none, as wanted or because it waits for a keyframe.
    pub layer: Option<usize>,
    /// How many layers there are.
    pub layers: usize,
    /// Whether it is paused because the path carries no more.
    pub paused: bool,
}
