use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use entente_environment::Randomness;
use prost::Message as _;

use super::{Time, packed};
use crate::{
    ApiKey, Claims, Settings, VideoGrant,
    proto::{SignalRequest, SignalResponse, read, signal_request, signal_response},
    room::{Command, ConnectionKey, Newcomer, Output, ParticipantKey, PeerKind, Room, RoomOptions},
    session::{JoinParameters, Path, V0Query},
    transport::{DataChannel, Mid, Offer, TransportEvent},
};

/// Rounds in which what a room wants done leads to something else that it wants done.
const MOST_ROUNDS: usize = 50;

/// A call of some participants who say and send whatever they like.
pub struct Call {
    room: Room,
    time: Time,
    participants: Vec<(ParticipantKey, ConnectionKey)>,
    /// The ids of all tracks that were ever announced.
    tracks: Vec<String>,
    connections: u64,
    sections: u32,
}

impl Default for Call {
    /// With two participants of one peer connection, and one of two.
    fn default() -> Self {
        let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
        let settings = Settings { workers: NonZeroUsize::MIN, ..Settings::new(key, 0, Vec::new()) };
        let time = Time::new();
        let randomness = Randomness::from_seed(7);
        let room =
            Room::new(Arc::new(settings), randomness, "room".into(), RoomOptions::default(), time.moment());
        let participants = Vec::new();
        let mut call = Self { room, time, participants, tracks: Vec::new(), connections: 0, sections: 100 };
        let single = || JoinParameters { path: Path::Single, ..V0Query::default().into() };
        call.enter("@alice", single());
        call.enter("@bob", single());
        call.enter("@carol", V0Query::default().into());
        call
    }
}

impl Call {
    /// Somebody joins with this `WrappedJoinRequest`, or comes back.
    pub fn join(&mut self, who: u8, request: &[u8]) {
        if let Some(mut parameters) = packed(request) {
            let identity = format!("@user{}", who % 4);
            let known = self.room.list_participants();
            let own = known.into_iter().find(|participant| participant.identity == identity);
            if let (Some(sid), Some(own)) = (&mut parameters.resume, own) {
                *sid = own.sid;
            }
            self.enter(&identity, parameters);
        }
    }

    fn enter(&mut self, identity: &str, parameters: JoinParameters) {
        self.connections += 1;
        let connection = ConnectionKey(self.connections);
        let video = VideoGrant {
            room: "room".to_owned(),
            room_join: true,
            can_update_own_metadata: Some(true),
            ..VideoGrant::default()
        };
        let claims = Claims { sub: identity.to_owned(), video, ..Claims::default() };
        let newcomer = Newcomer { connection, claims, parameters };
        if let Ok(key) = self.room.join(self.time.moment(), newcomer) {
            self.participants.retain(|(other, _)| *other != key);
            self.participants.push((key, connection));
        }
        self.settle();
    }

    fn participant(&self, who: u8) -> Option<(ParticipantKey, ConnectionKey)> {
        let place = usize::from(who).checked_rem(self.participants.len())?;
        self.participants.get(place).copied()
    }

    /// A participant says something: a `SignalRequest`. A track id of one digit stands for one of those that there are.
    pub fn signal(&mut self, who: u8, request: &[u8]) {
        let Some((key, connection)) = self.participant(who) else { return };
        let Ok(mut request) = read::<SignalRequest>("livekit.SignalRequest", request) else { return };
        if let Some(message) = &mut request.message {
            self.name_tracks(message);
        }
        self.room.signal(self.time.moment(), key, connection, request);
        self.settle();
    }

    fn name_tracks(&self, message: &mut signal_request::Message) {
        use signal_request::Message as Request;
        let name = |sid: &mut String| {
            let place = sid.parse::<usize>().ok().filter(|_| sid.len() == 1);
            if let Some(known) = place.and_then(|place| self.tracks.get(place)) {
                sid.clone_from(known);
            }
        };
        match message {
            Request::Mute(request) => name(&mut request.sid),
            Request::Subscription(update) => update.track_sids.iter_mut().for_each(name),
            Request::TrackSetting(settings) => settings.track_sids.iter_mut().for_each(name),
            Request::UpdateAudioTrack(update) => name(&mut update.track_sid),
            Request::UpdateVideoTrack(update) => name(&mut update.track_sid),
            Request::SubscriptionPermission(permission) => {
                let named = permission.track_permissions.iter_mut();
                named.flat_map(|permission| &mut permission.track_sids).for_each(name);
            }
            _ => {}
        }
    }

