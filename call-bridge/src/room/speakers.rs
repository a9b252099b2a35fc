use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Moment, ParticipantKey, Room};
use crate::proto::{SpeakerInfo, SpeakersChanged, signal_response::Message};

/// How often it is decided who speaks.
const EVERY: Duration = Duration::from_millis(400);
/// Louder than this is speech, in -dBov.
const LOUD: u8 = 35;
/// How long somebody has to be loud in such a time.
const LOUD_FOR: Duration = Duration::from_millis(160);
/// What a packet holds at most: after silence they come far apart.
const LONGEST_PACKET: Duration = Duration::from_millis(60);
/// What a packet holds that came with those before it, or after silence.
const USUAL_PACKET: Duration = Duration::from_millis(20);
/// Levels are told in this many steps, so that not every breath is news.
const STEPS: f32 = 8.0;

/// Who speaks, by the loudness that packets tell (RFC 6464).
#[derive(Debug)]
pub(super) struct Speakers {
    heard: BTreeMap<ParticipantKey, Heard>,
    told: BTreeMap<ParticipantKey, f32>,
    next_at: Instant,
}

#[derive(Debug, Default)]
struct Heard {
    last_at: Option<Instant>,
    loud_for: Duration,
    loud: u32,
    loudness: u32,
    smooth: f32,
}

impl Speakers {
    pub(super) fn new(now: Instant) -> Self {
        Self { heard: BTreeMap::new(), told: BTreeMap::new(), next_at: now + EVERY }
    }

    /// A packet of this loudness came, in -dBov.
    pub(super) fn hear(&mut self, now: Instant, key: ParticipantKey, level: u8) {
        let heard = self.heard.entry(key).or_default();
        let passed = heard.last_at.replace(now).map(|last| now.saturating_duration_since(last));
        if level <= LOUD {
            heard.loud_for += passed.filter(|passed| *passed <= LONGEST_PACKET).unwrap_or(USUAL_PACKET);
            heard.loud += 1;
            heard.loudness += u32::from(level);
        }
    }

    /// Whether somebody was told to speak.
    pub(super) fn is_active(&self, key: ParticipantKey) -> bool {
        self.told.contains_key(&key)
    }

    /// Somebody is gone.
    pub(super) fn forget(&mut self, key: ParticipantKey) {
        self.heard.remove(&key);
        self.told.remove(&key);
    }

    /// What changed since it was asked last: levels from 0 to 1, 0 for those who stopped.
    fn changes(&mut self, now: Instant) -> Vec<(ParticipantKey, f32)> {
        if now < self.next_at {
            return Vec::new();
        }
        self.next_at = now + EVERY;
        let mut changes = Vec::new();
        for (key, heard) in &mut self.heard {
            let level = if heard.loud_for >= LOUD_FOR { linear(heard.loudness, heard.loud) } else { 0.0 };
            heard.smooth = if level == 0.0 { 0.0 } else { heard.smooth.midpoint(level) };
            heard.loud_for = Duration::ZERO;
            heard.loud = 0;
            heard.loudness = 0;
            let told = self.told.get(key).copied();
            let step = (heard.smooth * STEPS).ceil() / STEPS;
            if step == 0.0 {
                if self.told.remove(key).is_some() {
                    changes.push((*key, 0.0));
                }
            } else if told.is_none_or(|told| (told - step).abs() > f32::EPSILON) {
                self.told.insert(*key, step);
                changes.push((*key, step));
            }
        }
        changes
    }
}

/// The mean loudness, from 0 at the limit of speech to 1 at the loudest there is.
fn linear(sum: u32, count: u32) -> f32 {
    let tenths = u16::try_from(sum * 10 / count.max(1)).unwrap_or(u16::MAX);
    (1.0 - f32::from(tenths) / (f32::from(LOUD) * 10.0)).clamp(0.05, 1.0)
}

impl Room {
    /// Tells everybody who began and who stopped to speak.
    pub(super) fn tell_speakers(&mut self, now: Moment) {
        let changes = self.speakers.changes(now.at);
        let speakers: Vec<SpeakerInfo> = changes
            .into_iter()
            .filter_map(|(key, level)| {
                let participant = self.participants.get(&key)?;
                let (sid, active) = (participant.sid.clone(), level > 0.0);
                (!participant.permission.hidden).then_some(SpeakerInfo { sid, level, active })
            })
            .collect();
        if !speakers.is_empty() {
            self.say_to_others(None, &Message::SpeakersChanged(SpeakersChanged { speakers }));
        }
    }

    /// Tells somebody who has just come who speaks.
    pub(super) fn tell_who_speaks(&mut self, key: ParticipantKey) {
        let speakers: Vec<SpeakerInfo> = self
            .speakers
            .told
            .iter()
            .filter_map(|(speaker, level)| {
                let participant = self.participants.get(speaker)?;
                let sid = participant.sid.clone();
                (!participant.permission.hidden).then_some(SpeakerInfo { sid, level: *level, active: true })
            })
            .collect();
        if !speakers.is_empty() {
            self.say(key, Message::SpeakersChanged(SpeakersChanged { speakers }));
        }
    }
}

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, SystemClock};

    use super::*;

    #[test]
    fn who_is_loud_for_long_enough_speaks_until_silent() {
        let start = SystemClock.monotonic();
        let (alice, bob) = (ParticipantKey(1), ParticipantKey(2));
        let mut speakers = Speakers::new(start);
        let carol = ParticipantKey(3);
        for packet in 0_u8..20 {
            let at = start + Duration::from_millis(20) * packet.into();
            speakers.hear(at, alice, if packet < 8 { 5 } else { 127 });
            speakers.hear(at, bob, if packet < 7 { 5 } else { 127 });
        }
        // A cough: clients send nothing while all is silent.
        speakers.hear(start + Duration::from_millis(300), carol, 5);
        assert!(speakers.changes(start).is_empty(), "not yet");
        let changes = speakers.changes(start + EVERY);
        let [(who, level)] = changes[..] else { panic!("{changes:?}") };
        assert_eq!(who, alice);
        assert!(level > 0.0 && level <= 1.0 && (level * STEPS).fract() == 0.0, "{level}");
        assert!(speakers.is_active(alice));
        assert_eq!(speakers.changes(start + EVERY * 2), [(alice, 0.0)]);
        assert!(speakers.changes(start + EVERY * 3).is_empty());
    }
}
