//! What is private here and reads what clients send, for the fuzz targets in `tests/fuzz`. Only with the feature `fuzzing`.

mod call;
mod forwarding;
mod peer;

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use entente_environment::{Clock, SystemClock, Timestamp};
use prost::Message;

pub use self::{call::Call, forwarding::Forwarding, peer::PeerConnection};
use crate::{
    proto::{self, from_json, to_json},
    room::Moment,
    session::JoinParameters,
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
