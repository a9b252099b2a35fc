//! Events from other servers.

mod history;
mod join;
mod outside;
mod pdu;

use ruma::{OwnedEventId, RoomId};

pub use self::{
    history::Chapter,
    join::{JoinAnswer, JoinedRoom},
    outside::{OutsideInvite, OutsideMembership},
    pdu::{INEXACT, Pdu, VerifiedPdu},
};
use crate::{Change, RoomError, Rooms};

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

/// A state of a room, as another server told it.
#[derive(Clone, Debug, Default)]
pub struct ToldState {
    /// The events that it consists of.
    pub state: Vec<OwnedEventId>,
    /// Those of them that may be unknown here, with what authorises them, in any order.
    pub events: Vec<VerifiedPdu>,
}

impl Rooms {
    /// Takes in an event that another server made (S-S API, "Checks performed on receipt of a PDU").
    pub async fn receive(&self, room_id: &RoomId, pdu: &VerifiedPdu) -> Result<Received, RoomError> {
        self.change_stored_room(room_id, async |mut composer| {
            let received = composer.receive(pdu).await?;
            Ok((composer, received))
        })
        .await
    }

    /// Takes in events that other servers made, in one transaction: those of each run in their order, up to the first for which
    /// something has to be asked for, be it an event that it names or what a policy server says, or that is no event of this room.
    /// Answers for each run what became of the events before that one, which is left to [`Self::receive`].
    pub async fn receive_together(
        &self,
        room_id: &RoomId,
        runs: &[&[VerifiedPdu]],
    ) -> Result<Vec<Vec<Received>>, RoomError> {
        let outcome = self
            .change_stored_room(room_id, async |mut composer| {
                let mut received = Vec::with_capacity(runs.len());
                for run in runs {
                    received.push(composer.receive_run(run).await?);
                }
                Ok((composer, received))
            })
            .await;
        match outcome {
            // One of them cannot be written, and the others are not to suffer from it.
            Err(RoomError::Internal(error)) => {
                tracing::warn!(%room_id, %error, "events are taken in one by one");
                Ok(vec![Vec::new(); runs.len()])
            }
            outcome => outcome,
        }
    }

    /// Takes in an event of which the events before it cannot be had, but the state before it was told by another server.
    pub async fn receive_with_state(
        &self,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
        told: &ToldState,
    ) -> Result<Received, RoomError> {
        self.change_stored_room(room_id, async |mut composer| {
            let received = composer.receive_with_state(pdu, told).await?;
            Ok((composer, received))
        })
        .await
    }

    /// Takes in events only because others are authorised by them. Those whose own authority is missing are left out.
    pub async fn receive_auth_events(&self, room_id: &RoomId, pdus: &[VerifiedPdu]) -> Result<(), RoomError> {
        let told = ToldState { state: Vec::new(), events: pdus.to_vec() };
        self.change_stored_room(room_id, async |mut composer| {
            composer.add_outliers(&told, None).await?;
            Change::Past { room: composer.view.room.number.0 }.log_in(&mut composer.transaction);
            Ok((composer, ()))
        })
        .await
    }
}
