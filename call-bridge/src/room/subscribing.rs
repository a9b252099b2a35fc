use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::{Moment, ParticipantKey, PeerKind, Room, TrackKey};
use crate::{
    forwarding::Forwarder,
    proto::{
        SubscriptionError, SubscriptionResponse, TrackSubscribed, UpdateSubscription, UpdateTrackSettings,
        VideoQuality, signal_response::Message,
    },
    session::Path,
    transport::{MediaKind, Mid},
};

/// How long somebody waits for a track that is not there.
const AWAIT: Duration = Duration::from_secs(60);
/// Tracks that somebody waits for, or does not want.
const MAXIMUM_NAMED: usize = 1_000;
/// Tracks in one request.
const MAXIMUM_REQUESTED: usize = 1_000;

/// Somebody gets, or is about to get, a track.
pub(super) struct Subscription {
    pub(super) forwarder: Forwarder,
    /// The section in which it is sent, once agreed.
    pub(super) mid: Option<Mid>,
    pub(super) wishes: Wishes,
    /// Since when it has been told to be paused for want of bandwidth.
    pub(super) paused: Option<Instant>,
}

/// How a subscriber would like a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) disabled: bool,
    /// Pixels, if not 0; else by quality.
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) quality: VideoQuality,
    pub(super) priority: u32,
}

impl Room {
    /// Subscribes somebody who wants everything to everything.
    pub(super) fn subscribe_to_all(&mut self, now: Moment, key: ParticipantKey) {
        let tracks: Vec<TrackKey> = self.tracks.keys().copied().collect();
        for track in tracks {
            self.subscribe_by_itself(now, key, track);
        }
    }

    /// Subscribes somebody who wants all, or who waited for this one.
    pub(super) fn subscribe_by_itself(&mut self, now: Moment, key: ParticipantKey, track_key: TrackKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(track) = self.tracks.get(&track_key) else { return };
        let waited =
            participant.awaited.contains_key(&track.info.sid) || participant.denied.contains(&track_key);
        let wants_all = participant.client.auto_subscribe && !participant.declined.contains(&track.info.sid);
        if track.is_live() && (waited || wants_all) {
            participant.awaited.remove(&track.info.sid);
            self.subscribe(now, key, track_key);
        }
    }

    /// Whether somebody may subscribe to a track; `None` if either is not there.
    pub(super) fn is_admitted(&self, key: ParticipantKey, track: TrackKey) -> Option<bool> {
        let participant = self.participants.get(&key)?;
        let track = self.tracks.get(&track)?;
        let publisher = self.participants.get(&track.publisher)?;
        Some(
            participant.permission.can_subscribe
                && publisher.key != key
                && publisher.admits(participant, &track.info.sid),
        )
    }

    /// Remembers that somebody wants a track that its publisher does not let it have, and says so once.
    pub(super) fn deny(&mut self, key: ParticipantKey, track: TrackKey) {
        if self.participants.get_mut(&key).is_some_and(|participant| participant.denied.insert(track)) {
            self.tell_admission(key, track, false);
        }
    }

    fn subscribe(&mut self, now: Moment, key: ParticipantKey, track_key: TrackKey) {
        let Some(admitted) = self.is_admitted(key, track_key) else { return };
        let Some(track) = self.tracks.get_mut(&track_key) else { return };
        let publisher_key = track.publisher;
        let Some(publisher) = self.participants.get(&publisher_key).map(|publisher| publisher.sid.clone())
        else {
            return;
        };
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if !admitted {
            if participant.permission.can_subscribe && publisher_key != key {
                self.deny(key, track_key);
            }
            return;
        }
        participant.denied.remove(&track_key);
        if participant.subscriptions.contains_key(&track_key) {
            return;
        }
        // Who tells the size of each video begins small.
        let quality = if participant.client.adaptive_stream { VideoQuality::Low } else { VideoQuality::High };
        let wishes = Wishes { disabled: false, width: 0, height: 0, quality, priority: 0 };
        let first = u16::try_from(self.randomness.below(1 << 14)).unwrap_or(0);
        participant.subscriptions.insert(
            track_key,
            Subscription { forwarder: Forwarder::new(first), mid: None, wishes, paused: None },
        );
        track.subscribers.push(key);
        let label = track.label(&publisher);
        match participant.client.path {
            Path::Single => participant.answering.subscribe(now.at, track_key, track.kind, label),
            Path::Dual => participant.offering.subscribe(now.at, track_key, track.kind, label),
        }
    }

    /// The section of a subscription is agreed: packets can go.
    pub(super) fn start_subscription(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        track_key: TrackKey,
        mid: Mid,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(subscription) = participant.subscriptions.get_mut(&track_key) else { return };
        subscription.mid = Some(mid);
        // Another section is another stream, whose numbers begin low.
        let first = u16::try_from(self.randomness.below(1 << 14)).unwrap_or(0);
        subscription.forwarder = Forwarder::new(first);
        if let Some(track) = self.tracks.get(&track_key) {
            let subscribed = TrackSubscribed { track_sid: track.info.sid.clone() };
            self.say(track.publisher, Message::TrackSubscribed(subscribed));
        }
        self.allocate(now, key);
        self.update_demand(now, track_key);
    }

