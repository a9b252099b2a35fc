use entente_storage::{Topic, Transaction};
use minicbor::{Decode, Encode};

use crate::Membership;

/// The topic of log entries about rooms; their payload is a [`Change`].
pub const TOPIC: Topic = Topic(2);

/// What others may have to learn about a room. Rooms and events are named by their numbers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Change {
    /// An event was added.
    #[n(0)]
    Event {
        /// To which room.
        #[n(0)]
        room: u64,
        /// Under which number.
        #[n(1)]
        number: i64,
        /// Whose membership it changed, and to what.
        #[n(2)]
        member: Option<(String, Membership)>,
        /// Which event it redacted.
        #[n(3)]
        redacted: Option<i64>,
    },
    /// A receipt was sent.
    #[n(1)]
    Receipt {
        /// In which room.
        #[n(0)]
        room: u64,
        /// Whose.
        #[n(1)]
        user_id: String,
        /// Whether only its sender sees it.
        #[n(2)]
        private: bool,
    },
    /// Somebody began or ceased to type.
    #[n(2)]
    Typing {
        /// In which room.
        #[n(0)]
        room: u64,
    },
    /// A local user's membership became another by state resolution, and not by an event that came now.
    #[n(8)]
    Membership {
        /// In which room.
        #[n(0)]
        room: u64,
        /// Whose.
        #[n(1)]
        user_id: String,
        /// What it is now.
        #[n(2)]
        membership: Membership,
    },
    /// An event of another server was taken in that is not shown: rejected, or soft-failed.
    #[n(9)]
    NotShown {
        /// In which room.
        #[n(0)]
        room: u64,
        /// Under which number.
        #[n(1)]
        number: i64,
    },
    /// Events of a room's past were fetched from other servers: they stand before its beginning, or in no timeline.
    #[n(10)]
    Past {
        /// In which room.
        #[n(0)]
        room: u64,
    },
    /// A room lets no guests in any more.
    #[n(11)]
    GuestsRefused {
        /// Which.
        #[n(0)]
        room: u64,
    },
    /// The event that was added is sticky (MSC4354).
    #[n(12)]
    Sticky {
        /// In which room.
        #[n(0)]
        room: u64,
        /// Its number if nothing else is said of it: it is no part of what comes now, or was not shown before.
        #[n(1)]
        number: Option<i64>,
    },
    /// A local user forgot a room.
    #[n(3)]
    Forgotten {
        /// Who.
        #[n(0)]
        localpart: String,
        /// Which room.
        #[n(1)]
        room: u64,
    },
}

impl Change {
    /// Adds this change to the log entries of the transaction that makes it.
    pub fn log_in(&self, transaction: &mut Transaction) {
        transaction.log(TOPIC, entente_storage::value::to_cbor(self));
    }

    /// Reads the payload of a log entry.
    pub fn from_payload(payload: &[u8]) -> Result<Self, String> {
        entente_storage::value::from_cbor(payload)
    }
}
