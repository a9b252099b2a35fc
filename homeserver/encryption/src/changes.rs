use entente_storage::{Topic, Transaction};
use minicbor::{Decode, Encode};

/// The topic of log entries about encryption; their payload is a [`Change`].
pub const TOPIC: Topic = Topic(3);

/// What others may have to learn.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Change {
    /// A user's device keys, cross-signing keys or signatures that everybody sees were changed.
    #[n(0)]
    DeviceList {
        /// Whose: a whole user id.
        #[n(0)]
        user_id: String,
    },
    /// Messages were put down for devices of this server's users.
    #[n(1)]
    ToDevice {
        /// For which: localparts and device ids.
        #[n(0)]
        recipients: Vec<(String, String)>,
    },
    /// A user signed keys of others. Nobody else sees these signatures.
    #[n(2)]
    SignedOthers {
        /// Who: a localpart.
        #[n(0)]
        signer: String,
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
