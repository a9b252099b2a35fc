use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use entente_environment::Randomness;
use str0m::{
    Candidate, Event, IceConnectionState, IceCreds, Input, Rtc,
    bwe::{Bitrate, BweKind},
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    channel::{ChannelConfig, ChannelId, Reliability},
    config::{CryptoProvider, DtlsCert},
    crypto::from_feature_flags,
    format::PayloadParams,
    media::{Direction, KeyframeRequestKind, MediaKind, Pt},
    net::{Protocol, Receive, TcpType},
    rtp::{Extension, RtpPacket, RtpWrite, Ssrc},
    stats::PeerStats,
};

use super::{
    Carrier, DataChannel, Figures, MediaPacket, Mid, Offer, OfferChanges, Output, Rid, SenderClock,
    Transport, TransportError, TransportEvent, dependency_descriptor,
};

/// With what the estimate of a path begins, in bits per second: enough for a few small pictures.
const FIRST_ESTIMATE: Bitrate = Bitrate::kbps(1_500);
/// How often [`Figures`] come.
const FIGURES_EVERY: Duration = Duration::from_secs(2);
/// What may wait in data channels to one peer, in bytes. Who reads more slowly loses messages.
const MAXIMUM_BUFFERED_DATA: usize = 1_024 * 1_024;
/// The largest message on a data channel, in bytes; clients are told.
const MAXIMUM_MESSAGE: u32 = 256 * 1_024;
/// Larger payloads do not come from an Ethernet and do not fit what the stack writes into.
const MAXIMUM_PAYLOAD: usize = 1_480;
/// Streams of one peer that are told apart; a browser has three a section and one for repairs.
const MAXIMUM_SOURCES: usize = 1_024;
/// A time that does not come.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// By what clients recognise us; made once, used by all connections.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    provider: Arc<CryptoProvider>,
    certificate: DtlsCert,
}

impl Certificate {
    /// Makes one; `None` if the cryptographic library cannot.
    pub(crate) fn generate() -> Option<Self> {
        let provider = from_feature_flags();
        let certificate = provider.dtls_provider.generate_certificate()?;
        Some(Self { provider: Arc::new(provider), certificate })
    }
}

/// What a peer connection is made of.
#[derive(Debug)]
pub(crate) struct PeerSettings<'a> {
    /// The certificate.
    pub(crate) certificate: &'a Certificate,
    /// Addresses that clients are told.
    pub(crate) addresses: &'a [SocketAddr],
    /// With what ICE user names begin: by it datagrams find their way.
    pub(crate) prefix: &'a str,
    /// The rest of them.
    pub(crate) randomness: Randomness,
}

/// A peer connection by `str0m`.
pub(crate) struct Peer {
    rtc: Rtc,
    prefix: String,
    randomness: Randomness,
    credentials: IceCreds,
    pending: Option<(SdpPendingOffer, Option<IceCreds>)>,
    channels: Vec<(DataChannel, ChannelId)>,
    sources: HashMap<Ssrc, (Mid, Option<Rid>)>,
    senders: HashMap<Mid, Sender>,
    /// The worst since figures were told.
    jitter: Option<Duration>,
    now: Instant,
    closed: bool,
}

/// How a section is sent.
struct Sender {
    ssrc: Ssrc,
    parameters: Option<PayloadParams>,
    payload_type: Option<Pt>,
}

