//! What `RoomService` asks of a room.

use std::sync::Arc;

use prost::Message as _;

use super::{MAXIMUM_METADATA, Moment, ParticipantKey, Room, data::Destinations};
use crate::{
    proto::{
        DataPacket, DisconnectReason, MuteTrackRequest, ParticipantInfo, ParticipantTracks, SendDataRequest,
        TrackInfo, UpdateParticipantRequest, UpdateSubscription, UserPacket, data_packet::Kind,
        leave_request::Action, signal_response::Message,
    },
    transport::DataChannel,
};

/// Why a room does not do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AdminError {
    /// Nobody of this identity is there.
    #[error("participant does not exist")]
    NoParticipant,
    /// The participant has no such track.
    #[error("track is not found")]
    NoTrack,
    /// Something is too long.
    #[error("the metadata, the name, the attributes or the data are too large")]
    TooLarge,
}

/// The largest message that is sent for `SendData`, in bytes.
const MAXIMUM_DATA: usize = 64 * 1_024;

impl Room {
    /// Who is there.
    pub(crate) fn list_participants(&self) -> Vec<ParticipantInfo> {
        self.participants.values().map(|participant| participant.info(&self.tracks)).collect()
    }

    /// Somebody who is there.
    pub(crate) fn get_participant(&self, identity: &str) -> Result<ParticipantInfo, AdminError> {
        let key = self.by_identity(identity)?;
        let participant = self.participants.get(&key).ok_or(AdminError::NoParticipant)?;
        Ok(participant.info(&self.tracks))
    }

    /// Throws somebody out.
    pub(crate) fn remove_participant(&mut self, now: Moment, identity: &str) -> Result<(), AdminError> {
        let key = self.by_identity(identity)?;
        self.dismiss(now, key, DisconnectReason::ParticipantRemoved, Action::Disconnect);
        Ok(())
    }

    /// Whom the application takes the participants for; some more than once.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &str> {
        let owners = self.participants.values().map(|participant| participant.owner.as_str());
        owners.filter(|owner| !owner.is_empty())
    }

    fn of_owner(&self, owner: &str) -> Vec<ParticipantKey> {
        let is_theirs =
            |participant: &&super::participant::Participant| !owner.is_empty() && participant.owner == owner;
        self.participants.values().filter(is_theirs).map(|participant| participant.key).collect()
    }

    /// Lets all participants of an owner publish, or no longer; answers for how many that is new.
    pub(crate) fn permit_owner(&mut self, now: Moment, owner: &str, may_publish: bool) -> usize {
        let mut changed = 0;
        for key in self.of_owner(owner) {
            let Some(participant) = self.participants.get(&key) else { continue };
            let mut permission = participant.permission.clone();
            if permission.can_publish == may_publish && permission.can_publish_data == may_publish {
                continue;
            }
            permission.can_publish = may_publish;
            permission.can_publish_data = may_publish;
            self.set_permission(now, key, permission);
            changed += 1;
        }
        changed
    }

    /// Throws all participants of an owner out; answers how many there were.
    pub(crate) fn remove_owner(&mut self, now: Moment, owner: &str) -> usize {
        let keys = self.of_owner(owner);
        for key in &keys {
            self.dismiss(now, *key, DisconnectReason::ParticipantRemoved, Action::Disconnect);
        }
        keys.len()
    }

    fn by_identity(&self, identity: &str) -> Result<ParticipantKey, AdminError> {
        self.identities.get(identity).copied().ok_or(AdminError::NoParticipant)
    }

    /// Mutes a track, or lets it be unmuted.
    pub(crate) fn mute_track(
        &mut self,
        identity: &str,
        sid: &str,
        muted: bool,
    ) -> Result<TrackInfo, AdminError> {
        let key = self.by_identity(identity)?;
        let of_it = |track: &&mut super::track::Track| track.publisher == key && track.info.sid == sid;
        let track = self.tracks.values_mut().find(of_it).ok_or(AdminError::NoTrack)?;
        track.info.muted = muted;
        let info = track.info.clone();
        self.say(key, Message::Mute(MuteTrackRequest { sid: sid.to_owned(), muted }));
        self.tell_of(key, false);
        Ok(info)
    }

    /// Changes what somebody is called and may do.
    pub(crate) fn update_participant(
        &mut self,
        now: Moment,
        request: UpdateParticipantRequest,
    ) -> Result<ParticipantInfo, AdminError> {
        let key = self.by_identity(&request.identity)?;
        if !self.change_participant(key, request.metadata, request.name, request.attributes) {
            return Err(AdminError::TooLarge);
        }
        if let Some(permission) = request.permission {
            self.set_permission(now, key, permission);
        }
        self.get_participant(&request.identity)
    }

    fn set_permission(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        permission: crate::proto::ParticipantPermission,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let sources = permission.can_publish_sources.clone();
        let may_publish = permission.can_publish;
        let may_subscribe = permission.can_subscribe;
        participant.permission = permission;
        // A new token must not say more than is allowed now.
        participant.refresh_token_at = now.at;
        let published: Vec<_> = participant.tracks.keys().copied().collect();
        let subscribed: Vec<_> = participant.subscriptions.keys().copied().collect();
        participant.announced.retain(|announced| {
            may_publish && (sources.is_empty() || sources.contains(&announced.info.source))
        });
        for track in published {
            let source = self.tracks.get(&track).map(|track| track.info.source);
            let may =
                may_publish && (sources.is_empty() || source.is_some_and(|source| sources.contains(&source)));
            if !may {
                self.withdraw(now, track);
            }
        }
        if may_subscribe {
            self.subscribe_to_all(now, key);
        } else {
            for track in subscribed {
                self.unsubscribe(now, key, track);
            }
        }
        self.tell_of(key, true);
        self.refresh_token(now, key);
    }

    /// Subscribes somebody to something, or ends that.
    pub(crate) fn update_subscriptions(
        &mut self,
        now: Moment,
        identity: &str,
        track_sids: Vec<String>,
        participant_tracks: Vec<ParticipantTracks>,
        subscribe: bool,
    ) -> Result<(), AdminError> {
        let key = self.by_identity(identity)?;
        self.update_subscription(now, key, &UpdateSubscription { track_sids, subscribe, participant_tracks });
        Ok(())
    }

    /// Sends a message to all or some.
    pub(crate) fn send_from_server(&mut self, request: SendDataRequest) -> Result<(), AdminError> {
        if request.data.len() > MAXIMUM_DATA {
            return Err(AdminError::TooLarge);
        }
        let channel = match request.kind() {
            Kind::Reliable => DataChannel::Reliable,
            Kind::Lossy => DataChannel::Lossy,
        };
        let packet = DataPacket {
            kind: request.kind,
            destination_identities: request.destination_identities.clone(),
            user: Some(UserPacket {
                payload: request.data,
                destination_sids: request.destination_sids.clone(),
                destination_identities: request.destination_identities.clone(),
                topic: request.topic,
                ..UserPacket::default()
            }),
            ..DataPacket::default()
        };
        let bytes: Arc<[u8]> = packet.encode_to_vec().into();
        let to = Destinations::new(request.destination_identities, request.destination_sids);
        self.send_data(None, channel, &to, &bytes);
        Ok(())
    }

    /// Changes the room's free text.
    pub(crate) fn set_metadata(&mut self, metadata: String) -> Result<crate::proto::Room, AdminError> {
        if metadata.len() > MAXIMUM_METADATA {
            return Err(AdminError::TooLarge);
        }
        self.options.metadata = metadata;
        self.tell_room();
        Ok(self.info())
    }
}
