use std::time::{Duration, Instant, SystemTime};

use str0m::rtp::{Vp8Descriptor, Vp8Patch};

use super::{keyframe::begins_stream, sequence::SequenceMap};
use crate::transport::{MediaCodec, MediaPacket, Renumbered, SenderClock};

/// Further apart, a sender's clock and the arrival of its packets are not believed to agree.
const CLOCK_TOLERANCE: f64 = 2.0;

/// What a subscriber gets of a track: one stream with continuous numbers, whichever layer it is made of.
///
/// Payloads are untouched but for the picture numbers of VP8's payload descriptor, so encrypted frames stay whole.
#[derive(Debug)]
pub(crate) struct Forwarder {
    /// The layer that is being sent.
    current: Option<usize>,
    /// The layer that shall be sent.
    target: Option<usize>,
    sequence: SequenceMap,
    timestamp_offset: u32,
    pictures: Pictures,
    last: Option<LastPacket>,
}

/// The newest packet that was sent.
#[derive(Clone, Copy, Debug)]
struct LastPacket {
    timestamp: u32,
    received_at: Instant,
    sent_at: Option<SystemTime>,
}

/// VP8's running numbers (RFC 7741, section 4.2), continuous through switches.
#[derive(Clone, Copy, Debug, Default)]
struct Pictures {
    picture_offset: u16,
    base_layer_offset: u8,
    last: Option<(u16, u8)>,
}

impl Forwarder {
    /// One that sends nothing yet; its numbers begin behind `first_sequence`.
    pub(crate) fn new(first_sequence: u16) -> Self {
        Self {
            current: None,
            target: None,
            sequence: SequenceMap::new(first_sequence),
            timestamp_offset: 0,
            pictures: Pictures::default(),
            last: None,
        }
    }

    /// Says which layer is wanted from the next keyframe on; `None` stops at once.
    pub(crate) fn set_target(&mut self, target: Option<usize>) {
        self.target = target;
        if target.is_none() {
            self.current = None;
        }
    }

    /// Sends nothing any more until the keyframe of the wanted layer, if that is a smaller one. Answers whether it is.
    pub(crate) fn break_off_larger(&mut self) -> bool {
        let is_larger = self.current > self.target;
        if is_larger {
            self.current = None;
        }
        is_larger
    }

    /// The layer that is being sent.
    pub(crate) fn current(&self) -> Option<usize> {
        self.current
    }

    /// The layer of which a keyframe would allow to begin or to switch.
    pub(crate) fn waits_for(&self) -> Option<usize> {
        self.target.filter(|target| self.current != Some(*target))
    }

    /// With which numbers the subscriber gets a packet, if it gets it.
    pub(crate) fn forward(&mut self, layer: usize, packet: &MediaPacket) -> Option<Renumbered> {
        if self.current != Some(layer) {
            let begins = self.target == Some(layer)
                && !packet.payload.is_empty()
                && begins_stream(packet.codec, &packet.payload);
            if !begins {
                return None;
            }
            self.switch(layer, packet);
        }
        // Padding, by which a publisher probes its own path.
        if packet.payload.is_empty() {
            self.sequence.skip(packet.sequence);
            return None;
        }
        let sequence = self.sequence.map(packet.sequence)?;
        let timestamp = packet.timestamp.wrapping_add(self.timestamp_offset);
        let patch = match packet.codec {
            MediaCodec::Vp8 => self.pictures.continued(&packet.payload),
            _ => None,
        };
        self.remember(timestamp, packet);
        Some(Renumbered { sequence, timestamp, patch })
    }

    /// Nothing of this packet goes to the subscriber. Sound goes on without a gap; pictures do with a keyframe.
    pub(crate) fn leave_out(&mut self, packet: &MediaPacket) {
        match packet.codec {
            MediaCodec::Opus => self.sequence.skip(packet.sequence),
            _ => self.current = None,
        }
    }

    fn remember(&mut self, timestamp: u32, packet: &MediaPacket) {
        // Late packets do not turn the time back.
        if self.last.is_some_and(|last| is_before(timestamp, last.timestamp)) {
            return;
        }
        let rate = packet.codec.clock_rate();
        let sent_at = packet.clock.and_then(|clock| time_of(clock, packet.timestamp, rate));
        self.last = Some(LastPacket { timestamp, received_at: packet.received_at, sent_at });
    }

    fn switch(&mut self, layer: usize, packet: &MediaPacket) {
        self.current = Some(layer);
        self.sequence.begin(packet.sequence);
        if let Some(last) = self.last {
            let elapsed = elapsed_ticks(last, packet);
            let timestamp = last.timestamp.wrapping_add(elapsed);
            self.timestamp_offset = timestamp.wrapping_sub(packet.timestamp);
        }
        if packet.codec == MediaCodec::Vp8 {
            self.pictures.switch(&packet.payload);
        }
    }
}

