//! Made-up media: what the bridge looks at is real, the pictures and sounds are not there. In their place stands when they were sent.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

/// The layers of a camera, from the smallest to the largest: name, width, height, and share of the largest one's bits, in percent.
pub(crate) const LAYERS: [Layer; 3] = [
    Layer { rid: "q", width: 320, height: 180, percent: 9 },
    Layer { rid: "h", width: 640, height: 360, percent: 26 },
    Layer { rid: "f", width: 1_280, height: 720, percent: 100 },
];
/// Pictures of a camera in a second.
pub(crate) const FRAMES_PER_SECOND: u32 = 30;
/// The largest payload, in bytes: with all headers it fits a datagram on any path.
pub(crate) const MAXIMUM_PAYLOAD: usize = 1_100;
/// Packets of sound are this far apart.
pub(crate) const SOUND_EVERY: Duration = Duration::from_millis(20);
/// Their payload, in bytes: 32 kbit/s.
const SOUND_PAYLOAD: usize = 80;

/// The first byte of sound: CELT, 20 ms, one frame (RFC 6716, section 3.1).
const FULL_BAND: u8 = 0xf8;
/// Bits of the first byte of video (RFC 7741, section 4.2): the descriptor is the long one; a picture begins.
const EXTENDED: u8 = 0x80;
const BEGINS: u8 = 0x10;
/// VP8's payload descriptor with all running numbers (RFC 7741, section 4.2), in bytes.
const DESCRIPTOR: usize = 6;
/// The uncompressed header of a key frame (RFC 6386, section 9.1), in bytes.
const FRAME_HEADER: usize = 10;
/// Where the layer and the time stand.
const STAMP: usize = DESCRIPTOR + FRAME_HEADER;
const STAMPED: usize = STAMP + 9;

/// A layer of a camera.
pub(crate) struct Layer {
    pub(crate) rid: &'static str,
    pub(crate) width: u16,
    pub(crate) height: u16,
    pub(crate) percent: u32,
}

/// What a packet of video says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Video {
    /// The running number of the picture, 15 bits.
    pub(crate) picture: u16,
    /// The running number of pictures in the base layer in time: of all there are.
    pub(crate) base_layer: u8,
    /// The first packet of its picture.
    pub(crate) begins: bool,
    /// It can be decoded without others before it.
    pub(crate) keyframe: bool,
    /// Which of [`LAYERS`].
    pub(crate) layer: u8,
    /// When it was sent, since the run began.
    pub(crate) sent: Duration,
}

impl Video {
    /// The payload with this many bytes, or as many as it takes to say all.
    pub(crate) fn payload(self, length: usize) -> Bytes {
        const PICTURE_BASE_LAYER_AND_TEMPORAL_LAYER: u8 = 0xe0;
        const LONG_PICTURE: u16 = 0x8000;
        const SHOWN: u8 = 0x10;
        const DELTA: u8 = 0x01;
        let mut payload = BytesMut::with_capacity(length.max(STAMPED));
        payload.put_u8(if self.begins { EXTENDED | BEGINS } else { EXTENDED });
        payload.put_u8(PICTURE_BASE_LAYER_AND_TEMPORAL_LAYER);
        payload.put_u16(LONG_PICTURE | self.picture);
        payload.put_u8(self.base_layer);
        payload.put_u8(0);
        payload.put_u8(if self.keyframe { SHOWN } else { SHOWN | DELTA });
        payload.put_u16(0);
        payload.put_slice(&[0x9d, 0x01, 0x2a]);
        let size = LAYERS.get(usize::from(self.layer)).map_or((0, 0), |layer| (layer.width, layer.height));
        payload.put_u16_le(size.0);
        payload.put_u16_le(size.1);
        put_stamp(&mut payload, self.layer, self.sent);
        payload.resize(length.max(STAMPED), 0);
        payload.freeze()
    }

    /// Reads what [`Self::payload`] wrote, after whatever the bridge did to the descriptor.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let [first, _, high, low, base_layer, _, frame, ..] = payload else { return None };
        if first & !BEGINS != EXTENDED {
            return None;
        }
        let (layer, sent) = read_stamp(payload.get(STAMP..)?)?;
        Some(Self {
            picture: u16::from_be_bytes([*high, *low]) & 0x7fff,
            base_layer: *base_layer,
            begins: first & BEGINS != 0,
            keyframe: frame & 0x01 == 0,
            layer,
            sent,
        })
    }
}

/// The payload of a packet of sound that is sent at this time of the run.
pub(crate) fn sound(sent: Duration) -> Bytes {
    let mut payload = BytesMut::with_capacity(SOUND_PAYLOAD);
    payload.put_u8(FULL_BAND);
    put_stamp(&mut payload, 0, sent);
    payload.resize(SOUND_PAYLOAD, 0);
    payload.freeze()
}

/// When a packet of sound was sent.
pub(crate) fn read_sound(payload: &[u8]) -> Option<Duration> {
    let (first, stamp) = payload.split_first()?;
    if *first != FULL_BAND {
        return None;
    }
    read_stamp(stamp).map(|(_, sent)| sent)
}

fn put_stamp(payload: &mut BytesMut, layer: u8, sent: Duration) {
    payload.put_u8(layer);
    payload.put_u64(u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX));
}

fn read_stamp(stamp: &[u8]) -> Option<(u8, Duration)> {
    let (layer, rest) = stamp.split_first()?;
    let nanos = u64::from_be_bytes(rest.get(..8)?.try_into().ok()?);
    Some((*layer, Duration::from_nanos(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let video = Video {
            picture: 0x7abc,
            base_layer: 200,
            begins: true,
            keyframe: true,
            layer: 2,
            sent: Duration::from_micros(1_234_567),
        };
        let payload = video.payload(MAXIMUM_PAYLOAD);
        assert_eq!(payload.len(), MAXIMUM_PAYLOAD);
        assert_eq!(Video::read(&payload), Some(video));
        assert_eq!(Video::read(&payload[..STAMPED - 1]), None);
        let sent = Duration::from_millis(5);
        assert_eq!(read_sound(&sound(sent)), Some(sent));
        assert_eq!((read_sound(&payload), Video::read(&sound(sent))), (None, None));
    }
}
