use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Command, ConnectionKey, Moment, Output, ParticipantKey, PeerKind, Room, participant::Participant,
};
use crate::{
    proto::{self, DataChannelReceiveState, DataHeader, DataPacket, data_packet::Kind},
    transport::DataChannel,
};

/// Messages of one participant that are kept for those who come back or are not ready yet, and their bytes together.
const KEPT_MESSAGES: usize = 128;
const KEPT_BYTES: usize = 512 * 1_024;
/// How long. Clients remember for twice as long what they have got, and from whom.
const KEPT_FOR: Duration = Duration::from_secs(15);

/// Whom a message is for: all if nobody is named.
#[derive(Debug)]
pub(super) struct Destinations {
    identities: HashSet<String>,
    sids: HashSet<String>,
}

impl Destinations {
    pub(super) fn new(identities: Vec<String>, sids: Vec<String>) -> Self {
        Self { identities: identities.into_iter().collect(), sids: sids.into_iter().collect() }
    }

    fn include(&self, participant: &Participant) -> bool {
        let all = self.identities.is_empty() && self.sids.is_empty();
        all || self.identities.contains(&participant.identity) || self.sids.contains(&participant.sid)
    }
}

/// The reliable messages that a participant sent last.
#[derive(Debug, Default)]
pub(super) struct SentData {
    last_sequence: u32,
    kept: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    /// Its place among all messages of the room. Those who joined later have a higher key.
    number: u64,
    at: Instant,
    /// 0 if the sender does not count.
    sequence: u32,
    destinations: Destinations,
    bytes: Arc<[u8]>,
}

impl SentData {
    /// The number of the last one.
    pub(super) fn last_sequence(&self) -> u32 {
        self.last_sequence
    }

    /// False for what came already.
    fn accept(&mut self, sequence: u32) -> bool {
        if sequence == 0 {
            return true;
        }
        let is_new = sequence > self.last_sequence;
        self.last_sequence = self.last_sequence.max(sequence);
        is_new
    }

    fn keep(&mut self, kept: Kept) {
        let now = kept.at;
        self.bytes += kept.bytes.len();
        self.kept.push_back(kept);
        while self.kept.len() > KEPT_MESSAGES
            || self.bytes > KEPT_BYTES
            || self.kept.front().is_some_and(|kept| kept.is_old(now))
        {
            let Some(dropped) = self.kept.pop_front() else { return };
            self.bytes -= dropped.bytes.len();
        }
    }
}

impl Kept {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > KEPT_FOR
    }
}

/// How a participant gets what others send reliably.
#[derive(Debug)]
pub(super) struct Reader {
    state: ReaderState,
    /// The connection by which it said last what it has got, or joined.
    synchronised: ConnectionKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReaderState {
    /// Its channel is not open yet.
    NotReady,
    Ready,
    /// It read too slowly, and has to say what it got.
    Behind,
}

impl Reader {
    /// Of somebody who joins by this connection.
    pub(super) fn new(connection: ConnectionKey) -> Self {
        Self { state: ReaderState::NotReady, synchronised: connection }
    }
}

impl Room {
    /// A message of a participant goes to whom it is for.
    pub(super) fn relay(&mut self, now: Moment, key: ParticipantKey, channel: DataChannel, bytes: &[u8]) {
        let capacity = self.capacity();
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if !participant.permission.can_publish_data {
            return;
        }
        let Ok(packet) = proto::read::<DataPacket>("livekit.DataPacket", bytes) else { return };
        let user = packet.user.unwrap_or_default();
        let (identities, sids) = if packet.destination_identities.is_empty() {
            (user.destination_identities, user.destination_sids)
        } else {
            (packet.destination_identities, Vec::new())
        };
        // Nobody can mean more than may be here.
        if identities.len() > capacity || sids.len() > capacity {
            return;
        }
        let reliable = channel == DataChannel::Reliable;
        if reliable && !participant.sent_data.accept(packet.sequence) {
            return;
        }
        let kind = if reliable { Kind::Reliable } else { Kind::Lossy };
        let header = DataHeader { kind: kind.into(), sid: &participant.sid, identity: &participant.identity };
        let Ok(relayed) = proto::relayed(bytes, header) else { return };
        let bytes: Arc<[u8]> = relayed.into();
        let destinations = Destinations::new(identities, sids);
        self.send_data(Some(key), channel, &destinations, &bytes);
        if !reliable {
            return;
        }
        let number = self.new_key();
        if let Some(participant) = self.participants.get_mut(&key) {
            let sequence = packet.sequence;
            participant.sent_data.keep(Kept { number, at: now.at, sequence, destinations, bytes });
        }
    }