impl Pictures {
    fn switch(&mut self, payload: &[u8]) {
        let Ok(descriptor) = Vp8Descriptor::parse(payload) else { return };
        let Some((picture, base_layer)) = self.last else { return };
        self.picture_offset = (picture + 1).wrapping_sub(descriptor.picture_id().unwrap_or(0));
        self.base_layer_offset =
            base_layer.wrapping_add(1).wrapping_sub(descriptor.tl0_pic_idx().unwrap_or(0));
    }

    fn continued(&mut self, payload: &[u8]) -> Option<Vp8Patch> {
        const LONG: u16 = 0x7fff;
        const SHORT: u16 = 0x7f;
        let descriptor = Vp8Descriptor::parse(payload).ok()?;
        let mut patch = descriptor.patch();
        let mut newest = self.last.unwrap_or_default();
        if let Some(picture) = descriptor.picture_id() {
            let picture = picture.wrapping_add(self.picture_offset) & LONG;
            newest.0 = picture;
            // A descriptor keeps its width; one of 7 bits cannot carry more.
            patch = patch.picture_id(picture);
            if patch.build().is_err() {
                patch = patch.picture_id(picture & SHORT);
            }
        }
        if let Some(base_layer) = descriptor.tl0_pic_idx() {
            newest.1 = base_layer.wrapping_add(self.base_layer_offset);
            patch = patch.tl0_pic_idx(newest.1);
        }
        let advanced = self.last.is_none_or(|(last, _)| newest.0.wrapping_sub(last) & LONG < 0x4000);
        if advanced {
            self.last = Some(newest);
        }
        let unchanged = self.picture_offset == 0 && self.base_layer_offset == 0;
        if unchanged { None } else { patch.build().ok() }
    }
}

/// RTP timestamps between the last packet of one layer and the first of another: by the sender's clock if its reports tell,
/// else by when they came in.
fn elapsed_ticks(last: LastPacket, packet: &MediaPacket) -> u32 {
    let rate = packet.codec.clock_rate();
    let arrived = packet.received_at.saturating_duration_since(last.received_at).as_secs_f64();
    let sent = packet
        .clock
        .and_then(|clock| time_of(clock, packet.timestamp, rate))
        .zip(last.sent_at)
        .map(|(now, before)| signed_seconds(before, now))
        .filter(|sent| (sent - arrived).abs() < CLOCK_TOLERANCE);
    let seconds = sent.unwrap_or(arrived).clamp(0.0, 3_600.0);
    let nanoseconds = Duration::from_secs_f64(seconds).as_nanos() * u128::from(rate);
    let ticks = (nanoseconds + 500_000_000) / 1_000_000_000;
    u32::try_from(ticks).unwrap_or(1).max(1)
}

fn signed_seconds(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    }
}

/// When the sender took what has this RTP timestamp, by its own clock.
fn time_of(clock: SenderClock, timestamp: u32, rate: u32) -> Option<SystemTime> {
    let duration = |ticks: u32| Duration::from_secs_f64(f64::from(ticks) / f64::from(rate));
    if is_before(timestamp, clock.timestamp) {
        clock.at.checked_sub(duration(clock.timestamp.wrapping_sub(timestamp)))
    } else {
        clock.at.checked_add(duration(timestamp.wrapping_sub(clock.timestamp)))
    }
}

