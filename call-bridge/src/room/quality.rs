use std::time::{Duration, Instant};

use super::{Moment, PeerKind, Room};
use crate::{
    proto::{ConnectionQuality, ConnectionQualityInfo, ConnectionQualityUpdate, signal_response::Message},
    transport::Figures,
};

/// How often connections are judged.
const EVERY: Duration = Duration::from_secs(5);
/// Lost packets, from 0 to 1, up to which a connection is excellent, and up to which it is good.
const EXCELLENT_LOSS: f32 = 0.02;
const GOOD_LOSS: f32 = 0.08;
/// The same for the time there and back.
const EXCELLENT_ROUND_TRIP: Duration = Duration::from_millis(250);
const GOOD_ROUND_TRIP: Duration = Duration::from_millis(600);

/// How a participant's connections fare.
#[derive(Debug, Default)]
pub(super) struct Quality {
    publisher: Option<Figures>,
    subscriber: Option<Figures>,
    told: Option<ConnectionQuality>,
    next_at: Option<Instant>,
}

impl Quality {
    /// The newest figures of a peer connection.
    pub(super) fn note(&mut self, peer: PeerKind, figures: Figures) {
        match peer {
            PeerKind::Publisher => self.publisher = Some(figures),
            PeerKind::Subscriber => self.subscriber = Some(figures),
        }
    }

    fn judge(&self, reachable: bool) -> (ConnectionQuality, f32) {
        if !reachable {
            return (ConnectionQuality::Lost, 0.0);
        }
        let figures = || self.publisher.iter().chain(&self.subscriber);
        let losses = figures().flat_map(|figures| [figures.loss_to, figures.loss_from]).flatten();
        let loss = losses.fold(0.0, f32::max);
        let round_trip = figures().filter_map(|figures| figures.round_trip).max().unwrap_or_default();
        let score = (5.0 - loss * 20.0 - round_trip.as_secs_f32() * 2.0).clamp(1.0, 5.0);
        let quality = if loss <= EXCELLENT_LOSS && round_trip <= EXCELLENT_ROUND_TRIP {
            ConnectionQuality::Excellent
        } else if loss <= GOOD_LOSS && round_trip <= GOOD_ROUND_TRIP {
            ConnectionQuality::Good
        } else {
            ConnectionQuality::Poor
        };
        (quality, score)
    }
}

impl Room {
    /// Tells everybody whose connection became better or worse.
    pub(super) fn tell_quality(&mut self, now: Moment) {
        let mut updates = Vec::new();
        for participant in self.participants.values_mut() {
            let reachable = participant.is_reachable();
            let quality = &mut participant.quality;
            let next_at = *quality.next_at.get_or_insert(now.at + EVERY);
            if now.at < next_at {
                continue;
            }
            quality.next_at = Some(now.at + EVERY);
            let (judged, score) = quality.judge(reachable);
            if quality.told.replace(judged) != Some(judged) && !participant.permission.hidden {
                updates.push(ConnectionQualityInfo {
                    participant_sid: participant.sid.clone(),
                    quality: judged.into(),
                    score,
                });
            }
        }
        if !updates.is_empty() {
            self.say_to_others(None, &Message::ConnectionQuality(ConnectionQualityUpdate { updates }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_judged_by_their_worst_part() {
        let mut quality = Quality::default();
        assert_eq!(quality.judge(false).0, ConnectionQuality::Lost);
        assert_eq!(quality.judge(true).0, ConnectionQuality::Excellent);
        quality.note(PeerKind::Publisher, Figures { loss_from: Some(0.05), ..Figures::default() });
        assert_eq!(quality.judge(true).0, ConnectionQuality::Good);
        let slow = Some(Duration::from_secs(1));
        quality.note(PeerKind::Subscriber, Figures { round_trip: slow, ..Figures::default() });
        assert_eq!(quality.judge(true).0, ConnectionQuality::Poor);
    }
}
