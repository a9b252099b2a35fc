//! The keyspaces of this crate and their rows. Everything of a room is under its number, so that purging a room is a range
//! delete; local users are named by their localparts.

use entente_storage::{
    Bytes, Keyspace, KeyspaceInfo, LogPosition, cbor_value,
    value::{Stamped, Value},
};
use minicbor::{Decode, Encode};

use crate::state::EventNumber;

/// A room's number in this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomNumber(pub u64);

/// Events with a place in a timeline are numbered from here upwards, those that others are authorised by below it.
pub(crate) const FIRST_NUMBER: i64 = -(1 << 39);
/// Behind a gap numbers go on at the next multiple of this: new events count up from it, those that fill the gap down from it, as
/// history from before the room's beginning here counts down from 0.
pub(crate) const SEGMENT: i64 = 1 << 32;

/// The number at which events began to be numbered downwards, of one that was: it fills the gap before that.
pub(crate) fn gap_filled_by(number: i64) -> Option<i64> {
    let is_filling = number >= 0 && number.rem_euclid(SEGMENT) >= SEGMENT / 2;
    is_filling.then(|| number - number.rem_euclid(SEGMENT) + SEGMENT)
}

/// Nodes of state trees, by room and name, in their own encoding.
pub(crate) const STATE_NODES: Keyspace<(u64, [u8; 16]), Bytes> = Keyspace::new(0x0201, "rooms.state_nodes");
/// Which room has this id.
pub(crate) const ROOM_IDS: Keyspace<String, u64> = Keyspace::new(0x0202, "rooms.room_ids");
/// What never changes about a room.
pub(crate) const ROOMS: Keyspace<u64, RoomRow> = Keyspace::new(0x0203, "rooms.rooms");
/// Where a room stands. Whoever adds an event checks and writes this row: it is what puts a room's events in order.
pub(crate) const HEADS: Keyspace<u64, HeadRow> = Keyspace::new(0x0204, "rooms.heads");
/// Events, by room and number.
pub(crate) const EVENTS: Keyspace<(u64, i64), StoredEvent> = Keyspace::new(0x0205, "rooms.events");
/// Where an event is, by its id.
pub(crate) const EVENT_IDS: Keyspace<String, EventPlace> = Keyspace::new(0x0206, "rooms.event_ids");
/// The number of an event type and state key in a room.
pub(crate) const STATE_KEYS: Keyspace<(u64, String, String), u64> = Keyspace::new(0x0207, "rooms.state_keys");
/// Everybody's present membership of a room, by room and user id.
pub(crate) const MEMBERS: Keyspace<(u64, String), MemberRow> = Keyspace::new(0x0208, "rooms.members");
/// The rooms that a local user has to do with, by localpart and room.
pub(crate) const USER_ROOMS: Keyspace<(String, u64), Stamped<UserRoomRow>> =
    Keyspace::new(0x0209, "rooms.user_rooms");
/// What a device has sent already, by localpart, device id, room, event type and transaction id.
pub(crate) const TRANSACTIONS: Keyspace<(String, String, u64, String, String), TransactionRow> =
    Keyspace::new(0x020a, "rooms.transactions");
/// Events that relate to an event, by room, the number of that event, and their own.
pub(crate) const RELATIONS: Keyspace<(u64, i64, i64), RelationRow> = Keyspace::new(0x020b, "rooms.relations");
/// What the relations to an event come to, by room and the event's number.
pub(crate) const AGGREGATES: Keyspace<(u64, i64), AggregateRow> = Keyspace::new(0x020c, "rooms.aggregates");
/// The threads of a room, by the number of their newest event: the number of their root.
pub(crate) const THREADS: Keyspace<(u64, i64), NumberRow> = Keyspace::new(0x020d, "rooms.threads");
/// Who wrote in a thread, by room, the number of the root, and user id.
pub(crate) const THREAD_PARTICIPANTS: Keyspace<(u64, i64, String), ()> =
    Keyspace::new(0x020e, "rooms.thread_participants");
/// Receipts, by room, user id, receipt type and thread (empty: unthreaded).
pub(crate) const RECEIPTS: Keyspace<(u64, String, String, String), Stamped<ReceiptRow>> =
    Keyspace::new(0x020f, "rooms.receipts");
/// The same receipts by room and the position at which they came.
pub(crate) const RECEIPT_POSITIONS: Keyspace<(u64, LogPosition, String, String, String), ()> =
    Keyspace::new(0x0210, "rooms.receipt_positions");
