use std::time::Duration;

use super::{Moment, ParticipantKey, Room, TrackKey};
use crate::{
    proto::{
        SubscribedCodec, SubscribedQuality, SubscribedQualityUpdate, VideoQuality, signal_response::Message,
    },
    transport::MediaKind,
};

/// That less is wanted is told after this time: who scrolls back shall not wait for an encoder.
const LOWER_AFTER: Duration = Duration::from_secs(5);
/// A video that nobody has asked for this long after it began is not needed for now.
const UNWATCHED_AFTER: Duration = Duration::from_secs(10);

impl Room {
    /// A video begins. Its publisher sends all of it until it is told otherwise.
    pub(super) fn await_demand(&mut self, now: Moment, key: TrackKey) {
        if let Some(track) = self.tracks.get_mut(&key)
            && track.kind == MediaKind::Video
            && track.demand.told.is_none()
        {
            track.demand.lower_at.get_or_insert(now.at + UNWATCHED_AFTER);
        }
    }

    /// Tells publishers what was put off.
    pub(super) fn update_publishers(&mut self, now: Moment) {
        let due: Vec<TrackKey> = self
            .tracks
            .iter()
            .filter(|(_, track)| track.demand.lower_at.is_some_and(|at| at <= now.at))
            .map(|(key, _)| *key)
            .collect();
        for track in due {
            self.update_demand(now, track);
        }
    }

    /// Tells a publisher up to which quality its video is wanted: more at once, less after a while.
    pub(super) fn update_demand(&mut self, now: Moment, key: TrackKey) {
        let Some(track) = self.tracks.get(&key) else { return };
        if track.kind != MediaKind::Video {
            return;
        }
        let wanted =
            track.subscribers.iter().filter_map(|subscriber| self.wanted_layer(*subscriber, key)).max();
        let top = track.layers.len().saturating_sub(1);
        // A single encoding is wanted or not, whatever it is called.
        let quality =
            wanted.map(|layer| if layer >= top { VideoQuality::High } else { track.layers.quality(layer) });
        let Some(track) = self.tracks.get_mut(&key) else { return };
        let demand = &mut track.demand;
        match demand.told {
            Some(told) if told == quality => demand.lower_at = None,
            Some(told) if quality < told => {
                if demand.lower_at.is_some_and(|at| at <= now.at) {
                    self.tell_demand(key, quality);
                } else {
                    demand.lower_at.get_or_insert(now.at + LOWER_AFTER);
                }
            }
            _ => self.tell_demand(key, quality),
        }
    }

    fn tell_demand(&mut self, key: TrackKey, quality: Option<VideoQuality>) {
        let Some(track) = self.tracks.get_mut(&key) else { return };
        track.demand.told = Some(quality);
        track.demand.lower_at = None;
        let qualities: Vec<SubscribedQuality> = [VideoQuality::Low, VideoQuality::Medium, VideoQuality::High]
            .map(|each| SubscribedQuality { quality: each.into(), enabled: Some(each) <= quality })
            .into();
        let codec = track.info.mime_type.rsplit('/').next().unwrap_or_default().to_lowercase();
        let update = SubscribedQualityUpdate {
            track_sid: track.info.sid.clone(),
            subscribed_qualities: qualities.clone(),
            subscribed_codecs: vec![SubscribedCodec { codec, qualities }],
        };
        let publisher = track.publisher;
        self.say(publisher, Message::SubscribedQualityUpdate(update));
    }

    /// Tells a publisher that has come back everything again.
    pub(super) fn repeat_demand(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let told = participant.tracks.keys().filter_map(|track| {
            let told = self.tracks.get(track)?.demand.told?;
            Some((*track, told))
        });
        let told: Vec<_> = told.collect();
        for (track, quality) in told {
            self.tell_demand(track, quality);
        }
    }
}
