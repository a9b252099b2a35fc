use crate::transport::MediaCodec;

/// Whether a receiver that has nothing yet can begin with this packet. Reads only what end-to-end encryption leaves in the clear.
pub(super) fn begins_stream(codec: MediaCodec, payload: &[u8]) -> bool {
    match codec {
        MediaCodec::Opus | MediaCodec::Other => true,
        MediaCodec::Vp8 => vp8(payload),
        MediaCodec::H264 => h264(payload),
        MediaCodec::Vp9 => vp9(payload),
        MediaCodec::Av1 => av1(payload),
    }
}

/// RFC 7741, sections 4.2 and 4.3: the first packet of partition 0 of a frame whose P bit is clear.
fn vp8(payload: &[u8]) -> bool {
    str0m::rtp::Vp8Descriptor::parse(payload).is_ok_and(|descriptor| descriptor.starts_keyframe(payload))
}

/// RFC 6184: parameter sets or a slice of an IDR picture, alone, aggregated, or as the first fragment.
fn h264(payload: &[u8]) -> bool {
    const IDR: u8 = 5;
    const SEQUENCE_PARAMETERS: u8 = 7;
    const AGGREGATE: u8 = 24;
    const FRAGMENT: u8 = 28;
    let begins = |header: u8| matches!(header & 0x1f, IDR | SEQUENCE_PARAMETERS);
    let Some((header, rest)) = payload.split_first() else { return false };
    match header & 0x1f {
        AGGREGATE => {
            let mut rest = rest;
            while let [high, low, following @ ..] = rest {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if following.first().is_some_and(|header| begins(*header)) {
                    return true;
                }
                rest = following.get(length.max(1)..).unwrap_or_default();
            }
            false
        }
        FRAGMENT => rest.first().is_some_and(|fragment| fragment & 0x80 != 0 && begins(*fragment)),
        _ => begins(*header),
    }
}

/// RFC 9628, section 4.2: the beginning of a frame that is predicted from no other, in the lowest spatial layer.
fn vp9(payload: &[u8]) -> bool {
    const PICTURE_ID: u8 = 0x80;
    const PREDICTED: u8 = 0x40;
    const LAYERS: u8 = 0x20;
    const BEGINNING: u8 = 0x08;
    let Some((flags, mut rest)) = payload.split_first() else { return false };
    if flags & PREDICTED != 0 || flags & BEGINNING == 0 {
        return false;
    }
    if flags & PICTURE_ID != 0 {
        let Some(first) = rest.first() else { return false };
        let length = if first & 0x80 == 0 { 1 } else { 2 };
        rest = rest.get(length..).unwrap_or_default();
    }
    let spatial_layer = if flags & LAYERS == 0 { Some(0) } else { rest.first().map(|ids| (ids >> 1) & 7) };
    spatial_layer == Some(0)
}

/// AV1 RTP payload specification, section 4.4: the N bit marks the first packet of a coded video sequence.
fn av1(payload: &[u8]) -> bool {
    payload.first().is_some_and(|header| header & 0x08 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vp8_keyframes_begin_with_their_first_packet() {
        let descriptor = [0x90, 0x80, 0x81, 0x02];
        let keyframe = |first: u8| [&descriptor[..], &[first, 0, 0, 0x9d, 1, 0x2a]].concat();
        assert!(begins_stream(MediaCodec::Vp8, &keyframe(0x10)));
        assert!(!begins_stream(MediaCodec::Vp8, &keyframe(0x11)), "a delta frame");
        assert!(!begins_stream(MediaCodec::Vp8, &[0x80, 0x80, 0x81, 2, 0x10]), "not the first packet");
        assert!(!begins_stream(MediaCodec::Vp8, &[]));
    }

    #[test]
    fn h264_keyframes_are_found_in_every_form() {
        assert!(begins_stream(MediaCodec::H264, &[0x67, 1]));
        assert!(begins_stream(MediaCodec::H264, &[0x65, 1]));
        assert!(!begins_stream(MediaCodec::H264, &[0x41, 1]));
        assert!(
            begins_stream(MediaCodec::H264, &[24, 0, 2, 0x06, 1, 0, 2, 0x67, 1]),
            "the second of an aggregate"
        );
        assert!(!begins_stream(MediaCodec::H264, &[24, 0, 2, 0x41, 1]));
        assert!(!begins_stream(MediaCodec::H264, &[24, 0, 0, 0, 0]));
        assert!(begins_stream(MediaCodec::H264, &[28, 0x85, 1]));
        assert!(!begins_stream(MediaCodec::H264, &[28, 0x05, 1]), "not the first fragment");
    }

    #[test]
    fn vp9_and_av1_say_so_in_their_first_bytes() {
        assert!(begins_stream(MediaCodec::Vp9, &[0x88, 0x01]));
        assert!(!begins_stream(MediaCodec::Vp9, &[0xc8, 0x01]), "predicted");
        assert!(!begins_stream(MediaCodec::Vp9, &[0xa8, 0x01, 0x02]), "a higher layer");
        assert!(begins_stream(MediaCodec::Vp9, &[0xa8, 0x80, 0x01, 0x00]));
        assert!(!begins_stream(MediaCodec::Vp9, &[0xa8]));
        assert!(begins_stream(MediaCodec::Av1, &[0x08]));
        assert!(!begins_stream(MediaCodec::Av1, &[0x00]));
    }
}
