//! Packets of media and reports on a connection that stands, as they are once decrypted; what comes is sent back.
#![no_main]

use std::time::Duration;

use entente_call_bridge::fuzzing::MediaConnection;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// Any packet.
    Packet(&'a [u8]),
    /// A packet of a stream that was announced, or of a new one.
    Media {
        stream: Stream,
        sequence: u16,
        timestamp: u32,
        extensions: Extensions<'a>,
        payload: &'a [u8],
    },
    Reports(&'a [u8]),
    /// A report of a known kind.
    Report {
        kind: u8,
        count: u8,
        content: &'a [u8],
    },
    Pass {
        millis: u16,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Stream {
    Sound,
    RedundantSound,
    Layer(u8),
    Repair,
}

#[derive(Arbitrary, Debug)]
enum Extensions<'a> {
    None,
    /// In either form (RFC 8285), as they are.
    Raw {
        long: bool,
        content: &'a [u8],
    },
    /// The section, which of its layers, and a dependency descriptor.
    Descriptor {
        section: u8,
        low: bool,
        descriptor: &'a [u8],
    },
}

impl Extensions<'_> {
    fn content(&self) -> Option<(u16, Vec<u8>)> {
        match self {
            Self::None => None,
            Self::Raw { long, content } => Some((if *long { 0x1000 } else { 0xbede }, content.to_vec())),
            Self::Descriptor { section, low, descriptor } => {
                let mut content = vec![4, 1, b'0' + section % 4, 10, 1, if *low { b'q' } else { b'h' }];
                let length = u8::try_from(descriptor.len().min(255)).expect("it is one byte");
                content.extend([12, length]);
                content.extend(&descriptor[..length.into()]);
                Some((0x1000, content))
            }
        }
    }
}

/// See RFC 3550, section 5.1.
fn packet(stream: Stream, sequence: u16, timestamp: u32, extensions: &Extensions, payload: &[u8]) -> Vec<u8> {
    let (payload_type, ssrc) = match stream {
        Stream::Sound => (111, 5),
        Stream::RedundantSound => (63, 5),
        Stream::Layer(layer) => (96, 7 + u32::from(layer % 3)),
        Stream::Repair => (97, 10),
    };
    let content = extensions.content();
    let mut packet = vec![if content.is_some() { 0x90 } else { 0x80 }, payload_type];
    packet.extend(sequence.to_be_bytes());
    packet.extend(timestamp.to_be_bytes());
    packet.extend(u32::to_be_bytes(ssrc));
    if let Some((form, mut content)) = content {
        content.truncate(1_000);
        content.resize(content.len().next_multiple_of(4), 0);
        packet.extend(form.to_be_bytes());
        packet.extend(u16::try_from(content.len() / 4).expect("it is short").to_be_bytes());
        packet.extend(content);
    }
    packet.extend(payload);
    packet
}

/// See RFC 3550, section 6.4.
fn report(kind: u8, count: u8, content: &[u8]) -> Vec<u8> {
    let mut content = content[..content.len().min(4_000)].to_vec();
    content.resize(content.len().next_multiple_of(4), 0);
    let mut report = vec![0x80 | count & 0x1f, 200 + kind % 8];
    report.extend(u16::try_from(content.len() / 4).expect("it is short").to_be_bytes());
    report.extend(content);
    report
}

fuzz_target!(|steps: Vec<Step>| {
    let Some(mut connection) = MediaConnection::new() else { return };
    for step in steps.into_iter().take(50) {
        match step {
            Step::Packet(packet) => connection.media(packet),
            Step::Media { stream, sequence, timestamp, extensions, payload } => {
                connection.media(&packet(stream, sequence, timestamp, &extensions, payload));
            }
            Step::Reports(reports) => connection.reports(reports),
            Step::Report { kind, count, content } => connection.reports(&report(kind, count, content)),
            Step::Pass { millis } => connection.pass(Duration::from_millis(millis.into())),
        }
    }
});