impl Peer {
    /// A peer connection that nobody has connected to yet.
    pub(crate) fn new(settings: &PeerSettings<'_>, now: Instant) -> Self {
        let credentials = new_credentials(settings.prefix, &settings.randomness);
        let mut config = Rtc::builder()
            .set_crypto_provider(settings.certificate.provider.clone())
            .set_dtls_cert(settings.certificate.certificate.clone())
            .set_local_ice_credentials(credentials.clone())
            .set_ice_lite(true)
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(true)
            .enable_h264(true)
            .enable_vp9(true)
            .enable_av1(true)
            .set_extension(9, Extension::AbsoluteCaptureTime)
            .set_extension(12, dependency_descriptor::extension())
            .enable_bwe(Some(FIRST_ESTIMATE))
            .set_stats_interval(Some(FIGURES_EVERY))
            .set_sctp_max_buffered_amount(MAXIMUM_BUFFERED_DATA)
            .set_sctp_max_message_size(MAXIMUM_MESSAGE);
        // Video comes with gaps whenever nobody watches or the camera is off.
        config = config.set_pause_threshold(Duration::from_secs(5));
        let mut rtc = config.build(now);
        for address in settings.addresses {
            // Fails for addresses that nobody can connect to, such as the unspecified one.
            if let Ok(candidate) = Candidate::host(*address, Protocol::Udp) {
                rtc.add_local_candidate(candidate);
            }
        }
        Self {
            rtc,
            prefix: settings.prefix.to_owned(),
            randomness: settings.randomness.clone(),
            credentials,
            pending: None,
            channels: Vec::new(),
            sources: HashMap::new(),
            senders: HashMap::new(),
            jitter: None,
            now,
            closed: false,
        }
    }

    /// Tells the client addresses to which it can connect by TCP.
    pub(crate) fn offer_streams(&mut self, addresses: &[SocketAddr]) {
        for address in addresses {
            let candidate = Candidate::builder().tcp().host(*address).tcptype(TcpType::Passive).build();
            // Fails for addresses that nobody can connect to, such as the unspecified one.
            if let Ok(candidate) = candidate {
                self.rtc.add_local_candidate(candidate);
            }
        }
    }

    /// The ICE user name under which datagrams come for it, before and after a restart.
    pub(crate) fn user_names(&self) -> impl Iterator<Item = &str> {
        let pending = self.pending.iter().filter_map(|(_, credentials)| credentials.as_ref());
        std::iter::once(&self.credentials).chain(pending).map(|credentials| credentials.ufrag.as_str())
    }

    /// The stack makes credentials of its own at a restart, whose user name would not lead here.
    fn use_credentials(&mut self, credentials: IceCreds) {
        self.rtc.direct_api().set_local_ice_credentials(credentials.clone());
        self.credentials = credentials;
    }

