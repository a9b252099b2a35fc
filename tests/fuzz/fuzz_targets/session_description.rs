//! A peer connection of a stranger. Steps stand apart by lines of `%%`; the first byte of each says what it is: `o` an offer, `a` an
//! answer, `d` a datagram, `n` that we make an offer, `p` that time passes.
#![no_main]

use std::time::Duration;

use entente_call_bridge::fuzzing::PeerConnection;
use libfuzzer_sys::fuzz_target;

const BETWEEN: &[u8] = b"\n%%\n";

fn steps(data: &[u8]) -> Vec<&[u8]> {
    let mut steps = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
        steps.push(&rest[..at]);
        rest = &rest[at + BETWEEN.len()..];
    }
    steps.push(rest);
    steps
}

fuzz_target!(|data: &[u8]| {
    let Some(mut peer) = PeerConnection::new() else { return };
    for step in steps(data) {
        let Some((kind, rest)) = step.split_first() else { continue };
        let number = |place: usize| rest.get(place).copied().unwrap_or_default();
        match kind {
            b'o' => {
                peer.answer(&String::from_utf8_lossy(rest));
            }
            b'a' => {
                peer.accept_answer(&String::from_utf8_lossy(rest));
            }
            b'n' => peer.offer(number(0), number(1), number(2), number(3) & 1 == 1, number(4) & 1 == 1),
            b'p' => peer.pass(Duration::from_millis(u64::from(number(0)) * 20)),
            _ => peer.receive(rest),
        }
    }
});
