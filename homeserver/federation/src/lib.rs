//! Other servers: which of them are spoken to and where they are, requests to them, signing keys, and the rooms that are shared with
//! them.

mod answering;
mod backoff;
mod client;
pub mod discovery;
mod error;
mod federation;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod identity;
mod inviting;
mod joining;
mod json;
mod keys;
mod past;
mod peers;
mod policy;
mod policy_signing;
mod previews;
mod receiving;
mod rows;
mod sending;
mod shared_rooms;
#[cfg(test)]
mod testing;
mod together;
mod turns;
mod verification;
mod x_matrix;

pub use self::{
    answering::{SendJoinAnswer, Template},
    backoff::Destinations,
    client::{Client, DirectoryAnswer, RemoteFile},
    error::FederationError,
    federation::Federation,
    identity::{Address, IdentityServers, StoredInvite},
    inviting::ReceivedInvite,
    joining::JoinRequest,
    keys::{Authenticated, Claim, Keys},
    peers::{
        Asked, EventAt, KeyRing, KnownKey, KnownKeys, MembershipTemplate, Peers, SendJoin, StateAnswer,
        StateIdsAnswer, WantedKeys,
    },
    policy::Policy,
    previews::Previews,
    receiving::{Transaction, TransactionAnswer},
    rows::KEYSPACES,
    sending::Outbox,
    shared_rooms::SharedRooms,
};
