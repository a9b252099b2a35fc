//! A participant that sends a camera in three layers and a microphone.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use bytes::Bytes;
use entente_environment::{Clock, Environment};
use rtc::{
    media_stream::MediaStreamTrack,
    peer_connection::configuration::media_engine::{MIME_TYPE_OPUS, MIME_TYPE_VP8},
    rtp::{Header, Packet},
    rtp_transceiver::{
        RTCRtpSenderId, RTCRtpTransceiverDirection, RTCRtpTransceiverInit,
        rtp_sender::{
            RTCRtpCodec, RTCRtpCodingParameters, RTCRtpEncodingParameters, RTCRtpRtxParameters, RtpCodecKind,
        },
    },
};
use tokio::sync::watch;

use crate::{
    Failure,
    bridge::Bridge,
    client::{Client, Happening},
    media::{FRAMES_PER_SECOND, LAYERS, MAXIMUM_PAYLOAD, SOUND_EVERY, Video, sound},
    peer::{AUDIO_LEVEL, Purpose},
    proto::{
        AddTrackRequest, SessionDescription, SimulcastCodec, TrackSource, TrackType, VideoLayer,
        VideoQuality, signal_request, signal_response::Message,
    },
    signalling::Path,
};

const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
/// How loud the made-up sound is: not heard as speaking (RFC 6464).
const QUIET: u8 = 80;

/// What publishers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// They are there.
    Waiting,
    /// They send.
    Sending,
    /// They leave.
    Over,
}

/// A publisher that has joined.
pub(crate) struct Publisher {
    client: Client,
    camera: RTCRtpSenderId,
    microphone: RTCRtpSenderId,
    layers: Vec<Stream>,
    voice: Stream,
    picture: u16,
    started: Instant,
    clock: Arc<dyn Clock>,
    largest: u32,
}

/// An RTP stream that is being sent.
struct Stream {
    ssrc: u32,
    payload_type: u8,
    sequence: u16,
    first_timestamp: u32,
    /// Header extensions of every packet.
    extensions: Vec<(u8, Bytes)>,
}

