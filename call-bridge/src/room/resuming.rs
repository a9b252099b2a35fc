use std::time::Duration;

use super::{Moment, Newcomer, ParticipantKey, Refusal, Room};
use crate::{
    proto::{
        DisconnectReason, ParticipantUpdate, ReconnectResponse, RoomUpdate, SyncState, leave_request::Action,
        signal_response::Message,
    },
    session::Path,
    token::Claims,
};

/// How often clients get a new token to come back with.
const REFRESH_TOKEN_EVERY: Duration = Duration::from_secs(300);

impl Room {
    /// A participant goes on with another signalling connection.
    pub(super) fn resume(
        &mut self,
        now: Moment,
        sid: &str,
        newcomer: Newcomer,
    ) -> Result<ParticipantKey, Refusal> {
        let Newcomer { connection, claims, parameters } = newcomer;
        let key = *self.identities.get(&claims.sub).ok_or(Refusal::UnknownSession)?;
        let participant = self.participants.get_mut(&key).ok_or(Refusal::UnknownSession)?;
        if participant.sid != sid || participant.client.path != parameters.path {
            return Err(Refusal::UnknownSession);
        }
        participant.connection = Some(connection);
        participant.presence.signal_lost = None;
        participant.presence.heard = now.at;
        let last_message_seq = participant.sent_data.last_sequence();
        match participant.client.path {
            Path::Single => participant.answering.renegotiate(now.at),
            Path::Dual => participant.offering.restart(now.at),
        }
        let account = participant.relay_account().to_owned();
        let ice_servers = self.ice_servers(now, &account);
        self.say(
            key,
            Message::Reconnect(ReconnectResponse {
                ice_servers,
                server_info: Some(self.server_info()),
                last_message_seq,
            }),
        );
        self.tell_everything(key);
        self.repeat_demand(key);
        self.refresh_token(now, key);
        if let Some(state) = parameters.sync_state {
            self.synchronise(now, key, &state);
        }
        if let Some(offer) = parameters.offer {
            self.take_offer(now, key, &offer);
        }
        self.negotiate(now, key);
        Ok(key)
    }

    fn tell_everything(&mut self, key: ParticipantKey) {
        if let Some(participant) = self.participants.get_mut(&key) {
            participant.version += 1;
        }
        let visible = self.participants.values().filter(|other| other.key == key || !other.permission.hidden);
        let participants = visible.map(|other| other.info(&self.tracks)).collect();
        self.say(key, Message::Update(ParticipantUpdate { participants }));
        self.say(key, Message::RoomUpdate(RoomUpdate { room: Some(self.info()) }));
    }

    /// The client says where it stands. If it publishes what we do not know, it has to begin anew.
    pub(super) fn synchronise(&mut self, now: Moment, key: ParticipantKey, state: &SyncState) {
        let Some(participant) = self.participants.get(&key) else { return };
        let is_known = |sid: &str| {
            let published = participant.tracks.keys().filter_map(|track| self.tracks.get(track));
            published
                .map(|track| &track.info)
                .chain(participant.announced.iter().map(|track| &track.info))
                .any(|info| info.sid == sid)
        };
        let unknown = state
            .publish_tracks
            .iter()
            .filter_map(|published| published.track.as_ref())
            .any(|track| !is_known(&track.sid));
        if unknown {
            self.dismiss(now, key, DisconnectReason::StateMismatch, Action::Reconnect);
            return;
        }
        if let Some(subscription) = &state.subscription {
            self.update_subscription(now, key, subscription);
        }
        self.replay_data(now, key, &state.datachannel_receive_states);
    }

    /// Sends a token to come back with, when it is time.
    pub(super) fn refresh_token(&mut self, now: Moment, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if now.at < participant.refresh_token_at {
            return;
        }
        participant.refresh_token_at = now.at + REFRESH_TOKEN_EVERY;
        let mut video = participant.grant.clone().with_permission(&participant.permission);
        // Who was in the room comes back even if the room is gone, because this program was started again: not everybody's clients can
        // wait for who may make it. Only a token with an owner, for whom admission is asked again, is good for nothing else.
        video.room_create |= !participant.owner.is_empty();
        let claims = Claims {
            sub: participant.identity.clone(),
            name: participant.name.clone(),
            metadata: participant.metadata.clone(),
            attributes: participant.attributes.clone(),
            owner: participant.owner.clone(),
            quota_user: participant.quota_user.clone(),
            video,
            ..Claims::default()
        };
        let token = self.settings.api_key.sign(claims, now.time, self.settings.token_lifetime);
        self.say(key, Message::RefreshToken(token));
    }
}
