use str0m::rtp::{ExtensionValues, RtpPacket, Ssrc};

use super::{
    super::{
        MediaPacket, Mid, Rid, SenderClock, TransportEvent,
        red::{self, Arrivals},
    },
    Peer,
};

/// Larger payloads do not come from an Ethernet and do not fit what the stack writes into.
const MAXIMUM_PAYLOAD: usize = 1_480;
/// Streams of one peer that are told apart; a browser has three a section and one for repairs.
const MAXIMUM_SOURCES: usize = 1_024;

impl Peer {
    /// A packet of media came.
    pub(super) fn media(&mut self, packet: RtpPacket) -> Option<TransportEvent> {
        if packet.payload.len() > MAXIMUM_PAYLOAD {
            return None;
        }
        let ssrc = packet.header.ssrc;
        let (mid, rid) = self.source(ssrc)?;
        let payload_type = packet.header.payload_type;
        let parameters = *self
            .rtc
            .codec_config()
            .find(|parameters| parameters.pt() == payload_type || parameters.red() == Some(payload_type))?;
        let mut extensions = packet.header.ext_vals;
        let audio_level = extensions.audio_level.map(i8::unsigned_abs);
        // These are between two hops.
        extensions.mid = None;
        extensions.rid = None;
        extensions.rid_repair = None;
        extensions.transport_cc = None;
        extensions.abs_send_time = None;
        extensions.tx_time_offs = None;
        let clock = packet.last_sender_info.and_then(|info| {
            let timestamp = u32::try_from(info.rtp_time.numer() & u64::from(u32::MAX)).ok()?;
            Some(SenderClock { at: info.ntp_time, timestamp })
        });
        let packet = MediaPacket {
            codec: parameters.spec().codec.into(),
            parameters: Some(parameters),
            sequence: *packet.seq_no,
            timestamp: packet.header.timestamp,
            marker: packet.header.marker,
            payload: packet.payload,
            audio_level,
            extensions,
            received_at: packet.timestamp,
            clock,
            is_encrypted: false,
        };
        let packet =
            if parameters.pt() == payload_type { packet } else { self.unwrap(ssrc, mid, rid, packet)? };
        Some(TransportEvent::Media { mid, rid, packet })
    }

    /// Takes what came along with a packet of sound out of it. What had not come yet is handed on first.
    pub(super) fn unwrap(
        &mut self,
        ssrc: Ssrc,
        mid: Mid,
        rid: Option<Rid>,
        packet: MediaPacket,
    ) -> Option<MediaPacket> {
        let payload_type = *packet.parameters?.pt();
        let red::Unwrapped { newest, earlier } = red::unwrap(&packet.payload, payload_type)?;
        if self.arrivals.len() >= MAXIMUM_SOURCES {
            self.arrivals.clear();
        }
        let arrivals = self.arrivals.entry(ssrc).or_default();
        let is_first = *arrivals == Arrivals::default();
        let is_new = arrivals.note(packet.sequence);
        for (place, (back, payload)) in (0..).zip(&earlier) {
            let distance = u64::try_from(earlier.len()).ok()? - place;
            // What came before the first packet belongs to nothing that was begun.
            let Some(sequence) = packet.sequence.checked_sub(distance).filter(|_| !is_first) else {
                continue;
            };
            if !arrivals.note(sequence) {
                continue;
            }
            let packet = MediaPacket {
                sequence,
                timestamp: packet.timestamp.wrapping_sub(*back),
                marker: false,
                payload: (*payload).into(),
                audio_level: None,
                extensions: ExtensionValues::default(),
                ..packet.clone()
            };
            self.recovered.push_back(TransportEvent::Media { mid, rid, packet });
        }
        let payload = newest.into();
        is_new.then_some(MediaPacket { payload, ..packet })
    }

    fn source(&mut self, ssrc: Ssrc) -> Option<(Mid, Option<Rid>)> {
        if let Some(source) = self.sources.get(&ssrc) {
            return Some(*source);
        }
        let mut direct = self.rtc.direct_api();
        let stream = direct.stream_rx(&ssrc)?;
        let source = (stream.mid(), stream.rid());
        // What is lost of sound is sent again in the same stream, which the stack does not expect of clients.
        stream.suppress_nack(false);
        if self.sources.len() >= MAXIMUM_SOURCES {
            self.sources.clear();
        }
        self.sources.insert(ssrc, source);
        Some(source)
    }
}
