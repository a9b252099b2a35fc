//! Other servers.

mod answering;
mod error;
mod inviting;
mod joining;
mod past;
mod peers;
mod receiving;
mod shared_rooms;
mod turns;
mod verification;

pub use self::{
    answering::{SendJoinAnswer, Template},
    error::FederationError,
    inviting::ReceivedInvite,
    joining::JoinRequest,
    peers::{
        Asked, KeyRing, KnownKey, KnownKeys, MembershipTemplate, Peers, SendJoin, StateAnswer,
        StateIdsAnswer, WantedKeys,
    },
    receiving::{Transaction, TransactionAnswer},
    shared_rooms::SharedRooms,
};
