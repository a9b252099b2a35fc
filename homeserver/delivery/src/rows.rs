//! The keyspaces of this crate and their rows.

use entente_storage::{Keyspace, KeyspaceInfo, LogPosition, cbor_value};
use minicbor::{Decode, Encode};

/// Pushers, by localpart, app id and pushkey.
pub(crate) const PUSHERS: Keyspace<(String, String, String), PusherRow> =
    Keyspace::new(0x0701, "delivery.pushers");
/// The same by app id, pushkey and localpart.
pub(crate) const PUSHKEYS: Keyspace<(String, String, String), ()> =
    Keyspace::new(0x0702, "delivery.pushkeys");
/// Whose pusher a number is: localpart, app id and pushkey.
pub(crate) const NUMBERS: Keyspace<u64, NumberRow> = Keyspace::new(0x0703, "delivery.numbers");
/// What waits for a pusher, by its number, the commit that it is about, and its place in that.
pub(crate) const QUEUE: Keyspace<(u64, LogPosition, u32), QueuedRow> =
    Keyspace::new(0x0704, "delivery.queue");

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 4] = [PUSHERS.info(), PUSHKEYS.info(), NUMBERS.info(), QUEUE.info()];

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct PusherRow {
    /// Nobody else's, and another when it is set anew with another address.
    #[n(0)]
    pub(crate) number: u64,
    #[n(1)]
    pub(crate) app_display_name: String,
    #[n(2)]
    pub(crate) device_display_name: String,
    #[n(3)]
    pub(crate) profile_tag: Option<String>,
    #[n(4)]
    pub(crate) lang: String,
    /// A JSON object, with `url`.
    #[n(5)]
    pub(crate) data: String,
    /// The device that set it.
    #[n(6)]
    pub(crate) device_id: String,
    /// When: milliseconds since 1970.
    #[n(7)]
    pub(crate) set_at: u64,
    /// Whether nothing is sent to it for the time being.
    #[n(8)]
    pub(crate) disabled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct NumberRow {
    #[n(0)]
    pub(crate) localpart: String,
    #[n(1)]
    pub(crate) app_id: String,
    #[n(2)]
    pub(crate) pushkey: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct QueuedRow {
    #[n(0)]
    pub(crate) room: u64,
    /// The event; `None`: only how much is unread.
    #[n(1)]
    pub(crate) event: Option<i64>,
    #[n(2)]
    pub(crate) highlight: bool,
    #[n(3)]
    pub(crate) sound: Option<String>,
    /// When it was put down: milliseconds since 1970.
    #[n(4)]
    pub(crate) at: u64,
}

cbor_value!(PusherRow, NumberRow, QueuedRow);
