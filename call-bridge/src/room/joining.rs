use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use entente_turn::TurnCredentials;

use super::{
    Command, ConnectionKey, MAXIMUM_METADATA, Moment, Output, ParticipantKey, PeerKind, Room,
    participant::{Client, Participant, Presence},
    seconds,
};
use crate::{
    CallEvent,
    proto::{Codec, IceServer, JoinResponse, ServerInfo, participant_info::State, signal_response::Message},
    session::{Answering, JoinParameters, Offering, Path},
    token::Claims,
};

/// The version of LiveKit's protocol that we speak.
const PROTOCOL: i32 = 16;
/// Clients choose workarounds by it; it says what a server of this version can do.
const SERVER_VERSION: &str = "1.9.0";
/// How often clients ping.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Which side ever hears nothing of the other for this long takes the signalling connection for gone.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes by which clients would know frames that we make ourselves. We make none, but they want some.
const TRAILER_LENGTH: usize = 16;

/// Somebody who wants to join.
pub(crate) struct Newcomer {
    /// The signalling connection.
    pub(crate) connection: ConnectionKey,
    /// What its token says.
    pub(crate) claims: Claims,
    /// What it asks for.
    pub(crate) parameters: JoinParameters,
}

/// Why somebody may not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// All places are taken, or all that one user may have.
    Full,
    /// There is nothing to go on with.
    UnknownSession,
}

/// What may be published.
pub(super) fn enabled_codecs() -> Vec<Codec> {
    ["audio/opus", "audio/red", "video/VP8", "video/H264", "video/VP9", "video/AV1", "video/rtx"]
        .map(|mime| Codec { mime: mime.to_owned(), fmtp_line: String::new() })
        .into()
}

impl Room {
    /// Lets somebody in, or back in.
    pub(crate) fn join(&mut self, now: Moment, mut newcomer: Newcomer) -> Result<ParticipantKey, Refusal> {
        if let Some(sid) = newcomer.parameters.resume.clone() {
            return self.resume(now, &sid, newcomer);
        }
        if !self.has_place_for(&newcomer.claims) {
            return Err(Refusal::Full);
        }
        self.replace_predecessor(now, &newcomer.claims.sub);
        let tracks = std::mem::take(&mut newcomer.parameters.tracks);
        let offer = newcomer.parameters.offer.take();
        let key = self.admit(now, newcomer);
        for request in tracks {
            self.add_track(key, request);
        }
        if let Some(offer) = offer {
            self.take_offer(now, key, &offer);
        }
        self.subscribe_to_all(now, key);
        // One offer has everything. Browsers' clients may lose what comes with a second one, if that is there just when they have connected.
        self.negotiate(now, key);
        Ok(key)
    }

    /// Whether there is a place for the holder of a token. Whoever it replaces does not count.
    pub(crate) fn has_place_for(&self, claims: &Claims) -> bool {
        let others = || self.participants.values().filter(|other| other.identity != claims.sub);
        let of_user = || others().filter(|other| other.quota_user == claims.quota_user).count();
        let is_limited = !claims.quota_user.is_empty();
        others().count() < self.capacity()
            && (!is_limited || of_user() < self.settings.maximum_of_user_in_room)
    }

    /// How many places a user has here, besides that of this identity. An empty room that waits is on the account of who left it last:
    /// otherwise one could fill the server with rooms by coming and going.
    pub(crate) fn places_of(&self, user: &str, besides: Option<&str>) -> usize {
        if self.participants.is_empty() {
            return usize::from(besides.is_none() && self.last_user == user);
        }
        let of_user = self.participants.values().filter(|participant| participant.quota_user == user);
        of_user.filter(|participant| Some(participant.identity.as_str()) != besides).count()
    }

    /// How many may be here.
    pub(super) fn capacity(&self) -> usize {
        let wanted = self.options.maximum_participants;
        let limit = self.settings.maximum_participants;
        let capacity = if wanted == 0 { limit } else { wanted.min(limit) };
        usize::try_from(capacity).unwrap_or(usize::MAX)
    }

