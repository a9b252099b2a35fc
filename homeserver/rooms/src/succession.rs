//! Rooms that replaced others, seen by who followed them there (C-S API, "Room Upgrades").

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;

use crate::{Membership, RoomError, RoomNumber, RoomView, Rooms, rows, state::EventNumber};

/// A local user who came from a room into the one that replaced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// Who.
    pub user_id: OwnedUserId,
    /// The room that was replaced.
    pub old: OwnedRoomId,
    /// The room that replaced it.
    pub new: OwnedRoomId,
}

/// The content of `m.room.create`, as far as it is asked for.
#[derive(Deserialize)]
struct Create {
    predecessor: Option<Predecessor>,
}

#[derive(Deserialize)]
struct Predecessor {
    room_id: OwnedRoomId,
}

/// The content of `m.room.tombstone`.
#[derive(Deserialize)]
struct Tombstone {
    replacement_room: OwnedRoomId,
}

impl Rooms {
    /// Whether a local user came by this join from a room that the joined one replaced. Both rooms have to say so: anybody can
    /// make a room that calls itself the successor of another.
    pub async fn succession(
        &self,
        room: RoomNumber,
        number: EventNumber,
        user_id: &str,
    ) -> Result<Option<Succession>, RoomError> {
        let Ok(user_id) = UserId::parse(user_id) else { return Ok(None) };
        let Some(localpart) = self.localpart(&user_id) else { return Ok(None) };
        let redactions = self.redactions();
        let snapshot = self.store().snapshot().await?;
        let view = self.view_in(&snapshot, room, redactions).await?;
        let Some(old) = view.predecessor().await? else { return Ok(None) };
        if !view.is_arrival(number).await? {
            return Ok(None);
        }
        let old = match self.room(&snapshot, &old).await {
            Err(RoomError::RoomNotFound) => return Ok(None),
            old => old?,
        };
        let was_there = snapshot.get(&rows::USER_ROOMS, (localpart, old.number.0)).await?;
        let was_there =
            was_there.is_some_and(|row| row.value.was_joined || row.value.membership == Membership::Join);
        let new = &view.room.room_id;
        let old = RoomView::new(self.clone(), snapshot.clone(), old, redactions);
        if !was_there || !old.is_replaced_by(new).await? {
            return Ok(None);
        }
        Ok(Some(Succession { new: new.clone(), old: old.room.room_id.clone(), user_id }))
    }
}

impl RoomView {
    /// The room that this one says it replaces.
    async fn predecessor(&self) -> Result<Option<OwnedRoomId>, RoomError> {
        let create = self.state_event(self.current_state().await?, "m.room.create", "").await?;
        let create = create.and_then(|event| event.content_as::<Create>());
        Ok(create.and_then(|create| create.predecessor).map(|predecessor| predecessor.room_id))
    }

    /// Whether somebody came by this event who was not there before it: new names are joins, too.
    async fn is_arrival(&self, number: EventNumber) -> Result<bool, RoomError> {
        let Some(event) = self.event(number).await? else { return Ok(false) };
        let before = match event.replaces() {
            Some(before) => self.event(before).await?.and_then(|before| before.membership()),
            None => None,
        };
        Ok(event.membership() == Some(Membership::Join) && before != Some(Membership::Join))
    }

    async fn is_replaced_by(&self, new: &RoomId) -> Result<bool, RoomError> {
        let tombstone = self.state_event(self.current_state().await?, "m.room.tombstone", "").await?;
        let tombstone = tombstone.and_then(|event| event.content_as::<Tombstone>());
        Ok(tombstone.is_some_and(|tombstone| tombstone.replacement_room == new))
    }
}
