//! What subscribers got: whether it is whole, and how late it came.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::media::Video;

/// By how much RTP timestamps may deviate from the clock of who sent them, in seconds. Layers are aligned by reports or arrival, on a
/// machine that has much else to do.
const CLOCK_TOLERANCE: f64 = 0.3;
/// Latencies are counted in steps of this.
const STEP: Duration = Duration::from_micros(10);
/// Everything above is counted as this many steps.
const STEPS: usize = 20_000;
/// Missing packets of a stream that are remembered.
const MAXIMUM_MISSING: usize = 10_000;

/// Latencies, counted.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Vec<u32>);

impl Default for Latencies {
    fn default() -> Self {
        Self(vec![0; STEPS])
    }
}

impl Latencies {
    fn count(&mut self, latency: Duration) {
        let step = usize::try_from(latency.as_micros() / STEP.as_micros()).unwrap_or(STEPS);
        if let Some(count) = self.0.get_mut(step.min(STEPS - 1)) {
            *count += 1;
        }
    }

    fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count += more;
        }
    }

    /// The latency that this share of all, in thousandths, does not exceed.
    pub(crate) fn quantile(&self, thousandths: u64) -> Duration {
        let all: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let mut rest = all * thousandths / 1_000;
        for (step, count) in (1_u32..).zip(&self.0) {
            if u64::from(*count) > rest {
                return STEP * step;
            }
            rest -= u64::from(*count);
        }
        STEP * u32::try_from(STEPS).unwrap_or(u32::MAX)
    }
}

/// Everything that a subscriber got, or all of them together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Packets of media, each once.
    pub(crate) packets: u64,
    /// Their payloads, in bytes.
    pub(crate) bytes: u64,
    /// Of them, those that came after others that were sent later: repaired, most of them.
    pub(crate) late: u64,
    /// Packets that came once more: with such the bridge tries what a path carries.
    pub(crate) repeated: u64,
    /// Pictures whose running numbers jumped or that began before the last one was over, layers that changed without a key frame.
    pub(crate) torn: u64,
    /// Packets whose RTP timestamps do not go with the time at which they were sent.
    pub(crate) mistimed: u64,
    /// Switches from one layer to another.
    pub(crate) switches: u64,
    /// How long packets were on their way.
    pub(crate) latencies: Latencies,
    /// Streams, by their SSRCs.
    pub(crate) streams: BTreeMap<u32, Stream>,
}

/// A packet of media.
pub(crate) struct Arrival {
    pub(crate) ssrc: u32,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    /// Of the payload.
    pub(crate) bytes: usize,
    /// Ticks of the timestamp in a second.
    pub(crate) clock_rate: u32,
    /// When it was sent and when it came, since the run began.
    pub(crate) sent: Duration,
    pub(crate) arrived: Duration,
    /// What it says if it is video.
    pub(crate) video: Option<Video>,
}

/// An RTP stream that is being received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    /// The layer of its newest packet; `None`: it is sound.
    pub(crate) layer: Option<usize>,
    /// Packets of it that were counted.
    pub(crate) packets: u64,
    highest: Option<u64>,
    missing: BTreeSet<u64>,
    /// The newest packet of video, if it came in order.
    last: Option<Last>,
    /// What the timestamp of the first packet was ahead of the sender's clock, in seconds.
    ahead: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    timestamp: u32,
    marker: bool,
    video: Video,
}

/// Where a packet belongs in its stream.
enum Order {
    /// Behind the newest.
    Next,
    /// Further behind: something is missing between.
    Ahead,
    /// Before the newest, and it was missing.
    Late,
    /// It was there already.
    Repeated,
}

impl Received {
    /// Counts from now on, and begins no stream anew.
    pub(crate) fn begin(&mut self) {
        *self = Self { streams: std::mem::take(&mut self.streams), ..Self::default() };
        self.streams.values_mut().for_each(|stream| stream.packets = 0);
    }

    /// Counts a packet.
    pub(crate) fn count(&mut self, arrival: &Arrival) {
        let stream = self.streams.entry(arrival.ssrc).or_default();
        let order = stream.order(arrival.sequence);
        match order {
            Order::Repeated => {
                self.repeated += 1;
                return;
            }
            Order::Late => self.late += 1,
            Order::Next | Order::Ahead => {}
        }
        stream.packets += 1;
        self.packets += 1;
        self.bytes += u64::try_from(arrival.bytes).unwrap_or(0);
        self.latencies.count(arrival.arrived.saturating_sub(arrival.sent));
        if !stream.is_in_time(arrival) {
            self.mistimed += 1;
        }
        let Some(video) = arrival.video else { return };
        if matches!(order, Order::Late) {
            return;
        }
        let in_order = stream.last.filter(|_| matches!(order, Order::Next));
        if in_order.is_some_and(|last| !last.is_followed_by(arrival.timestamp, video)) {
            self.torn += 1;
        }
        let layer = Some(usize::from(video.layer));
        if stream.layer.is_some() && stream.layer != layer {
            self.switches += 1;
        }
        stream.layer = layer;
        stream.last = Some(Last { timestamp: arrival.timestamp, marker: arrival.marker, video });
    }

