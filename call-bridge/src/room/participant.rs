use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use entente_environment::Timestamp;

use super::{
    ConnectionKey, ParticipantKey, PeerKind, TrackKey,
    audience::Audience,
    data::{Reader, SentData},
    flood::Flood,
    joining::PING_TIMEOUT,
    news::News,
    quality::Quality,
    subscribing::Subscription,
    track::Track,
};
use crate::{
    proto::{ParticipantInfo, ParticipantPermission, TrackInfo, TrackType, participant_info::State},
    session::{Answering, MediaLabel, Offering, Path},
    token::VideoGrant,
    transport::{MediaKind, Mid, SILENT_AFTER},
};

/// Somebody in a room.
pub(super) struct Participant {
    pub(super) key: ParticipantKey,
    pub(super) sid: String,
    pub(super) identity: String,
    /// Whom the application takes it for.
    pub(super) owner: String,
    /// On whose account its place and relaying for it count, if that is known.
    pub(super) quota_user: String,
    pub(super) name: String,
    pub(super) metadata: String,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) grant: VideoGrant,
    pub(super) permission: ParticipantPermission,
    pub(super) state: State,
    pub(super) joined_at: Timestamp,
    pub(super) version: u32,
    pub(super) client: Client,
    /// The signalling connection, unless it broke.
    pub(super) connection: Option<ConnectionKey>,
    pub(super) presence: Presence,
    pub(super) answering: Answering<TrackKey>,
    pub(super) offering: Offering<TrackKey>,
    /// Answers that the transport owes us: the offer's number and the tracks that get a place with it.
    pub(super) owed_answers: VecDeque<(u32, Vec<(TrackKey, Mid)>)>,
    /// Announced tracks for which no section came yet.
    pub(super) announced: Vec<Announced>,
    /// Sections for which no track was announced yet.
    pub(super) unclaimed: Vec<Unclaimed>,
    /// What it publishes, and in which section.
    pub(super) tracks: BTreeMap<TrackKey, Mid>,
    pub(super) subscriptions: BTreeMap<TrackKey, Subscription>,
    /// Tracks that it does not want although it wants all.
    pub(super) declined: BTreeSet<String>,
    /// Tracks that it wants and that are not there yet, and until when it waits.
    pub(super) awaited: BTreeMap<String, Instant>,
    /// Tracks that it wants and that their publisher does not let it have.
    pub(super) denied: BTreeSet<TrackKey>,
    /// Whom it lets subscribe to what; everybody to everything if `None`.
    pub(super) audience: Option<Audience>,
    /// What its path can carry, in bits per second.
    pub(super) bandwidth: Option<u64>,
    /// What the bandwidth estimator was told.
    pub(super) bitrates: (u64, u64),
    pub(super) sent_data: SentData,
    pub(super) reader: Reader,
    pub(super) quality: Quality,
    pub(super) flood: Flood,
    pub(super) news: News,
    pub(super) refresh_token_at: Instant,
}

/// What a client said of itself when it joined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) path: Path,
    pub(super) auto_subscribe: bool,
    pub(super) adaptive_stream: bool,
    pub(super) allow_pause: bool,
}

/// Which of a participant's connections work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presence {
    pub(super) publisher_connected: bool,
    pub(super) subscriber_connected: bool,
    /// When it said something by signalling last.
    pub(super) heard: Instant,
    /// Since when there is no signalling connection.
    pub(super) signal_lost: Option<Instant>,
    /// Since when a peer connection that worked does not, or none ever worked.
    pub(super) media_lost: Option<Instant>,
}

