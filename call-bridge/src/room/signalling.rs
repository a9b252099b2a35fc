use super::{ConnectionKey, MAXIMUM_METADATA, Moment, ParticipantKey, Room, participant::Participant};
use crate::proto::{
    DisconnectReason, MuteTrackRequest, Pong, RequestResponse, SignalRequest, UpdateLocalAudioTrack,
    UpdateLocalVideoTrack, UpdateParticipantMetadata,
    request_response::{Reason, Request},
    signal_request,
    signal_response::Message,
};

/// Attributes of a participant.
const MAXIMUM_ATTRIBUTES: usize = 256;
/// A participant's name, in bytes.
const MAXIMUM_NAME: usize = crate::token::MAXIMUM_NAME_BYTES;

impl Room {
    /// A client says something.
    pub(crate) fn signal(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        connection: ConnectionKey,
        request: SignalRequest,
    ) {
        use signal_request::Message as Request;
        // An old connection may say something late.
        let current = |participant: &&mut Participant| participant.connection == Some(connection);
        let Some(participant) = self.participants.get_mut(&key).filter(current) else { return };
        participant.presence.heard = now.at;
        // Newer clients may say what we do not know.
        let Some(message) = request.message else { return };
        match message {
            Request::Offer(offer) => self.take_offer(now, key, &offer),
            Request::Answer(answer) => self.take_answer(key, answer),
            // Clients reach us; where they think they are, we see in their packets.
            Request::Trickle(_) => {}
            Request::AddTrack(request) => self.add_track(key, request),
            Request::Mute(request) => self.mute(key, &request),
            Request::Subscription(update) => self.update_subscription(now, key, &update),
            Request::TrackSetting(settings) => self.update_track_settings(now, key, &settings),
            Request::Leave(_) => self.remove(now, key, DisconnectReason::ClientInitiated),
            Request::SubscriptionPermission(permission) => self.set_audience(now, key, permission),
            Request::SyncState(state) => self.synchronise(now, key, &state),
            Request::Ping(_) => self.say(key, Message::Pong(millis(now))),
            Request::PingReq(ping) => {
                let pong = Pong { last_ping_timestamp: ping.timestamp, timestamp: millis(now) };
                self.say(key, Message::PongResp(pong));
            }
            Request::UpdateMetadata(update) => self.update_metadata(key, update),
            Request::UpdateAudioTrack(update) => self.update_audio_track(key, update),
            Request::UpdateVideoTrack(update) => self.update_video_track(key, &update),
        }
        self.negotiate(now, key);
    }

    pub(super) fn refuse(
        &mut self,
        key: ParticipantKey,
        reason: Reason,
        message: &str,
        request: Option<Request>,
        request_id: u32,
    ) {
        let response =
            RequestResponse { request_id, reason: reason.into(), message: message.to_owned(), request };
        self.say(key, Message::RequestResponse(response));
    }

    fn mute(&mut self, key: ParticipantKey, request: &MuteTrackRequest) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if let Some(announced) =
            participant.announced.iter_mut().find(|announced| announced.info.sid == request.sid)
        {
            announced.info.muted = request.muted;
            return;
        }
        let own = participant.tracks.keys().copied();
        let track = own
            .into_iter()
            .find(|track| self.tracks.get(track).is_some_and(|track| track.info.sid == request.sid));
        match track.and_then(|track| self.tracks.get_mut(&track)) {
            Some(track) if track.info.muted != request.muted => {
                track.info.muted = request.muted;
                self.tell_of(key, false);
            }
            Some(_) => {}
            None => {
                let refused = Request::Mute(request.clone());
                self.refuse(key, Reason::NotFound, "no such track of yours", Some(refused), 0);
            }
        }
    }

    fn update_metadata(&mut self, key: ParticipantKey, update: UpdateParticipantMetadata) {
        let request_id = update.request_id;
        let may =
            self.participants.get(&key).is_some_and(|participant| participant.permission.can_update_metadata);
        if !may {
            let message = "the token does not allow to change one's own metadata";
            self.refuse(key, Reason::NotAllowed, message, Some(Request::UpdateMetadata(update)), request_id);
            return;
        }
        if self.change_participant(key, update.metadata, update.name, update.attributes) {
            self.refuse(key, Reason::Ok, "", None, request_id);
        } else {
            self.refuse(key, Reason::LimitExceeded, "the metadata is too large", None, request_id);
        }
    }

    /// Changes what is not empty; an empty attribute is removed. Answers false, and changes nothing, if it is too large.
    pub(super) fn change_participant(
        &mut self,
        key: ParticipantKey,
        metadata: String,
        name: String,
        attributes: std::collections::BTreeMap<String, String>,
    ) -> bool {
        let Some(participant) = self.participants.get_mut(&key) else { return false };
        let mut changed = participant.attributes.clone();
        for (name, value) in attributes {
            if value.is_empty() {
                changed.remove(&name);
            } else {
                changed.insert(name, value);
            }
        }
        let size: usize = changed.iter().map(|(name, value)| name.len() + value.len()).sum();
        let fits = size <= MAXIMUM_METADATA
            && changed.len() <= MAXIMUM_ATTRIBUTES
            && metadata.len() <= MAXIMUM_METADATA
            && name.len() <= MAXIMUM_NAME;
        if !fits {
            return false;
        }
        participant.attributes = changed;
        if !metadata.is_empty() {
            participant.metadata = metadata;
        }
        if !name.is_empty() {
            participant.name = name;
        }
        self.tell_of(key, true);
        true
    }

    fn update_audio_track(&mut self, key: ParticipantKey, update: UpdateLocalAudioTrack) {
        use crate::proto::AudioTrackFeature;
        let features: Vec<i32> = update.features().take(16).map(AudioTrackFeature::into).collect();
        self.change_track(key, &update.track_sid, |info| {
            info.stereo = features.contains(&AudioTrackFeature::TfStereo.into());
            info.disable_dtx = features.contains(&AudioTrackFeature::TfNoDtx.into());
            info.audio_features = features;
        });
    }

    fn update_video_track(&mut self, key: ParticipantKey, update: &UpdateLocalVideoTrack) {
        self.change_track(key, &update.track_sid, |info| {
            info.width = update.width;
            info.height = update.height;
        });
    }

    fn change_track(
        &mut self,
        key: ParticipantKey,
        sid: &str,
        change: impl FnOnce(&mut crate::proto::TrackInfo),
    ) {
        let own = |track: &&mut super::track::Track| track.publisher == key && track.info.sid == sid;
        if let Some(track) = self.tracks.values_mut().find(own) {
            change(&mut track.info);
            self.tell_of(key, false);
        } else if let Some(participant) = self.participants.get_mut(&key)
            && let Some(announced) =
                participant.announced.iter_mut().find(|announced| announced.info.sid == sid)
        {
            change(&mut announced.info);
        }
    }
}

fn millis(now: Moment) -> i64 {
    i64::try_from(now.time.millis()).unwrap_or(i64::MAX)
}
