mod data;
mod looking;
mod receiving;
mod sending;

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
    channel::{ChannelConfig, Reliability},
    config::{CryptoProvider, DtlsCert},
    crypto::from_feature_flags,
    format::CodecConfig,
    media::{Direction, KeyframeRequestKind, MediaKind},
    net::{Protocol, Receive, TcpType},
    rtp::{Extension, Ssrc},
};

use self::{
    data::{Channels, MAXIMUM_BUFFERED_DATA},
    sending::{RESENDABLE_LONGER_FOR, Sender, remember_sent},
};
use super::{
    Carrier, DataChannel, MediaPacket, Mid, Offer, OfferChanges, Output, Renumbered, Rid, Transport,
    TransportError, TransportEvent, dependency_descriptor, estimate::Estimate, red::Arrivals,
};

/// With what the estimate of a path begins, in bits per second: enough for a few small pictures.
const FIRST_ESTIMATE: Bitrate = Bitrate::kbps(1_500);
/// How often the stack is asked for its figures: by them it is seen that a path has become narrower.
const LOOKS_A_SECOND: u64 = 2;
/// The largest message on a data channel, in bytes; clients are told.
const MAXIMUM_MESSAGE: u32 = 256 * 1_024;
/// Who is not heard for this long is away. All clients ask whether we are there more often, at the latest every six seconds (RFC 7675);
/// the stack itself waits for twice as long, which leaves those in a call for too long who are gone.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(8);
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
        Self::of(from_feature_flags())
    }

    /// Makes one for connections with this cryptography.
    pub(crate) fn of(provider: CryptoProvider) -> Option<Self> {
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
    channels: Channels,
    sources: HashMap<Ssrc, (Mid, Option<Rid>)>,
    senders: HashMap<Mid, Sender>,
    /// Of streams of sound that carry earlier packets along.
    arrivals: HashMap<Ssrc, Arrivals>,
    /// What came along with something else.
    recovered: VecDeque<TransportEvent>,
    /// Packets of media that were written since everything was polled, less the datagrams polled since.
    written: usize,
    /// Packets of sound that go out once more: from where, to where, what.
    again: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Whether any sender's do.
    repeats: bool,
    estimate: Estimate,
    /// Of what was sent lately, the share that was lost.
    loss: f32,
    /// What was sent of sound and of video since the estimate was looked at, in bytes.
    sent: [u64; 2],
    /// What the estimator was told last: what to reach next, and what would be liked, in bits per second.
    bitrates: (u64, u64),
    /// The worst since figures were told.
    jitter: Option<Duration>,
    figures_told: Instant,
    now: Instant,
    /// When something came last.
    heard: Instant,
    is_silent: bool,
    closed: bool,
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
            .set_stats_interval(Some(Duration::from_millis(1_000 / LOOKS_A_SECOND)))
            .set_sctp_max_buffered_amount(MAXIMUM_BUFFERED_DATA)
            .set_sctp_max_message_size(MAXIMUM_MESSAGE);
        // Video comes with gaps whenever nobody watches or the camera is off.
        config = config.set_pause_threshold(Duration::from_secs(5));
        adapt_audio(config.codec_config());
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
            channels: Channels::default(),
            sources: HashMap::new(),
            senders: HashMap::new(),
            arrivals: HashMap::new(),
            recovered: VecDeque::new(),
            written: 0,
            again: VecDeque::new(),
            repeats: false,
            estimate: Estimate::default(),
            loss: 0.0,
            sent: [0; 2],
            bitrates: (0, 0),
            jitter: None,
            figures_told: now,
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

    /// When something came last.
    pub(crate) fn heard(&self) -> Instant {
        self.heard
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
                self.estimate.mean(estimate.as_u64()).map(TransportEvent::Bandwidth)
            }
            Event::ChannelOpen(id, label) => self.channel_opened(id, &label),
            Event::ChannelBufferedAmountLow(_) => {
                self.write_waiting();
                None
            }
            Event::ChannelData(data) => {
                let channel = self.channels.of(data.id)?;
                Some(TransportEvent::Data { channel, bytes: data.data })
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
                self.note_sent(&stats);
                None
            }
            Event::PeerStats(stats) => self.look(&stats),
            _ => None,
        }
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
            if let Some((source, destination, bytes)) = self.again.pop_front() {
                return Output::Datagram { carrier: Carrier::Datagrams, source, destination, bytes };
            }
            match self.rtc.poll_output() {
                Ok(str0m::Output::Timeout(at)) => {
                    self.written = 0;
                    return Output::Wait(self.next(at));
                }
                Ok(str0m::Output::Transmit(transmit)) => {
                    // The stack gives one packet of media each time that it is told the time.
                    self.written = self.written.saturating_sub(1);
                    if self.written > 0 {
                        self.advance(self.now);
                    }
                    let carrier = match transmit.proto {
                        Protocol::Udp => Carrier::Datagrams,
                        _ => Carrier::Stream,
                    };
                    // A stream loses nothing.
                    if self.repeats && carrier == Carrier::Datagrams {
                        self.repeat(transmit.source, transmit.destination, &transmit.contents);
                    }
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

    fn send(&mut self, mid: Mid, packet: &MediaPacket, renumbered: Renumbered) {
        self.write(mid, packet, renumbered);
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

    fn forget_sent(&mut self, mid: Mid) {
        if let Some(sender) = self.senders.get(&mid)
            && let Some(stream) = self.rtc.direct_api().stream_tx(&sender.ssrc)
        {
            remember_sent(stream, RESENDABLE_LONGER_FOR);
        }
    }

    fn send_data(&mut self, channel: DataChannel, bytes: &Arc<[u8]>) -> bool {
        self.write_data(channel, bytes)
    }

    fn renew_data(&mut self) {
        self.renew_channel();
    }

    fn set_bitrates(&mut self, next: u64, desired: u64) {
        self.bitrates = (next, desired);
        self.apply_bitrates();
    }

    fn close(&mut self) {
        if let Err(error) = self.rtc.close() {
            self.break_off(&error);
        }
    }
}

/// What the stack sends to find out what a path can carry belongs to no stream if no video is sent yet: it would go into the first section
/// that takes part in estimates. A browser that decrypts what it receives stays deaf to an audio section into which that came.
///
/// Clients send sound again that we miss if the answer says so.
fn adapt_audio(codecs: &mut CodecConfig) {
    let mut parameters = codecs.params().to_vec();
    for audio in parameters.iter_mut().filter(|parameters| parameters.spec().codec.is_audio()) {
        audio.set_fb_transport_cc(false);
        audio.set_fb_nack(true);
    }
    *codecs = CodecConfig::new_from_payload_params(parameters);
}

fn new_credentials(prefix: &str, randomness: &Randomness) -> IceCreds {
    IceCreds { ufrag: format!("{prefix}{}", randomness.alphanumeric(16)), pass: randomness.alphanumeric(32) }
}

#[cfg(test)]
mod tests;
