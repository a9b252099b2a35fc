//! Events from other servers.

mod join;
mod pdu;

use ruma::{OwnedEventId, RoomId};

pub use self::{
    join::{JoinAnswer, JoinedRoom},
    pdu::{Pdu, VerifiedPdu},
};
use crate::{RoomError, Rooms};

/// What became of an event from another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is part of the room.
    Accepted,
    /// It counts for what is built upon it, but is not shown: the room's present state does not allow it.
    SoftFailed,
    /// It is not allowed, for this reason, and is part of nothing.
    Rejected(String),
    /// It was known before.
    Known,
    /// Events that authorise it are not known. Nothing was done.
    MissingAuthEvents(Vec<OwnedEventId>),
    /// Events before it are not known, or not the states that they had. Nothing was done.
    MissingPrevEvents(Vec<OwnedEventId>),
}

impl Rooms {
    /// Takes in an event that another server made (S-S API, "Checks performed on receipt of a PDU").
    pub async fn receive(&self, room_id: &RoomId, pdu: &VerifiedPdu) -> Result<Received, RoomError> {
        self.change_room(room_id, async |mut composer| {
            let received = composer.receive(pdu).await?;
            Ok((composer, received))
        })
        .await
    }
}
