//! A room: who is in it, what they publish, what they subscribe to.
//!
//! A state machine without I/O. Signalling requests, what happens on peer connections, and time go in; signalling responses, commands to
//! peer connections and events come out, in the order in which they are to be carried out.

mod admin;
mod allocating;
mod audience;
mod data;
mod dynacast;
mod flood;
mod joining;
mod leaving;
mod media;
mod negotiating;
mod news;
mod participant;
mod publishing;
mod quality;
mod resuming;
mod signalling;
mod speakers;
mod subscribing;
mod track;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use entente_environment::{Randomness, Timestamp};

pub(crate) use self::{
    admin::AdminError,
    joining::{Newcomer, Refusal},
    leaving::leave,
};
use self::{participant::Participant, speakers::Speakers, track::Track};
use crate::{
    CallEvent, Settings,
    proto::{self, SignalResponse, signal_response::Message},
    transport::{DataChannel, MediaPacket, Mid, OfferChanges, Renumbered, Rid},
};

/// How often the room looks after what changes by itself: bitrates, speakers, what was put off.
const TICK: Duration = Duration::from_millis(100);
/// The largest metadata of a room or participant, in bytes, and all attributes of a participant together.
pub(crate) const MAXIMUM_METADATA: usize = 64 * 1_024;

/// Tells participants of a room apart; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ParticipantKey(pub(crate) u64);

/// Tells tracks of a room apart; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TrackKey(u64);

/// Tells signalling connections apart; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionKey(pub(crate) u64);

/// Which peer connection of a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PeerKind {
    /// The one on which the client makes offers.
    Publisher,
    /// The one on which we do.
    Subscriber,
}

/// What time it is, for both purposes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// For measuring.
    pub(crate) at: Instant,
    /// For telling.
    pub(crate) time: Timestamp,
}

/// What a room wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// To be said to a participant on its signalling connection, if it has one.
    Signal(ParticipantKey, Box<SignalResponse>),
    /// The signalling connection of a participant is closed, after what was said.
    CloseSignal(ParticipantKey),
    /// To be done on a peer connection.
    Transport(ParticipantKey, PeerKind, Command),
    /// A packet for a subscriber.
    Media(ParticipantKey, PeerKind, Mid, Arc<MediaPacket>, Renumbered),
    /// A participant is gone; so are its connections.
    Gone(ParticipantKey),
    /// To be told outside.
    Event(CallEvent),
}

/// What is to be done on a peer connection.
#[derive(Debug)]
pub(crate) enum Command {
    /// Make it.
    Open,
    /// Answer an offer; the room is told by [`Room::answered`].
    Answer(String),
    /// Make an offer; the room is told by [`Room::offered`].
    Offer(OfferChanges),
    /// Take an answer; the room is told by [`Room::answer_accepted`].
    AcceptAnswer(String),
    /// Ask for a keyframe.
    RequestKeyframe(Mid, Option<Rid>),
    /// What is sent in this section is another stream from now on.
    RenewStream(Mid),
    /// To send nothing once more of what was sent in a section.
    ForgetSent(Mid),
    /// Write to a data channel.
    SendData(DataChannel, Arc<[u8]>),
    /// The reliable data channel takes messages again, after the room was told by [`Room::fell_behind`] that it does not.
    RenewData,
    /// For the bandwidth estimator: what comes next and what is desired, in bits per second.
    SetBitrates(u64, u64),
}

/// How a room was asked to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoomOptions {
    /// Seconds; the usual if 0.
    pub(crate) empty_timeout: u32,
    /// Seconds; the usual if 0.
    pub(crate) departure_timeout: u32,
    /// The usual if 0.
    pub(crate) maximum_participants: u32,
    /// Free text.
    pub(crate) metadata: String,
}

/// A room.
pub(crate) struct Room {
    settings: Arc<Settings>,
    randomness: Randomness,
    name: Arc<str>,
    sid: String,
    created_at: Timestamp,
    options: RoomOptions,
    participants: BTreeMap<ParticipantKey, Participant>,
    identities: HashMap<String, ParticipantKey>,
    tracks: BTreeMap<TrackKey, Track>,
    speakers: Speakers,
    outputs: Vec<Output>,
    last_key: u64,
    next_tick: Instant,
    /// Since when nobody is there, and whether anybody ever was.
    empty_since: Option<Instant>,
    was_used: bool,
    /// On whose account the room waits: of the last participant's token.
    last_user: String,
    closed: bool,
    /// How many participants and publishers everybody was told there are, and when it is looked at again.
    told_counts: (u32, u32),
    count_at: Instant,
}