impl Publisher {
    /// Joins and connects, and says what it is going to send. `largest` is the bitrate of the largest layer in kbit/s; times in packets
    /// count from `started`.
    pub(crate) async fn join(
        bridge: &Bridge,
        environment: &Environment,
        index: usize,
        largest: u32,
        started: Instant,
    ) -> Result<Self, Failure> {
        let identity = format!("publisher-{index}");
        let (mut client, _) =
            Client::join(bridge, environment, &identity, Path::Publishing, Purpose::Sending).await?;
        let random = environment.randomness();
        let ssrc = || u32::from_be_bytes(random.bytes::<4>()) | 1;
        let stream = |ssrc| Stream {
            ssrc,
            payload_type: 0,
            sequence: u16::from_be_bytes(random.bytes::<2>()),
            first_timestamp: u32::from_be_bytes(random.bytes::<4>()),
            extensions: Vec::new(),
        };
        let layers: Vec<Stream> = LAYERS.iter().map(|_| stream(ssrc())).collect();
        let voice = stream(ssrc());
        client.peer.keyframes.lock().extend(layers.iter().map(|stream| stream.ssrc));
        let encodings = LAYERS
            .iter()
            .zip(&layers)
            .map(|(layer, stream)| encoding(layer.rid, stream.ssrc, Some(ssrc()), MIME_TYPE_VP8, 90_000, 0));
        let camera = add(&mut client, "camera", RtpCodecKind::Video, encodings.collect())?;
        let encodings = vec![encoding("", voice.ssrc, None, MIME_TYPE_OPUS, 48_000, 2)];
        let microphone = add(&mut client, "microphone", RtpCodecKind::Audio, encodings)?;
        for request in [camera_request(largest), microphone_request()] {
            client.signalling.say(signal_request::Message::AddTrack(request)).await?;
        }
        let sdp = client.peer.offer()?;
        let offer = SessionDescription { r#type: "offer".to_owned(), sdp, id: 1, ..Default::default() };
        client.signalling.say(signal_request::Message::Offer(offer)).await?;
        let clock = environment.clock().clone();
        let picture = u16::from_be_bytes(random.bytes::<2>()) & 0x7fff;
        let mut publisher =
            Self { client, camera, microphone, layers, voice, picture, started, clock, largest };
        publisher.connect().await?;
        publisher.learn_parameters()?;
        Ok(publisher)
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        let connect_by = self.client.connect_by();
        while !self.client.peer.connected {
            match self.client.next(connect_by).await? {
                Happening::Said(Message::Answer(answer)) => self.client.peer.take_answer(answer.sdp)?,
                Happening::Due => return Err("a publisher does not connect".into()),
                Happening::Said(_) | Happening::Came(_) | Happening::Connected => {}
            }
        }
        Ok(())
    }

    /// Under which numbers payloads and header extensions were agreed upon.
    fn learn_parameters(&mut self) -> Result<(), Failure> {
        for (id, is_camera) in [(self.camera, true), (self.microphone, false)] {
            let connection = &mut self.client.peer.connection;
            let mid = connection.rtp_transceiver(id.into()).and_then(|transceiver| transceiver.mid().clone());
            let mid = mid.ok_or("a section has no name")?;
            let mut sender = connection.rtp_sender(id).ok_or("there is no sender")?;
            let parameters = &sender.get_parameters().rtp_parameters;
            let mime_type = if is_camera { MIME_TYPE_VP8 } else { MIME_TYPE_OPUS };
            let codec = |mime: &str| mime.eq_ignore_ascii_case(mime_type);
            let payload_type = parameters.codecs.iter().find(|each| codec(&each.rtp_codec.mime_type));
            let payload_type = payload_type.ok_or("the codec was not agreed upon")?.payload_type;
            let extension = |uri: &str, value: &[u8]| {
                let found = parameters.header_extensions.iter().find(|extension| extension.uri == uri)?;
                Some((u8::try_from(found.id).ok()?, Bytes::copy_from_slice(value)))
            };
            if is_camera {
                for (layer, stream) in LAYERS.iter().zip(&mut self.layers) {
                    stream.payload_type = payload_type;
                    let names = [extension(MID, mid.as_bytes()), extension(RID, layer.rid.as_bytes())];
                    stream.extensions = names.into_iter().flatten().collect();
                }
            } else {
                self.voice.payload_type = payload_type;
                self.voice.extensions = extension(AUDIO_LEVEL, &[QUIET]).into_iter().collect();
            }
        }
        Ok(())
    }

    /// Does what `phase` says until it is over.
    pub(crate) async fn run(mut self, mut phase: watch::Receiver<Phase>) -> Result<(), Failure> {
        let frame = Duration::from_secs(1) / FRAMES_PER_SECOND;
        let mut next_picture = None;
        let mut next_sound = None;
        loop {
            let now = self.clock.monotonic();
            let current = *phase.borrow_and_update();
            let until = match current {
                Phase::Over => return Ok(()),
                Phase::Waiting => now + frame,
                Phase::Sending => {
                    // Who gets no processor leaves pictures out, as a camera does.
                    let picture_at = next_picture.get_or_insert(now);
                    if *picture_at <= now {
                        let at = caught_up(*picture_at, now, frame);
                        *picture_at = at + frame;
                        self.send_picture(at)?;
                    }
                    let sound_at = next_sound.get_or_insert(now);
                    if *sound_at <= now {
                        let at = caught_up(*sound_at, now, SOUND_EVERY);
                        *sound_at = at + SOUND_EVERY;
                        self.send_sound(at)?;
                    }
                    [next_picture, next_sound].into_iter().flatten().min().unwrap_or(now + frame)
                }
            };
            // Whatever happens, nothing follows from it but that time passes.
            self.client.next(until).await?;
        }
    }

    /// Sends all layers of the picture of this time. Its packets go out together, as those of real clients do: they spread only what
    /// would take their paths longer than 40 ms.
    fn send_picture(&mut self, at: Instant) -> Result<(), Failure> {
        self.picture = (self.picture + 1) & 0x7fff;
        let wanted = std::mem::take(&mut *self.client.peer.keyframes.lock());
        for (index, (layer, stream)) in LAYERS.iter().zip(&mut self.layers).enumerate() {
            let bits = self.largest * 1_000 / 100 * layer.percent;
            let bytes = usize::try_from(bits / 8 / FRAMES_PER_SECOND).unwrap_or(0).max(1);
            let packets = bytes.div_ceil(MAXIMUM_PAYLOAD);
            let timestamp = stream.first_timestamp.wrapping_add(ticks(at - self.started, 90_000));
            for number in 0..packets {
                let now = self.clock.monotonic();
                let video = Video {
                    picture: self.picture,
                    // All but the last eight bits are cut off on purpose.
                    base_layer: self.picture.to_be_bytes()[1],
                    begins: number == 0,
                    keyframe: wanted.contains(&stream.ssrc),
                    layer: u8::try_from(index).unwrap_or(0),
                    sent: now - self.started,
                };
                let payload = video.payload(bytes.div_ceil(packets));
                let packet = stream.packet(timestamp, number + 1 == packets, payload)?;
                let mut sender = self.client.peer.connection.rtp_sender(self.camera).ok_or("no camera")?;
                sender.write_rtp(now, packet)?;
            }
        }
        Ok(())
    }

    fn send_sound(&mut self, at: Instant) -> Result<(), Failure> {
        let now = self.clock.monotonic();
        let timestamp = self.voice.first_timestamp.wrapping_add(ticks(at - self.started, 48_000));
        let packet = self.voice.packet(timestamp, false, sound(now - self.started))?;
        let mut sender = self.client.peer.connection.rtp_sender(self.microphone).ok_or("no microphone")?;
        sender.write_rtp(now, packet)?;
        Ok(())
    }

    /// Counts the bytes of all datagrams that it sends.
    pub(crate) fn sent(&self) -> Arc<AtomicU64> {
        self.client.peer.sent.clone()
    }
}

impl Stream {
    fn packet(&mut self, timestamp: u32, marker: bool, payload: Bytes) -> Result<Packet, Failure> {
        let mut header = Header {
            version: 2,
            marker,
            payload_type: self.payload_type,
            sequence_number: self.sequence,
            timestamp,
            ssrc: self.ssrc,
            ..Header::default()
        };
        for (id, value) in &self.extensions {
            header.set_extension(*id, value.clone())?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        Ok(Packet { header, payload })
    }
}

/// The time for which something is made: that at which it was due, or now if the next would be due already.
fn caught_up(due: Instant, now: Instant, every: Duration) -> Instant {
    if now.saturating_duration_since(due) > every { now } else { due }
}

/// The ticks of an RTP clock in this time, as far as they fit.
fn ticks(elapsed: Duration, rate: u32) -> u32 {
    let nanos = elapsed.as_nanos() * u128::from(rate) / 1_000_000_000;
    u32::try_from(nanos & u128::from(u32::MAX)).unwrap_or(0)
}

fn encoding(
    rid: &str,
    ssrc: u32,
    repairs: Option<u32>,
    mime_type: &str,
    clock_rate: u32,
    channels: u16,
) -> RTCRtpEncodingParameters {
    RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters {
            rid: rid.to_owned(),
            ssrc: Some(ssrc),
            rtx: repairs.map(|ssrc| RTCRtpRtxParameters { ssrc }),
            fec: None,
        },
        codec: RTCRtpCodec {
            mime_type: mime_type.to_owned(),
            clock_rate,
            channels,
            ..RTCRtpCodec::default()
        },
        active: true,
        ..RTCRtpEncodingParameters::default()
    }
}

fn add(
    client: &mut Client,
    name: &str,
    kind: RtpCodecKind,
    encodings: Vec<RTCRtpEncodingParameters>,
) -> Result<RTCRtpSenderId, Failure> {
    let track = MediaStreamTrack::new("stream".to_owned(), name.to_owned(), name.to_owned(), kind, encodings);
    let init = RTCRtpTransceiverInit {
        direction: RTCRtpTransceiverDirection::Sendonly,
        ..RTCRtpTransceiverInit::default()
    };
    Ok(client.peer.connection.add_transceiver_from_track(track, Some(init))?.into())
}

fn camera_request(largest: u32) -> AddTrackRequest {
    let qualities = [VideoQuality::Low, VideoQuality::Medium, VideoQuality::High];
    let layers: Vec<VideoLayer> = LAYERS
        .iter()
        .zip(qualities)
        .map(|(layer, quality)| VideoLayer {
            quality: quality.into(),
            width: layer.width.into(),
            height: layer.height.into(),
            bitrate: largest * 1_000 / 100 * layer.percent,
            rid: layer.rid.to_owned(),
            ..VideoLayer::default()
        })
        .collect();
    let codec = SimulcastCodec { codec: "vp8".to_owned(), cid: "camera".to_owned(), layers: layers.clone() };
    AddTrackRequest {
        cid: "camera".to_owned(),
        name: "camera".to_owned(),
        r#type: TrackType::Video.into(),
        width: 1_280,
        height: 720,
        source: TrackSource::Camera.into(),
        layers,
        simulcast_codecs: vec![codec],
        ..AddTrackRequest::default()
    }
}

fn microphone_request() -> AddTrackRequest {
    AddTrackRequest {
        cid: "microphone".to_owned(),
        name: "microphone".to_owned(),
        r#type: TrackType::Audio.into(),
        source: TrackSource::Microphone.into(),
        ..AddTrackRequest::default()
    }
}
