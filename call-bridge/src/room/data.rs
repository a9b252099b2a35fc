use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message as _;

use super::{Command, Moment, ParticipantKey, Room};
use crate::{
    proto::{self, DataChannelReceiveState, DataHeader, DataPacket, data_packet::Kind},
    transport::DataChannel,
};

/// Messages of one participant that are kept for those who come back, and their bytes together.
const KEPT_MESSAGES: usize = 128;
const KEPT_BYTES: usize = 512 * 1_024;
/// How long.
const KEPT_FOR: Duration = Duration::from_secs(15);

/// The reliable messages that a participant sent last.
#[derive(Debug, Default)]
pub(super) struct SentData {
    last_sequence: u32,
    kept: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    at: Instant,
    sequence: u32,
    /// Empty: for all.
    destinations: Vec<String>,
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
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if !participant.permission.can_publish_data {
            return;
        }
        let Ok(packet) = DataPacket::decode(bytes) else { return };
        let reliable = channel == DataChannel::Reliable;
        if reliable && !participant.sent_data.accept(packet.sequence) {
            return;
        }
        let kind = if reliable { Kind::Reliable } else { Kind::Lossy };
        let header = DataHeader { kind: kind.into(), sid: &participant.sid, identity: &participant.identity };
        let Ok(relayed) = proto::relayed(bytes, header) else { return };
        let relayed: Arc<[u8]> = relayed.into();
        let user = packet.user.unwrap_or_default();
        let (destinations, sids) = if packet.destination_identities.is_empty() {
            (user.destination_identities, user.destination_sids)
        } else {
            (packet.destination_identities, Vec::new())
        };
        if reliable && packet.sequence > 0 && sids.is_empty() {
            participant.sent_data.keep(Kept {
                at: now.at,
                sequence: packet.sequence,
                destinations: destinations.clone(),
                bytes: relayed.clone(),
            });
        }
        self.send_data(Some(key), channel, &destinations, &sids, &relayed);
    }

    /// Sends a message to those who are named, to all if none is.
    pub(super) fn send_data(
        &mut self,
        sender: Option<ParticipantKey>,
        channel: DataChannel,
        identities: &[String],
        sids: &[String],
        bytes: &Arc<[u8]>,
    ) {
        let to_all = identities.is_empty() && sids.is_empty();
        let receivers = self.participants.values().filter(|other| {
            let is_named = identities.contains(&other.identity) || sids.contains(&other.sid);
            Some(other.key) != sender && (to_all || is_named)
        });
        let receivers: Vec<_> = receivers.map(|other| (other.key, other.receiving_peer())).collect();
        for (receiver, peer) in receivers {
            self.command(receiver, peer, Command::SendData(channel, bytes.clone()));
        }
    }

    /// Repeats what a participant that came back did not get.
    pub(super) fn replay_data(&mut self, key: ParticipantKey, states: &[DataChannelReceiveState]) {
        let Some(participant) = self.participants.get(&key) else { return };
        let (identity, peer) = (&participant.identity, participant.receiving_peer());
        let mut missed: Vec<Kept> = Vec::new();
        for publisher in self.participants.values().filter(|other| other.key != key) {
            let state = states.iter().find(|state| state.publisher_sid == publisher.sid);
            let Some(last) = state.map(|state| state.last_seq) else { continue };
            let for_it = |kept: &&Kept| {
                kept.sequence > last && (kept.destinations.is_empty() || kept.destinations.contains(identity))
            };
            missed.extend(publisher.sent_data.kept.iter().filter(for_it).cloned());
        }
        missed.sort_by_key(|kept| kept.at);
        for kept in missed {
            self.command(key, peer, Command::SendData(DataChannel::Reliable, kept.bytes));
        }
    }
}