    fn event(&mut self, event: Event) -> Option<TransportEvent> {
        match event {
            Event::Connected => Some(TransportEvent::Connected),
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                Some(TransportEvent::Disconnected)
            }
            Event::IceConnectionStateChange(state) if state.is_connected() && self.rtc.is_connected() => {
                Some(TransportEvent::Connected)
            }
            Event::Closed => Some(TransportEvent::Closed),
            Event::RtpPacket(packet) => self.media(packet),
            Event::KeyframeRequest(request) => Some(TransportEvent::KeyframeWanted { mid: request.mid }),
            Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. }) => {
                Some(TransportEvent::Bandwidth(estimate.as_u64()))
            }
            Event::ChannelOpen(id, label) => {
                let channel = DataChannel::of_label(&label)?;
                self.channels.retain(|(other, _)| *other != channel);
                self.channels.push((channel, id));
                Some(TransportEvent::ChannelOpen)
            }
            Event::ChannelData(data) => {
                let (channel, _) = self.channels.iter().find(|(_, id)| *id == data.id)?;
                Some(TransportEvent::Data { channel: *channel, bytes: data.data })
            }
            Event::MediaIngressStats(stats) => {
                let is_audio =
                    self.rtc.media(stats.mid).is_some_and(|media| media.kind() == MediaKind::Audio);
                let clock_rate = if is_audio { 48_000 } else { 90_000 };
                let jitter = Duration::from_secs(stats.jitter.into()) / clock_rate;
                self.jitter = self.jitter.max(Some(jitter));
                None
            }
            Event::PeerStats(stats) => {
                let figures = figures(&stats);
                Some(TransportEvent::Figures(Figures { jitter: self.jitter.take(), ..figures }))
            }
            _ => None,
        }
    }

    fn media(&mut self, packet: RtpPacket) -> Option<TransportEvent> {
        if packet.payload.len() > MAXIMUM_PAYLOAD {
            return None;
        }
        let (mid, rid) = self.source(packet.header.ssrc)?;
        let parameters =
            *self.rtc.codec_config().find(|parameters| parameters.pt() == packet.header.payload_type)?;
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
            patch: None,
            audio_level,
            extensions,
            received_at: packet.timestamp,
            clock,
        };
        Some(TransportEvent::Media { mid, rid, packet })
    }

    fn source(&mut self, ssrc: Ssrc) -> Option<(Mid, Option<Rid>)> {
        if let Some(source) = self.sources.get(&ssrc) {
            return Some(*source);
        }
        let mut direct = self.rtc.direct_api();
        let stream = direct.stream_rx(&ssrc)?;
        let source = (stream.mid(), stream.rid());
        if self.sources.len() >= MAXIMUM_SOURCES {
            self.sources.clear();
        }
        self.sources.insert(ssrc, source);
        Some(source)
    }

    /// The stream of a section, with the payload type that the other side gave to these parameters.
    fn sender(&mut self, mid: Mid, parameters: Option<PayloadParams>) -> Option<(Ssrc, Pt)> {
        if !self.senders.contains_key(&mid) {
            let ssrc = self.rtc.direct_api().stream_tx_by_mid(mid, None)?.ssrc();
            self.senders.insert(mid, Sender { ssrc, parameters: None, payload_type: None });
        }
        let sender = self.senders.get_mut(&mid)?;
        if sender.payload_type.is_none() || sender.parameters != parameters {
            sender.parameters = parameters;
            sender.payload_type = payload_type(&self.rtc, mid, &parameters?);
        }
        Some((sender.ssrc, sender.payload_type?))
    }

    fn take<E>(&mut self, now: Instant, datagram: Result<Receive<'_>, E>) {
        self.now = now;
        // What is none of STUN, DTLS, RTP and RTCP is nothing.
        let Ok(datagram) = datagram else { return };
        if let Err(error) = self.rtc.handle_input(Input::Receive(now, datagram)) {
            self.break_off(&error);
        }
    }

    fn break_off(&mut self, error: &dyn std::fmt::Display) {
        tracing::debug!(%error, "a peer connection broke");
        self.rtc.disconnect();
    }
}

impl Transport for Peer {
    fn answer(&mut self, offer: &str) -> Result<String, TransportError> {
        let offer = SdpOffer::from_sdp_string(offer)
            .map_err(|error| TransportError::Description(error.to_string()))?;
        // An offer of the other side makes one of ours void.
        self.pending = None;
        let answer = self
            .rtc
            .sdp_api()
            .accept_offer(offer)
            .map_err(|error| TransportError::Negotiation(error.to_string()))?;
        self.sources.clear();
        self.senders.values_mut().for_each(|sender| sender.payload_type = None);
        let answer = answer.to_sdp_string();
        let used = self.rtc.direct_api().local_ice_credentials();
        if used.ufrag == self.credentials.ufrag {
            return Ok(answer);
        }
        let credentials = new_credentials(&self.prefix, &self.randomness);
        let answer = answer.replace(&used.ufrag, &credentials.ufrag).replace(&used.pass, &credentials.pass);
        self.use_credentials(credentials);
        Ok(answer)
    }

    fn offer(&mut self, changes: &OfferChanges) -> Option<Offer> {
        let mut api = self.rtc.sdp_api();
        let added =
            changes.add.iter().map(|kind| api.add_media(*kind, Direction::SendOnly, None, None, None));
        let added = added.collect();
        for mid in &changes.start {
            api.set_direction(*mid, Direction::SendOnly);
        }
        for mid in &changes.stop {
            api.set_direction(*mid, Direction::Inactive);
        }
        if changes.channels {
            api.add_channel(DataChannel::Reliable.label().to_owned());
            api.add_channel_with_config(ChannelConfig {
                label: DataChannel::Lossy.label().to_owned(),
                ordered: false,
                reliability: Reliability::MaxRetransmits { retransmits: 0 },
                ..ChannelConfig::default()
            });
        }
        let made = changes.restart.then(|| api.ice_restart(true));
        let (offer, pending) = api.apply()?;
        let mut sdp = offer.to_sdp_string();
        let credentials = made.map(|made| {
            let ours = new_credentials(&self.prefix, &self.randomness);
            sdp = sdp.replace(&made.ufrag, &ours.ufrag).replace(&made.pass, &ours.pass);
            ours
        });
        self.pending = Some((pending, credentials));
        Some(Offer { sdp, added })
    }

