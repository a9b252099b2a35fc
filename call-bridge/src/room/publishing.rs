use super::{
    Moment, Output, ParticipantKey, Room, TrackKey,
    participant::Announced,
    track::{Demand, Track},
};
use crate::{
    CallEvent,
    forwarding::Layers,
    proto::{
        AddTrackRequest, EncryptionType, SimulcastCodecInfo, TimedVersion, TrackInfo, TrackPublishedResponse,
        TrackSource, TrackType, TrackUnpublishedResponse, VideoLayer,
        request_response::{Reason, Request},
        signal_response::Message,
    },
    transport::{MediaCodec, Rid},
};

/// Tracks of one participant, announced ones included.
const MAXIMUM_TRACKS: usize = 32;
/// Names and ids of tracks, in bytes.
const MAXIMUM_TRACK_NAME: usize = 256;
/// Layers of a track.
const MAXIMUM_LAYERS: usize = 3;

impl Room {
    /// A client is going to publish something.
    pub(super) fn add_track(&mut self, key: ParticipantKey, request: AddTrackRequest) {
        let Some(participant) = self.participants.get(&key) else { return };
        let sources = &participant.permission.can_publish_sources;
        let may_source = sources.is_empty() || sources.contains(&request.source);
        let texts = [&request.cid, &request.name, &request.stream, &request.sid];
        let refusal = if !participant.permission.can_publish || !may_source {
            Some((Reason::NotAllowed, "the token does not allow to publish this"))
        } else if participant.tracks.len() + participant.announced.len() >= MAXIMUM_TRACKS {
            Some((Reason::LimitExceeded, "too many tracks"))
        } else if request.cid.is_empty() || texts.iter().any(|text| text.len() > MAXIMUM_TRACK_NAME) {
            Some((Reason::LimitExceeded, "the track's id is missing, or one of its names is too long"))
        } else if request.r#type() == TrackType::Data || !request.sid.is_empty() {
            // A second encoding of a track that is there, for those who cannot decode the first.
            Some((Reason::UnsupportedType, "only audio and video in one codec are forwarded"))
        } else {
            None
        };
        if let Some((reason, message)) = refusal {
            self.refuse(key, reason, message, Some(Request::AddTrack(request)), 0);
            return;
        }
        let already = participant.announced.iter().find(|announced| announced.cids.contains(&request.cid));
        let info = match already {
            Some(announced) => announced.info.clone(),
            None => self.announce(key, &request),
        };
        let response = TrackPublishedResponse { cid: request.cid, track: Some(info) };
        self.say(key, Message::TrackPublished(response));
        self.match_sections(key);
    }

    fn announce(&mut self, key: ParticipantKey, request: &AddTrackRequest) -> TrackInfo {
        let info = self.new_track_info(request);
        let codecs = request.simulcast_codecs.iter().map(|codec| codec.cid.clone());
        let cids = std::iter::once(request.cid.clone()).chain(codecs.filter(|cid| !cid.is_empty()));
        if let Some(participant) = self.participants.get_mut(&key) {
            participant.announced.push(Announced { cids: cids.take(4).collect(), info: info.clone() });
        }
        info
    }

    fn new_track_info(&self, request: &AddTrackRequest) -> TrackInfo {
        let layers: Vec<VideoLayer> = request
            .simulcast_codecs
            .first()
            .map(|codec| &codec.layers)
            .filter(|layers| !layers.is_empty())
            .unwrap_or(&request.layers)
            .iter()
            .take(MAXIMUM_LAYERS)
            .map(|layer| VideoLayer { rid: short(&layer.rid), ..layer.clone() })
            .collect();
        let source = request.source();
        let letter = match (request.r#type(), source) {
            (_, TrackSource::Camera) => "VC",
            (_, TrackSource::Microphone) => "AM",
            (_, TrackSource::ScreenShare) => "VS",
            (_, TrackSource::ScreenShareAudio) => "As",
            (TrackType::Audio, _) => "A",
            _ => "V",
        };
        let stream = match source {
            _ if !request.stream.is_empty() => request.stream.replace(['|', ' ', '\r', '\n'], "_"),
            TrackSource::ScreenShare | TrackSource::ScreenShareAudio => "screen".to_owned(),
            _ => "camera".to_owned(),
        };
        let codecs = request.simulcast_codecs.first().map(|codec| SimulcastCodecInfo {
            mime_type: mime_type(request.r#type(), &codec.codec),
            mid: String::new(),
            cid: request.cid.clone(),
            layers: layers.clone(),
        });
        TrackInfo {
            sid: format!("TR_{letter}{}", self.randomness.alphanumeric(12)),
            r#type: request.r#type,
            name: request.name.clone(),
            muted: request.muted,
            width: request.width,
            height: request.height,
            simulcast: layers.len() > 1,
            disable_dtx: request.disable_dtx,
            source: request.source,
            mime_type: codecs.as_ref().map(|codec| codec.mime_type.clone()).unwrap_or_default(),
            codecs: codecs.into_iter().collect(),
            layers,
            stereo: request.stereo,
            // To what is encrypted nothing can be added on the way.
            disable_red: request.disable_red || request.encryption() != EncryptionType::None,
            encryption: request.encryption,
            stream,
            audio_features: request.audio_features.iter().copied().take(16).collect(),
            ..TrackInfo::default()
        }
    }

    /// Brings sections and announced tracks together.
    pub(super) fn match_sections(&mut self, key: ParticipantKey) {
        let mut index = 0;
        while let Some(participant) = self.participants.get_mut(&key) {
            let Some(section) = participant.unclaimed.get(index) else { return };
            let (kind, label) = (section.kind, section.label.clone());
            let Some(Announced { cids, mut info }) = participant.claim(kind, label.as_ref()) else {
                index += 1;
                continue;
            };
            let section = participant.unclaimed.remove(index);
            info.mid = section.mid.to_string();
            if let Some(codec) = info.codecs.first_mut() {
                codec.mid.clone_from(&info.mid);
            }
            tracing::debug!(track = %info.sid, mid = %info.mid, cid = ?cids.first(), "a track has its section");
            let rids: Vec<Rid> =
                section.rids.iter().take(MAXIMUM_LAYERS).map(|rid| Rid::from(rid.as_str())).collect();
            let layers = Layers::new(&rids, &info.layers);
            let track = Track {
                publisher: key,
                kind,
                mid: section.mid,
                info,
                codec: None,
                layers,
                subscribers: Vec::new(),
                demand: Demand::default(),
            };
            let track_key = TrackKey(self.new_key());
            self.tracks.insert(track_key, track);
            if let Some(participant) = self.participants.get_mut(&key) {
                participant.tracks.insert(track_key, section.mid);
            }
        }
    }

    /// The first packet of a track came: now it is there for the others.
    pub(super) fn go_live(&mut self, now: Moment, key: TrackKey, codec: MediaCodec) {
        let Some(track) = self.tracks.get_mut(&key) else { return };
        track.codec = Some(codec);
        if !codec.mime_type().is_empty() {
            codec.mime_type().clone_into(&mut track.info.mime_type);
            if let Some(first) = track.info.codecs.first_mut() {
                first.mime_type.clone_from(&track.info.mime_type);
            }
        }
        let micros = i64::try_from(now.time.millis().saturating_mul(1_000)).unwrap_or(i64::MAX);
        track.info.version = Some(TimedVersion { unix_micro: micros, ticks: 0 });
        let publisher = track.publisher;
        let info = track.info.clone();
        self.tell_of(publisher, true);
        if let Some(participant) = self.participants.get(&publisher) {
            self.outputs.push(Output::Event(CallEvent::TrackPublished {
                room: Box::new(self.info()),
                participant: Box::new(participant.named()),
                track: Box::new(info),
            }));
        }
        let others: Vec<_> = self.participants.keys().copied().filter(|other| *other != publisher).collect();
        for other in others {
            self.subscribe_by_itself(now, other, key);
        }
        self.await_demand(now, key);
    }

    /// A track is over.
    pub(super) fn unpublish(&mut self, now: Moment, key: TrackKey) {
        let Some(track) = self.tracks.get(&key) else { return };
        let (publisher, live) = (track.publisher, track.is_live());
        self.drop_track(now, key);
        if live {
            self.tell_of(publisher, true);
        }
    }

    /// Ends a track at its publisher too.
    pub(super) fn withdraw(&mut self, now: Moment, key: TrackKey) {
        let Some(track) = self.tracks.get(&key) else { return };
        let (publisher, track_sid) = (track.publisher, track.info.sid.clone());
        self.unpublish(now, key);
        self.say(publisher, Message::TrackUnpublished(TrackUnpublishedResponse { track_sid }));
    }

    /// Forgets a track, and who subscribed to it.
    pub(super) fn drop_track(&mut self, now: Moment, key: TrackKey) {
        let Some(track) = self.tracks.remove(&key) else { return };
        for participant in self.participants.values_mut() {
            participant.denied.remove(&key);
        }
        for subscriber in &track.subscribers {
            self.close_subscription(now, *subscriber, key);
        }
        let Some(participant) = self.participants.get_mut(&track.publisher) else { return };
        participant.tracks.remove(&key);
        if track.is_live() {
            let participant = Box::new(participant.named());
            self.outputs.push(Output::Event(CallEvent::TrackUnpublished {
                room: Box::new(self.info()),
                participant,
                track: Box::new(track.info),
            }));
        }
    }
}

fn short(rid: &str) -> String {
    rid.chars().filter(char::is_ascii_alphanumeric).take(8).collect()
}

fn mime_type(kind: TrackType, codec: &str) -> String {
    let codec: String = codec
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || "/-".contains(*letter))
        .take(32)
        .collect();
    match kind {
        _ if codec.is_empty() || codec.contains('/') => codec,
        TrackType::Audio => format!("audio/{codec}"),
        _ => format!("video/{codec}"),
    }
}
