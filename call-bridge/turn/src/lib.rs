//! STUN (RFC 8489) and TURN (RFC 8656) over UDP, TCP and TLS: clients that the network shuts in send their media through here.
//!
//! The protocol itself is `turn-server-proto`'s, the one maintained implementation of RFC 8656, with relays of both families, that does
//! no I/O of its own. Each client has an instance of it to itself, so that what one sends is never searched for among what others sent,
//! and goes with it when it ends. Around it: who may, for how long and how much, and to which peers.
//!
//! | Module | What |
//! |---|---|
//! | `credentials` | names and passwords that end by themselves |
//! | `policy` | the peers that are relayed to |
//! | `quota` | what one user may take |
//! | `session` | one client's side of the protocol, without I/O |
//! | `framing` | messages in a stream |
//! | `client` | one client: its session, its sockets, its timers |
//! | `server` | the listening sockets, and the handle |

mod client;
mod credentials;
mod framing;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod policy;
mod quota;
mod server;
mod session;

pub use self::{
    credentials::{TurnCredentials, TurnService},
    framing::begins_stun,
    policy::PeerPolicy,
    server::{RelayAddress, StartError, TurnFigures, TurnServer, TurnSettings},
};
