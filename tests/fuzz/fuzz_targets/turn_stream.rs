//! STUN messages and channel data in a stream. The first byte is the size of the pieces in which it comes.
#![no_main]

use entente_turn::fuzzing::messages;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((piece, stream)) = data.split_first() else { return };
    let (found, whole) = messages(stream, stream.len());
    let in_pieces = messages(stream, usize::from(*piece));
    assert_eq!((&found, whole), (&in_pieces.0, in_pieces.1), "it is the same however it comes");
    assert!(found.iter().map(Vec::len).sum::<usize>() <= stream.len());
    assert!(found.iter().all(|message| message.len() >= 4));
});
