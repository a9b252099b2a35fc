use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message as _;

use super::{Command, Moment, ParticipantKey, Room, participant::Participant};
use crate::{
    proto::{self, DataChannelReceiveState, DataHeader, DataPacket, data_packet::Kind},
    transport::DataChannel,
};

/// Messages of one participant that are kept for those who come back, and their bytes together.
const KEPT_MESSAGES: usize = 128;
const KEPT_BYTES: usize = 512 * 1_024;
/// How long.
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
    at: Instant,
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
        let is_old = |kept: &Kept| now.saturating_duration_since(kept.at) > KEPT_FOR;
        while self.kept.len() > KEPT_MESSAGES
            || self.bytes > KEPT_BYTES
            || self.kept.front().is_some_and(is_old)
        {
            let Some(dropped) = self.kept.pop_front() else { return };
            self.bytes -= dropped.bytes.len();
        }
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
        let Ok(packet) = DataPacket::decode(bytes) else { return };
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
        if reliable
            && packet.sequence > 0
            && let Some(participant) = self.participants.get_mut(&key)
        {
            let sequence = packet.sequence;
            participant.sent_data.keep(Kept { at: now.at, sequence, destinations, bytes });
        }
    }

    /// Sends a message to those whom it is for.
    pub(super) fn send_data(
        &mut self,
        sender: Option<ParticipantKey>,
        channel: DataChannel,
        destinations: &Destinations,
        bytes: &Arc<[u8]>,
    ) {
        let receivers = self
            .participants
            .values()
            .filter(|other| Some(other.key) != sender && destinations.include(other));
        let receivers: Vec<_> = receivers.map(|other| (other.key, other.receiving_peer())).collect();
        for (receiver, peer) in receivers {
            self.command(receiver, peer, Command::SendData(channel, bytes.clone()));
        }
    }

    /// Repeats what a participant that came back did not get.
    pub(super) fn replay_data(&mut self, key: ParticipantKey, states: &[DataChannelReceiveState]) {
        let Some(participant) = self.participants.get(&key) else { return };
        let peer = participant.receiving_peer();
        let mut missed: Vec<(Instant, Arc<[u8]>)> = Vec::new();
        for publisher in self.participants.values().filter(|other| other.key != key) {
            let state = states.iter().find(|state| state.publisher_sid == publisher.sid);
            let Some(last) = state.map(|state| state.last_seq) else { continue };
            let for_it = |kept: &&Kept| kept.sequence > last && kept.destinations.include(participant);
            let kept = publisher.sent_data.kept.iter().filter(for_it);
            missed.extend(kept.map(|kept| (kept.at, kept.bytes.clone())));
        }
        missed.sort_by_key(|(at, _)| *at);
        for (_, bytes) in missed {
            self.command(key, peer, Command::SendData(DataChannel::Reliable, bytes));
        }
    }
}