/// Until when somebody types, by room and user id: ms since 1970.
pub(crate) const TYPING: Keyspace<(u64, String), u64> = Keyspace::new(0x0211, "rooms.typing");
/// Aliases of this server.
pub(crate) const ALIASES: Keyspace<String, AliasRow> = Keyspace::new(0x0212, "rooms.aliases");
/// The same aliases by room.
pub(crate) const ROOM_ALIASES: Keyspace<(u64, String), ()> = Keyspace::new(0x0213, "rooms.room_aliases");
/// The rooms in the public directory of this server.
pub(crate) const PUBLISHED: Keyspace<u64, ()> = Keyspace::new(0x0214, "rooms.published");
/// The rooms that application services list for their networks, by the id of the network's instance.
pub(crate) const PUBLISHED_IN: Keyspace<(String, u64), ()> = Keyspace::new(0x0241, "rooms.published_in");
/// What users reported, by time and a random number.
pub(crate) const REPORTS: Keyspace<(u64, u64), ReportRow> = Keyspace::new(0x0215, "rooms.reports");
/// The keys with which this server signs, by their names (`ed25519:…` without the algorithm): seeds of 32 bytes.
pub(crate) const SIGNING_KEYS: Keyspace<String, Bytes> = Keyspace::new(0x0216, "rooms.signing_keys");
/// Keys with which this server signed before, by their names.
pub(crate) const RETIRED_SIGNING_KEYS: Keyspace<String, RetiredKeyRow> =
    Keyspace::new(0x0240, "rooms.retired_signing_keys");
/// The timeline by time: room, `origin_server_ts` in ms, number.
pub(crate) const EVENT_TIMES: Keyspace<(u64, u64, i64), ()> = Keyspace::new(0x0217, "rooms.event_times");

/// The place of a state event in the auth chains of its room, by room and number.
pub(crate) const CHAIN_POSITIONS: Keyspace<(u64, i64), Bytes> =
    Keyspace::new(0x0220, "rooms.chain_positions");
/// What stands at each place of the auth chains, by room, chain and sequence number.
pub(crate) const CHAIN_ROWS: Keyspace<(u64, i64, u64), Bytes> = Keyspace::new(0x0221, "rooms.chain_rows");
/// How many users of another server are in a room, by room and server; none is no row.
pub(crate) const SERVERS: Keyspace<(u64, String), u64> = Keyspace::new(0x0222, "rooms.servers");
/// The rooms that a user of another server is in, by user id and room.
pub(crate) const VISITED_ROOMS: Keyspace<(String, u64), ()> = Keyspace::new(0x0225, "rooms.visited_rooms");
/// What another server told a local user of a room with an invite or for a knock, by room and localpart: a JSON array of
/// stripped state.
pub(crate) const TOLD_STATES: Keyspace<(u64, String), Bytes> = Keyspace::new(0x0223, "rooms.told_states");
/// Redactions of events that have not come yet, by room and the id of the event: the redaction's number.
pub(crate) const EARLY_REDACTIONS: Keyspace<(u64, String), NumberRow> =
    Keyspace::new(0x0224, "rooms.early_redactions");
/// Events that relate to one that has not come yet, by room, the id of that event, and their own numbers.
pub(crate) const EARLY_RELATIONS: Keyspace<(u64, String, i64), ()> =
    Keyspace::new(0x0243, "rooms.early_relations");

/// Events that are sent later, by their delay ids.
pub(crate) const DELAYED: Keyspace<String, DelayedRow> = Keyspace::new(0x0230, "rooms.delayed");
/// When they are due, by localpart and delay id: ms since 1970.
pub(crate) const DELAYED_OF_USERS: Keyspace<(String, String), u64> =
    Keyspace::new(0x0238, "rooms.delayed_of_users");
/// The same by when they are due: ms since 1970.
pub(crate) const DELAYED_DUE: Keyspace<(u64, String), ()> = Keyspace::new(0x0232, "rooms.delayed_due");
/// What became of delayed events, by their delay ids.
pub(crate) const FINALISED: Keyspace<String, FinalisedRow> = Keyspace::new(0x0233, "rooms.finalised");
/// The same by localpart and when it became so: ms since 1970.
pub(crate) const FINALISED_OF_USERS: Keyspace<(String, u64, String), ()> =
    Keyspace::new(0x0234, "rooms.finalised_of_users");
/// Delay ids by localpart, device, room id, event type and transaction id.
pub(crate) const DELAY_TRANSACTIONS: Keyspace<(String, String, String, String, String), String> =
    Keyspace::new(0x0239, "rooms.delay_transactions");
/// The delay id that a user got last, by localpart: who asks for two at once is counted one after the other.
pub(crate) const LAST_DELAYS: Keyspace<String, String> = Keyspace::new(0x0236, "rooms.last_delays");

