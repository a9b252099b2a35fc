use std::collections::BTreeSet;

use super::{Command, Moment, ParticipantKey, PeerKind, Room, TrackKey, participant::Unclaimed};
use crate::{
    proto::{SessionDescription, signal_response::Message},
    session::{self, Path, Section, SectionKind},
    transport::{Mid, Offer, TransportError},
};

/// Sections that wait to be announced.
const MAXIMUM_UNCLAIMED: usize = 64;
/// Offers that wait to be answered.
const MAXIMUM_OWED: usize = 8;

impl Room {
    /// The client offers a session.
    pub(super) fn take_offer(&mut self, now: Moment, key: ParticipantKey, offer: &SessionDescription) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if participant.owed_answers.len() >= MAXIMUM_OWED {
            return;
        }
        let Some(plan) = participant.answering.plan(now.at, &offer.sdp) else {
            tracing::debug!(participant = %participant.sid, "an offer cannot be read");
            return;
        };
        let renewed: Vec<Mid> = plan.placed.iter().map(|(_, mid)| *mid).collect();
        participant.owed_answers.push_back((offer.id, plan.placed));
        self.read_sections(now, key, plan.sections);
        for mid in renewed {
            self.command(key, PeerKind::Publisher, Command::RenewStream(mid));
        }
        self.command(key, PeerKind::Publisher, Command::Answer(plan.offer));
    }

    /// What the client publishes in an offer, and what no longer.
    fn read_sections(&mut self, now: Moment, key: ParticipantKey, sections: Vec<Section>) {
        let sending: BTreeSet<String> =
            sections.iter().filter(|section| section.sends()).map(|section| section.mid.clone()).collect();
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let ended: Vec<TrackKey> = participant
            .tracks
            .iter()
            .filter(|(_, mid)| !sending.contains(&mid.to_string()))
            .map(|(track, _)| *track)
            .collect();
        participant.unclaimed.retain(|section| sending.contains(&section.mid.to_string()));
        for section in sections.into_iter().filter(Section::sends) {
            let SectionKind::Media(kind) = section.kind else { continue };
            let mid = Mid::from(section.mid.as_str());
            let is_known = participant.tracks.values().any(|known| *known == mid)
                || participant.unclaimed.iter().any(|unclaimed| unclaimed.mid == mid);
            if !is_known && participant.unclaimed.len() < MAXIMUM_UNCLAIMED {
                let (label, rids) = (section.label, section.rids);
                participant.unclaimed.push(Unclaimed { mid, kind, label, rids });
            }
        }
        for track in ended {
            self.unpublish(now, track);
        }
        self.match_sections(key);
    }

    /// The transport answered an offer, or could not.
    pub(crate) fn answered(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        answer: Result<String, TransportError>,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some((id, placed)) = participant.owed_answers.pop_front() else { return };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::info!(participant = %participant.sid, %error, "an offer cannot be answered");
                return;
            }
        };
        let (sdp, mid_to_track_id) = participant.answering.finish(&answer);
        let tracks = &self.tracks;
        let redundant = participant.tracks.iter().filter_map(|(track, mid)| {
            let track = tracks.get(track)?;
            (!track.info.disable_red).then(|| mid.to_string())
        });
        let redundant: BTreeSet<String> = redundant.collect();
        let sdp = session::with_plain_sound(&sdp, |mid| redundant.contains(mid));
        let answer = SessionDescription { r#type: "answer".to_owned(), sdp, id, mid_to_track_id };
        self.say(key, Message::Answer(answer));
        for (track, mid) in placed {
            self.start_subscription(now, key, track, mid);
        }
    }

    /// Says or does what is due on the way to a session as it should be.
    pub(super) fn negotiate(&mut self, now: Moment, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        match participant.client.path {
            Path::Single => {
                if let Some(requirement) = participant.answering.requirement(now.at) {
                    self.say(key, Message::MediaSectionsRequirement(requirement));
                }
            }
            Path::Dual => {
                if let Some(changes) = participant.offering.changes(now.at) {
                    self.command(key, PeerKind::Subscriber, Command::Offer(changes));
                }
            }
        }
    }

    /// The transport made an offer.
    pub(crate) fn offered(&mut self, key: ParticipantKey, offer: &Offer) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some((id, sdp, mid_to_track_id)) = participant.offering.offered(offer) else { return };
        let offer = SessionDescription { r#type: "offer".to_owned(), sdp, id, mid_to_track_id };
        self.say(key, Message::Offer(offer));
    }

    /// The client answers our offer.
    pub(super) fn take_answer(&mut self, key: ParticipantKey, answer: SessionDescription) {
        let Some(participant) = self.participants.get(&key) else { return };
        let readable = answer.sdp.len() <= crate::session::MAXIMUM_SDP;
        if readable && participant.offering.expects(answer.id) {
            self.command(key, PeerKind::Subscriber, Command::AcceptAnswer(answer.sdp));
        }
    }

    /// The transport took an answer, or could not.
    pub(crate) fn answer_accepted(
        &mut self,
        now: Moment,
        key: ParticipantKey,
        accepted: Result<(), TransportError>,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if let Err(error) = accepted {
            tracing::info!(participant = %participant.sid, %error, "an answer cannot be taken");
            return;
        }
        for (track, mid) in participant.offering.answered(now.at) {
            self.start_subscription(now, key, track, mid);
        }
        self.negotiate(now, key);
    }
}