    /// A participant offers these sections: audio or video, that it sends (with this track id) or receives.
    pub fn offer(&mut self, who: u8, sections: &[(bool, Option<String>)]) {
        let section = |(mid, (is_video, track)): (usize, &(bool, Option<String>))| {
            let kind = if *is_video { "video" } else { "audio" };
            let direction = match track {
                Some(track) => format!("a=sendonly\r\na=msid:- {track}"),
                None => "a=recvonly".to_owned(),
            };
            format!("m={kind} 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:{mid}\r\n{direction}\r\n")
        };
        let sdp: String = sections.iter().enumerate().map(section).collect();
        let offer = crate::proto::SessionDescription { sdp: format!("v=0\r\n{sdp}"), ..Default::default() };
        let request = SignalRequest { message: Some(signal_request::Message::Offer(offer)) };
        self.signal(who, &request.encode_to_vec());
    }

    /// A participant sends a packet of media in a section.
    pub fn media(&mut self, who: u8, section: u8, codec: u8, sequence: u64, payload: &[u8]) {
        let packet = super::forwarding::packet(self.time.at(), codec, sequence, 0, payload);
        let mid = Mid::from(section.to_string().as_str());
        self.transport(who, PeerKind::Publisher, TransportEvent::Media { mid, rid: None, packet });
    }

    /// A participant sends a message on a data channel.
    pub fn data(&mut self, who: u8, reliable: bool, message: &[u8]) {
        let channel = if reliable { DataChannel::Reliable } else { DataChannel::Lossy };
        let event = TransportEvent::Data { channel, bytes: message.to_vec() };
        self.transport(who, PeerKind::Publisher, event);
    }

    /// A participant's peer connection stands, or breaks, or can carry so much, or wants a keyframe, or takes messages, or no more of them.
    pub fn connection(&mut self, who: u8, subscriber: bool, what: u8, number: u64) {
        let peer = if subscriber { PeerKind::Subscriber } else { PeerKind::Publisher };
        let event = match what % 7 {
            0 => TransportEvent::Connected,
            1 => TransportEvent::Disconnected,
            2 => TransportEvent::Closed,
            // Up to some terabits a second.
            3 => TransportEvent::Bandwidth(number >> 20),
            4 => TransportEvent::KeyframeWanted { mid: Mid::from((number % 8).to_string().as_str()) },
            5 => TransportEvent::ChannelOpen(DataChannel::Reliable),
            _ => return self.fall_behind(who),
        };
        self.transport(who, peer, event);
    }

    fn transport(&mut self, who: u8, peer: PeerKind, event: TransportEvent) {
        let Some((key, _)) = self.participant(who) else { return };
        self.room.transport(self.time.moment(), key, peer, event);
        self.settle();
    }

    fn fall_behind(&mut self, who: u8) {
        let Some((key, _)) = self.participant(who) else { return };
        self.room.fell_behind(self.time.moment(), key);
        self.settle();
    }

    /// A participant's signalling connection breaks.
    pub fn lose(&mut self, who: u8) {
        let Some((key, connection)) = self.participant(who) else { return };
        self.room.signal_lost(self.time.moment(), key, connection);
        self.settle();
    }

    /// Lets time pass.
    pub fn pass(&mut self, duration: Duration) {
        self.time.pass(duration);
        self.room.advance(self.time.moment());
        self.settle();
    }

    /// Does what the room wants done, as if all peer connections did what they are told.
    fn settle(&mut self) {
        let now = self.time.moment();
        for _ in 0..MOST_ROUNDS {
            let outputs = self.room.take_outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Signal(_, response) => self.hear(&response),
                    Output::Transport(key, _, Command::Answer(offer)) => {
                        self.room.answered(now, key, Ok(offer));
                    }
                    Output::Transport(key, _, Command::Offer(changes)) => {
                        let mids = changes.add.iter().map(|_| {
                            self.sections += 1;
                            Mid::from(self.sections.to_string().as_str())
                        });
                        let added = mids.collect();
                        self.room.offered(key, &Offer { sdp: "v=0\r\n".to_owned(), added });
                    }
                    Output::Transport(key, _, Command::AcceptAnswer(_)) => {
                        self.room.answer_accepted(now, key, Ok(()));
                    }
                    Output::Gone(key) => self.participants.retain(|(other, _)| *other != key),
                    Output::CloseSignal(_) | Output::Transport(..) | Output::Media(..) | Output::Event(_) => {
                    }
                }
            }
        }
        panic!("the room does not come to rest");
    }

    fn hear(&mut self, response: &SignalResponse) {
        let written = response.encode_to_vec();
        assert_eq!(SignalResponse::decode(written.as_slice()).as_ref(), Ok(response));
        if let Some(signal_response::Message::TrackPublished(published)) = &response.message
            && let Some(track) = &published.track
        {
            self.tracks.push(track.sid.clone());
        }
    }
}