impl Presence {
    /// Somebody who just came.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            publisher_connected: false,
            subscriber_connected: false,
            heard: now,
            signal_lost: None,
            media_lost: Some(now),
        }
    }

    /// Until when it is waited for, if neither signalling nor media reach it. `within` is for how long after its signalling connection ended.
    pub(super) fn awaited_until(&self, within: Duration) -> Option<Instant> {
        let (signal_lost, media_lost) = (self.signal_lost?, self.media_lost?);
        if signal_lost.saturating_duration_since(self.heard) < PING_TIMEOUT {
            return Some(signal_lost + within);
        }
        // It vanished without a word. A client that has only lost its network notices that as late as we do, and then comes back.
        let media_heard = media_lost.checked_sub(SILENT_AFTER).unwrap_or(media_lost);
        Some(self.heard.max(media_heard) + PING_TIMEOUT + within / 2)
    }
}

/// A track that a client is about to send.
pub(super) struct Announced {
    pub(super) cids: Vec<String>,
    pub(super) info: TrackInfo,
}

/// A section that a client sends, of which we do not know what it is.
pub(super) struct Unclaimed {
    pub(super) mid: Mid,
    pub(super) kind: MediaKind,
    pub(super) label: Option<MediaLabel>,
    pub(super) rids: Vec<String>,
}

impl Participant {
    /// The participant as others are told of it.
    pub(super) fn info(&self, tracks: &BTreeMap<TrackKey, Track>) -> ParticipantInfo {
        let published = self.tracks.keys().filter_map(|key| tracks.get(key)).filter(|track| track.is_live());
        let millis = i64::try_from(self.joined_at.millis()).unwrap_or(i64::MAX);
        ParticipantInfo {
            sid: self.sid.clone(),
            identity: self.identity.clone(),
            state: self.state.into(),
            tracks: published.map(|track| track.info.clone()).collect(),
            metadata: self.metadata.clone(),
            joined_at: millis / 1_000,
            joined_at_ms: millis,
            name: self.name.clone(),
            version: self.version,
            permission: Some(self.permission.clone()),
            region: String::new(),
            is_publisher: !self.tracks.is_empty(),
            attributes: self.attributes.clone(),
            disconnect_reason: 0,
        }
    }

    /// The participant as it is named where something is told of its tracks.
    pub(super) fn named(&self) -> ParticipantInfo {
        ParticipantInfo {
            sid: self.sid.clone(),
            identity: self.identity.clone(),
            ..ParticipantInfo::default()
        }
    }

    /// The peer connection by which it gets what it subscribes to.
    pub(super) fn receiving_peer(&self) -> PeerKind {
        match self.client.path {
            Path::Single => PeerKind::Publisher,
            Path::Dual => PeerKind::Subscriber,
        }
    }

    /// On whose account relaying for it counts.
    pub(super) fn relay_account(&self) -> &str {
        if self.quota_user.is_empty() { &self.identity } else { &self.quota_user }
    }

    /// Whether media can reach it.
    pub(super) fn is_reachable(&self) -> bool {
        self.presence.publisher_connected || self.presence.subscriber_connected
    }

    /// Whether it lets `other` subscribe to a track.
    pub(super) fn admits(&self, other: &Participant, track: &str) -> bool {
        self.audience.as_ref().is_none_or(|audience| audience.admits(&other.sid, &other.identity, track))
    }

    /// Takes the first announced track that a section can be: the one it names, or the only one of its kind.
    pub(super) fn claim(&mut self, kind: MediaKind, label: Option<&MediaLabel>) -> Option<Announced> {
        let named = label.and_then(|label| {
            self.announced.iter().position(|announced| {
                announced.cids.iter().any(|cid| *cid == label.track || *cid == label.stream)
            })
        });
        let of_kind = |announced: &&Announced| kind_of(&announced.info) == Some(kind);
        let only = || {
            let is_only = self.announced.iter().filter(of_kind).count() == 1;
            is_only.then(|| self.announced.iter().position(|announced| of_kind(&announced))).flatten()
        };
        named.or_else(only).map(|index| self.announced.remove(index))
    }
}

/// What a track is made of; `None` for data.
pub(super) fn kind_of(info: &TrackInfo) -> Option<MediaKind> {
    match info.r#type() {
        TrackType::Audio => Some(MediaKind::Audio),
        TrackType::Video => Some(MediaKind::Video),
        TrackType::Data => None,
    }
}
