use std::time::Duration;

use super::{Command, Moment, ParticipantKey, Room, TrackKey, track::Track};
use crate::{
    forwarding::{Wish, allocate, floods},
    proto::{StreamState, StreamStateInfo, StreamStateUpdate, signal_response::Message},
    transport::MediaKind,
};

/// What a video that arrives nowhere else to be known from may cost, in bits per second.
const UNKNOWN_RATE: u64 = 200_000;
/// What each sound takes, in bits per second: the stack counts it among what it sends.
const AUDIO_RATE: u64 = 48_000;
/// Of the estimate, what is not given to media, in percent: retransmissions and headers take it.
const RESERVE: u64 = 5;
/// After this long a pause it is tried whether there is room again: while nothing is sent, nothing is learnt of the path.
const PAUSED_FOR: Duration = Duration::from_secs(2);
/// Whoever speaks is a little more important than who does not.
const SPEAKER_IMPORTANCE: u32 = 500;

impl Room {
    /// Divides what the path to a subscriber can carry among what it subscribes to.
    pub(super) fn allocate(&mut self, now: Moment, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let mut sounds: u64 = 0;
        let mut silent = Vec::new();
        let mut wishes = Vec::new();
        for (track_key, subscription) in &participant.subscriptions {
            let Some(track) = self.tracks.get(track_key) else { continue };
            if subscription.mid.is_none() {
                continue;
            }
            let Some(wanted) = self.wanted_layer(key, *track_key) else {
                silent.push(*track_key);
                continue;
            };
            if track.kind == MediaKind::Audio {
                sounds += 1;
                continue;
            }
            let mut layers: Vec<(usize, u64)> =
                track.layers.arriving(now.at).filter(|(layer, _)| *layer <= wanted).collect();
            if layers.is_empty() {
                // Nothing of what is wanted is there, but perhaps something larger; else what comes first.
                let next = track.layers.arriving(now.at).next();
                layers.push(next.unwrap_or((0, track.layers.announced(0).max(UNKNOWN_RATE))));
            }
            let speaks = if self.speakers.is_active(track.publisher) { SPEAKER_IMPORTANCE } else { 0 };
            let priority = track.importance() + subscription.wishes.priority + speaks;
            wishes.push(Wish {
                key: *track_key,
                priority,
                layers,
                current: subscription.forwarder.current(),
                is_paused: subscription
                    .paused
                    .is_some_and(|since| now.at.saturating_duration_since(since) < PAUSED_FOR),
            });
        }
        // Sound has no part in the estimate: it is of what there is room for besides.
        let budget = participant
            .bandwidth
            .map_or(u64::MAX / 4, |bandwidth| bandwidth.saturating_sub(bandwidth / 100 * RESERVE));
        let may_pause = participant.client.allow_pause;
        let floods = floods(budget, &wishes);
        let allocation = allocate(budget, wishes, may_pause);
        let for_sounds = sounds * AUDIO_RATE;
        for track in silent {
            self.set_target(now, key, track, None);
        }
        self.let_sounds_through(now, key);
        let mut states = Vec::new();
        for (track, layer) in &allocation.layers {
            self.set_target(now, key, *track, *layer);
            if floods {
                self.break_off_larger(key, *track);
            }
            states.extend(self.pause_or_resume(now, key, *track, layer.is_none()));
        }
        if !states.is_empty() {
            self.say(key, Message::StreamStateUpdate(StreamStateUpdate { stream_states: states }));
        }
        let next = if allocation.next == 0 { 0 } else { allocation.next + for_sounds };
        self.set_bitrates(key, next, allocation.desired + for_sounds);
    }

    fn let_sounds_through(&mut self, now: Moment, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let is_sound =
            |track: &TrackKey| self.tracks.get(track).is_some_and(|track| track.kind == MediaKind::Audio);
        let sounds: Vec<TrackKey> =
            participant.subscriptions.keys().copied().filter(|track| is_sound(track)).collect();
        for track in sounds {
            if self.wanted_layer(key, track).is_some() {
                self.set_target(now, key, track, Some(0));
            }
        }
    }

    fn set_target(&mut self, now: Moment, key: ParticipantKey, track: TrackKey, layer: Option<usize>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(subscription) = participant.subscriptions.get_mut(&track) else { return };
        subscription.forwarder.set_target(layer);
        let waits_for = subscription.forwarder.waits_for();
        let is_seen = |track: &Track| track.kind == MediaKind::Video && !track.info.muted;
        let is_seen = self.tracks.get(&track).is_some_and(is_seen);
        if let Some(layer) = waits_for.filter(|_| is_seen) {
            self.request_keyframe(now, track, layer);
        }
    }

    fn break_off_larger(&mut self, key: ParticipantKey, track: TrackKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let peer = participant.receiving_peer();
        if let Some(subscription) = participant.subscriptions.get_mut(&track)
            && subscription.forwarder.break_off_larger()
            && let Some(mid) = subscription.mid
        {
            self.command(key, peer, Command::ForgetSent(mid));
        }
    }

    fn pause_or_resume(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        track: TrackKey,
        pause: bool,
    ) -> Option<StreamStateInfo> {
        let subscription = self.participants.get_mut(&key)?.subscriptions.get_mut(&track)?;
        if subscription.paused.is_some() == pause {
            return None;
        }
        subscription.paused = pause.then_some(now.at);
        let track = self.tracks.get(&track)?;
        let publisher = self.participants.get(&track.publisher)?;
        let state = if pause { StreamState::Paused } else { StreamState::Active };
        Some(StreamStateInfo {
            participant_sid: publisher.sid.clone(),
            track_sid: track.info.sid.clone(),
            state: state.into(),
        })
    }

    fn set_bitrates(&mut self, key: ParticipantKey, next: u64, desired: u64) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let (told_next, told_desired) = participant.bitrates;
        let differs = |told: u64, now: u64| told.abs_diff(now) > told / 10;
        if differs(told_next, next) || differs(told_desired, desired) {
            participant.bitrates = (next, desired);
            let peer = participant.receiving_peer();
            self.command(key, peer, Command::SetBitrates(next, desired));
        }
    }
}
