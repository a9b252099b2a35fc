use entente_storage::{Topic, Transaction};
use minicbor::{Decode, Encode};

/// The topic of log entries about accounts; their payload is a [`Change`].
pub const TOPIC: Topic = Topic(1);

/// What others may have to learn about an account. Users are named by their localparts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Change {
    /// An account was made.
    #[n(0)]
    Registered {
        /// Whose.
        #[n(0)]
        localpart: String,
    },
    /// An account was closed for ever.
    #[n(1)]
    Deactivated {
        /// Whose.
        #[n(0)]
        localpart: String,
        /// Whether what the user left behind should be hidden from new members.
        #[n(1)]
        erase: bool,
    },
    /// Devices were added, renamed or removed.
    #[n(2)]
    Devices {
        /// Whose.
        #[n(0)]
        localpart: String,
        /// Which.
        #[n(1)]
        device_ids: Vec<String>,
    },
    /// A field of a profile was set or removed.
    #[n(3)]
    Profile {
        /// Whose.
        #[n(0)]
        localpart: String,
        /// Which field.
        #[n(1)]
        field: String,
    },
    /// Account data was set or removed.
    #[n(4)]
    AccountData {
        /// Whose.
        #[n(0)]
        localpart: String,
        /// The room it is about; empty for global data.
        #[n(1)]
        room_id: String,
        /// Its event type.
        #[n(2)]
        event_type: String,
    },
    /// An administrator locked, unlocked, suspended or reinstated the account.
    #[n(5)]
    Status {
        /// Whose.
        #[n(0)]
        localpart: String,
    },
    /// Users came, went, or say something else about it.
    #[n(6)]
    Presence {
        /// Who.
        #[n(0)]
        localparts: Vec<String>,
    },
    /// Another server told that users of its came, went, or say something else about it; or it fell silent.
    #[n(7)]
    PresenceElsewhere {
        /// Who: whole user ids.
        #[n(0)]
        user_ids: Vec<String>,
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
