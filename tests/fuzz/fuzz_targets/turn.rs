//! A client of the TURN server that knows its password, and its peers.
#![no_main]

use std::time::Duration;

use entente_turn::fuzzing::Client;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Raw(&'a [u8]),
    Channel { channel: u16, data: &'a [u8] },
    Signed { class: u8, method: Method, attributes: Vec<Attribute<'a>> },
    Peer { address: [u8; 4], port: u16, data: &'a [u8] },
    Peer6 { address: [u8; 16], port: u16, data: &'a [u8] },
    Pass { seconds: u16 },
}

#[derive(Arbitrary, Debug)]
enum Method {
    Allocate,
    Refresh,
    Send,
    CreatePermission,
    ChannelBind,
    Other(u16),
}

#[derive(Arbitrary, Debug)]
enum Attribute<'a> {
    RequestedTransport(u8),
    Peer { address: [u8; 4], port: u16 },
    Lifetime(u32),
    Channel(u16),
    Data(&'a [u8]),
    Family(u8),
    AdditionalFamily(u8),
    Other(u16, &'a [u8]),
}

impl Method {
    fn number(&self) -> u16 {
        match self {
            Self::Allocate => 3,
            Self::Refresh => 4,
            Self::Send => 6,
            Self::CreatePermission => 8,
            Self::ChannelBind => 9,
            Self::Other(number) => *number,
        }
    }
}

impl Attribute<'_> {
    fn encoded(&self) -> (u16, Vec<u8>) {
        match self {
            Self::RequestedTransport(transport) => (0x19, vec![*transport, 0, 0, 0]),
            Self::Peer { address, port } => {
                let [high, low] = (port ^ 0x2112).to_be_bytes();
                let [a, b, c, d] = address;
                (0x12, vec![0, 1, high, low, a ^ 0x21, b ^ 0x12, c ^ 0xa4, d ^ 0x42])
            }
            Self::Lifetime(seconds) => (0x0d, seconds.to_be_bytes().to_vec()),
            Self::Channel(channel) => (0x0c, [channel.to_be_bytes(), [0, 0]].concat()),
            Self::Data(data) => (0x13, data.to_vec()),
            Self::Family(family) => (0x17, vec![*family, 0, 0, 0]),
            Self::AdditionalFamily(family) => (0x8000, vec![*family, 0, 0, 0]),
            Self::Other(kind, value) => (*kind, value.to_vec()),
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut client = Client::default();
    for step in steps.into_iter().take(50) {
        match step {
            Step::Raw(datagram) => client.send(datagram),
            Step::Channel { channel, data } => {
                let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
                let head = [(0x4000 | channel % 0x1000).to_be_bytes(), length.to_be_bytes()].concat();
                client.send(&[head.as_slice(), data].concat());
            }
            Step::Signed { class, method, attributes } => {
                let attributes: Vec<_> = attributes.iter().take(16).map(Attribute::encoded).collect();
                client.send_signed(class, method.number(), &attributes);
            }
            Step::Peer { address, port, data } => client.send_from_peer((address, port).into(), data),
            Step::Peer6 { address, port, data } => client.send_from_peer((address, port).into(), data),
            Step::Pass { seconds } => client.pass(Duration::from_secs(seconds.into())),
        }
    }
});
