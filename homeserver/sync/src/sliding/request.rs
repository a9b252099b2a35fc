use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};

use super::required_state::RequiredState;

/// Which form of sliding sync a client speaks. Both are one engine; fields and their names differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `/unstable/org.matrix.simplified_msc3575/sync`, as clients have it since 2024.
    Simplified,
    /// `/v4/sync`, as MSC4186 was merged.
    Merged,
}

/// A request for the part of a user's rooms that a client looks at (MSC4186).
#[derive(Clone, Debug)]
pub struct SlidingRequest {
    /// Whose.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// In which form.
    pub dialect: Dialect,
    /// The name of the connection; a device can have several.
    pub connection: String,
    /// The token of the answer before; `None`: the connection begins.
    pub pos: Option<String>,
    /// How long to wait for something new.
    pub timeout: Duration,
    /// An id that is given back.
    pub txn_id: Option<String>,
    /// Rooms by their place among the user's.
    pub lists: BTreeMap<String, SlidingList>,
    /// Rooms by their ids.
    pub subscriptions: BTreeMap<OwnedRoomId, RoomConfig>,
    /// What is wanted beside rooms.
    pub extensions: SlidingExtensions,
}

/// A list: the rooms that pass a filter, the newest first, and which places of it are looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlidingList {
    /// The first and the last place of each part; `None`: all.
    pub ranges: Option<Vec<(u64, u64)>>,
    /// What is given of its rooms.
    pub config: RoomConfig,
    /// Which rooms are in it.
    pub filters: SlidingFilters,
}

/// What is given of a room.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoomConfig {
    /// Events of the timeline.
    pub timeline_limit: usize,
    /// The part of the state.
    pub required_state: Arc<RequiredState>,
}

/// Which rooms are in a list (MSC4186, `SlidingRoomFilter`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlidingFilters {
    /// Whether they are in `m.direct`.
    pub is_dm: Option<bool>,
    /// Children of one of these spaces.
    pub spaces: Option<Vec<OwnedRoomId>>,
    /// Whether they are encrypted.
    pub is_encrypted: Option<bool>,
    /// Whether the user is invited.
    pub is_invited: Option<bool>,
    /// Rooms of one of these types; `None` in it: of no type.
    pub room_types: Option<Vec<Option<String>>>,
    /// Rooms of none of these types.
    pub not_room_types: Vec<Option<String>>,
    /// Rooms with one of these tags.
    pub tags: Option<Vec<String>>,
    /// Rooms with none of these tags.
    pub not_tags: Vec<String>,
}

/// What a client wants beside rooms; `None`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlidingExtensions {
    /// To-device messages (MSC3885).
    pub to_device: Option<ToDeviceExtension>,
    /// Device lists and counts of keys (MSC3884).
    pub e2ee: bool,
    /// Account data (MSC3959).
    pub account_data: Option<RoomsOfExtension>,
    /// Receipts (MSC3960).
    pub receipts: Option<RoomsOfExtension>,
    /// Who types (MSC3961).
    pub typing: Option<RoomsOfExtension>,
    /// Sticky events (MSC4480).
    pub sticky_events: Option<StickyEventsExtension>,
}

/// Which sticky events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StickyEventsExtension {
    /// The token of those before.
    pub since: Option<String>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// Which to-device messages are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ToDeviceExtension {
    /// The token of the messages before: those are deleted.
    pub since: Option<String>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// For which rooms an extension is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RoomsOfExtension {
    /// The lists; `None` or `*`: all.
    pub lists: Option<Vec<String>>,
    /// The subscriptions; `None` or `*`: all.
    pub rooms: Option<Vec<String>>,
}

impl RoomsOfExtension {
    /// Whether a room is among them, by the lists in whose ranges it is, and whether it is subscribed to.
    pub(crate) fn contains(&self, room_id: &str, lists: &[&str], is_subscribed: bool) -> bool {
        let in_lists = match &self.lists {
            None => !lists.is_empty(),
            Some(wanted) => lists.iter().any(|list| wanted.iter().any(|name| name == "*" || name == list)),
        };
        let in_rooms = match &self.rooms {
            None => is_subscribed,
            Some(wanted) => wanted.iter().any(|name| name == room_id || (name == "*" && is_subscribed)),
        };
        in_lists || in_rooms
    }
}