    /// Packets that did not come.
    pub(crate) fn missing(&self) -> u64 {
        self.streams.values().map(|stream| u64::try_from(stream.missing.len()).unwrap_or(0)).sum()
    }

    /// Adds what another subscriber got. Streams stay apart: the bridge numbers them for each subscriber.
    pub(crate) fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.late += other.late;
        self.repeated += other.repeated;
        self.torn += other.torn;
        self.mistimed += other.mistimed;
        self.switches += other.switches;
        self.latencies.add(&other.latencies);
        self.streams.extend(other.streams.iter().map(|(ssrc, stream)| (*ssrc, stream.clone())));
    }
}

impl Stream {
    fn order(&mut self, sequence: u16) -> Order {
        let Some(highest) = self.highest else {
            // Room for those before the first.
            self.highest = Some(u64::from(sequence) + 0x1_0000);
            return Order::Next;
        };
        // The nearest number with these 16 bits.
        let ahead = sequence
            .wrapping_sub(highest.to_be_bytes().last_chunk().map_or(0, |low| u16::from_be_bytes(*low)));
        if ahead == 0 {
            return Order::Repeated;
        }
        if ahead < 0x8000 {
            let number = highest + u64::from(ahead);
            self.highest = Some(number);
            self.missing.extend(highest + 1..number);
            while self.missing.len() > MAXIMUM_MISSING {
                self.missing.pop_first();
            }
            return if ahead == 1 { Order::Next } else { Order::Ahead };
        }
        let number = (highest + u64::from(ahead)).saturating_sub(0x1_0000);
        if self.missing.remove(&number) { Order::Late } else { Order::Repeated }
    }

    /// Whether its timestamp goes with the time at which it was sent, as that of the first packet did.
    fn is_in_time(&mut self, arrival: &Arrival) -> bool {
        let rate = f64::from(arrival.clock_rate);
        let whole = f64::from(u32::MAX) / rate;
        let ahead = f64::from(arrival.timestamp) / rate - arrival.sent.as_secs_f64();
        let first = *self.ahead.get_or_insert(ahead);
        let deviation = (ahead - first).rem_euclid(whole);
        deviation.min(whole - deviation) <= CLOCK_TOLERANCE
    }
}

impl Last {
    fn is_followed_by(&self, timestamp: u32, video: Video) -> bool {
        let same_layer = self.video.layer == video.layer;
        if video.begins {
            let next = video.picture == (self.video.picture + 1) & 0x7fff
                && video.base_layer == self.video.base_layer.wrapping_add(1)
                && timestamp.wrapping_sub(self.timestamp).wrapping_sub(1) < u32::MAX / 2;
            // A layer may be left in the middle of a picture: nobody will miss the rest.
            next && (if same_layer { self.marker } else { video.keyframe })
        } else {
            same_layer
                && video.picture == self.video.picture
                && video.base_layer == self.video.base_layer
                && timestamp == self.timestamp
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(sequence: u16, picture: u16, layer: u8, keyframe: bool) -> Arrival {
        let sent = Duration::from_millis(40) * u32::from(picture);
        let video =
            Video { picture, base_layer: picture.to_be_bytes()[1], begins: true, keyframe, layer, sent };
        Arrival {
            ssrc: 1,
            sequence,
            timestamp: 3_600 * u32::from(picture),
            marker: true,
            bytes: 100,
            clock_rate: 90_000,
            sent,
            arrived: sent + Duration::from_millis(1),
            video: Some(video),
        }
    }

    #[test]
    fn a_whole_stream_is_found_whole() {
        let mut received = Received::default();
        for number in 0..10 {
            received.count(&arrival(65_530_u16.wrapping_add(number), number + 1, 0, number == 0));
        }
        assert_eq!((received.packets, received.missing(), received.torn, received.mistimed), (10, 0, 0, 0));
        assert_eq!(received.latencies.quantile(500), Duration::from_micros(1_010));
    }

    #[test]
    fn what_is_wrong_is_found() {
        let mut received = Received::default();
        received.count(&arrival(1, 1, 0, true));
        received.count(&arrival(3, 3, 0, false));
        assert_eq!(received.missing(), 1);
        received.count(&arrival(2, 2, 0, false));
        received.count(&arrival(2, 2, 0, false));
        assert_eq!((received.missing(), received.late, received.repeated, received.torn), (0, 1, 1, 0));
        received.count(&arrival(4, 4, 1, false));
        assert_eq!((received.torn, received.switches), (1, 1), "a layer changed without a key frame");
        received.count(&arrival(5, 7, 1, false));
        assert_eq!(received.torn, 2, "pictures jumped");
        received.count(&Arrival { timestamp: 3_600_000, ..arrival(6, 8, 1, false) });
        assert_eq!(received.mistimed, 1);
    }
}