/// Events that were sticky when they came, by room and number: until when, in ms since 1970 (MSC4354).
pub(crate) const STICKY: Keyspace<(u64, i64), Stamped<u64>> = Keyspace::new(0x0237, "rooms.sticky");
/// Those that were soft-failed, the same way: they are judged again while they are sticky.
pub(crate) const REFUSED_STICKY: Keyspace<(u64, i64), u64> = Keyspace::new(0x0242, "rooms.refused_sticky");

/// Every keyspace of this crate, for the catalogue.
pub const KEYSPACES: [KeyspaceInfo; 41] = [
    STATE_NODES.info(),
    ROOM_IDS.info(),
    ROOMS.info(),
    HEADS.info(),
    EVENTS.info(),
    EVENT_IDS.info(),
    STATE_KEYS.info(),
    MEMBERS.info(),
    USER_ROOMS.info(),
    TRANSACTIONS.info(),
    RELATIONS.info(),
    AGGREGATES.info(),
    THREADS.info(),
    THREAD_PARTICIPANTS.info(),
    RECEIPTS.info(),
    RECEIPT_POSITIONS.info(),
    TYPING.info(),
    ALIASES.info(),
    ROOM_ALIASES.info(),
    PUBLISHED.info(),
    PUBLISHED_IN.info(),
    REPORTS.info(),
    SIGNING_KEYS.info(),
    RETIRED_SIGNING_KEYS.info(),
    EVENT_TIMES.info(),
    CHAIN_POSITIONS.info(),
    CHAIN_ROWS.info(),
    SERVERS.info(),
    TOLD_STATES.info(),
    VISITED_ROOMS.info(),
    EARLY_REDACTIONS.info(),
    EARLY_RELATIONS.info(),
    DELAYED.info(),
    DELAYED_OF_USERS.info(),
    DELAYED_DUE.info(),
    FINALISED.info(),
    FINALISED_OF_USERS.info(),
    DELAY_TRANSACTIONS.info(),
    LAST_DELAYS.info(),
    STICKY.info(),
    REFUSED_STICKY.info(),
];

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct RoomRow {
    #[n(0)]
    pub(crate) room_id: String,
    #[n(1)]
    pub(crate) version: String,
}

/// An event to which nothing refers yet as one of its `prev_events`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct Extremity {
    #[n(0)]
    pub(crate) event_id: String,
    #[n(1)]
    pub(crate) number: i64,
    #[n(2)]
    pub(crate) depth: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct HeadRow {
    #[n(0)]
    pub(crate) extremities: Vec<Extremity>,
    /// The present state: an encoded `StateRoot`.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub(crate) state: Vec<u8>,
    /// The number of the next new event.
    #[n(2)]
    pub(crate) next_event: i64,
    /// The next numbers of state keys, in each partition.
    #[n(3)]
    pub(crate) next_setting: u32,
    #[n(4)]
    pub(crate) next_member: u32,
    /// How many have joined.
    #[n(5)]
    pub(crate) joined: u64,
    /// How many are invited.
    #[n(6)]
    pub(crate) invited: u64,
    /// How many events are known only because others are authorised by them.
    #[n(7)]
    #[cbor(default)]
    pub(crate) outliers: u64,
    /// The number of the oldest event: history that is fetched from other servers goes before it.
    #[n(8)]
    #[cbor(default)]
    pub(crate) first_event: i64,
    /// How many of those who have joined are users of other servers.
    #[n(9)]
    #[cbor(default)]
    pub(crate) joined_elsewhere: u64,
    /// Where the timeline has gaps: this server was not in the room then, and knows nothing or not all of it.
    #[n(10)]
    #[cbor(default)]
    pub(crate) gaps: Vec<GapRow>,
    /// Until when there may be sticky events that were soft-failed, in ms since 1970.
    #[n(11)]
    #[cbor(default)]
    pub(crate) refused_sticky_until: u64,
}

/// A gap in a timeline, which is filled from its newer end: numbers count down from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct GapRow {
    /// The number of the event behind it: a multiple of [`SEGMENT`].
    #[n(0)]
    pub(crate) behind: i64,
    /// The number of the oldest event of what is known of it; `behind` if nothing is.
    #[n(1)]
    pub(crate) first: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct EventPlace {
    #[n(0)]
    pub(crate) room: u64,
    #[n(1)]
    pub(crate) number: i64,
}

