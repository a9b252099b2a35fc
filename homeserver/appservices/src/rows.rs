//! The keyspaces of this crate and their rows. Services are named by the ids in their registrations.

use entente_storage::{Bytes, Keyspace, KeyspaceInfo, Position, cbor_value};
use minicbor::{Decode, Encode};

/// Registrations that were added on the command line or by an administrator, by id: YAML.
pub(crate) const REGISTRATIONS: Keyspace<String, String> = Keyspace::new(0x0801, "appservices.registrations");
/// What waits for a service, by number, in its order.
pub(crate) const WAITING: Keyspace<(String, u64), WaitingRow> = Keyspace::new(0x0802, "appservices.waiting");
/// The number of the next thing that waits for a service; the first is 1.
pub(crate) const QUEUES: Keyspace<String, u64> = Keyspace::new(0x0803, "appservices.queues");
/// The transaction that was last made for a service: it is sent until it was taken, as it is.
pub(crate) const IN_FLIGHT: Keyspace<String, InFlightRow> = Keyspace::new(0x0804, "appservices.in_flight");
/// Devices for which messages may wait that are to go to a service, by service, localpart and device id. The value changes whenever
/// another message came.
pub(crate) const MAILBOXES: Keyspace<(String, String, String), u64> =
    Keyspace::new(0x0805, "appservices.mailboxes");
/// How far a service has copies of the messages to a device that gets them by itself too, by service, localpart and device id.
pub(crate) const COPIED: Keyspace<(String, String, String), Position> =
    Keyspace::new(0x0806, "appservices.copied");

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 6] =
    [REGISTRATIONS.info(), WAITING.info(), QUEUES.info(), IN_FLIGHT.info(), MAILBOXES.info(), COPIED.info()];

/// One thing that waits.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum WaitingRow {
    /// An event.
    #[n(0)]
    Event {
        /// The number of its room.
        #[n(0)]
        room: u64,
        /// Its number there.
        #[n(1)]
        number: i64,
    },
    /// That devices or keys of a user changed, or that the service shares a room with that user now.
    #[n(1)]
    Devices {
        /// The whole user id.
        #[n(0)]
        user_id: String,
    },
    /// That the service shares no room with a user any more.
    #[n(2)]
    DevicesLeft {
        /// The whole user id.
        #[n(0)]
        user_id: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct InFlightRow {
    /// How many there have been.
    #[n(0)]
    pub(crate) count: u64,
    /// Its id.
    #[n(1)]
    pub(crate) transaction_id: String,
    /// The body; empty once it was taken.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) body: Vec<u8>,
    /// Messages to devices that are in it.
    #[n(3)]
    pub(crate) delivered: Vec<DeliveredRow>,
}

/// Messages to one device that are in a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct DeliveredRow {
    #[n(0)]
    pub(crate) localpart: String,
    #[n(1)]
    pub(crate) device_id: String,
    /// Up to where.
    #[n(2)]
    pub(crate) up_to: Position,
}

impl InFlightRow {
    pub(crate) fn is_taken(&self) -> bool {
        self.body.is_empty()
    }

    pub(crate) fn body(&self) -> Bytes {
        Bytes::copy_from_slice(&self.body)
    }
}

cbor_value!(WaitingRow, InFlightRow);