fn is_before(timestamp: u32, other: u32) -> bool {
    timestamp.wrapping_sub(other) > u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use entente_environment::{Clock, SystemClock};

    use super::*;

    /// Of VP8 with a picture number of 15 bits and a number of its base layer.
    fn packet(at: Instant, sequence: u64, timestamp: u32, picture: u16, keyframe: bool) -> MediaPacket {
        let [high, low] = picture.to_be_bytes();
        let first = if keyframe { 0x10 } else { 0x11 };
        let payload = [0x90, 0xe0, 0x80 | high, low, 5, 0x20, first, 0, 0, 0x9d, 1, 0x2a];
        MediaPacket {
            codec: MediaCodec::Vp8,
            parameters: None,
            sequence,
            timestamp,
            marker: true,
            payload: payload.into(),
            audio_level: None,
            extensions: str0m::rtp::ExtensionValues::default(),
            received_at: at,
            clock: None,
            is_encrypted: false,
        }
    }

    #[test]
    fn it_begins_and_switches_on_keyframes_only() {
        let start = SystemClock.monotonic();
        let mut forwarder = Forwarder::new(99);
        forwarder.set_target(Some(0));
        assert_eq!(forwarder.waits_for(), Some(0));
        assert!(forwarder.forward(0, &packet(start, 5, 1_000, 7, false)).is_none());
        let first = forwarder.forward(0, &packet(start, 6, 4_000, 8, true)).unwrap();
        assert_eq!((first.sequence, first.timestamp, first.patch), (100, 4_000, None));
        assert_eq!(forwarder.waits_for(), None);

        forwarder.set_target(Some(1));
        assert!(forwarder.forward(1, &packet(start, 900, 70_000, 300, false)).is_none());
        let still = forwarder.forward(0, &packet(start, 7, 7_000, 9, false)).unwrap();
        assert_eq!(still.sequence, 101);
        let later = start + Duration::from_millis(100);
        let switched = forwarder.forward(1, &packet(later, 901, 80_000, 301, true)).unwrap();
        assert_eq!((switched.sequence, switched.timestamp), (102, 7_000 + 9_000), "100 ms at 90 kHz");
        assert!(forwarder.forward(0, &packet(later, 8, 10_000, 10, false)).is_none());
        let next = forwarder.forward(1, &packet(later, 902, 83_000, 302, false)).unwrap();
        assert_eq!((next.sequence, next.timestamp), (103, 19_000));
    }

    #[test]
    fn what_is_broken_off_goes_on_with_a_smaller_layer_only() {
        let start = SystemClock.monotonic();
        let mut forwarder = Forwarder::new(99);
        forwarder.set_target(Some(1));
        forwarder.forward(1, &packet(start, 5, 1_000, 7, true)).unwrap();
        forwarder.break_off_larger();
        assert!(forwarder.forward(1, &packet(start, 6, 4_000, 8, false)).is_some(), "it is the wanted one");
        forwarder.set_target(Some(0));
        forwarder.break_off_larger();
        assert_eq!((forwarder.current(), forwarder.waits_for()), (None, Some(0)));
        assert!(forwarder.forward(1, &packet(start, 7, 7_000, 9, true)).is_none());
        let smaller = forwarder.forward(0, &packet(start, 50, 90_000, 40, true)).unwrap();
        assert_eq!(smaller.sequence, 102, "nothing is missing in between");
        forwarder.set_target(Some(1));
        forwarder.break_off_larger();
        assert_eq!(forwarder.current(), Some(0), "who waits for a larger one keeps what there is");
    }

    #[test]
    fn pictures_are_numbered_on_through_a_switch() {
        let start = SystemClock.monotonic();
        let mut forwarder = Forwarder::new(0);
        forwarder.set_target(Some(0));
        forwarder.forward(0, &packet(start, 1, 0, 0x7fff, true)).unwrap();
        forwarder.set_target(Some(1));
        let switched = packet(start, 50, 0, 0x1234, true);
        let descriptor = Vp8Descriptor::parse(&switched.payload).unwrap();
        let expected = descriptor.patch().picture_id(0).tl0_pic_idx(6).build().unwrap();
        assert_eq!(
            forwarder.forward(1, &switched).unwrap().patch,
            Some(expected),
            "0x7fff and 5 were the last"
        );
        let next = packet(start, 51, 3_000, 0x1235, false);
        let expected = Vp8Descriptor::parse(&next.payload).unwrap();
        let expected = expected.patch().picture_id(1).tl0_pic_idx(6).build().unwrap();
        assert_eq!(forwarder.forward(1, &next).unwrap().patch, Some(expected));
    }

    #[test]
    fn the_senders_clock_decides_when_its_reports_tell() {
        let start = SystemClock.monotonic();
        let clock = |timestamp| Some(SenderClock { at: UNIX_EPOCH + Duration::from_secs(9), timestamp });
        let mut forwarder = Forwarder::new(0);
        forwarder.set_target(Some(0));
        forwarder.forward(0, &MediaPacket { clock: clock(0), ..packet(start, 1, 9_000, 1, true) }).unwrap();
        forwarder.set_target(Some(1));
        let late = start + Duration::from_millis(180);
        let switched = MediaPacket { clock: clock(500_000), ..packet(late, 1, 512_000, 1, true) };
        let switched = forwarder.forward(1, &switched).unwrap();
        assert_eq!(switched.timestamp, 9_000 + 3_000, "taken 33 ms later, although it came 180 ms later");
    }

    #[test]
    fn a_pause_leaves_no_gap_and_ends_on_a_keyframe() {
        let start = SystemClock.monotonic();
        let mut forwarder = Forwarder::new(0);
        forwarder.set_target(Some(0));
        forwarder.forward(0, &packet(start, 1, 0, 1, true)).unwrap();
        forwarder.set_target(None);
        assert!(forwarder.forward(0, &packet(start, 2, 3_000, 2, true)).is_none());
        forwarder.set_target(Some(0));
        assert!(forwarder.forward(0, &packet(start, 3, 6_000, 3, false)).is_none());
        let later = start + Duration::from_secs(1);
        let resumed = forwarder.forward(0, &packet(later, 4, 90_000, 4, true)).unwrap();
        assert_eq!((resumed.sequence, resumed.timestamp), (2, 90_000));
    }

    #[test]
    fn padding_is_left_out_without_a_gap() {
        let start = SystemClock.monotonic();
        let mut forwarder = Forwarder::new(0);
        forwarder.set_target(Some(0));
        forwarder.forward(0, &packet(start, 1, 0, 1, true)).unwrap();
        let padding = MediaPacket { payload: [].into(), ..packet(start, 2, 0, 1, false) };
        assert!(forwarder.forward(0, &padding).is_none());
        assert_eq!(forwarder.forward(0, &packet(start, 3, 3_000, 2, false)).unwrap().sequence, 2);
    }
}