/// A stored event: what this server knows of it, and its canonical JSON as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredEvent {
    pub(crate) position: LogPosition,
    pub(crate) header: EventHeader,
    pub(crate) json: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct EventHeader {
    #[n(0)]
    pub(crate) event_id: String,
    /// The state before it: an encoded `StateRoot`.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub(crate) state_before: Vec<u8>,
    /// The state after it, where it differs.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub(crate) state_after: Option<Vec<u8>>,
    /// The state event that it replaces.
    #[n(3)]
    pub(crate) replaces: Option<i64>,
    /// The event that redacted it; its JSON is the redacted one.
    #[n(4)]
    pub(crate) redacted_by: Option<i64>,
    /// The device that sent it with this transaction id, if a local user did.
    #[n(5)]
    pub(crate) transaction: Option<SentAs>,
    /// Whether it failed the authorisation rules: it is known, but part of nothing.
    #[n(6)]
    pub(crate) rejected: bool,
    /// Whether the present state did not allow it when it came: it counts, but is not shown.
    #[n(7)]
    pub(crate) soft_failed: bool,
    /// Whether it is known only because other events are authorised by it, and so has no place in the timeline.
    #[n(8)]
    pub(crate) outlier: bool,
    /// The room's state before it came, and then, where these are not the states before and after it: an encoded `StateRoot`.
    #[n(9)]
    #[cbor(with = "minicbor::bytes")]
    pub(crate) room_before: Option<Vec<u8>>,
    #[n(10)]
    #[cbor(with = "minicbor::bytes")]
    pub(crate) room_after: Option<Vec<u8>>,
    /// The number under which states know it, where it was an outlier before it got its place.
    #[n(11)]
    pub(crate) known_as: Option<i64>,
    /// The id that it had while it was delayed.
    #[n(12)]
    pub(crate) delay_id: Option<String>,
    /// Until when it is sticky, in ms since 1970.
    #[n(13)]
    pub(crate) sticky_until: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct SentAs {
    #[n(0)]
    pub(crate) device_id: String,
    #[n(1)]
    pub(crate) transaction_id: String,
}

/// The position, the header with its length before it, and the JSON as it is: decoding copies none of it.
impl Value for StoredEvent {
    fn encode(&self) -> Bytes {
        let header = entente_storage::value::to_cbor(&self.header);
        let length = u32::try_from(header.len()).unwrap_or(u32::MAX);
        let mut rest = Vec::with_capacity(4 + header.len() + self.json.len());
        rest.extend_from_slice(&length.to_be_bytes());
        rest.extend_from_slice(&header);
        rest.extend_from_slice(&self.json);
        Stamped { position: self.position, value: Bytes::from(rest) }.encode()
    }

    fn decode(bytes: &Bytes) -> Result<Self, String> {
        let Stamped { position, value } = Stamped::<Bytes>::decode(bytes)?;
        let (length, _) = value.split_first_chunk::<4>().ok_or("too short for an event")?;
        let end = 4 + u32::from_be_bytes(*length) as usize;
        let header = value.get(4..end).ok_or("too short for an event's header")?;
        Ok(Self { position, header: entente_storage::value::from_cbor(header)?, json: value.slice(end..) })
    }

    fn stamp_at(&self) -> Option<usize> {
        (self.position == LogPosition::AT_COMMIT).then_some(0)
    }
}

/// A membership, in the order of the spec's enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Membership {
    /// `invite`
    #[n(0)]
    Invite,
    /// `join`
    #[n(1)]
    Join,
    /// `knock`
    #[n(2)]
    Knock,
    /// `leave`
    #[n(3)]
    Leave,
    /// `ban`
    #[n(4)]
    Ban,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct MemberRow {
    #[n(0)]
    pub(crate) membership: Membership,
    /// The membership event.
    #[n(1)]
    pub(crate) event: i64,
    #[n(2)]
    pub(crate) displayname: Option<String>,
    #[n(3)]
    pub(crate) avatar_url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct UserRoomRow {
    #[n(0)]
    pub(crate) membership: Membership,
    /// The membership event.
    #[n(1)]
    pub(crate) event: i64,
    /// Whether the user was in the room before, and so may see some of it.
    #[n(2)]
    pub(crate) was_joined: bool,
    /// Whether the user forgot the room.
    #[n(3)]
    pub(crate) forgotten: bool,
    /// The membership before this one.
    #[n(4)]
    pub(crate) before: Option<Membership>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct TransactionRow {
    #[n(0)]
    pub(crate) event_id: String,
    /// Milliseconds since 1970.
    #[n(1)]
    pub(crate) at: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct RelationRow {
    #[n(0)]
    pub(crate) rel_type: String,
    #[n(1)]
    pub(crate) event_type: String,
    #[n(2)]
    pub(crate) sender: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct AggregateRow {
    /// The newest valid edit, and its `origin_server_ts`.
    #[n(0)]
    pub(crate) edit: Option<(i64, u64)>,
    /// How many events are in the thread that it begins.
    #[n(1)]
    pub(crate) thread_count: u64,
    /// The newest event of the thread.
    #[n(2)]
    pub(crate) thread_latest: Option<i64>,
    /// Events that refer to it.
    #[n(3)]
    pub(crate) references: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct NumberRow(#[n(0)] pub(crate) i64);

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct ReceiptRow {
    #[n(0)]
    pub(crate) event_id: String,
    #[n(1)]
    pub(crate) number: i64,
    /// Milliseconds since 1970.
    #[n(2)]
    pub(crate) at: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct AliasRow {
    #[n(0)]
    pub(crate) room_id: String,
    #[n(1)]
    pub(crate) room: u64,
    /// Who made it: a user id.
    #[n(2)]
    pub(crate) creator: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct ReportRow {
    #[n(0)]
    pub(crate) reporter: String,
    /// A room or a user.
    #[n(1)]
    pub(crate) subject: String,
    #[n(2)]
    pub(crate) event_id: Option<String>,
    #[n(3)]
    pub(crate) reason: Option<String>,
    /// From -100, most offensive, to 0.
    #[n(4)]
    pub(crate) score: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct RetiredKeyRow {
    /// The Ed25519 key: 32 bytes.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) public_key: Vec<u8>,
    /// Milliseconds since 1970.
    #[n(1)]
    pub(crate) expired_at: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct DelayedRow {
    /// Whose.
    #[n(0)]
    pub(crate) localpart: String,
    #[n(1)]
    pub(crate) room_id: String,
    #[n(2)]
    pub(crate) event_type: String,
    #[n(3)]
    pub(crate) state_key: Option<String>,
    /// Canonical JSON.
    #[n(4)]
    pub(crate) content: String,
    /// Milliseconds.
    #[n(5)]
    pub(crate) delay: u64,
    /// Since when it waits: milliseconds since 1970.
    #[n(6)]
    pub(crate) running_since: u64,
    /// The device that put it down with this transaction id.
    #[n(7)]
    pub(crate) transaction: Option<SentAs>,
    /// For how long it will be sticky, in ms.
    #[n(8)]
    pub(crate) sticky: Option<u64>,
    /// For whom it is looked after, if it is.
    #[n(9)]
    pub(crate) delegated: Option<DelegatedRow>,
}

/// A delayed leave that is looked after for a participant of a call.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct DelegatedRow {
    /// The node that does.
    #[n(0)]
    pub(crate) keeper: String,
    #[n(1)]
    pub(crate) call: String,
    #[n(2)]
    pub(crate) identity: String,
    /// Milliseconds.
    #[n(3)]
    pub(crate) patience: u64,
}

/// A delayed event that waits no longer: it was sent, or failed, or neither, which is to say it was cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct FinalisedRow {
    #[n(0)]
    pub(crate) delayed: DelayedRow,
    /// When: milliseconds since 1970.
    #[n(1)]
    pub(crate) at: u64,
    /// The event that it became.
    #[n(2)]
    pub(crate) event_id: Option<String>,
    /// Why it could not be sent.
    #[n(3)]
    pub(crate) error: Option<String>,
}

impl DelayedRow {
    /// When it is to be sent.
    pub(crate) fn due(&self) -> u64 {
        self.running_since.saturating_add(self.delay)
    }
}

cbor_value!(
    DelayedRow,
    FinalisedRow,
    RetiredKeyRow,
    RoomRow,
    HeadRow,
    EventPlace,
    MemberRow,
    UserRoomRow,
    TransactionRow,
    RelationRow,
    AggregateRow,
    NumberRow,
    ReceiptRow,
    AliasRow,
    ReportRow,
);

/// What a state key's number is stored as.
pub(crate) mod state_key {
    use crate::state::{Partition, StateKeyId};

    pub(crate) fn encode(id: StateKeyId) -> u64 {
        u64::from(id.index) << 1 | u64::from(id.partition == Partition::Members)
    }

    pub(crate) fn decode(stored: u64) -> Option<StateKeyId> {
        let partition = if stored & 1 == 1 { Partition::Members } else { Partition::Settings };
        u32::try_from(stored >> 1).ok().map(|index| StateKeyId { partition, index })
    }
}

impl From<EventNumber> for NumberRow {
    fn from(number: EventNumber) -> Self {
        Self(number.0)
    }
}