impl Room {
    /// An empty room.
    pub(crate) fn new(
        settings: Arc<Settings>,
        randomness: Randomness,
        name: Arc<str>,
        options: RoomOptions,
        now: Moment,
    ) -> Self {
        let sid = format!("RM_{}", randomness.alphanumeric(12));
        Self {
            settings,
            randomness,
            name,
            sid,
            created_at: now.time,
            options,
            participants: BTreeMap::new(),
            identities: HashMap::new(),
            tracks: BTreeMap::new(),
            speakers: Speakers::new(now.at),
            outputs: Vec::new(),
            last_key: 0,
            next_tick: now.at,
            empty_since: Some(now.at),
            was_used: false,
            last_user: String::new(),
            closed: false,
            told_counts: (0, 0),
            count_at: now.at + news::COUNT_EVERY,
        }
    }

    /// What is to be done, in order.
    pub(crate) fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// The room as clients are told of it.
    pub(crate) fn info(&self) -> proto::Room {
        let visible = self.participants.values().filter(|participant| !participant.permission.hidden);
        let millis = i64::try_from(self.created_at.millis()).unwrap_or(i64::MAX);
        proto::Room {
            sid: self.sid.clone(),
            name: self.name.to_string(),
            empty_timeout: seconds(self.empty_timeout()),
            departure_timeout: seconds(self.departure_timeout()),
            max_participants: self.options.maximum_participants,
            creation_time: millis / 1_000,
            creation_time_ms: millis,
            enabled_codecs: joining::enabled_codecs(),
            metadata: self.options.metadata.clone(),
            num_participants: count(visible.clone()),
            num_publishers: count(visible.filter(|participant| !participant.tracks.is_empty())),
            active_recording: false,
        }
    }

    /// When [`Self::advance`] has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        match self.empty_since {
            Some(since) if self.closed => since,
            Some(since) => since + self.patience(),
            None => self.next_tick,
        }
    }

    /// Whether nobody came, or comes back, or the room was closed.
    pub(crate) fn is_finished(&self, now: Moment) -> bool {
        self.closed || self.empty_since.is_some_and(|since| now.at >= since + self.patience())
    }

    fn patience(&self) -> Duration {
        if self.was_used { self.departure_timeout() } else { self.empty_timeout() }
    }

    fn empty_timeout(&self) -> Duration {
        or_usual(self.options.empty_timeout, self.settings.empty_timeout)
    }

    fn departure_timeout(&self) -> Duration {
        or_usual(self.options.departure_timeout, self.settings.departure_timeout)
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, now: Moment) {
        if now.at < self.next_tick {
            return;
        }
        self.next_tick = now.at + TICK;
        self.hang_up_on_the_silent(now);
        self.drop_the_gone(now);
        let keys: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        for key in &keys {
            self.negotiate(now, *key);
            self.allocate(now, *key);
            self.give_up_waiting(now, *key);
            self.tell_news(now, *key);
            self.refresh_token(now, *key);
        }
        self.update_publishers(now);
        self.tell_speakers(now);
        self.tell_quality(now);
        self.tell_counts(now);
    }

    fn new_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    fn say(&mut self, to: ParticipantKey, message: Message) {
        self.outputs.push(Output::Signal(to, Box::new(message.into())));
    }

    /// Says something to everybody but one.
    fn say_to_others(&mut self, except: Option<ParticipantKey>, message: &Message) {
        let others = self.participants.keys().filter(|key| Some(**key) != except);
        let outputs = others.map(|key| Output::Signal(*key, Box::new(message.clone().into())));
        self.outputs.extend(outputs);
    }

    fn command(&mut self, of: ParticipantKey, peer: PeerKind, command: Command) {
        self.outputs.push(Output::Transport(of, peer, command));
    }

    /// Tells the others, and itself if `itself`, what a participant is now. Who changes all the time is told of less often.
    fn tell_of(&mut self, key: ParticipantKey, itself: bool) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.version += 1;
        if !participant.news.may_be_told(itself) {
            return;
        }
        let Some(participant) = self.participants.get(&key) else { return };
        let info = participant.info(&self.tracks);
        let hidden = participant.permission.hidden;
        let update = Message::Update(proto::ParticipantUpdate { participants: vec![info] });
        if hidden {
            self.say(key, update);
        } else {
            self.say_to_others((!itself).then_some(key), &update);
        }
    }

    fn tell_room(&mut self) {
        let info = self.info();
        self.told_counts = (info.num_participants, info.num_publishers);
        let update = Message::RoomUpdate(proto::RoomUpdate { room: Some(info) });
        self.say_to_others(None, &update);
    }
}

fn or_usual(wanted: u32, usual: Duration) -> Duration {
    if wanted == 0 { usual } else { Duration::from_secs(wanted.into()) }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
