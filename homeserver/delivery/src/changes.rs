use entente_storage::{Topic, Transaction};
use minicbor::{Decode, Encode};

/// The topic of log entries about pushers; their payload is a [`Change`].
pub const TOPIC: Topic = Topic(7);

/// What every node has to learn about pushers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Change {
    /// A user's pushers were set or deleted.
    #[n(0)]
    Pushers {
        /// Whose.
        #[n(0)]
        localpart: String,
    },
}

impl Change {
    /// Adds this change to the log entries of the transaction that makes it.
    pub(crate) fn log_in(&self, transaction: &mut Transaction) {
        transaction.log(TOPIC, entente_storage::value::to_cbor(self));
    }

    /// Reads the payload of a log entry.
    pub(crate) fn from_payload(payload: &[u8]) -> Result<Self, String> {
        entente_storage::value::from_cbor(payload)
    }
}
