use std::collections::{BTreeSet, HashMap};

use super::{Moment, ParticipantKey, Room, TrackKey};
use crate::proto::{SubscriptionPermission, SubscriptionPermissionUpdate, signal_response::Message};

/// Participants whom one can admit one by one.
const MAXIMUM_ADMITTED: usize = 1_000;

/// Whom a participant lets subscribe to what it publishes.
#[derive(Clone, Debug, Default)]
pub(super) struct Audience {
    by_sid: HashMap<String, Admission>,
    by_identity: HashMap<String, Admission>,
}

/// To what somebody may subscribe.
#[derive(Clone, Debug, Default)]
struct Admission {
    everything: bool,
    tracks: BTreeSet<String>,
}

impl Admission {
    fn extends_to(&self, track: &str) -> bool {
        self.everything || self.tracks.contains(track)
    }
}

impl Audience {
    /// Those whom a client names. Only tracks that `is_own` are remembered: of others it has no say.
    fn new(permission: SubscriptionPermission, is_own: impl Fn(&str) -> bool) -> Self {
        let mut audience = Self::default();
        for admitted in permission.track_permissions.into_iter().take(MAXIMUM_ADMITTED) {
            let everything = admitted.all_tracks;
            let tracks: BTreeSet<String> =
                admitted.track_sids.into_iter().filter(|sid| is_own(sid)).collect();
            let places = [
                (&mut audience.by_sid, admitted.participant_sid),
                (&mut audience.by_identity, admitted.participant_identity),
            ];
            for (place, name) in places {
                if !name.is_empty() {
                    let admission = place.entry(name).or_default();
                    admission.everything |= everything;
                    admission.tracks.extend(tracks.iter().cloned());
                }
            }
        }
        audience
    }

    /// How many tracks it names.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        let admissions = self.by_sid.values().chain(self.by_identity.values());
        admissions.map(|admission| admission.tracks.len()).sum()
    }

    /// Whether somebody may subscribe to a track.
    pub(super) fn admits(&self, sid: &str, identity: &str, track: &str) -> bool {
        let admissions = self.by_sid.get(sid).into_iter().chain(self.by_identity.get(identity));
        admissions.into_iter().any(|admission| admission.extends_to(track))
    }
}

impl Room {
    /// A client says who may subscribe to its tracks.
    pub(super) fn set_audience(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        permission: SubscriptionPermission,
    ) {
        let Some(participant) = self.participants.get(&key) else { return };
        let own = participant.tracks.keys().filter_map(|track| self.tracks.get(track));
        let own = own.map(|track| &track.info).chain(participant.announced.iter().map(|track| &track.info));
        let own: BTreeSet<String> = own.map(|info| info.sid.clone()).collect();
        let audience =
            (!permission.all_participants).then(|| Audience::new(permission, |sid| own.contains(sid)));
        if let Some(participant) = self.participants.get_mut(&key) {
            participant.audience = audience;
        }
        self.enforce_audience(now, key);
    }

    /// Ends the subscriptions that are no longer allowed, begins those that now are, and says so.
    fn enforce_audience(&mut self, now: Moment, publisher: ParticipantKey) {
        let Some(participant) = self.participants.get(&publisher) else { return };
        let tracks: Vec<_> = participant.tracks.keys().copied().collect();
        let others: Vec<_> = self.participants.keys().copied().filter(|other| *other != publisher).collect();
        for track in tracks {
            for other in &others {
                let Some(allowed) = self.is_admitted(*other, track) else { continue };
                let subscribed = self
                    .participants
                    .get(other)
                    .is_some_and(|other| other.subscriptions.contains_key(&track));
                if allowed == subscribed {
                    continue;
                }
                if allowed {
                    self.tell_admission(*other, track, true);
                    self.subscribe_by_itself(now, *other, track);
                } else {
                    self.unsubscribe(now, *other, track);
                    self.deny(*other, track);
                }
            }
        }
    }

    /// Tells somebody whether it may subscribe to a track.
    pub(super) fn tell_admission(&mut self, key: ParticipantKey, track_key: TrackKey, allowed: bool) {
        let Some(track) = self.tracks.get(&track_key) else { return };
        let Some(publisher) = self.participants.get(&track.publisher) else { return };
        let update = SubscriptionPermissionUpdate {
            participant_sid: publisher.sid.clone(),
            track_sid: track.info.sid.clone(),
            allowed,
        };
        self.say(key, Message::SubscriptionPermissionUpdate(update));
    }
}
