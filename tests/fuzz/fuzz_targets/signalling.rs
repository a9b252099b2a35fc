//! A call in which everybody says and sends whatever they like.
#![no_main]

use std::time::Duration;

use entente_call_bridge::fuzzing::Call;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Join { who: u8, request: &'a [u8] },
    Signal { who: u8, request: &'a [u8] },
    Offer { who: u8, sections: Vec<(bool, Option<u8>)> },
    Announce { who: u8, track: u8, video: bool },
    Media { who: u8, section: u8, codec: u8, sequence: u16, payload: &'a [u8] },
    Data { who: u8, reliable: bool, message: &'a [u8] },
    Connection { who: u8, subscriber: bool, what: u8, number: u64 },
    Lose { who: u8 },
    Pass { millis: u16 },
}

/// `SignalRequest { add_track: { cid, type } }` in protobuf.
fn announcement(track: u8, video: bool) -> Vec<u8> {
    let cid = format!("track{track}");
    let mut request = vec![0x0a, u8::try_from(cid.len()).expect("it is short")];
    request.extend(cid.bytes());
    request.extend([0x18, u8::from(video)]);
    let mut message = vec![0x22, u8::try_from(request.len()).expect("it is short")];
    message.extend(request);
    message
}

fuzz_target!(|steps: Vec<Step>| {
    let mut call = Call::default();
    for step in steps.into_iter().take(50) {
        match step {
            Step::Join { who, request } => call.join(who, request),
            Step::Signal { who, request } => call.signal(who, request),
            Step::Offer { who, sections } => {
                let named = |track: Option<u8>| track.map(|track| format!("track{track}"));
                let sections = sections.into_iter().take(8).map(|(video, track)| (video, named(track)));
                call.offer(who, &sections.collect::<Vec<_>>());
            }
            Step::Announce { who, track, video } => call.signal(who, &announcement(track, video)),
            Step::Media { who, section, codec, sequence, payload } => {
                call.media(who, section % 8, codec, sequence.into(), payload);
            }
            Step::Data { who, reliable, message } => call.data(who, reliable, message),
            Step::Connection { who, subscriber, what, number } => {
                call.connection(who, subscriber, what, number);
            }
            Step::Lose { who } => call.lose(who),
            Step::Pass { millis } => call.pass(Duration::from_millis(millis.into())),
        }
    }
});
