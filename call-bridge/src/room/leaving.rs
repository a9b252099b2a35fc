use std::time::Duration;

use super::{ConnectionKey, Moment, Output, ParticipantKey, Room, joining::PING_TIMEOUT};
use crate::{
    CallEvent,
    proto::{
        DisconnectReason, LeaveRequest, ParticipantUpdate, leave_request::Action, participant_info::State,
        signal_response::Message,
    },
};

/// Who cannot be reached by media for this long, although it is signalling, has to connect anew.
const MEDIA_WITHIN: Duration = Duration::from_secs(30);
/// Who is not signalling for this long is gone, even if media still flows.
const SIGNAL_WITHIN: Duration = Duration::from_secs(60);

/// What `leave` a client is told.
pub(crate) fn leave(reason: DisconnectReason, action: Action) -> Message {
    Message::Leave(LeaveRequest {
        can_reconnect: action != Action::Disconnect,
        reason: reason.into(),
        action: action.into(),
    })
}

impl Room {
    /// A signalling connection is gone. The participant may come back.
    pub(crate) fn signal_lost(&mut self, now: Moment, key: ParticipantKey, connection: ConnectionKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if participant.connection == Some(connection) {
            participant.connection = None;
            participant.presence.signal_lost = Some(now.at);
        }
    }

    /// Ends the signalling connections on which clients no longer ping: they are gone, although nobody said so.
    pub(super) fn hang_up_on_the_silent(&mut self, now: Moment) {
        let silent = self.participants.values().filter_map(|participant| {
            let silence = now.at.saturating_duration_since(participant.presence.heard);
            let connection = participant.connection.filter(|_| silence >= PING_TIMEOUT)?;
            Some((participant.key, connection))
        });
        for (key, connection) in silent.collect::<Vec<_>>() {
            self.signal_lost(now, key, connection);
            self.outputs.push(Output::CloseSignal(key));
        }
    }

    /// Removes those who did not come back in time.
    pub(super) fn drop_the_gone(&mut self, now: Moment) {
        let within = self.settings.resume_within;
        let has_passed = |since: Option<std::time::Instant>, patience: Duration| {
            since.is_some_and(|since| now.at.saturating_duration_since(since) >= patience)
        };
        let gone = self.participants.values().filter_map(|participant| {
            let presence = &participant.presence;
            let left = presence.awaited_until(within).is_some_and(|until| now.at >= until);
            if left || has_passed(presence.signal_lost, SIGNAL_WITHIN) {
                return Some((participant.key, DisconnectReason::SignalClose));
            }
            let unreachable = presence.signal_lost.is_none() && has_passed(presence.media_lost, MEDIA_WITHIN);
            // Who neither publishes nor subscribes needs no media.
            let needs_media = !participant.tracks.is_empty() || !participant.subscriptions.is_empty();
            (unreachable && needs_media).then_some((participant.key, DisconnectReason::ConnectionTimeout))
        });
        let gone: Vec<_> = gone.collect();
        for (key, reason) in gone {
            self.dismiss(now, key, reason, Action::Reconnect);
        }
    }

    /// Whoever was here under this identity is replaced.
    pub(super) fn replace_predecessor(&mut self, now: Moment, identity: &str) {
        if let Some(key) = self.identities.get(identity).copied() {
            self.dismiss(now, key, DisconnectReason::DuplicateIdentity, Action::Disconnect);
        }
    }

    /// Tells a participant to leave, and removes it.
    pub(super) fn dismiss(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        reason: DisconnectReason,
        action: Action,
    ) {
        self.say(key, leave(reason, action));
        self.remove(now, key, reason);
    }

    /// Removes a participant.
    pub(super) fn remove(&mut self, now: Moment, key: ParticipantKey, reason: DisconnectReason) {
        let Some(participant) = self.participants.get(&key) else { return };
        let tracks: Vec<_> = participant.tracks.keys().copied().collect();
        let subscriptions: Vec<_> = participant.subscriptions.keys().copied().collect();
        for track in tracks {
            self.drop_track(now, track);
        }
        for track in &subscriptions {
            self.forget_subscription(key, *track);
        }
        self.outputs.push(Output::CloseSignal(key));
        self.outputs.push(Output::Gone(key));
        let Some(mut participant) = self.participants.remove(&key) else { return };
        // Another may have taken the identity already.
        if self.identities.get(&participant.identity) == Some(&key) {
            self.identities.remove(&participant.identity);
        }
        self.speakers.forget(key);
        let was_reached = participant.state == State::Active;
        participant.state = State::Disconnected;
        participant.version += 1;
        let mut info = participant.info(&self.tracks);
        info.disconnect_reason = reason.into();
        if !participant.permission.hidden {
            let participants = vec![info.clone()];
            self.say_to_others(None, &Message::Update(ParticipantUpdate { participants }));
        }
        self.outputs.push(Output::Event(CallEvent::ParticipantLeft {
            room: Box::new(self.info()),
            participant: Box::new(info),
            was_reached,
            reason: reason.as_str_name(),
        }));
        for track in subscriptions {
            self.update_demand(now, track);
        }
        if self.participants.is_empty() {
            self.empty_since = Some(now.at);
            self.last_user = participant.quota_user;
        }
    }

    /// Ends the room for everybody.
    pub(crate) fn close(&mut self, now: Moment, reason: DisconnectReason, action: Action) {
        let keys: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        for key in keys {
            self.dismiss(now, key, reason, action);
        }
        self.empty_since.get_or_insert(now.at);
        if !std::mem::replace(&mut self.closed, true) && self.was_used {
            let room = Box::new(self.info());
            self.outputs.push(Output::Event(CallEvent::RoomFinished { room }));
        }
    }
}
