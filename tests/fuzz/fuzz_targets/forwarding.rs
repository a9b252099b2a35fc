//! From a publisher's streams to a subscriber's: layers, numbers, VP8's descriptor.
#![no_main]

use std::time::Duration;

use entente_call_bridge::fuzzing::Forwarding;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    codec: u8,
    steps: Vec<Step<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Want(Option<u8>),
    Report {
        second: u64,
        timestamp: u32,
    },
    /// The next numbers of a layer.
    Next {
        layer: u8,
        padding: bool,
        payload: &'a [u8],
    },
    /// Any number.
    Packet {
        layer: u8,
        sequence: u32,
        timestamp: u32,
        payload: &'a [u8],
    },
    Late {
        layer: u8,
        behind: u8,
        payload: &'a [u8],
    },
    Pass {
        millis: u32,
    },
}

fuzz_target!(|input: Input| {
    let mut forwarding = Forwarding::default();
    let mut next = [1_000_u32; 3];
    for step in input.steps {
        match step {
            Step::Want(layer) => forwarding.want(layer.map(|layer| layer % 3)),
            Step::Report { second, timestamp } => forwarding.report(second, timestamp),
            Step::Next { layer, padding, payload } => {
                let layer = layer % 3;
                let sequence = next[usize::from(layer)];
                next[usize::from(layer)] = sequence.wrapping_add(1);
                let payload: &[u8] = if padding { &[] } else { payload };
                forwarding.forward(layer, input.codec, sequence, sequence.wrapping_mul(90), payload);
            }
            Step::Packet { layer, sequence, timestamp, payload } => {
                forwarding.forward(layer % 3, input.codec, sequence, timestamp, payload);
            }
            Step::Late { layer, behind, payload } => {
                let layer = layer % 3;
                let sequence = next[usize::from(layer)].wrapping_sub(behind.into());
                forwarding.forward(layer, input.codec, sequence, sequence.wrapping_mul(90), payload);
            }
            Step::Pass { millis } => forwarding.pass(Duration::from_millis(millis.into())),
        }
    }
});
