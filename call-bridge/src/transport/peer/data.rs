use std::{collections::VecDeque, sync::Arc};

use str0m::channel::ChannelId;

use super::{
    super::{DataChannel, TransportEvent},
    Peer,
};

/// What may be under way in the lossy channel to one peer, in bytes. What does not fit is lost, which is what the channel is for.
const MAXIMUM_LOSSY: usize = 256 * 1_024;
/// What may be under way in the reliable one. What does not fit waits.
const MAXIMUM_RELIABLE: usize = 768 * 1_024;
/// What the stack takes for both, which share one association: so much that neither can take the other's place.
pub(super) const MAXIMUM_BUFFERED_DATA: usize = MAXIMUM_LOSSY + MAXIMUM_RELIABLE;
/// When no more than this is under way in the reliable channel, what waits goes on. The stack tells when it becomes so: more is under way
/// whenever a message did not fit, as none is larger than the rest.
const LITTLE: usize = MAXIMUM_RELIABLE / 2;
/// What may wait for the reliable channel, in bytes.
const MAXIMUM_WAITING: usize = 1_024 * 1_024;

/// The data channels to a peer.
#[derive(Debug, Default)]
pub(super) struct Channels {
    open: Vec<(DataChannel, ChannelId)>,
    /// What waits for a place in the reliable one, and its bytes.
    waiting: VecDeque<Arc<[u8]>>,
    waiting_bytes: usize,
    /// More came than can wait. Nothing that came later may go out, because what is missing would then never be in its place.
    overflowed: bool,
}

impl Channels {
    fn id(&self, channel: DataChannel) -> Option<ChannelId> {
        self.open.iter().find(|(other, _)| *other == channel).map(|(_, id)| *id)
    }

    /// Which channel this is.
    pub(super) fn of(&self, id: ChannelId) -> Option<DataChannel> {
        self.open.iter().find(|(_, other)| *other == id).map(|(channel, _)| *channel)
    }

    fn forget_waiting(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
    }
}

impl Peer {
    /// A channel can be written to.
    pub(super) fn channel_opened(&mut self, id: ChannelId, label: &str) -> Option<TransportEvent> {
        let channel = DataChannel::of_label(label)?;
        self.channels.open.retain(|(other, _)| *other != channel);
        self.channels.open.push((channel, id));
        if channel == DataChannel::Reliable
            && let Some(mut open) = self.rtc.channel(id)
        {
            open.set_buffered_amount_low_threshold(LITTLE);
        }
        Some(TransportEvent::ChannelOpen(channel))
    }

    /// Writes a message, or lets it wait. False if more waits than can.
    pub(super) fn write_data(&mut self, channel: DataChannel, bytes: &Arc<[u8]>) -> bool {
        if channel == DataChannel::Lossy {
            // What does not fit is lost.
            self.write_now(channel, bytes);
            return true;
        }
        if self.channels.overflowed {
            return false;
        }
        self.write_waiting();
        if self.channels.waiting.is_empty() && self.write_now(channel, bytes) {
            return true;
        }
        let waiting_bytes = self.channels.waiting_bytes + bytes.len();
        if waiting_bytes > MAXIMUM_WAITING {
            self.channels.forget_waiting();
            self.channels.overflowed = true;
            return false;
        }
        self.channels.waiting.push_back(bytes.clone());
        self.channels.waiting_bytes = waiting_bytes;
        true
    }

    /// Writes what waits for the reliable channel, as far as there is room for it.
    pub(super) fn write_waiting(&mut self) {
        while let Some(bytes) = self.channels.waiting.front().cloned() {
            if !self.write_now(DataChannel::Reliable, &bytes) {
                return;
            }
            self.channels.waiting.pop_front();
            self.channels.waiting_bytes -= bytes.len();
        }
    }

    /// Takes reliable messages again.
    pub(super) fn renew_channel(&mut self) {
        self.channels.overflowed = false;
    }

    /// Writes a message if there is room for it. False if there may be room later.
    fn write_now(&mut self, channel: DataChannel, bytes: &[u8]) -> bool {
        let Some(id) = self.channels.id(channel) else { return true };
        let Some(mut open) = self.rtc.channel(id) else { return true };
        let most = match channel {
            DataChannel::Lossy => MAXIMUM_LOSSY,
            DataChannel::Reliable => MAXIMUM_RELIABLE,
        };
        if open.buffered_amount() + bytes.len() > most {
            return false;
        }
        // What fails now fails always: the message is larger than the other side takes, or the association is over.
        open.write(true, bytes).unwrap_or(true)
    }
}
