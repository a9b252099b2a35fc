//! The largest messages that clients may send, full of whatever is found: each is worked off soon, since others wait meanwhile.
#![no_main]

use std::time::{Duration, Instant};

use entente_call_bridge::fuzzing::{Call, signal_request};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

/// The largest request on a signalling connection, in bytes.
const MAXIMUM_REQUEST: usize = 512 * 1_024;
/// Here everything is checked and counted, so that it takes some times as long as otherwise.
const SOON: Duration = Duration::from_secs(2);

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    joins: bool,
    /// Messages in which the parts are, from the outermost on, by the numbers of their fields.
    inside: [Option<u8>; 3],
    head: &'a [u8],
    part: &'a [u8],
    length: u32,
    tail: &'a [u8],
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = Vec::with_capacity(content.len() + 8);
    let mut varint = |mut value: usize| {
        while value > 0x7f {
            field.push(u8::try_from(value & 0x7f).expect("it is seven bits") | 0x80);
            value >>= 7;
        }
        field.push(u8::try_from(value).expect("it is seven bits"));
    };
    varint(usize::from(number) << 3 | 2);
    varint(content.len());
    field.extend(content);
    field
}

/// Three in a call, who publish something.
fn call() -> Call {
    let mut call = Call::default();
    for who in 0..3 {
        call.connection(who, false, 0, 0);
        call.connection(who, true, 0, 0);
        // SignalRequest { add_track: { cid: "track" } }
        call.signal(who, &[0x22, 7, 0x0a, 5, b't', b'r', b'a', b'c', b'k']);
        call.offer(who, &[(false, Some("track".to_owned())), (false, None), (true, None)]);
        call.media(who, 0, 0, 1, &[1, 2, 3]);
    }
    call
}

fuzz_target!(|input: Input| {
    let length = usize::try_from(input.length).expect("it fits") % MAXIMUM_REQUEST;
    let times = length / input.part.len().max(1);
    let mut request = [input.head, &input.part.repeat(times), input.tail].concat();
    request.truncate(MAXIMUM_REQUEST);
    for number in input.inside.into_iter().rev().flatten() {
        request = field(number % 32, &request);
    }
    let mut call = call();
    let began = Instant::now();
    if input.joins {
        // WrappedJoinRequest { join_request }
        call.join(0, &field(2, &request));
    } else {
        signal_request(&request);
        call.signal(0, &request);
    }
    call.pass(Duration::from_millis(200));
    let took = began.elapsed();
    assert!(took < SOON, "{} bytes take {took:?}", request.len());
});
