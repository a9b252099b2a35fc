use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use str0m::{
    Rtc,
    format::PayloadParams,
    media::Pt,
    rtp::{RtpWrite, Ssrc, StreamTx},
};

use super::{
    super::{
        MediaCodec, MediaPacket, Mid, Renumbered, TransportEvent,
        red::Redundancy,
        repeats::{Repeats, ssrc_of},
    },
    Peer,
};

/// Sent packets that can be sent again, of each stream: some seconds of a usual camera, one of a large screen.
const RESENDABLE: usize = 1_000;
/// For how long they can. Who misses a packet says so many times within this.
const RESENDABLE_FOR: Duration = Duration::from_secs(1);
/// And on a path that turned out too narrow: there it is known later, because what waits in front of it takes long.
pub(super) const RESENDABLE_LONGER_FOR: Duration = Duration::from_secs(3);
/// The share of what is sent again, of all that is sent, from which on nothing is until it is less. On a path that loses a fifth it is a fifth.
const MAXIMUM_RESENT: f32 = 0.5;

/// For how long there is no way to send something until that is told: a new offer may be under way.
const UNDECODABLE_FOR: Duration = Duration::from_secs(1);

/// How a section is sent.
pub(super) struct Sender {
    pub(super) ssrc: Ssrc,
    pub(super) parameters: Option<PayloadParams>,
    pub(super) payload_type: Option<Pt>,
    /// Since when there is none for what is to be sent; `None` once that was told.
    undecodable_since: Option<Instant>,
    /// The payload type of sound with earlier packets, where the receiver can read that.
    pub(super) redundant: Option<Pt>,
    /// Whether what is sent gets lost on the way.
    pub(super) is_lossy: bool,
    pub(super) redundancy: Redundancy,
    /// What was sent so far, in bytes.
    pub(super) bytes: u64,
    /// For what is encrypted between the clients.
    pub(super) repeats: Repeats,
    pub(super) is_repeated: bool,
}

impl Sender {
    fn new(ssrc: Ssrc) -> Self {
        Self {
            ssrc,
            parameters: None,
            payload_type: None,
            undecodable_since: None,
            redundant: None,
            is_lossy: false,
            redundancy: Redundancy::default(),
            bytes: 0,
            repeats: Repeats::default(),
            is_repeated: false,
        }
    }
}

impl Peer {
    /// Sends a packet of media in a section.
    pub(super) fn write(&mut self, mid: Mid, packet: &MediaPacket, renumbered: Renumbered) {
        let Renumbered { sequence, timestamp, patch } = renumbered;
        let Some((sender, payload_type)) = self.sender(mid, packet.parameters) else { return };
        let ssrc = sender.ssrc;
        // Nothing can be added to what is encrypted between the clients.
        let redundant = sender.redundant.filter(|_| sender.is_lossy && !packet.is_encrypted);
        let is_sound = packet.codec == MediaCodec::Opus;
        sender.is_repeated = is_sound && packet.is_encrypted && sender.repeats.is_on();
        let is_repeated = sender.is_repeated;
        let (payload_type, payload) = match redundant {
            Some(redundant) => {
                let payload = sender.redundancy.wrap(*payload_type, timestamp, &packet.payload);
                (redundant, payload)
            }
            None => (payload_type, packet.payload.clone()),
        };
        let mut write = RtpWrite::new(payload_type, sequence.into(), timestamp, packet.received_at, payload)
            .marker(packet.marker)
            .ext_vals(packet.extensions.clone())
            .nackable(!is_sound);
        if let Some(patch) = patch {
            write = write.vp8_patch(patch);
        }
        if let Some(stream) = self.rtc.direct_api().stream_tx(&ssrc) {
            stream.write_rtp(write);
            self.written += 1;
            self.repeats |= is_repeated;
        }
    }

    /// The stream of a section, with the payload type that the other side gave to these parameters.
    fn sender(&mut self, mid: Mid, parameters: Option<PayloadParams>) -> Option<(&mut Sender, Pt)> {
        if !self.senders.contains_key(&mid) {
            let mut direct = self.rtc.direct_api();
            let stream = direct.stream_tx_by_mid(mid, None)?;
            remember_sent(stream, RESENDABLE_FOR);
            self.senders.insert(mid, Sender::new(stream.ssrc()));
        }
        let sender = self.senders.get_mut(&mid)?;
        if sender.payload_type.is_none() || sender.parameters != parameters {
            let known = payload_type(&self.rtc, mid, &parameters?);
            if known.is_some() {
                sender.undecodable_since = None;
            } else if sender.parameters != parameters {
                sender.undecodable_since = Some(self.now);
            }
            sender.parameters = parameters;
            sender.payload_type = known.map(|known| known.pt());
            sender.redundant = known.and_then(|known| known.red());
        }
        let is_too_long = |since: &mut Instant| self.now.saturating_duration_since(*since) >= UNDECODABLE_FOR;
        if sender.payload_type.is_none() && sender.undecodable_since.take_if(is_too_long).is_some() {
            self.recovered.push_back(TransportEvent::Undecodable { mid });
        }
        let payload_type = sender.payload_type?;
        Some((sender, payload_type))
    }

    /// A datagram goes out, with which others may go once more.
    pub(super) fn repeat(&mut self, source: SocketAddr, destination: SocketAddr, datagram: &[u8]) {
        let Some(ssrc) = ssrc_of(datagram) else { return };
        let found = self.senders.values_mut().find(|sender| *sender.ssrc == ssrc);
        let Some(sender) = found.filter(|sender| sender.is_repeated) else { return };
        let (carried, again) = (self.estimate.told(), &mut self.again);
        sender.repeats.sent(self.now, carried, datagram, |bytes| {
            again.push_back((source, destination, bytes.to_vec()));
        });
    }
}

/// Begins to remember what is sent in a stream for so long, to be sent once more.
pub(super) fn remember_sent(stream: &mut StreamTx, how_long: Duration) {
    stream.set_rtx_cache(RESENDABLE, how_long, Some(MAXIMUM_RESENT));
}

/// How a receiver knows what a publisher sends: by the same parameters, or at least the same codec.
fn payload_type(rtc: &Rtc, mid: Mid, parameters: &PayloadParams) -> Option<PayloadParams> {
    let media = rtc.media(mid)?;
    let wanted = parameters.spec();
    let offered = || {
        let known = rtc.codec_config().params().iter();
        known.filter(|offered| {
            offered.spec().codec == wanted.codec && media.remote_pts().contains(&offered.pt())
        })
    };
    let exact = offered().find(|offered| offered.spec() == wanted);
    let packetization = |offered: &&PayloadParams| {
        offered.spec().format.packetization_mode == wanted.format.packetization_mode
    };
    exact.or_else(|| offered().find(packetization)).or_else(|| offered().next()).copied()
}