    fn accept_answer(&mut self, answer: &str) -> Result<(), TransportError> {
        let (pending, credentials) = self.pending.take().ok_or(TransportError::NoOffer)?;
        let answer = SdpAnswer::from_sdp_string(answer)
            .map_err(|error| TransportError::Description(error.to_string()))?;
        self.rtc
            .sdp_api()
            .accept_answer(pending, answer)
            .map_err(|error| TransportError::Negotiation(error.to_string()))?;
        if let Some(credentials) = credentials {
            self.use_credentials(credentials);
        }
        self.senders.values_mut().for_each(|sender| sender.payload_type = None);
        Ok(())
    }

    fn receive(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        self.take(now, Receive::new(Protocol::Udp, source, destination, bytes));
    }

    fn receive_by_stream(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        self.take(now, Receive::new(Protocol::Tcp, source, destination, bytes));
    }

    fn advance(&mut self, now: Instant) {
        self.now = now;
        if let Err(error) = self.rtc.handle_input(Input::Timeout(now)) {
            self.break_off(&error);
        }
    }

    fn poll(&mut self) -> Output {
        loop {
            if self.closed || !self.rtc.is_alive() {
                if std::mem::replace(&mut self.closed, true) {
                    return Output::Wait(self.now + NEVER);
                }
                return Output::Event(TransportEvent::Closed);
            }
            match self.rtc.poll_output() {
                Ok(str0m::Output::Timeout(at)) => return Output::Wait(at),
                Ok(str0m::Output::Transmit(transmit)) => {
                    let carrier = match transmit.proto {
                        Protocol::Udp => Carrier::Datagrams,
                        _ => Carrier::Stream,
                    };
                    return Output::Datagram {
                        carrier,
                        source: transmit.source,
                        destination: transmit.destination,
                        bytes: transmit.contents.into(),
                    };
                }
                Ok(str0m::Output::Event(event)) => {
                    if let Some(event) = self.event(event) {
                        return Output::Event(event);
                    }
                }
                Err(error) => self.break_off(&error),
            }
        }
    }

    fn send(&mut self, mid: Mid, packet: MediaPacket) {
        let Some((ssrc, payload_type)) = self.sender(mid, packet.parameters) else { return };
        let mut write = RtpWrite::new(
            payload_type,
            packet.sequence.into(),
            packet.timestamp,
            packet.received_at,
            packet.payload,
        )
        .marker(packet.marker)
        .ext_vals(packet.extensions)
        .nackable(packet.codec != super::MediaCodec::Opus);
        if let Some(patch) = packet.patch {
            write = write.vp8_patch(patch);
        }
        if let Some(stream) = self.rtc.direct_api().stream_tx(&ssrc) {
            stream.write_rtp(write);
        }
    }

    fn request_keyframe(&mut self, mid: Mid, rid: Option<Rid>) {
        if let Some(stream) = self.rtc.direct_api().stream_rx_by_mid(mid, rid) {
            stream.request_keyframe(KeyframeRequestKind::Pli);
        }
    }

    fn renew_stream(&mut self, mid: Mid) {
        let mut direct = self.rtc.direct_api();
        let ssrc = direct.stream_tx_by_mid(mid, None).map(|stream| stream.ssrc());
        if let Some(ssrc) = ssrc {
            direct.remove_stream_tx(ssrc);
        }
        self.senders.remove(&mid);
    }

