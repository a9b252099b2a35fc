use entente_storage::StorageError;
use ruma::{OwnedRoomAliasId, OwnedRoomId};

use crate::{PolicyInquiry, PolicyRefusal, StateStoreError};

/// Why an operation on rooms was refused. `entente-api` states the status and the error code of each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoomError {
    /// No such room here, or none that the asker may know of.
    #[error("there is no such room, or you may not see it")]
    RoomNotFound,
    /// No such event in the room, or none that the asker may see.
    #[error("there is no such event in this room, or you may not see it")]
    EventNotFound,
    /// Something else that is not there.
    #[error("{0}")]
    NotFound(&'static str),
    /// The authorisation rules of the room do not allow it.
    #[error("the rules of the room do not allow it: {0}")]
    Unauthorized(String),
    /// Not allowed, for a reason of its own.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A room version that this server does not have.
    #[error("this server does not have room version {0}")]
    UnsupportedRoomVersion(String),
    /// The initial state or the power levels of a room contradict its rules.
    #[error("a room cannot begin like this: {0}")]
    InvalidRoomState(String),
    /// An event that is not one.
    #[error("{0}")]
    BadEvent(String),
    /// More than an event, or a part of one, may have.
    #[error("{0}")]
    TooLarge(&'static str),
    /// A value that the spec does not allow.
    #[error("{0}")]
    InvalidParameter(String),
    /// Somebody has this alias already.
    #[error("the alias {0} is taken")]
    AliasTaken(OwnedRoomAliasId),
    /// An alias that does not lead to the room that names it.
    #[error("an alias in the event does not lead to this room: {0}")]
    BadAlias(String),
    /// The room cannot be joined from here: none of this server's users may let the user in.
    #[error("nobody on this server may let you into this room")]
    UnableToAuthoriseJoin,
    /// The user is already in the state that was asked for.
    #[error("{0}")]
    BadState(&'static str),
    /// The room is somebody else's to be asked for.
    #[error("the room {0} is not on this server, and rooms of other servers cannot be reached yet")]
    NotHere(OwnedRoomId),
    /// Longer than events can be delayed.
    #[error("events are delayed by at most {} s", .0.as_secs())]
    DelayTooLong(std::time::Duration),
    /// A user has as many delayed events as one can have; the next of them is due after this time.
    #[error("you have as many delayed events as one can have")]
    TooManyDelayed(std::time::Duration),
    /// A delayed event came out otherwise than is asked for.
    #[error("the delayed event waits no longer: {0}")]
    Finalised(&'static str),
    /// The policy server of the room does not want it, or cannot be asked: as it answered.
    #[error("{}", .0.message)]
    PolicyRefused(PolicyRefusal),
    /// The policy server of the room has to be asked first; `Rooms` does so and begins again, and nobody else sees it.
    #[error("the policy server of the room has to be asked about {}", .0.event_id)]
    AwaitsPolicy(Box<PolicyInquiry>),
    /// The storage failed or is unavailable.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A mistake of ours, or a damaged store.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<StateStoreError> for RoomError {
    fn from(error: StateStoreError) -> Self {
        match error {
            StateStoreError::Storage(error) => Self::Storage(error),
            StateStoreError::Damaged(error) => Self::Internal(error.to_string()),
        }
    }
}
