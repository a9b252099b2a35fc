use std::{
    collections::HashMap,
    time::{Duration, Instant, UNIX_EPOCH},
};

use super::Time;
use crate::{
    forwarding::Forwarder,
    transport::{MediaCodec, MediaPacket, SenderClock},
};

/// What a subscriber gets of a publisher who sends whatever it likes.
pub struct Forwarding {
    forwarder: Forwarder,
    time: Time,
    clock: Option<SenderClock>,
    /// What each number of the outgoing stream is: a layer that began, and a number of it.
    sent: HashMap<u64, (u64, u64)>,
    beginnings: u64,
}

impl Default for Forwarding {
    fn default() -> Self {
        let sent = HashMap::new();
        Self { forwarder: Forwarder::new(9), time: Time::new(), clock: None, sent, beginnings: 0 }
    }
}

pub(super) fn packet(at: Instant, codec: u8, sequence: u64, timestamp: u32, payload: &[u8]) -> MediaPacket {
    let codec = match codec % 6 {
        0 => MediaCodec::Opus,
        1 => MediaCodec::Vp8,
        2 => MediaCodec::H264,
        3 => MediaCodec::Vp9,
        4 => MediaCodec::Av1,
        _ => MediaCodec::Other,
    };
    MediaPacket {
        codec,
        parameters: None,
        sequence,
        timestamp,
        marker: payload.len().is_multiple_of(2),
        payload: payload.into(),
        audio_level: payload.first().map(|level| level & 0x7f),
        extensions: str0m::rtp::ExtensionValues::default(),
        received_at: at,
        clock: None,
        is_encrypted: false,
    }
}

impl Forwarding {
    /// From the next keyframe on the subscriber wants another layer, or none.
    pub fn want(&mut self, layer: Option<u8>) {
        self.forwarder.set_target(layer.map(usize::from));
    }

    /// The publisher reports that this timestamp belongs to this second of its clock.
    pub fn report(&mut self, second: u64, timestamp: u32) {
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(second));
        self.clock = at.map(|at| SenderClock { at, timestamp });
    }

    /// A packet comes in.
    ///
    /// # Panics
    ///
    /// If two packets get the same number.
    pub fn forward(&mut self, layer: u8, codec: u8, sequence: u32, timestamp: u32, payload: &[u8]) {
        let sequence = u64::from(sequence);
        let came = packet(self.time.at(), codec, sequence, timestamp, payload);
        let came = MediaPacket { clock: self.clock, ..came };
        let before = self.forwarder.current();
        let sent = self.forwarder.forward(usize::from(layer), &came);
        if self.forwarder.current() != before {
            self.beginnings += 1;
        }
        let Some(sent) = sent else { return };
        let of = (self.beginnings, sequence);
        assert_eq!(
            *self.sent.entry(sent.sequence).or_insert(of),
            of,
            "two packets of number {}",
            sent.sequence
        );
    }

    /// Lets time pass.
    pub fn pass(&mut self, duration: Duration) {
        self.time.pass(duration);
    }
}
