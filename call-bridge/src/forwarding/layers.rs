use std::time::{Duration, Instant};

use crate::{
    proto::{VideoLayer, VideoQuality},
    transport::Rid,
};

/// A layer of which nothing came for this long is switched off. Screens that do not change send a frame a second.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// Over which time bitrates are measured.
const WINDOW: Duration = Duration::from_secs(1);
/// Requests for keyframes of one layer are at least this far apart.
const KEYFRAME_REQUESTS_EVERY: Duration = Duration::from_millis(500);

/// The encodings of a published track, from the smallest to the largest. A track without simulcast has one.
#[derive(Debug, Default)]
pub(crate) struct Layers(Vec<Layer>);

#[derive(Debug)]
struct Layer {
    rid: Option<Rid>,
    quality: VideoQuality,
    width: u32,
    height: u32,
    /// Bits per second, as announced.
    announced: u64,
    meter: Meter,
    last_packet: Option<Instant>,
    keyframe_requested: Option<Instant>,
}

/// Measures a bitrate.
#[derive(Debug, Default)]
struct Meter {
    since: Option<Instant>,
    bytes: u64,
    rate: Option<u64>,
}

impl Meter {
    fn count(&mut self, now: Instant, bytes: usize) {
        let since = *self.since.get_or_insert(now);
        self.bytes += u64::try_from(bytes).unwrap_or(0);
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= WINDOW {
            let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
            let measured = self.bytes.saturating_mul(8_000) / millis;
            self.rate = Some(self.rate.map_or(measured, |rate| rate.midpoint(measured)));
            self.since = Some(now);
            self.bytes = 0;
        }
    }
}

/// Clients list their encodings lowest or highest first, under names that tell which is which. Under other names they are taken
/// to be in order.
fn lowest_first(rids: &[Rid]) -> Vec<Rid> {
    let rank = |rid: &Rid| match &**rid {
        "q" | "2" => Some(0),
        "h" | "1" => Some(1),
        "f" | "0" => Some(2),
        _ => None,
    };
    let mut rids = rids.to_vec();
    if rids.iter().all(|rid| rank(rid).is_some()) {
        rids.sort_by_key(rank);
    }
    rids
}

impl Layers {
    /// The layers of a section with these `rids`, as the track was announced.
    pub(crate) fn new(rids: &[Rid], announced: &[VideoLayer]) -> Self {
        let rids = lowest_first(rids);
        let mut announced: Vec<&VideoLayer> = announced.iter().collect();
        announced.sort_by_key(|layer| layer.quality);
        let layer = |rid: Option<Rid>, index: usize, count: usize| {
            let named = rid.and_then(|rid| announced.iter().find(|layer| *layer.rid == *rid));
            // A track with one encoding is as large as its largest announced layer.
            let by_order =
                if count == 1 { announced.last() } else { announced.get(index).or(announced.last()) };
            let found = named.or(by_order).copied();
            Layer {
                rid,
                quality: found.map_or(VideoQuality::High, VideoLayer::quality),
                width: found.map_or(0, |layer| layer.width),
                height: found.map_or(0, |layer| layer.height),
                announced: found.map_or(0, |layer| u64::from(layer.bitrate)),
                meter: Meter::default(),
                last_packet: None,
                keyframe_requested: None,
            }
        };
        let mut layers: Vec<Layer> = if rids.is_empty() {
            vec![layer(None, 0, 1)]
        } else {
            rids.iter().enumerate().map(|(index, rid)| layer(Some(*rid), index, rids.len())).collect()
        };
        layers.sort_by_key(|layer| layer.quality);
        Self(layers)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Which layer a packet belongs to, and that it came.
    pub(crate) fn arrived(&mut self, now: Instant, rid: Option<Rid>, bytes: usize) -> Option<usize> {
        let index = self.0.iter().position(|layer| layer.rid == rid)?;
        let layer = self.0.get_mut(index)?;
        // Padding says nothing about whether there are pictures.
        if bytes > 0 {
            layer.last_packet = Some(now);
        }
        layer.meter.count(now, bytes);
        Some(index)
    }

    /// The layers that are arriving with their bitrates, lowest first.
    pub(crate) fn arriving(&self, now: Instant) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.0.iter().enumerate().filter_map(move |(index, layer)| {
            let last = layer.last_packet?;
            let fresh = now.saturating_duration_since(last) < SILENT_AFTER;
            fresh.then(|| (index, layer.meter.rate.unwrap_or(layer.announced)))
        })
    }

    /// The RTP stream of a layer, to ask for a keyframe; `None` if one was asked for just now.
    #[expect(clippy::option_option, reason = "whether, and of which stream: a single one has no name")]
    pub(crate) fn keyframe_request(&mut self, now: Instant, index: usize) -> Option<Option<Rid>> {
        let layer = self.0.get_mut(index)?;
        let recently = layer
            .keyframe_requested
            .is_some_and(|at| now.saturating_duration_since(at) < KEYFRAME_REQUESTS_EVERY);
        if recently {
            return None;
        }
        layer.keyframe_requested = Some(now);
        Some(layer.rid)
    }

