use std::{
    collections::{HashMap, VecDeque},
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
    format::{CodecConfig, PayloadParams},
    media::{Direction, KeyframeRequestKind, MediaKind, Pt},
    net::{Protocol, Receive, TcpType},
    rtp::{Extension, ExtensionValues, RtpPacket, RtpWrite, Ssrc},
    stats::PeerStats,
};

use super::{
    Carrier, DataChannel, Figures, MediaPacket, Mid, Offer, OfferChanges, Output, Rid, SenderClock,
    Transport, TransportError, TransportEvent, dependency_descriptor,
    red::{self, Arrivals, Redundancy},
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
/// Who is not heard for this long is away. All clients ask whether we are there more often, at the latest every six seconds (RFC 7675);
/// the stack itself waits for twice as long, which leaves those in a call for too long who are gone.
const SILENT_AFTER: Duration = Duration::from_secs(8);
/// From this share of lost packets on, sound carries the packets before it along.
const LOSSY_FROM: f32 = 0.01;
/// And does so as long as more than this is lost.
const LOSSY_UNTIL: f32 = 0.002;
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
    /// Of streams of sound that carry earlier packets along.
    arrivals: HashMap<Ssrc, Arrivals>,
    /// Packets that came along with others.
    recovered: VecDeque<TransportEvent>,
    /// The worst since figures were told.
    jitter: Option<Duration>,
    now: Instant,
    /// When something came last.
    heard: Instant,
    is_silent: bool,
    closed: bool,
}

/// How a section is sent.
struct Sender {
    ssrc: Ssrc,
    parameters: Option<PayloadParams>,
    payload_type: Option<Pt>,
    /// The payload type of sound with earlier packets, where the receiver can read that.
    redundant: Option<Pt>,
    /// Whether what is sent gets lost on the way.
    is_lossy: bool,
    redundancy: Redundancy,
}

impl Sender {
    fn new(ssrc: Ssrc) -> Self {
        Self {
            ssrc,
            parameters: None,
            payload_type: None,
            redundant: None,
            is_lossy: false,
            redundancy: Redundancy::default(),
        }
    }
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
            .enable_opus(true, true)
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
        leave_audio_out_of_estimates(config.codec_config());
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
            arrivals: HashMap::new(),
            recovered: VecDeque::new(),
            jitter: None,
            now,
            heard: now,
            is_silent: false,
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
            Event::MediaEgressStats(stats) => {
                if let Some((sender, loss)) = self.senders.get_mut(&stats.mid).zip(stats.loss) {
                    sender.is_lossy = loss > if sender.is_lossy { LOSSY_UNTIL } else { LOSSY_FROM };
                }
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
            patch: None,
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
    fn unwrap(&mut self, ssrc: Ssrc, mid: Mid, rid: Option<Rid>, packet: MediaPacket) -> Option<MediaPacket> {
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
        if self.sources.len() >= MAXIMUM_SOURCES {
            self.sources.clear();
        }
        self.sources.insert(ssrc, source);
        Some(source)
    }

    /// The stream of a section, with the payload type that the other side gave to these parameters.
    fn sender(&mut self, mid: Mid, parameters: Option<PayloadParams>) -> Option<(&mut Sender, Pt)> {
        if !self.senders.contains_key(&mid) {
            let ssrc = self.rtc.direct_api().stream_tx_by_mid(mid, None)?.ssrc();
            self.senders.insert(mid, Sender::new(ssrc));
        }
        let sender = self.senders.get_mut(&mid)?;
        if sender.payload_type.is_none() || sender.parameters != parameters {
            sender.parameters = parameters;
            let known = payload_type(&self.rtc, mid, &parameters?);
            sender.payload_type = known.map(|known| known.pt());
            sender.redundant = known.and_then(|known| known.red());
        }
        let payload_type = sender.payload_type?;
        Some((sender, payload_type))
    }

    fn take<E>(&mut self, now: Instant, datagram: Result<Receive<'_>, E>) {
        self.now = now;
        // What is none of STUN, DTLS, RTP and RTCP is nothing.
        let Ok(datagram) = datagram else { return };
        self.heard = now;
        if let Err(error) = self.rtc.handle_input(Input::Receive(now, datagram)) {
            self.break_off(&error);
        }
    }

    /// Whether the other side just fell silent, or is heard again.
    fn silence(&mut self) -> Option<TransportEvent> {
        let is_silent = self.now.saturating_duration_since(self.heard) >= SILENT_AFTER;
        if is_silent == self.is_silent || !self.rtc.is_connected() {
            return None;
        }
        self.is_silent = is_silent;
        Some(if is_silent { TransportEvent::Disconnected } else { TransportEvent::Connected })
    }

    /// When there is something to do, if the stack has nothing to do before `at`.
    fn next(&self, at: Instant) -> Instant {
        if self.is_silent || !self.rtc.is_connected() { at } else { at.min(self.heard + SILENT_AFTER) }
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
            if let Some(event) = self.recovered.pop_front() {
                return Output::Event(event);
            }
            if self.closed || !self.rtc.is_alive() {
                if std::mem::replace(&mut self.closed, true) {
                    return Output::Wait(self.now + NEVER);
                }
                return Output::Event(TransportEvent::Closed);
            }
            if let Some(event) = self.silence() {
                return Output::Event(event);
            }
            match self.rtc.poll_output() {
                Ok(str0m::Output::Timeout(at)) => return Output::Wait(self.next(at)),
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
        let Some((sender, payload_type)) = self.sender(mid, packet.parameters) else { return };
        let ssrc = sender.ssrc;
        // Nothing can be added to what is encrypted between the clients.
        let redundant = sender.redundant.filter(|_| sender.is_lossy && !packet.is_encrypted);
        let (payload_type, payload) = match redundant {
            Some(redundant) => {
                let payload = sender.redundancy.wrap(*payload_type, packet.timestamp, &packet.payload);
                (redundant, payload)
            }
            None => (payload_type, packet.payload),
        };
        let mut write = RtpWrite::new(
            payload_type,
            packet.sequence.into(),
            packet.timestamp,
            packet.received_at,
            payload,
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

/// What the stack sends to find out what a path can carry belongs to no stream if no video is sent yet: it would go into the first section
/// that takes part in estimates. A browser that decrypts what it receives stays deaf to an audio section into which that came.
fn leave_audio_out_of_estimates(codecs: &mut CodecConfig) {
    let mut parameters = codecs.params().to_vec();
    for audio in parameters.iter_mut().filter(|parameters| parameters.spec().codec.is_audio()) {
        audio.set_fb_transport_cc(false);
    }
    *codecs = CodecConfig::new_from_payload_params(parameters);
}

fn new_credentials(prefix: &str, randomness: &Randomness) -> IceCreds {
    IceCreds { ufrag: format!("{prefix}{}", randomness.alphanumeric(16)), pass: randomness.alphanumeric(32) }
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
mod tests;