    /// Sends a message to those whom it is for. Who is not ready for what is reliable gets it from what is kept.
    pub(super) fn send_data(
        &mut self,
        sender: Option<ParticipantKey>,
        channel: DataChannel,
        destinations: &Destinations,
        bytes: &Arc<[u8]>,
    ) {
        let receivers = self.participants.values().filter(|other| {
            let is_ready = channel == DataChannel::Lossy || other.reader.state == ReaderState::Ready;
            is_ready && Some(other.key) != sender && destinations.include(other)
        });
        let receivers: Vec<_> = receivers.map(|other| (other.key, other.receiving_peer())).collect();
        for (receiver, peer) in receivers {
            self.command(receiver, peer, Command::SendData(channel, bytes.clone()));
        }
    }

    /// The reliable channel of a peer connection takes messages: the participant gets what is kept of those that came since it joined.
    pub(super) fn channel_open(&mut self, now: Moment, key: ParticipantKey, peer: PeerKind) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        // On the other peer connection it only sends; a channel that is opened anew missed nothing that we know of.
        if participant.receiving_peer() == peer && participant.reader.state == ReaderState::NotReady {
            participant.reader.state = ReaderState::Ready;
            self.send_kept(now, key, |_, _| true);
        }
    }

    /// So much waits for a participant that nothing more can.
    ///
    /// What is missing must not be missing silently, and nothing that comes later can go out before it. So its signalling connection is
    /// cut, by which it comes back, says what it has got, and gets the rest of what is kept. That interrupts nothing: media goes on
    /// meanwhile. To dismiss it instead would give those who send much the power to throw everybody out whose path is narrower than theirs.
    /// As messages are kept for each sender, only one who sends more than is kept loses any.
    pub(crate) fn fell_behind(&mut self, now: Moment, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if participant.reader.state != ReaderState::Ready {
            return;
        }
        participant.reader.state = ReaderState::Behind;
        tracing::debug!(room = %self.name, participant = participant.sid, "a participant reads messages too slowly");
        if let Some(connection) = participant.connection {
            self.outputs.push(Output::CloseSignal(key));
            self.signal_lost(now, key, connection);
        }
    }

    /// Repeats what a participant that came back did not get.
    pub(super) fn replay_data(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        states: &[DataChannelReceiveState],
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(connection) = participant.connection else { return };
        let peer = participant.receiving_peer();
        // Once for each connection: what it says again by the same one, it says before it got what was repeated.
        if std::mem::replace(&mut participant.reader.synchronised, connection) == connection {
            return;
        }
        match participant.reader.state {
            // Everything comes as soon as its channel is open.
            ReaderState::NotReady => return,
            ReaderState::Ready => {}
            ReaderState::Behind => {
                participant.reader.state = ReaderState::Ready;
                self.command(key, peer, Command::RenewData);
            }
        }
        let got: HashMap<&str, u32> =
            states.iter().map(|state| (state.publisher_sid.as_str(), state.last_seq)).collect();
        // It has got nothing from whom it does not name. What is still under way to it may come twice, which it sees by the numbers; what
        // has none is not repeated.
        self.send_kept(now, key, |sender, sequence| sequence > got.get(sender).copied().unwrap_or(0));
    }

    /// Sends a participant what is kept of others' messages for it, of those that came since it joined, in their order: what is `wanted`, by
    /// the sender's sid and the number that it gave to the message.
    fn send_kept(&mut self, now: Moment, key: ParticipantKey, wanted: impl Fn(&str, u32) -> bool) {
        let Some(participant) = self.participants.get(&key) else { return };
        let peer = participant.receiving_peer();
        let mut missed: Vec<(u64, Arc<[u8]>)> = Vec::new();
        for sender in self.participants.values().filter(|other| other.key != key) {
            let kept = sender.sent_data.kept.iter().filter(|kept| {
                let is_meant = kept.number > key.0 && kept.destinations.include(participant);
                is_meant && !kept.is_old(now.at) && wanted(&sender.sid, kept.sequence)
            });
            missed.extend(kept.map(|kept| (kept.number, kept.bytes.clone())));
        }
        missed.sort_unstable_by_key(|(number, _)| *number);
        for (_, bytes) in missed {
            self.command(key, peer, Command::SendData(DataChannel::Reliable, bytes));
        }
    }
}
