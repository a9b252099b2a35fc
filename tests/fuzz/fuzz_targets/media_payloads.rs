//! Sound that carries earlier packets along, and what is passed on beside pictures.
#![no_main]

use entente_call_bridge::fuzzing::{dependency_descriptor, redundant_sound, sound_there_and_back};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Sound {
        payload_type: u8,
        payload: &'a [u8],
    },
    ThereAndBack {
        payload_type: u8,
        packets: Vec<(u32, &'a [u8])>,
    },
    /// In steps of a frame, as they are sent.
    Frames {
        payload_type: u8,
        first: u32,
        packets: Vec<&'a [u8]>,
    },
    Descriptor {
        descriptor: &'a [u8],
        room: u8,
    },
}

fuzz_target!(|input: Input| {
    match input {
        Input::Sound { payload_type, payload } => redundant_sound(payload, payload_type),
        Input::ThereAndBack { payload_type, packets } => sound_there_and_back(payload_type, &packets),
        Input::Frames { payload_type, first, packets } => {
            let frames = (0..).step_by(960).map(|ticks| first.wrapping_add(ticks)).zip(packets);
            sound_there_and_back(payload_type, &frames.collect::<Vec<_>>());
        }
        Input::Descriptor { descriptor, room } => dependency_descriptor(descriptor, room),
    }
});