    /// Ends a subscription.
    pub(super) fn unsubscribe(&mut self, now: Moment, key: ParticipantKey, track_key: TrackKey) {
        self.forget_subscription(key, track_key);
        self.close_subscription(now, key, track_key);
        self.update_demand(now, track_key);
    }

    /// Takes somebody off the list of a track.
    pub(super) fn forget_subscription(&mut self, key: ParticipantKey, track_key: TrackKey) {
        if let Some(track) = self.tracks.get_mut(&track_key) {
            track.subscribers.retain(|subscriber| *subscriber != key);
        }
    }

    /// Ends the sending of a track to somebody.
    pub(super) fn close_subscription(&mut self, now: Moment, key: ParticipantKey, track_key: TrackKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if participant.subscriptions.remove(&track_key).is_some() {
            match participant.client.path {
                Path::Single => participant.answering.unsubscribe(now.at, track_key),
                Path::Dual => {
                    let mid = participant.offering.unsubscribe(now.at, track_key);
                    if let Some(mid) = mid {
                        self.command(key, PeerKind::Subscriber, super::Command::RenewStream(mid));
                    }
                    mid
                }
            };
        }
    }

    /// A client chooses what it wants.
    pub(super) fn update_subscription(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        update: &UpdateSubscription,
    ) {
        let of_participants = update.participant_tracks.iter().flat_map(|tracks| &tracks.track_sids);
        let sids: BTreeSet<String> =
            update.track_sids.iter().chain(of_participants).take(MAXIMUM_REQUESTED).cloned().collect();
        let live = self.tracks.iter().filter(|(_, track)| track.is_live());
        let named: HashMap<String, TrackKey> = live
            .filter(|(_, track)| sids.contains(&track.info.sid))
            .map(|(key, track)| (track.info.sid.clone(), *key))
            .collect();
        for sid in sids {
            let track = named.get(&sid).copied();
            let Some(participant) = self.participants.get_mut(&key) else { return };
            if update.subscribe {
                participant.declined.remove(&sid);
                match track {
                    Some(track) => self.subscribe(now, key, track),
                    None if participant.awaited.len() < MAXIMUM_NAMED => {
                        participant.awaited.insert(sid, now.at + AWAIT);
                    }
                    None => {}
                }
            } else {
                participant.awaited.remove(&sid);
                if participant.declined.len() < MAXIMUM_NAMED {
                    participant.declined.insert(sid);
                }
                if let Some(track) = track {
                    participant.denied.remove(&track);
                    self.unsubscribe(now, key, track);
                }
            }
        }
        self.negotiate(now, key);
    }

    /// Tells those who waited long enough that what they wait for is not there.
    pub(super) fn give_up_waiting(&mut self, now: Moment, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let is_over = |until: &Instant| *until <= now.at;
        let over = participant.awaited.iter().filter(|(_, until)| is_over(until));
        let given_up: Vec<String> = over.map(|(sid, _)| sid.clone()).collect();
        participant.awaited.retain(|_, until| !is_over(until));
        for track_sid in given_up {
            let err = SubscriptionError::SeTrackNotfound.into();
            self.say(key, Message::SubscriptionResponse(SubscriptionResponse { track_sid, err }));
        }
    }

    /// A client says how large it shows its videos.
    pub(super) fn update_track_settings(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        settings: &UpdateTrackSettings,
    ) {
        let named: BTreeSet<&str> =
            settings.track_sids.iter().take(MAXIMUM_REQUESTED).map(String::as_str).collect();
        let wishes = Wishes {
            disabled: settings.disabled,
            width: settings.width,
            height: settings.height,
            quality: settings.quality(),
            priority: settings.priority.min(1_000),
        };
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let mut changed = Vec::new();
        for (track_key, subscription) in &mut participant.subscriptions {
            let is_meant =
                self.tracks.get(track_key).is_some_and(|track| named.contains(track.info.sid.as_str()));
            if is_meant && subscription.wishes != wishes {
                subscription.wishes = wishes;
                changed.push(*track_key);
            }
        }
        for track in changed {
            self.update_demand(now, track);
        }
        self.allocate(now, key);
    }

    /// The largest layer that somebody wants of a track; `None` if nothing.
    pub(super) fn wanted_layer(&self, key: ParticipantKey, track_key: TrackKey) -> Option<usize> {
        let subscription = self.participants.get(&key)?.subscriptions.get(&track_key)?;
        let track = self.tracks.get(&track_key)?;
        let Wishes { disabled, width, height, quality, .. } = subscription.wishes;
        if disabled || quality == VideoQuality::Off {
            return None;
        }
        Some(match (track.kind, width.max(height)) {
            (MediaKind::Audio, _) => 0,
            (MediaKind::Video, 0) => track.layers.of_quality(quality),
            (MediaKind::Video, _) => track.layers.of_size(width, height),
        })
    }
}
