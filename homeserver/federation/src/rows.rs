//! The keyspaces of this crate and their rows. Servers are named in lower case.

use entente_storage::{Bytes, Keyspace, KeyspaceInfo, cbor_value};
use minicbor::{Decode, Encode};

/// Servers that did not answer lately.
pub(crate) const DESTINATIONS: Keyspace<String, DestinationRow> =
    Keyspace::new(0x0601, "federation.destinations");
/// Signing keys of other servers, by server and key id (`ed25519:…`).
pub(crate) const SERVER_KEYS: Keyspace<(String, String), ServerKeyRow> =
    Keyspace::new(0x0602, "federation.server_keys");
/// What servers last said of their keys: a JSON object with their signatures.
pub(crate) const KEY_ANSWERS: Keyspace<String, KeyAnswerRow> =
    Keyspace::new(0x0603, "federation.key_answers");
/// Events that wait to be sent, by destination and number, in their order.
pub(crate) const WAITING_EVENTS: Keyspace<(String, u64), EventRow> =
    Keyspace::new(0x0604, "federation.waiting_events");
/// Messages that wait to be sent and may not get lost, by destination and number, in their order: JSON objects.
pub(crate) const WAITING_MESSAGES: Keyspace<(String, u64), Bytes> =
    Keyspace::new(0x0605, "federation.waiting_messages");
/// Where the queues of destinations end.
pub(crate) const QUEUES: Keyspace<String, QueueRow> = Keyspace::new(0x0608, "federation.queues");

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 6] = [
    DESTINATIONS.info(),
    SERVER_KEYS.info(),
    KEY_ANSWERS.info(),
    WAITING_EVENTS.info(),
    WAITING_MESSAGES.info(),
    QUEUES.info(),
];

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct DestinationRow {
    /// How often in a row it did not answer.
    #[n(0)]
    pub(crate) failures: u32,
    /// Since when: milliseconds since 1970, like the others.
    #[n(1)]
    pub(crate) failing_since: u64,
    /// When it last did not answer.
    #[n(2)]
    pub(crate) failed_at: u64,
    /// When it may be asked again.
    #[n(3)]
    pub(crate) retry_at: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct ServerKeyRow {
    /// The public key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) key: Vec<u8>,
    /// Until when it is good for requests and for events: milliseconds since 1970.
    #[n(1)]
    pub(crate) valid_until: u64,
    /// Whether the server calls it an old one, which is good for events that are not younger than that only.
    #[n(2)]
    pub(crate) is_old: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct KeyAnswerRow {
    /// JSON, as it came.
    #[n(0)]
    pub(crate) json: String,
    /// Its `valid_until_ts`: milliseconds since 1970.
    #[n(1)]
    pub(crate) valid_until: u64,
    /// When it came: milliseconds since 1970.
    #[n(2)]
    pub(crate) fetched_at: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct EventRow {
    #[n(0)]
    pub(crate) room_id: String,
    #[n(1)]
    pub(crate) event_id: String,
    /// Until when it sticks, in ms since 1970 (MSC4354); 0: it does not.
    #[n(2)]
    #[cbor(default)]
    pub(crate) sticky_until: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct QueueRow {
    /// The number of the next event or message; the first is 1.
    #[n(0)]
    pub(crate) next: u64,
}

cbor_value!(DestinationRow, ServerKeyRow, KeyAnswerRow, EventRow, QueueRow);
