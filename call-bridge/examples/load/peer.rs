//! A peer connection on `rtc`, and its socket.

use std::{
    collections::BTreeSet,
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use entente_environment::Clock;
use parking_lot::Mutex;
use quinn_udp::{RecvMeta, UdpSocketState};
use rtc::{
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        configuration::{
            interceptor_registry::{
                Registry, Slot, configure_nack, configure_rtcp_reports,
                configure_simulcast_extension_headers, configure_twcc_receiver_only,
                configure_twcc_sender_only,
            },
            media_engine::{MIME_TYPE_OPUS, MIME_TYPE_RTX, MIME_TYPE_VP8, MediaEngine},
        },
        event::RTCPeerConnectionEvent,
        message::TaggedRTCMessage,
        sdp::RTCSessionDescription,
        state::RTCPeerConnectionState,
        transport::{CandidateConfig, CandidateHostConfig, RTCIceCandidate},
    },
    rtp_transceiver::rtp_sender::{
        RTCRtpCodec, RTCRtpCodecParameters, RTCRtpHeaderExtensionCapability, RtpCodecKind,
    },
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol},
};
use socket2::{Domain, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use crate::{Failure, keyframes::KeyframeRequests};

/// What the kernel may hold of a client's datagrams, in bytes; it gives less if it is configured so.
const KERNEL_BUFFER: usize = 4 * 1_024 * 1_024;
/// Datagrams that are taken by one system call, or chains of them that the kernel put together.
const BATCH: usize = 8;
/// What such a chain may be long, in bytes.
const CHAIN: usize = 64 * 1_024;
/// The volume of sound, which the bridge reads.
pub(crate) const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
/// The place of what sees reports last.
const BEFORE_THE_APPLICATION: Slot = Slot::Custom(14_000);
/// A time at which nothing is due.
const LATER: Duration = Duration::from_secs(1);

/// What a peer connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It only sends.
    Sending,
    /// It only receives, and perhaps tells the bridge when what arrived.
    Receiving {
        /// Whether it does, so that the bridge can estimate what the path carries.
        feedback: bool,
    },
}

/// A peer connection, and its socket on loopback.
pub(crate) struct Peer {
    pub(crate) connection: RTCPeerConnection,
    pub(crate) connected: bool,
    /// Bytes of all datagrams that it sent.
    pub(crate) sent: Arc<AtomicU64>,
    /// The streams of which the other side wants a key frame.
    pub(crate) keyframes: Arc<Mutex<BTreeSet<u32>>>,
    clock: Arc<dyn Clock>,
    socket: UdpSocket,
    state: UdpSocketState,
    address: SocketAddr,
    buffers: Vec<Vec<u8>>,
}

impl Peer {
    /// One that is connected to nobody yet.
    pub(crate) fn new(purpose: Purpose, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_recv_buffer_size(KERNEL_BUFFER)?;
        socket.set_send_buffer_size(KERNEL_BUFFER)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        let address = socket.local_addr()?;
        let keyframes = Arc::default();
        let mut connection = connection(purpose, &keyframes, clock.monotonic())?;
        let candidate = CandidateHostConfig {
            base_config: CandidateConfig {
                network: "udp".to_owned(),
                address: address.ip().to_string(),
                port: address.port(),
                component: 1,
                ..CandidateConfig::default()
            },
            ..CandidateHostConfig::default()
        };
        let candidate = candidate.new_candidate_host()?;
        connection.add_local_candidate(RTCIceCandidate::from(&candidate).to_json()?)?;
        let buffers = vec![vec![0; CHAIN]; BATCH];
        let sent = Arc::default();
        Ok(Self { connection, connected: false, sent, keyframes, clock, socket, state, address, buffers })
    }

    /// Offers what was added to the connection.
    pub(crate) fn offer(&mut self) -> Result<String, Failure> {
        let offer = self.connection.create_offer(None)?;
        self.connection.set_local_description(self.clock.monotonic(), offer)?;
        Ok(self.connection.local_description().ok_or("there is no offer")?.sdp)
    }

    /// Takes the answer to that.
    pub(crate) fn take_answer(&mut self, sdp: String) -> Result<(), Failure> {
        let answer = RTCSessionDescription::answer(sdp)?;
        self.connection.set_remote_description(self.clock.monotonic(), answer)?;
        Ok(())
    }

    /// Answers an offer.
    pub(crate) fn answer(&mut self, sdp: String) -> Result<String, Failure> {
        let now = self.clock.monotonic();
        self.connection.set_remote_description(now, RTCSessionDescription::offer(sdp)?)?;
        let answer = self.connection.create_answer(None)?;
        self.connection.set_local_description(now, answer)?;
        Ok(self.connection.local_description().ok_or("there is no answer")?.sdp)
    }

