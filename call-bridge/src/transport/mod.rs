//! Peer connections: what the rest of the crate needs of a WebRTC stack, and nothing else of it.

mod dependency_descriptor;
mod estimate;
mod guard;
mod packet;
mod peer;
mod red;
mod repeats;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use str0m::media::{MediaKind, Mid, Rid};

#[cfg(feature = "fuzzing")]
pub(crate) use self::{
    dependency_descriptor::passed_on,
    red::{Redundancy, unwrap},
};
pub(crate) use self::{
    guard::Guarded,
    packet::{MediaCodec, MediaPacket, Renumbered, SenderClock},
    peer::{Certificate, Peer, PeerSettings, SILENT_AFTER},
};

/// Why a peer connection refused something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// A session description that cannot be read.
    #[error("the session description cannot be read: {0}")]
    Description(String),
    /// A session description that does not fit the connection.
    #[error("the session description cannot be applied: {0}")]
    Negotiation(String),
    /// An answer to an offer that is no longer open.
    #[error("no offer is open")]
    NoOffer,
    /// The connection cannot go on.
    #[error("the connection broke")]
    Broken,
}

/// What an offer of ours is to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OfferChanges {
    /// Sections to add, for sending.
    pub(crate) add: Vec<MediaKind>,
    /// Sections that send again.
    pub(crate) start: Vec<Mid>,
    /// Sections that send no more.
    pub(crate) stop: Vec<Mid>,
    /// Data channels to open, with the first offer.
    pub(crate) channels: bool,
    /// New ICE credentials: the client has changed its network.
    pub(crate) restart: bool,
}

/// An offer of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The session description.
    pub(crate) sdp: String,
    /// The sections that were added, in the order in which they were asked for.
    pub(crate) added: Vec<Mid>,
}

/// The data channels, by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DataChannel {
    /// Ordered, and nothing is lost.
    Reliable,
    /// In any order, and nothing is sent twice.
    Lossy,
}

impl DataChannel {
    /// The label by which both sides know it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Reliable => "_reliable",
            Self::Lossy => "_lossy",
        }
    }

    /// The channel of this label.
    pub(crate) fn of_label(label: &str) -> Option<Self> {
        [Self::Reliable, Self::Lossy].into_iter().find(|channel| channel.label() == label)
    }
}

/// What carries the packets of a peer connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Carrier {
    /// UDP.
    Datagrams,
    /// TCP.
    Stream,
}

/// What happened on a peer connection.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most events are packets, which are not worth a box each")]
pub(crate) enum TransportEvent {
    /// Media can flow.
    Connected,
    /// Nothing has been heard from the other side for some seconds. It may come back.
    Disconnected,
    /// The other side said goodbye, or the connection broke.
    Closed,
    /// A packet of media.
    Media {
        /// The section it belongs to.
        mid: Mid,
        /// Which of several encodings.
        rid: Option<Rid>,
        /// The packet.
        packet: MediaPacket,
    },
    /// The other side needs a keyframe of what we send in this section.
    KeyframeWanted {
        /// The section.
        mid: Mid,
    },
    /// The other side cannot decode what we would send in this section.
    Undecodable {
        /// The section.
        mid: Mid,
    },
    /// What the path to the other side can probably carry, in bits per second.
    Bandwidth(u64),
    /// A data channel can be written to.
    ChannelOpen(DataChannel),
    /// A message from a data channel.
    Data {
        /// Which.
        channel: DataChannel,
        /// The message.
        bytes: Vec<u8>,
    },
    /// How the connection fares, every few seconds.
    Figures(Figures),
}

/// How a peer connection fares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Of what we sent, the share that was lost, from 0 to 1.
    pub(crate) loss_to: Option<f32>,
    /// Of what was sent to us, the share that was lost, from 0 to 1.
    pub(crate) loss_from: Option<f32>,
    /// There and back.
    pub(crate) round_trip: Option<Duration>,
    /// Bytes of all packets to the other side, since the beginning.
    pub(crate) bytes_to: u64,
    /// Bytes of all packets from the other side, since the beginning.
    pub(crate) bytes_from: u64,
    /// The address of ours that is used.
    pub(crate) local: Option<SocketAddr>,
    /// Where the other side is.
    pub(crate) remote: Option<SocketAddr>,
    /// By how much what is sent to us comes early or late, of the worst stream.
    pub(crate) jitter: Option<Duration>,
}

/// What a peer connection wants done.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most events are packets, which are not worth a box each")]
pub(crate) enum Output {
    /// A datagram to be sent.
    Datagram {
        /// How it goes.
        carrier: Carrier,
        /// The address of ours from which it goes.
        source: SocketAddr,
        /// Where it goes.
        destination: SocketAddr,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Something happened.
    Event(TransportEvent),
    /// Nothing more until this time, or until something comes in.
    Wait(Instant),
}

/// A peer connection without I/O: datagrams and time go in, datagrams and events come out.
///
/// After every call that changes something, [`Transport::poll`] is called until it answers [`Output::Wait`].
pub(crate) trait Transport {
    /// Answers an offer of the other side.
    fn answer(&mut self, offer: &str) -> Result<String, TransportError>;

    /// Makes an offer; `None` if nothing changes.
    fn offer(&mut self, changes: &OfferChanges) -> Option<Offer>;

    /// Takes the other side's answer to the last offer.
    fn accept_answer(&mut self, answer: &str) -> Result<(), TransportError>;

    /// Takes a datagram that came in.
    fn receive(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, bytes: &[u8]);

    /// Takes a datagram that came in by a connection.
    fn receive_by_stream(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, bytes: &[u8]);

    /// Lets time pass.
    fn advance(&mut self, now: Instant);

    /// What is to be done next.
    fn poll(&mut self) -> Output;

    /// Sends a packet of media in a section, with numbers of its own.
    fn send(&mut self, mid: Mid, packet: &MediaPacket, renumbered: Renumbered);

    /// Asks the other side for a keyframe.
    fn request_keyframe(&mut self, mid: Mid, rid: Option<Rid>);

    /// Forgets how a section was sent, so that it begins anew as another stream.
    fn renew_stream(&mut self, mid: Mid);

    /// Sends nothing once more of what was sent in a section so far: the path is too narrow for it, so it would be lost again, and others
    /// with it.
    fn forget_sent(&mut self, mid: Mid);

    /// Writes to a data channel, if it is open. What is lossy is lost if there is no room for it; what is reliable waits, in order. False if
    /// more of that waits than can, because the other side reads too slowly: it is dropped then, and nothing reliable is taken until
    /// [`Self::renew_data`].
    fn send_data(&mut self, channel: DataChannel, bytes: &Arc<[u8]>) -> bool;

    /// Takes reliable messages again: those that the other side did not get are about to come again.
    fn renew_data(&mut self);

    /// Tells the bandwidth estimator what we would like to send and what it should try to reach next, in bits per second.
    fn set_bitrates(&mut self, next: u64, desired: u64);

    /// Says goodbye.
    fn close(&mut self);
}
