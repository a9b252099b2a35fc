use std::sync::Arc;

use entente_storage::Position;
use ruma::{OwnedUserId, UserId};

use crate::{
    Event, Membership, Profile, RoomError, RoomView, TimelinePlace, rows,
    state::{EventNumber, Partition, StateRoot},
};

/// Changes of a profile that are followed back.
const MOST_PROFILE_CHANGES: usize = 100;

impl RoomView {
    /// The membership events of a state that a user may read, those with some memberships only.
    pub async fn members(
        &self,
        root: StateRoot,
        wanted: impl Fn(Membership) -> bool,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let members = self.state_of(root, Partition::Members).await?;
        Ok(members.into_iter().filter(|event| event.membership().is_some_and(&wanted)).collect())
    }

    /// Who is in the room at present, and how they appear.
    pub async fn joined_members(&self) -> Result<Vec<(OwnedUserId, Profile)>, RoomError> {
        let rows = self.snapshot.scan_all(rows::MEMBERS.scan((self.room.number.0,))).await?;
        let joined = rows.into_iter().filter(|(_, row)| row.membership == Membership::Join);
        let member = |((_, user_id), row): ((u64, String), rows::MemberRow)| {
            let profile = Profile { displayname: row.displayname, avatar_url: row.avatar_url };
            Some((UserId::parse(user_id).ok()?, profile))
        };
        Ok(joined.filter_map(member).collect())
    }

    /// The present members by user id with their memberships, at most `limit` of them, in the order of their ids.
    pub async fn first_members(&self, limit: usize) -> Result<Vec<(String, Membership)>, RoomError> {
        let scan = rows::MEMBERS.scan((self.room.number.0,)).limit(limit);
        let rows = self.snapshot.scan(&scan).await?.rows;
        Ok(rows.into_iter().map(|((_, user_id), row)| (user_id, row.membership)).collect())
    }

    /// The event by which a user who is in the room came in, as far as that can be told: their present membership event, or the
    /// first of those that changed only their profile since.
    pub async fn joined_by(&self, user_id: &UserId) -> Result<Option<EventNumber>, RoomError> {
        let Some(row) = self.member_row(user_id).await? else { return Ok(None) };
        let mut number = EventNumber(row.event);
        for _ in 0..MOST_PROFILE_CHANGES {
            let Some(event) = self.event(number).await? else { break };
            let Some(replaced) = event.replaces() else { break };
            match self.event(replaced).await? {
                Some(before) if before.membership() == Some(Membership::Join) => number = replaced,
                _ => break,
            }
        }
        Ok(Some(number))
    }

    /// How a user appears in the room at present.
    pub async fn member_profile(&self, user_id: &UserId) -> Result<Option<Profile>, RoomError> {
        let row = self.member_row(user_id).await?;
        Ok(row.map(|row| Profile { displayname: row.displayname, avatar_url: row.avatar_url }))
    }

    /// The state at a place of the timeline: behind the event before it.
    pub async fn state_at_place(&self, place: TimelinePlace) -> Result<StateRoot, RoomError> {
        let before = self.newest_before(place, 1).await?;
        Ok(before.first().map(|event| event.room_state_after()).unwrap_or_default())
    }

    /// The state at a position of the log.
    pub async fn state_at(&self, position: &Position) -> Result<StateRoot, RoomError> {
        self.state_at_place(self.place_at(position).await?).await
    }

    /// The membership events of these users in a state; of those who have one.
    pub async fn member_events(&self, root: StateRoot, users: &[&str]) -> Result<Vec<Arc<Event>>, RoomError> {
        let keys: Vec<(&str, &str)> = users.iter().map(|user_id| ("m.room.member", *user_id)).collect();
        let numbers = self.state_numbers(root, &keys).await?;
        let numbers: Vec<EventNumber> = numbers.into_iter().flatten().collect();
        self.events(&numbers).await
    }
}
