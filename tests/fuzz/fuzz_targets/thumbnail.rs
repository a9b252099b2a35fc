//! Pictures that others made. The first byte says how large and which way a small one is drawn.
#![no_main]

use std::num::NonZeroU32;

use entente_media::fuzzing::thumbnail;
use libfuzzer_sys::fuzz_target;

/// So that a picture is no matter of memory.
const MOST_PIXELS: u64 = 256 * 256;

fuzz_target!(|data: &[u8]| {
    let Some((how, picture)) = data.split_first() else { return };
    let side = NonZeroU32::MIN.saturating_add(u32::from(how & 0x3f));
    let drawn = thumbnail(picture, side, how & 0x40 != 0, how & 0x80 != 0, MOST_PIXELS);
    if let Some(drawn) = drawn {
        // What is drawn is small enough, and moves only where that is wanted.
        assert_eq!(thumbnail(&drawn, side, false, true, MOST_PIXELS), None);
    }
});