    fn admit(&mut self, now: Moment, newcomer: Newcomer) -> ParticipantKey {
        let key = ParticipantKey(self.new_key());
        let participant = self.new_participant(now, key, newcomer);
        let subscribes = participant.permission.can_subscribe;
        let dual = participant.client.path == Path::Dual;
        self.identities.insert(participant.identity.clone(), key);
        self.participants.insert(key, participant);
        self.empty_since = None;
        self.next_tick = now.at;
        if !std::mem::replace(&mut self.was_used, true) {
            let room = Box::new(self.info());
            self.outputs.push(Output::Event(CallEvent::RoomStarted { room }));
        }
        self.command(key, PeerKind::Publisher, Command::Open);
        if dual {
            self.command(key, PeerKind::Subscriber, Command::Open);
        }
        self.welcome(now, key);
        self.refresh_token(now, key);
        if dual
            && subscribes
            && let Some(participant) = self.participants.get_mut(&key)
        {
            participant.offering.open_channels(now.at);
        }
        self.tell_of(key, false);
        key
    }

    fn new_participant(&self, now: Moment, key: ParticipantKey, newcomer: Newcomer) -> Participant {
        let Newcomer { connection, claims, parameters } = newcomer;
        let permission = claims.video.permission();
        let mut metadata = claims.metadata;
        let mut attributes = claims.attributes;
        if permission.can_update_metadata {
            let size: usize =
                parameters.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
            if size <= MAXIMUM_METADATA {
                // One without a text would end that of the token.
                attributes.extend(parameters.attributes.into_iter().filter(|(_, value)| !value.is_empty()));
            }
            if !parameters.metadata.is_empty() && parameters.metadata.len() <= MAXIMUM_METADATA {
                metadata = parameters.metadata;
            }
        }
        Participant {
            key,
            sid: format!("PA_{}", self.randomness.alphanumeric(12)),
            identity: claims.sub,
            owner: claims.owner,
            quota_user: claims.quota_user,
            name: claims.name,
            metadata,
            attributes,
            grant: claims.video,
            permission,
            state: State::Joined,
            joined_at: now.time,
            version: 0,
            client: Client {
                path: parameters.path,
                auto_subscribe: parameters.auto_subscribe,
                adaptive_stream: parameters.adaptive_stream,
                allow_pause: parameters.allow_pause,
            },
            connection: Some(connection),
            presence: Presence::new(now.at),
            answering: Answering::default(),
            offering: Offering::default(),
            owed_answers: VecDeque::new(),
            announced: Vec::new(),
            unclaimed: Vec::new(),
            tracks: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            declined: BTreeSet::new(),
            awaited: BTreeMap::new(),
            denied: BTreeSet::new(),
            audience: None,
            bandwidth: None,
            bitrates: (0, 0),
            sent_data: super::data::SentData::default(),
            reader: super::data::Reader::new(connection),
            quality: super::quality::Quality::default(),
            flood: super::flood::Flood::new(now.at),
            news: super::news::News::new(now.at),
            refresh_token_at: now.at,
        }
    }

    fn welcome(&mut self, now: Moment, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let others = self
            .participants
            .values()
            .filter(|other| other.key != key && !other.permission.hidden)
            .map(|other| other.info(&self.tracks));
        let dual = participant.client.path == Path::Dual;
        let response = JoinResponse {
            room: Some(self.info()),
            participant: Some(participant.info(&self.tracks)),
            other_participants: others.collect(),
            server_version: SERVER_VERSION.to_owned(),
            ice_servers: self.ice_servers(now, participant.relay_account()),
            subscriber_primary: dual && participant.permission.can_subscribe,
            ping_timeout: seconds(PING_TIMEOUT).cast_signed(),
            ping_interval: seconds(PING_INTERVAL).cast_signed(),
            server_info: Some(self.server_info()),
            sif_trailer: self.randomness.alphanumeric(TRAILER_LENGTH).into_bytes(),
            enabled_publish_codecs: enabled_codecs(),
            fast_publish: dual && participant.permission.can_publish,
        };
        self.say(key, Message::Join(response));
    }

    /// By which servers a participant reaches us if the network shuts it in.
    pub(super) fn ice_servers(&self, now: Moment, account: &str) -> Vec<IceServer> {
        let Some(turn) = &self.settings.turn else { return Vec::new() };
        let TurnCredentials { username, password, .. } = turn.credentials(account, now.time);
        vec![IceServer { urls: turn.uris().to_vec(), username, credential: password }]
    }

    pub(super) fn server_info(&self) -> ServerInfo {
        ServerInfo {
            version: SERVER_VERSION.to_owned(),
            protocol: PROTOCOL,
            region: String::new(),
            node_id: self.sid.replacen("RM_", "ND_", 1),
        }
    }
}
