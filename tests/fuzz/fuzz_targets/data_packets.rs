//! Data packets get their true sender, however long they and their parts are.
#![no_main]

use entente_call_bridge::fuzzing::relayed_data;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

/// The largest message of a data channel, in bytes.
const MAXIMUM_MESSAGE: usize = 256 * 1_024;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    kind: i32,
    sid_length: u8,
    identity_length: u16,
    /// Whom the packet says that it comes from.
    claimed: Option<&'a str>,
    before: &'a [u8],
    user: Option<User<'a>>,
    after: &'a [u8],
}

#[derive(Arbitrary, Debug)]
struct User<'a> {
    before: &'a [u8],
    payload_length: u32,
    after: &'a [u8],
    /// How much longer it says that it is.
    lie: u8,
}

/// A field of protobuf whose content has a length.
fn field(number: u8, content: &[u8], lie: u8) -> Vec<u8> {
    let mut field = Vec::with_capacity(content.len() + 8);
    for mut varint in [usize::from(number) << 3 | 2, content.len() + usize::from(lie)] {
        while varint > 0x7f {
            field.push(u8::try_from(varint & 0x7f).expect("it is seven bits") | 0x80);
            varint >>= 7;
        }
        field.push(u8::try_from(varint).expect("it is seven bits"));
    }
    field.extend(content);
    field
}

fuzz_target!(|input: Input| {
    let mut packet = input.before.to_vec();
    let claim =
        |number| input.claimed.map(|claimed| field(number, claimed.as_bytes(), 0)).unwrap_or_default();
    packet.extend([claim(4), claim(17)].concat());
    if let Some(User { before, payload_length, after, lie }) = input.user {
        let payload = vec![7; usize::try_from(payload_length).expect("it fits") % MAXIMUM_MESSAGE];
        let user = [before, &field(2, &payload, 0), &claim(1), &claim(5), after].concat();
        packet.extend(field(2, &user, lie));
    }
    packet.extend(input.after);
    packet.truncate(MAXIMUM_MESSAGE);
    let sid = "s".repeat(input.sid_length.into());
    let identity = "i".repeat((input.identity_length % 1_024).into());
    relayed_data(&packet, input.kind, &sid, &identity);
});