    /// The smallest layer that is at least this large in one dimension; the largest if none is. 0 is a dimension that was not told.
    pub(crate) fn of_size(&self, width: u32, height: u32) -> usize {
        let fits =
            |layer: &Layer| (width > 0 && layer.width >= width) || (height > 0 && layer.height >= height);
        self.0.iter().position(fits).unwrap_or(self.0.len().saturating_sub(1))
    }

    /// The best layer that is not better than this.
    pub(crate) fn of_quality(&self, quality: VideoQuality) -> usize {
        self.0.iter().rposition(|layer| layer.quality <= quality).unwrap_or(0)
    }

    /// How good a layer is.
    pub(crate) fn quality(&self, index: usize) -> VideoQuality {
        self.0.get(index).map_or(VideoQuality::High, |layer| layer.quality)
    }

    /// What the layers up to this one were announced to need, the largest of them, in bits per second.
    pub(crate) fn announced(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |layer| layer.announced)
    }
}

#[cfg(test)]
mod tests {
    use entente_environment::{Clock, SystemClock};

    use super::*;

    fn announced(quality: VideoQuality, width: u32) -> VideoLayer {
        VideoLayer {
            quality: quality.into(),
            width,
            height: width / 2,
            bitrate: width * 1_000,
            ..VideoLayer::default()
        }
    }

    fn three() -> Layers {
        let rids: Vec<Rid> = ["q", "h", "f"].map(Rid::from).into();
        let layers = [
            announced(VideoQuality::High, 1280),
            announced(VideoQuality::Low, 320),
            announced(VideoQuality::Medium, 640),
        ];
        Layers::new(&rids, &layers)
    }

    #[test]
    fn layers_are_chosen_by_size_and_by_quality() {
        let layers = three();
        assert_eq!(layers.of_size(300, 150), 0);
        assert_eq!(layers.of_size(321, 200), 1);
        assert_eq!(layers.of_size(4_000, 4_000), 2);
        assert_eq!(layers.of_quality(VideoQuality::Medium), 1);
        assert_eq!(layers.quality(2), VideoQuality::High);
        let single =
            Layers::new(&[], &[announced(VideoQuality::Low, 320), announced(VideoQuality::High, 1280)]);
        assert_eq!((single.len(), single.of_quality(VideoQuality::Low)), (1, 0));
        assert_eq!(single.quality(0), VideoQuality::High);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter_where_names_tell() {
        let rids: Vec<Rid> = ["h", "q"].map(Rid::from).into();
        let layers = [announced(VideoQuality::Medium, 640), announced(VideoQuality::Low, 320)];
        let mut layers = Layers::new(&rids, &layers);
        let now = SystemClock.monotonic();
        assert_eq!(layers.arrived(now, Some("q".into()), 1), Some(0));
        assert_eq!((layers.quality(0), layers.of_size(400, 0)), (VideoQuality::Low, 1));
    }

    #[test]
    fn names_win_over_order() {
        let rids: Vec<Rid> = ["2", "0"].map(Rid::from).into();
        let named = |quality, rid: &str| VideoLayer { rid: rid.to_owned(), ..announced(quality, 640) };
        let mut layers = Layers::new(&rids, &[named(VideoQuality::High, "2"), named(VideoQuality::Low, "0")]);
        let now = SystemClock.monotonic();
        assert_eq!(layers.arrived(now, Some("0".into()), 1), Some(0));
        assert_eq!(layers.arrived(now, Some("2".into()), 1), Some(1));
        assert_eq!(layers.arrived(now, Some("x".into()), 1), None);
    }

    #[test]
    fn only_what_arrives_counts_and_is_measured() {
        let mut layers = three();
        let start = SystemClock.monotonic();
        for millis in (0..=2_000).step_by(10) {
            layers.arrived(start + Duration::from_millis(millis), Some("q".into()), 250);
        }
        let now = start + Duration::from_secs(2);
        let arriving: Vec<_> = layers.arriving(now).collect();
        let [(0, rate)] = arriving[..] else { panic!("{arriving:?}") };
        assert!((195_000..=205_000).contains(&rate), "{rate}");
        assert_eq!(layers.arriving(now + SILENT_AFTER).count(), 0);
    }

    #[test]
    fn keyframes_are_not_asked_for_too_often() {
        let mut layers = three();
        let now = SystemClock.monotonic();
        assert_eq!(layers.keyframe_request(now, 1), Some(Some("h".into())));
        assert_eq!(layers.keyframe_request(now + Duration::from_millis(499), 1), None);
        assert!(layers.keyframe_request(now + Duration::from_millis(499), 2).is_some());
        assert!(layers.keyframe_request(now + Duration::from_millis(500), 1).is_some());
    }
}
