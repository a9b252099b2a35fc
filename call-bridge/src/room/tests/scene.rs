use std::{num::NonZeroUsize, time::Duration};

use entente_environment::{Clock, ManualClock};
use entente_turn::TurnService;

use super::super::*;
use crate::{
    ApiKey,
    proto::{
        AddTrackRequest, ParticipantInfo, ParticipantUpdate, SessionDescription, SignalRequest, TrackSource,
        TrackType, VideoLayer, VideoQuality, signal_request::Message as Request,
    },
    session::{JoinParameters, Path},
    token::{Claims, VideoGrant},
    transport::{MediaCodec, MediaPacket, Renumbered, TransportEvent},
};

/// A room and what its outputs were, by whom they concern.
pub(super) struct Scene {
    pub(super) room: Room,
    pub(super) clock: ManualClock,
    connections: u64,
    /// Whose clients do not ping.
    pub(super) silent: Vec<ParticipantKey>,
    pub(super) outputs: Vec<Output>,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self::with_options(RoomOptions::default())
    }

    pub(super) fn with_options(options: RoomOptions) -> Self {
        let clock = ManualClock::new(Timestamp(1_000_000));
        let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
        let turn = TurnService::new(vec!["turn:example.org".to_owned()], "secret", Duration::from_secs(60));
        let settings =
            Settings { workers: NonZeroUsize::MIN, turn: Some(turn), ..Settings::new(key, 0, Vec::new()) };
        let now = Moment { at: clock.monotonic(), time: clock.now() };
        let room = Room::new(Arc::new(settings), Randomness::from_seed(7), "room".into(), options, now);
        Self { room, clock, connections: 0, silent: Vec::new(), outputs: Vec::new() }
    }

    pub(super) fn now(&self) -> Moment {
        Moment { at: self.clock.monotonic(), time: self.clock.now() }
    }

    pub(super) fn collect(&mut self) {
        self.outputs.extend(self.room.take_outputs());
    }

    pub(super) fn pass(&mut self, duration: Duration) {
        let steps = duration.as_millis().div_ceil(TICK.as_millis());
        for _ in 0..steps {
            self.clock.advance(TICK);
            self.tick();
        }
        self.collect();
    }

    /// Clients ping, and the room looks after what changes by itself.
    fn tick(&mut self) {
        let now = self.now();
        let pinging =
            self.room.participants.values_mut().filter(|participant| !self.silent.contains(&participant.key));
        for participant in pinging {
            participant.presence.heard = now.at;
        }
        self.room.advance(now);
    }

    pub(super) fn newcomer(&mut self, identity: &str, change: impl FnOnce(&mut Newcomer)) -> Newcomer {
        self.connections += 1;
        let video = VideoGrant { room: "room".to_owned(), room_join: true, ..VideoGrant::default() };
        let mut newcomer = Newcomer {
            connection: ConnectionKey(self.connections),
            claims: Claims { sub: identity.to_owned(), video, ..Claims::default() },
            parameters: JoinParameters {
                path: Path::Single,
                resume: None,
                auto_subscribe: true,
                adaptive_stream: false,
                allow_pause: true,
                attributes: BTreeMap::new(),
                metadata: String::new(),
                tracks: Vec::new(),
                offer: None,
                sync_state: None,
            },
        };
        change(&mut newcomer);
        newcomer
    }

    pub(super) fn try_join(
        &mut self,
        identity: &str,
        change: impl FnOnce(&mut Newcomer),
    ) -> Result<ParticipantKey, Refusal> {
        let newcomer = self.newcomer(identity, change);
        let joined = self.room.join(self.now(), newcomer);
        self.collect();
        joined
    }

    pub(super) fn join(&mut self, identity: &str) -> ParticipantKey {
        let key = self.try_join(identity, |_| {}).unwrap();
        self.transport(key, TransportEvent::Connected);
        self.transport(key, TransportEvent::ChannelOpen(DataChannel::Reliable));
        key
    }

    pub(super) fn transport(&mut self, key: ParticipantKey, event: TransportEvent) {
        self.room.transport(self.now(), key, PeerKind::Publisher, event);
        self.collect();
    }

    pub(super) fn signal(&mut self, key: ParticipantKey, message: Request) {
        let connection = self.room.participants.get(&key).and_then(|participant| participant.connection);
        let request = SignalRequest { message: Some(message) };
        self.room.signal(self.now(), key, connection.unwrap(), request);
        self.collect();
    }

    /// Offers sections of these kinds and directions, and lets the transport answer.
    pub(super) fn offer(&mut self, key: ParticipantKey, id: u32, sections: &[(&str, &str)]) {
        let lines = sections.iter().enumerate().map(|(mid, (kind, attributes))| {
            format!("m={kind} 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:{mid}\r\n{attributes}\r\n")
        });
        let sdp = format!("v=0\r\n{}", lines.collect::<String>());
        let offer = SessionDescription { r#type: "offer".to_owned(), sdp, id, ..Default::default() };
        self.signal(key, Request::Offer(offer));
        let answer = self.outputs.iter().rev().find_map(|output| match output {
            Output::Transport(of, _, Command::Answer(offer)) if *of == key => Some(offer.clone()),
            _ => None,
        });
        self.room.answered(self.now(), key, Ok(answer.unwrap()));
        self.collect();
    }

    /// Publishes a camera in two layers from the first section, and answers its id.
    pub(super) fn publish_camera(&mut self, key: ParticipantKey) -> String {
        self.signal(key, Request::AddTrack(camera("cam")));
        self.offer(key, 1, &[("video", "a=msid:- cam\r\na=sendonly\r\na=simulcast:send q;h")]);
        self.media(key, "q", 1, true);
        self.media(key, "h", 1, true);
        self.room.get_participant(&self.identity(key)).unwrap().tracks.first().unwrap().sid.clone()
    }

    pub(super) fn identity(&self, key: ParticipantKey) -> String {
        self.room.participants.get(&key).unwrap().identity.clone()
    }

    pub(super) fn sid(&self, key: ParticipantKey) -> String {
        self.room.participants.get(&key).unwrap().sid.clone()
    }

    pub(super) fn media(&mut self, key: ParticipantKey, rid: &str, sequence: u64, keyframe: bool) {
        let packet = vp8(self.clock.monotonic(), sequence, keyframe);
        self.transport(key, TransportEvent::Media { mid: "0".into(), rid: Some(rid.into()), packet });
    }

    /// A packet of sound of this loudness, in -dBov, in the first section.
    pub(super) fn sound(&mut self, key: ParticipantKey, sequence: u64, level: u8) {
        let packet = MediaPacket {
            codec: MediaCodec::Opus,
            audio_level: Some(level),
            ..vp8(self.clock.monotonic(), sequence, false)
        };
        self.transport(key, TransportEvent::Media { mid: "0".into(), rid: None, packet });
    }

    /// Both layers for some time, a packet of each every 20 ms.
    pub(super) fn stream(&mut self, key: ParticipantKey, from: u64, packets: u64, keyframes: bool) {
        for sequence in from..from + packets {
            self.clock.advance(Duration::from_millis(20));
            self.media(key, "q", sequence, keyframes && sequence % 10 == 0);
            self.media(key, "h", sequence, keyframes && sequence % 10 == 0);
            self.tick();
            self.collect();
        }
    }

    /// A subscriber with a place for a video, to which what is published is sent.
    pub(super) fn watch(&mut self, identity: &str) -> ParticipantKey {
        let key = self.join(identity);
        self.offer(key, 1, &[("video", "a=recvonly")]);
        key
    }

    pub(super) fn said(&mut self, to: ParticipantKey) -> Vec<Message> {
        let (said, kept) = std::mem::take(&mut self.outputs)
            .into_iter()
            .partition(|output| matches!(output, Output::Signal(key, _) if *key == to));
        self.outputs = kept;
        let messages: Vec<Output> = said;
        messages
            .into_iter()
            .filter_map(|output| match output {
                Output::Signal(_, response) => response.message,
                _ => None,
            })
            .collect()
    }

    pub(super) fn updates(&mut self, to: ParticipantKey) -> Vec<ParticipantInfo> {
        let updates = self.said(to).into_iter().filter_map(|message| match message {
            Message::Update(ParticipantUpdate { participants }) => Some(participants),
            _ => None,
        });
        updates.flatten().collect()
    }

    /// What was sent to somebody.
    pub(super) fn received(&mut self, key: ParticipantKey) -> Vec<Renumbered> {
        let (media, kept) = std::mem::take(&mut self.outputs)
            .into_iter()
            .partition(|output| matches!(output, Output::Media(to, ..) if *to == key));
        self.outputs = kept;
        let media: Vec<Output> = media;
        media
            .into_iter()
            .filter_map(|output| match output {
                Output::Media(.., renumbered) => Some(renumbered),
                _ => None,
            })
            .collect()
    }

    pub(super) fn events(&self) -> Vec<&CallEvent> {
        self.outputs
            .iter()
            .filter_map(|output| match output {
                Output::Event(event) => Some(event),
                _ => None,
            })
            .collect()
    }
}

pub(super) fn camera(cid: &str) -> AddTrackRequest {
    let layer = |quality: VideoQuality, width| VideoLayer {
        quality: quality.into(),
        width,
        height: width / 2,
        bitrate: width * 1_000,
        ..VideoLayer::default()
    };
    AddTrackRequest {
        cid: cid.to_owned(),
        r#type: TrackType::Video.into(),
        source: TrackSource::Camera.into(),
        layers: vec![layer(VideoQuality::Low, 320), layer(VideoQuality::High, 640)],
        ..AddTrackRequest::default()
    }
}

pub(super) fn vp8(at: Instant, sequence: u64, keyframe: bool) -> MediaPacket {
    let first = if keyframe { 0x10 } else { 0x11 };
    MediaPacket {
        codec: MediaCodec::Vp8,
        parameters: None,
        sequence,
        timestamp: u32::try_from(sequence).unwrap() * 1_800,
        marker: true,
        payload: [0x90, 0xe0, 0x80, 1, 5, 0x20, first, 0, 0, 0x9d, 1, 0x2a].into(),
        audio_level: None,
        extensions: str0m::rtp::ExtensionValues::default(),
        received_at: at,
        clock: None,
        is_encrypted: false,
    }
}
