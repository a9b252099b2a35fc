use std::collections::{BTreeSet, HashSet};

use entente_storage::{LogPosition, Snapshot};
use ruma::UserId;

use crate::{Membership, RoomError, RoomNumber, Rooms, rows, state::EventNumber};

/// What a local user has to do with a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRoom {
    /// The room.
    pub number: RoomNumber,
    /// The user's membership.
    pub membership: Membership,
    /// The membership event.
    pub event: EventNumber,
    /// The commit that changed it last.
    pub position: LogPosition,
    /// Whether the user was in the room before.
    pub was_joined: bool,
    /// Whether the user forgot the room.
    pub forgotten: bool,
}

impl Rooms {
    /// The localpart of a user id, if it is one of this server.
    pub fn local<'a>(&self, user_id: &'a str) -> Option<&'a str> {
        let user_id = <&UserId>::try_from(user_id).ok()?;
        self.localpart(user_id)
    }

    /// All rooms that a local user has to do with.
    pub async fn user_rooms(&self, snapshot: &Snapshot, localpart: &str) -> Result<Vec<UserRoom>, RoomError> {
        let rows = snapshot.scan_all(rows::USER_ROOMS.scan((localpart,))).await?;
        let room =
            |((_, number), row): ((String, u64), entente_storage::value::Stamped<rows::UserRoomRow>)| {
                let rows::UserRoomRow { membership, event, was_joined, forgotten, .. } = row.value;
                UserRoom {
                    number: RoomNumber(number),
                    membership,
                    event: EventNumber(event),
                    position: row.position,
                    was_joined,
                    forgotten,
                }
            };
        Ok(rows.into_iter().map(room).collect())
    }

    /// The other servers with users in rooms that a local user is in.
    pub async fn servers_sharing_rooms(&self, localpart: &str) -> Result<BTreeSet<String>, RoomError> {
        let redactions = self.redactions();
        let snapshot = self.store().snapshot().await?;
        let mut servers = BTreeSet::new();
        for room in self.user_rooms(&snapshot, localpart).await? {
            if room.membership == Membership::Join {
                servers.extend(self.view_in(&snapshot, room.number, redactions).await?.servers().await?);
            }
        }
        Ok(servers)
    }

    /// The rooms that a user is in, of this server or another.
    pub async fn joined_rooms(
        &self,
        snapshot: &Snapshot,
        user_id: &str,
    ) -> Result<Vec<RoomNumber>, RoomError> {
        let Some(localpart) = self.local(user_id) else {
            let visited = snapshot.scan_all(rows::VISITED_ROOMS.scan((user_id,))).await?;
            return Ok(visited.into_iter().map(|((_, room), ())| RoomNumber(room)).collect());
        };
        let rooms = self.user_rooms(snapshot, localpart).await?;
        let joined = rooms.into_iter().filter(|room| room.membership == Membership::Join);
        Ok(joined.map(|room| room.number).collect())
    }

    /// Whether a user of another server is in a room with anybody of this one.
    pub async fn is_met_here(&self, user_id: &UserId) -> Result<bool, RoomError> {
        let redactions = self.redactions();
        let snapshot = self.store().snapshot().await?;
        for room in self.joined_rooms(&snapshot, user_id.as_str()).await? {
            if self.view_in(&snapshot, room, redactions).await?.is_resident().await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The localparts of the local users who are in a room.
    pub async fn local_members(
        &self,
        snapshot: &Snapshot,
        room: RoomNumber,
    ) -> Result<Vec<String>, RoomError> {
        let rows = snapshot.scan_all(rows::MEMBERS.scan((room.0,))).await?;
        let joined = rows.into_iter().filter(|(_, row)| row.membership == Membership::Join);
        Ok(joined.filter_map(|((_, user_id), _)| self.local(&user_id).map(str::to_owned)).collect())
    }

    /// Whether a local user is in a room with somebody, or is them.
    pub async fn meets(&self, user_id: &UserId, other: &UserId) -> Result<bool, RoomError> {
        if user_id == other {
            return Ok(true);
        }
        let snapshot = self.store().snapshot().await?;
        let rooms = self.joined_rooms(&snapshot, user_id.as_str()).await?;
        if self.localpart(other).is_some() {
            let others: HashSet<RoomNumber> =
                self.joined_rooms(&snapshot, other.as_str()).await?.into_iter().collect();
            return Ok(rooms.iter().any(|room| others.contains(room)));
        }
        Ok(!self.sharing_rooms(&snapshot, &rooms, &[other.as_str()]).await?.is_empty())
    }

    /// Which of these users are in one of these rooms.
    pub async fn sharing_rooms(
        &self,
        snapshot: &Snapshot,
        rooms: &[RoomNumber],
        users: &[&str],
    ) -> Result<HashSet<String>, RoomError> {
        let mut sharing = HashSet::new();
        let mut unknown: Vec<&str> = users.to_vec();
        unknown.sort_unstable();
        unknown.dedup();
        for room in rooms {
            if unknown.is_empty() {
                break;
            }
            let keys = unknown.iter().map(|user_id| (room.0, *user_id));
            let found = snapshot.get_many(&rows::MEMBERS, keys).await?;
            let mut others = Vec::new();
            for (user_id, row) in unknown.into_iter().zip(found) {
                if row.is_some_and(|row| row.membership == Membership::Join) {
                    sharing.insert(user_id.to_owned());
                } else {
                    others.push(user_id);
                }
            }
            unknown = others;
        }
        Ok(sharing)
    }
}
