//! How much users have not read, kept for those who are told of it.

use std::collections::{BTreeMap, HashMap};

use entente_rooms::RoomNumber;
use parking_lot::Mutex;
use ruma::UserId;

use crate::{Delivery, DeliveryError};

/// Users whose counts are remembered. Beyond it all are counted anew.
const MOST_USERS: usize = 10_000;

/// Unread events by localpart and room.
#[derive(Debug, Default)]
pub(crate) struct Badges(Mutex<HashMap<String, BTreeMap<RoomNumber, u64>>>);

impl Badges {
    fn total(&self, localpart: &str) -> Option<u64> {
        self.0.lock().get(localpart).map(|rooms| rooms.values().sum())
    }
}

impl Delivery {
    /// How much a user has not read in all rooms, counted anew in one of them.
    pub(crate) async fn badge(&self, user_id: &UserId, room: RoomNumber) -> Result<u64, DeliveryError> {
        let localpart = user_id.localpart();
        let is_known = self.inner.badges.total(localpart).is_some();
        let only = is_known.then_some([room]);
        let counted =
            self.inner.sync.unread_in(user_id, only.as_ref().map(<[RoomNumber; 1]>::as_slice)).await?;
        let mut badges = self.inner.badges.0.lock();
        if badges.len() >= MOST_USERS && !badges.contains_key(localpart) {
            badges.clear();
        }
        let rooms = badges.entry(localpart.to_owned()).or_default();
        if is_known {
            // The user may have left it.
            rooms.remove(&room);
        }
        rooms.extend(counted);
        Ok(rooms.values().sum())
    }

    /// How much a user had not read in a room when that was counted last; `None`: nobody was told.
    pub(crate) fn known_badge(&self, localpart: &str, room: RoomNumber) -> Option<u64> {
        self.inner.badges.0.lock().get(localpart).map(|rooms| rooms.get(&room).copied().unwrap_or_default())
    }
}
