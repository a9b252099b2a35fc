//! What is private here and reads what clients send, for the fuzz targets in `tests/fuzz`. Only with the feature `fuzzing`.

mod call;
mod forwarding;
mod media;
mod open;
mod peer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use entente_environment::{Clock, SystemClock, Timestamp};
use prost::Message;

pub use self::{call::Call, forwarding::Forwarding, media::MediaConnection, peer::PeerConnection};
use crate::{
    proto::{self, DataHeader, DataPacket, ReadError, from_json, read, relayed, to_json},
    room::Moment,
    session::JoinParameters,
    transport::{Redundancy, passed_on, unwrap},
    worker::user_name,
};

/// A time that only passes when it is told to.
#[derive(Clone, Copy)]
struct Time {
    start: Instant,
    passed: Duration,
}

impl Time {
    fn new() -> Self {
        Self { start: SystemClock.monotonic(), passed: Duration::ZERO }
    }

    fn pass(&mut self, duration: Duration) {
        self.passed += duration;
    }

    fn at(self) -> Instant {
        self.start + self.passed
    }

    fn moment(self) -> Moment {
        Moment { at: self.at(), time: Timestamp(1_700_000_000_000).after(self.passed) }
    }
}

/// Reads the query parameter `join_request`.
pub fn join_request(parameter: &str) -> bool {
    JoinParameters::from_join_request(Some(parameter)).is_ok()
}

/// Takes sound apart that carries earlier packets along.
///
/// # Panics
///
/// If what was taken out is not what was in it.
pub fn redundant_sound(payload: &[u8], payload_type: u8) {
    let Some(unwrapped) = unwrap(payload, payload_type) else { return };
    let blocks: Vec<&[u8]> = unwrapped.earlier.iter().map(|(_, block)| *block).collect();
    let headers = 4 * blocks.len() + 1;
    let contents = [blocks.concat(), unwrapped.newest.to_vec()].concat();
    assert_eq!(payload.get(headers..), Some(contents.as_slice()));
}

/// Lets sound carry earlier packets along, and takes it apart.
///
/// # Panics
///
/// If a packet is not in it, or the ones before are others than were sent.
pub fn sound_there_and_back(payload_type: u8, packets: &[(u32, &[u8])]) {
    let payload_type = payload_type & 0x7f;
    let mut redundancy = Redundancy::default();
    for (timestamp, payload) in packets {
        let wrapped = redundancy.wrap(payload_type, *timestamp, &Arc::from(*payload));
        let unwrapped = unwrap(&wrapped, payload_type).expect("it was made here");
        assert_eq!(unwrapped.newest, *payload);
        for (back, block) in unwrapped.earlier {
            assert!(packets.contains(&(timestamp.wrapping_sub(back), block)), "nobody sent {block:?}");
        }
    }
}

/// Passes a dependency descriptor on.
///
/// # Panics
///
/// If it is another one then, or half of it.
pub fn dependency_descriptor(descriptor: &[u8], room: u8) {
    let room = usize::from(room);
    let expected = if room < descriptor.len() { &[] } else { descriptor };
    assert_eq!(passed_on(descriptor, room), expected);
}

/// Relays a data packet.
///
/// # Panics
///
/// If it is none afterwards although it was one, or comes from somebody else.
pub fn relayed_data(packet: &[u8], kind: i32, sid: &str, identity: &str) {
    let Ok(relayed) = relayed(packet, DataHeader { kind, sid, identity }) else {
        assert!(DataPacket::decode(packet).is_err(), "it could be read");
        return;
    };
    let Ok(before) = DataPacket::decode(packet) else { return };
    let after = DataPacket::decode(relayed.as_slice()).expect("it is one still");
    assert_eq!(
        (after.kind, after.participant_sid.as_str(), after.participant_identity.as_str()),
        (kind.max(0), sid, identity)
    );
    assert_eq!(
        (after.sequence, &after.destination_identities),
        (before.sequence, &before.destination_identities)
    );
    assert_eq!(after.user.is_some(), before.user.is_some());
    if let (Some(after), Some(before)) = (after.user, before.user) {
        assert_eq!((after.participant_sid.as_str(), after.participant_identity.as_str()), (sid, identity));
        assert_eq!((after.payload, after.topic), (before.payload, before.topic));
    }
}

/// Reads what a client says; answers whether it could be read.
///
/// # Panics
///
/// If it is refused although it has few bytes.
pub fn signal_request(request: &[u8]) -> bool {
    let outcome = read::<proto::SignalRequest>("livekit.SignalRequest", request);
    assert!(!matches!(outcome, Err(ReadError::TooMany) if request.len() < 4_096), "it has few elements");
    outcome.is_ok()
}

fn packed(request: &[u8]) -> Option<JoinParameters> {
    JoinParameters::from_join_request(Some(&URL_SAFE_NO_PAD.encode(request))).ok()
}

/// Finds the ICE user name for which a datagram is.
pub fn ice_user_name(datagram: &[u8]) -> Option<&str> {
    user_name(datagram)
}

/// Reads a request to `RoomService` in JSON; which one says `kind`.
///
/// # Panics
///
/// If what was read is not read again as it was written.
pub fn room_service_request(kind: u8, json: &[u8]) {
    match kind % 5 {
        0 => there_and_back::<proto::CreateRoomRequest>("livekit.CreateRoomRequest", json),
        1 => there_and_back::<proto::UpdateParticipantRequest>("livekit.UpdateParticipantRequest", json),
        2 => there_and_back::<proto::UpdateSubscriptionsRequest>("livekit.UpdateSubscriptionsRequest", json),
        3 => there_and_back::<proto::SendDataRequest>("livekit.SendDataRequest", json),
        _ => there_and_back::<proto::ListRoomsRequest>("livekit.ListRoomsRequest", json),
    }
}

fn there_and_back<M: Message + Default + PartialEq + std::fmt::Debug>(name: &'static str, json: &[u8]) {
    let Ok(message) = from_json::<M>(name, json) else { return };
    let again = to_json(name, &message).ok().and_then(|json| from_json::<M>(name, &json).ok());
    assert_eq!(again, Some(message));
}
