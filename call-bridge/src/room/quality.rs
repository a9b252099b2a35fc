use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Moment, ParticipantKey, PeerKind, Room, participant::Participant};
use crate::{
    CallFigures, ConnectionFigures, ParticipantFigures, PublishedFigures, SubscribedFigures,
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
    publisher: Option<Noted>,
    subscriber: Option<Noted>,
    told: Option<ConnectionQuality>,
    next_at: Option<Instant>,
}

/// The newest figures of a peer connection.
#[derive(Clone, Copy, Debug)]
struct Noted {
    figures: Figures,
    at: Instant,
    /// Bits per second since those before.
    bitrate_to: u64,
    bitrate_from: u64,
}

impl Noted {
    fn new(before: Option<Self>, figures: Figures, at: Instant) -> Self {
        let mut noted = Self { figures, at, bitrate_to: 0, bitrate_from: 0 };
        if let Some(before) = before {
            let passed = at.saturating_duration_since(before.at).as_millis();
            let millis = u64::try_from(passed).unwrap_or(u64::MAX).max(1);
            let rate = |then: u64, now: u64| now.saturating_sub(then).saturating_mul(8_000) / millis;
            noted.bitrate_to = rate(before.figures.bytes_to, figures.bytes_to);
            noted.bitrate_from = rate(before.figures.bytes_from, figures.bytes_from);
        }
        noted
    }
}

impl Quality {
    /// The newest figures of a peer connection.
    pub(super) fn note(&mut self, peer: PeerKind, figures: Figures, now: Instant) {
        let noted = match peer {
            PeerKind::Publisher => &mut self.publisher,
            PeerKind::Subscriber => &mut self.subscriber,
        };
        *noted = Some(Noted::new(*noted, figures, now));
    }

    fn judge(&self, reachable: bool) -> (ConnectionQuality, f32) {
        if !reachable {
            return (ConnectionQuality::Lost, 0.0);
        }
        let figures = || self.publisher.iter().chain(&self.subscriber).map(|noted| &noted.figures);
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
    /// How the room and everybody in it fare.
    pub(crate) fn figures(&self, now: Moment) -> CallFigures {
        let participants = self.participants.values().map(|participant| self.figures_of(now, participant));
        CallFigures { room: self.name.to_string(), participants: participants.collect() }
    }

    fn figures_of(&self, now: Moment, participant: &Participant) -> ParticipantFigures {
        let quality = &participant.quality;
        let (judged, _) = quality.judge(participant.is_reachable());
        let connection = |(peer, noted): (PeerKind, Option<Noted>)| {
            let Noted { figures, bitrate_to, bitrate_from, .. } = noted?;
            let is_ours = |remote: SocketAddr| {
                let ours = &self.settings.addresses;
                ours.iter().any(|own| own.local == remote.ip() || own.advertised == remote.ip())
            };
            Some(ConnectionFigures {
                local: figures.local,
                remote: figures.remote,
                is_relayed: self.settings.turn.is_some() && figures.remote.is_some_and(is_ours),
                loss_to: figures.loss_to,
                loss_from: figures.loss_from,
                jitter: figures.jitter,
                round_trip: figures.round_trip,
                bitrate_to,
                bitrate_from,
                estimate: participant.bandwidth.filter(|_| participant.receiving_peer() == peer),
            })
        };
        let connections =
            [(PeerKind::Publisher, quality.publisher), (PeerKind::Subscriber, quality.subscriber)];
        let published = participant.tracks.keys().filter_map(|key| self.tracks.get(key));
        let published = published.map(|track| PublishedFigures {
            track: track.info.sid.clone(),
            source: track.info.source().as_str_name(),
            muted: track.info.muted,
            layers: track.layers.arriving(now.at).collect(),
        });
        let subscribed = participant.subscriptions.iter().filter_map(|(key, subscription)| {
            let track = self.tracks.get(key)?;
            Some(SubscribedFigures {
                track: track.info.sid.clone(),
                layer: subscription.forwarder.current(),
                layers: track.layers.len(),
                paused: subscription.paused.is_some(),
            })
        });
        ParticipantFigures {
            identity: participant.identity.clone(),
            owner: participant.owner.clone(),
            quality: judged.as_str_name(),
            connections: connections.into_iter().filter_map(connection).collect(),
            published: published.collect(),
            subscribed: subscribed.collect(),
        }
    }

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

    /// Tells somebody who has just come how the connections of the others are.
    pub(super) fn tell_all_quality(&mut self, key: ParticipantKey) {
        let told = self.participants.values().filter(|other| other.key != key && !other.permission.hidden);
        let updates: Vec<ConnectionQualityInfo> = told
            .filter_map(|other| {
                let quality = other.quality.told?;
                let (_, score) = other.quality.judge(other.is_reachable());
                Some(ConnectionQualityInfo {
                    participant_sid: other.sid.clone(),
                    quality: quality.into(),
                    score,
                })
            })
            .collect();
        if !updates.is_empty() {
            self.say(key, Message::ConnectionQuality(ConnectionQualityUpdate { updates }));
        }
    }
}

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, SystemClock};

    use super::*;

    #[test]
    fn connections_are_judged_by_their_worst_part() {
        let now = SystemClock.monotonic();
        let mut quality = Quality::default();
        assert_eq!(quality.judge(false).0, ConnectionQuality::Lost);
        assert_eq!(quality.judge(true).0, ConnectionQuality::Excellent);
        quality.note(PeerKind::Publisher, Figures { loss_from: Some(0.05), ..Figures::default() }, now);
        assert_eq!(quality.judge(true).0, ConnectionQuality::Good);
        let slow = Some(Duration::from_secs(1));
        quality.note(PeerKind::Subscriber, Figures { round_trip: slow, ..Figures::default() }, now);
        assert_eq!(quality.judge(true).0, ConnectionQuality::Poor);
    }
}