    /// Takes an address of the other side that its offer did not name: an `RTCIceCandidateInit` as JSON.
    pub(crate) fn take_candidate(&mut self, candidate: &str) -> Result<(), Failure> {
        self.connection.add_remote_candidate(serde_json::from_str(candidate)?)?;
        Ok(())
    }

    /// The next packet for the application. If there is none, everything was sent that was to be.
    pub(crate) fn poll(&mut self) -> Result<Option<TaggedRTCMessage>, Failure> {
        if let Some(message) = self.connection.poll_read() {
            return Ok(Some(message));
        }
        while let Some(event) = self.connection.poll_event() {
            if let RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) = event {
                self.connected = state == RTCPeerConnectionState::Connected;
                if matches!(state, RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed) {
                    return Err("a peer connection broke".into());
                }
            }
        }
        while let Some(datagram) = self.connection.poll_write() {
            // What does not fit into the kernel's buffer is lost, as on any network.
            if let Ok(bytes) = self.socket.try_send_to(&datagram.message, datagram.transport.peer_addr) {
                self.sent.fetch_add(u64::try_from(bytes)?, Ordering::Relaxed);
            }
        }
        Ok(None)
    }

    /// When [`Self::advance`] has something to do.
    pub(crate) fn deadline(&mut self) -> Instant {
        let now = self.clock.monotonic();
        self.connection.poll_timeout().unwrap_or(now + LATER).min(now + LATER)
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self) -> Result<(), Failure> {
        self.connection.handle_timeout(self.clock.monotonic())?;
        Ok(())
    }

    /// Waits until [`Self::receive`] has something to do. It needs the peer alone: the stack cannot be shared between threads.
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Takes datagrams that came.
    pub(crate) fn receive(&mut self) -> Result<(), Failure> {
        let mut metas = [RecvMeta::default(); BATCH];
        let mut slices: Vec<IoSliceMut<'_>> =
            self.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let received = self
            .socket
            .try_io(Interest::READABLE, || self.state.recv((&self.socket).into(), &mut slices, &mut metas));
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let now = self.clock.monotonic();
        for (meta, buffer) in metas.iter().zip(&self.buffers).take(count) {
            let chain = buffer.get(..meta.len).unwrap_or_default();
            for datagram in chain.chunks(meta.stride.max(1)) {
                self.connection.handle_read(TaggedBytesMut {
                    now,
                    transport: TransportContext {
                        local_addr: self.address,
                        peer_addr: meta.addr,
                        transport_protocol: TransportProtocol::UDP,
                        ecn: None,
                    },
                    message: BytesMut::from(datagram),
                })?;
            }
        }
        Ok(())
    }
}

fn connection(
    purpose: Purpose,
    keyframes: &Arc<Mutex<BTreeSet<u32>>>,
    now: Instant,
) -> Result<RTCPeerConnection, Failure> {
    let mut engine = MediaEngine::default();
    let codec = |mime_type: &str, clock_rate, channels, parameters: &str, payload_type| {
        let rtp_codec = RTCRtpCodec {
            mime_type: mime_type.to_owned(),
            clock_rate,
            channels,
            sdp_fmtp_line: parameters.to_owned(),
            rtcp_feedback: Vec::new(),
        };
        RTCRtpCodecParameters { rtp_codec, payload_type }
    };
    let opus = codec(MIME_TYPE_OPUS, 48_000, 2, "minptime=10;useinbandfec=1", 111);
    engine.register_codec(opus, RtpCodecKind::Audio)?;
    engine.register_codec(codec(MIME_TYPE_VP8, 90_000, 0, "", 96), RtpCodecKind::Video)?;
    engine.register_codec(codec(MIME_TYPE_RTX, 90_000, 0, "apt=96", 97), RtpCodecKind::Video)?;
    let level = RTCRtpHeaderExtensionCapability { uri: AUDIO_LEVEL.to_owned() };
    engine.register_header_extension(level, RtpCodecKind::Audio, None)?;
    configure_simulcast_extension_headers(&mut engine)?;
    let registry = configure_rtcp_reports(configure_nack(Registry::new(), &mut engine));
    let registry = match purpose {
        Purpose::Sending => configure_twcc_sender_only(registry, &mut engine)?
            .with(BEFORE_THE_APPLICATION, KeyframeRequests::new(keyframes.clone())),
        Purpose::Receiving { feedback: true } => configure_twcc_receiver_only(registry, &mut engine)?,
        Purpose::Receiving { feedback: false } => registry,
    };
    let builder = RTCPeerConnectionBuilder::new().with_media_engine(engine);
    Ok(builder.with_interceptor_registry(registry).build(now)?)
}
