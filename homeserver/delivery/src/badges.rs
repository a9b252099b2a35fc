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
pub(crate) struct Badges(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    users: HashMap<String, Badge>,
    /// The serial of the badge that was begun last.
    last: u64,
}

/// What a user has not read.
#[derive(Debug)]
struct Badge {
    /// No other's: what is counted goes into the badge for which that was begun, or nowhere.
    serial: u64,
    /// `None`: it is being counted for the first time.
    rooms: Option<BTreeMap<RoomNumber, u64>>,
}

impl Badges {
    /// The badge to count for, and whether its rooms have been counted already.
    fn begin(&self, localpart: &str) -> (u64, bool) {
        let mut known = self.0.lock();
        if let Some(badge) = known.users.get(localpart) {
            return (badge.serial, badge.rooms.is_some());
        }
        if known.users.len() >= MOST_USERS {
            known.users.clear();
        }
        known.last += 1;
        let serial = known.last;
        known.users.insert(localpart.to_owned(), Badge { serial, rooms: None });
        (serial, false)
    }

    /// Puts down what was counted in one room, or in all. Answers what that comes to; `None`: the badge was forgotten meanwhile.
    fn put(
        &self,
        localpart: &str,
        serial: u64,
        only: Option<RoomNumber>,
        counted: BTreeMap<RoomNumber, u64>,
    ) -> Option<u64> {
        let mut known = self.0.lock();
        let badge = known.users.get_mut(localpart).filter(|badge| badge.serial == serial)?;
        match (only, &mut badge.rooms) {
            (Some(room), Some(rooms)) => {
                // The user may have left it.
                rooms.remove(&room);
                rooms.extend(counted);
            }
            _ => badge.rooms = Some(counted),
        }
        badge.rooms.as_ref().map(|rooms| rooms.values().sum())
    }

    /// Whether a user was told, or is being told, that something in a room is unread.
    pub(crate) fn tells_of(&self, localpart: &str, room: RoomNumber) -> bool {
        let known = self.0.lock();
        known.users.get(localpart).is_some_and(|badge| {
            badge.rooms.as_ref().is_none_or(|rooms| rooms.get(&room).is_some_and(|unread| *unread > 0))
        })
    }

    /// Forgets what was counted for a user, of whom no more is heard here, or was not for a while.
    pub(crate) fn forget(&self, localpart: &str) {
        self.0.lock().users.remove(localpart);
    }

    /// Forgets all that was counted.
    pub(crate) fn forget_all(&self) {
        self.0.lock().users.clear();
    }
}

impl Delivery {
    /// How much a user has not read in all rooms, counted anew in one of them.
    pub(crate) async fn badge(&self, user_id: &UserId, room: RoomNumber) -> Result<u64, DeliveryError> {
        let localpart = user_id.localpart();
        loop {
            let (serial, is_counted) = self.inner.badges.begin(localpart);
            let only = is_counted.then_some(room);
            let counted = self.inner.sync.unread_in(user_id, only).await?;
            let sum = counted.values().sum();
            match self.inner.badges.put(localpart, serial, only, counted) {
                Some(sum) => return Ok(sum),
                None if is_counted => {}
                // Of all rooms: that is the answer, though it is not remembered.
                None => return Ok(sum),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(counts: &[(u64, u64)]) -> BTreeMap<RoomNumber, u64> {
        counts.iter().map(|(room, unread)| (RoomNumber(*room), *unread)).collect()
    }

    #[test]
    fn what_was_forgotten_while_it_was_counted_is_not_remembered() {
        let badges = Badges::default();
        let (serial, is_counted) = badges.begin("bob");
        assert!(!is_counted && badges.tells_of("bob", RoomNumber(1)), "perhaps");
        assert_eq!(badges.put("bob", serial, None, rooms(&[(1, 2), (2, 3)])), Some(5));
        assert_eq!(badges.begin("bob"), (serial, true));
        assert_eq!(badges.put("bob", serial, Some(RoomNumber(1)), rooms(&[])), Some(3));
        assert!(!badges.tells_of("bob", RoomNumber(1)) && badges.tells_of("bob", RoomNumber(2)));
        badges.forget("bob");
        assert_eq!(badges.put("bob", serial, Some(RoomNumber(1)), rooms(&[(1, 9)])), None);
        assert_eq!(badges.begin("bob"), (serial + 1, false));
        badges.forget_all();
        assert_eq!(badges.put("bob", serial + 1, None, rooms(&[(1, 9)])), None);
        assert!(!badges.tells_of("bob", RoomNumber(1)));
    }
}