    fn send_data(&mut self, channel: DataChannel, bytes: &[u8]) -> bool {
        let Some((_, id)) = self.channels.iter().find(|(other, _)| *other == channel) else { return false };
        let Some(mut channel) = self.rtc.channel(*id) else { return false };
        channel.write(true, bytes).unwrap_or(false)
    }

    fn set_bitrates(&mut self, next: u64, desired: u64) {
        self.rtc.bwe().set_bitrate(Bitrate::bps(next), Bitrate::bps(desired));
    }

    fn close(&mut self) {
        if let Err(error) = self.rtc.close() {
            self.break_off(&error);
        }
    }
}

fn new_credentials(prefix: &str, randomness: &Randomness) -> IceCreds {
    IceCreds { ufrag: format!("{prefix}{}", randomness.alphanumeric(16)), pass: randomness.alphanumeric(32) }
}

/// The payload type that a receiver gave to what a publisher sends: the same parameters, or at least the same codec.
fn payload_type(rtc: &Rtc, mid: Mid, parameters: &PayloadParams) -> Option<Pt> {
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
    exact.or_else(|| offered().find(packetization)).or_else(|| offered().next()).map(PayloadParams::pt)
}

fn figures(stats: &PeerStats) -> Figures {
    let pair = stats.selected_candidate_pair.as_ref();
    Figures {
        loss_to: stats.egress_loss_fraction,
        loss_from: stats.ingress_loss_fraction,
        round_trip: stats.rtt.or_else(|| pair.and_then(|pair| pair.current_round_trip_time)),
        bytes_to: stats.peer_bytes_tx,
        bytes_from: stats.peer_bytes_rx,
        local: pair.map(|pair| pair.local.addr),
        remote: pair.map(|pair| pair.remote.addr),
        jitter: None,
    }
}

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, SystemClock};

    use super::*;

    /// Datagrams go nowhere: all that connects is TCP.
    #[test]
    fn a_client_that_sends_no_datagrams_connects_by_a_stream() {
        let mut now = SystemClock.monotonic();
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (ours, theirs) = (address("192.0.2.1:7881"), address("198.51.100.1:5000"));
        let certificate = Certificate::generate().unwrap();
        let settings = PeerSettings {
            certificate: &certificate,
            addresses: &[address("192.0.2.1:7882")],
            prefix: "0000",
            randomness: Randomness::from_seed(7),
        };
        let mut peer = Peer::new(&settings, now);
        peer.offer_streams(&[ours]);
        let mut client = Rtc::builder().set_crypto_provider(certificate.provider.clone()).build(now);
        let candidate = Candidate::builder().tcp().host(theirs).tcptype(TcpType::Active).build().unwrap();
        client.add_local_candidate(candidate);
        let mut api = client.sdp_api();
        api.add_channel(DataChannel::Reliable.label().to_owned());
        let (offer, pending) = api.apply().unwrap();
        let answer = peer.answer(&offer.to_sdp_string()).unwrap();
        assert!(answer.contains("tcptype passive"), "{answer}");
        client.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();

        let mut opened = false;
        for _ in 0..1_000 {
            client.handle_input(Input::Timeout(now)).unwrap();
            peer.advance(now);
            loop {
                match client.poll_output().unwrap() {
                    str0m::Output::Timeout(_) => break,
                    str0m::Output::Transmit(sent) if sent.proto == Protocol::Tcp => {
                        peer.receive_by_stream(now, sent.source, sent.destination, &sent.contents);
                    }
                    _ => {}
                }
            }
            loop {
                match peer.poll() {
                    Output::Wait(_) => break,
                    Output::Datagram { carrier, source, destination, bytes } => {
                        assert_eq!((carrier, source, destination), (Carrier::Stream, ours, theirs));
                        let datagram = Receive::new(Protocol::Tcp, source, destination, &bytes).unwrap();
                        client.handle_input(Input::Receive(now, datagram)).unwrap();
                    }
                    Output::Event(event) => opened |= matches!(event, TransportEvent::ChannelOpen),
                }
            }
            now += Duration::from_millis(10);
        }
        assert!(opened, "the data channel does not open");
    }
}
