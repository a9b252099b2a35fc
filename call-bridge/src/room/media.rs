use std::sync::Arc;

use super::{Command, Moment, Output, ParticipantKey, PeerKind, Room, TrackKey};
use crate::{
    CallEvent,
    proto::{
        DisconnectReason, EncryptionType, SubscriptionError, SubscriptionResponse, TrackSource,
        leave_request::Action, participant_info::State, signal_response::Message,
    },
    session::Path,
    transport::{DataChannel, MediaPacket, Mid, Rid, TransportEvent},
};

impl Room {
    /// Something happened on a peer connection.
    pub(crate) fn transport(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        peer: PeerKind,
        event: TransportEvent,
    ) {
        let bytes = match &event {
            TransportEvent::Media { packet, .. } => Some(packet.payload.len()),
            TransportEvent::Data { bytes, .. } => Some(bytes.len()),
            _ => None,
        };
        if let Some(bytes) = bytes
            && let Some(participant) = self.participants.get_mut(&key)
            && participant.flood.is_too_much(now.at, bytes)
        {
            tracing::warn!(room = %self.name, participant = participant.sid, "a participant sends too much and is cut off");
            self.dismiss(now, key, DisconnectReason::ParticipantRemoved, Action::Disconnect);
            return;
        }
        match event {
            TransportEvent::Media { mid, rid, packet } if peer == PeerKind::Publisher => {
                self.forward(now, key, mid, rid, packet);
            }
            TransportEvent::Connected => self.connected(key, peer),
            TransportEvent::Disconnected | TransportEvent::Closed => self.disconnected(now, key, peer),
            TransportEvent::KeyframeWanted { mid } => self.keyframe_wanted(now, key, mid),
            TransportEvent::Undecodable { mid } => self.undecodable(key, mid),
            TransportEvent::Bandwidth(bandwidth) => {
                if let Some(participant) = self.participants.get_mut(&key)
                    && participant.receiving_peer() == peer
                {
                    participant.bandwidth = Some(bandwidth);
                    self.allocate(now, key);
                }
            }
            TransportEvent::ChannelOpen(DataChannel::Reliable) => self.channel_open(now, key, peer),
            TransportEvent::Media { .. } | TransportEvent::ChannelOpen(DataChannel::Lossy) => {}
            TransportEvent::Data { channel, bytes } => self.relay(now, key, channel, &bytes),
            TransportEvent::Figures(figures) => {
                if let Some(participant) = self.participants.get_mut(&key) {
                    participant.quality.note(peer, figures, now.at);
                }
            }
        }
    }

    /// A packet of a publisher goes to all who want it.
    fn forward(&mut self, now: Moment, key: ParticipantKey, mid: Mid, rid: Option<Rid>, packet: MediaPacket) {
        let Some(participant) = self.participants.get(&key) else { return };
        let found = participant.tracks.iter().find(|(_, section)| **section == mid);
        let Some(track_key) = found.map(|(track, _)| *track) else { return };
        let Some(track) = self.tracks.get_mut(&track_key) else { return };
        let Some(layer) = track.layers.arrived(now.at, rid, packet.payload.len()) else { return };
        if !track.is_live() && !packet.payload.is_empty() {
            self.go_live(now, track_key, packet.codec);
        }
        let Some(track) = self.tracks.get(&track_key) else { return };
        if let Some(level) =
            packet.audio_level.filter(|_| track.info.source() != TrackSource::ScreenShareAudio)
        {
            self.speakers.hear(now.at, key, if track.info.muted { 127 } else { level });
        }
        let is_encrypted = track.info.encryption() != EncryptionType::None;
        let is_muted = track.info.muted;
        let packet = Arc::new(MediaPacket { is_encrypted, ..packet });
        for subscriber in &track.subscribers {
            let Some(participant) = self.participants.get_mut(subscriber) else { continue };
            let peer = participant.receiving_peer();
            let Some(subscription) = participant.subscriptions.get_mut(&track_key) else { continue };
            let Some(mid) = subscription.mid else { continue };
            // Its client may not have been asked, and go on.
            if is_muted {
                subscription.forwarder.leave_out(&packet);
                continue;
            }
            if let Some(renumbered) = subscription.forwarder.forward(layer, &packet) {
                self.outputs.push(Output::Media(*subscriber, peer, mid, packet.clone(), renumbered));
            }
        }
    }

    /// A subscriber has no decoder for a track.
    fn undecodable(&mut self, key: ParticipantKey, mid: Mid) {
        let Some(participant) = self.participants.get(&key) else { return };
        let of_section =
            participant.subscriptions.iter().find(|(_, subscription)| subscription.mid == Some(mid));
        let Some(track) = of_section.and_then(|(track, _)| self.tracks.get(track)) else { return };
        let track_sid = track.info.sid.clone();
        let err = SubscriptionError::SeCodecUnsupported.into();
        self.say(key, Message::SubscriptionResponse(SubscriptionResponse { track_sid, err }));
    }

    /// A subscriber cannot decode what it got.
    fn keyframe_wanted(&mut self, now: Moment, key: ParticipantKey, mid: Mid) {
        let Some(participant) = self.participants.get(&key) else { return };
        let wanted = participant.subscriptions.iter().find_map(|(track, subscription)| {
            let layer = subscription.forwarder.current().or(subscription.forwarder.waits_for())?;
            (subscription.mid == Some(mid)).then_some((*track, layer))
        });
        if let Some((track, layer)) = wanted {
            self.request_keyframe(now, track, layer);
        }
    }

    /// Asks a publisher for a keyframe, not too often.
    pub(super) fn request_keyframe(&mut self, now: Moment, track: TrackKey, layer: usize) {
        let Some(track) = self.tracks.get_mut(&track) else { return };
        let (publisher, mid) = (track.publisher, track.mid);
        if let Some(rid) = track.layers.keyframe_request(now.at, layer) {
            self.command(publisher, PeerKind::Publisher, Command::RequestKeyframe(mid, rid));
        }
    }

    fn connected(&mut self, key: ParticipantKey, peer: PeerKind) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        match peer {
            PeerKind::Publisher => participant.presence.publisher_connected = true,
            PeerKind::Subscriber => participant.presence.subscriber_connected = true,
        }
        participant.presence.media_lost = None;
        if participant.state == State::Active {
            return;
        }
        participant.state = State::Active;
        let participant = Box::new(participant.info(&self.tracks));
        let room = Box::new(self.info());
        self.outputs.push(Output::Event(CallEvent::ParticipantJoined { room, participant }));
        self.tell_of(key, true);
        self.tell_who_speaks(key);
        self.tell_all_quality(key);
    }

    fn disconnected(&mut self, now: Moment, key: ParticipantKey, peer: PeerKind) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        match peer {
            PeerKind::Publisher => participant.presence.publisher_connected = false,
            PeerKind::Subscriber => participant.presence.subscriber_connected = false,
        }
        // A publisher connection that is not used is no loss.
        let publishes = !participant.tracks.is_empty();
        let lost = match participant.client.path {
            Path::Single => true,
            Path::Dual => peer == PeerKind::Subscriber || publishes,
        };
        if lost || !participant.is_reachable() {
            participant.presence.media_lost.get_or_insert(now.at);
        }
    }
}
