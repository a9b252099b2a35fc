//! Rooms and guests (C-S API, "Guest access").

use ruma::{OwnedRoomId, RoomId};

use crate::{RoomError, RoomNumber, Rooms};

impl Rooms {
    /// Whether guests may join a room. This server is in it; into others it brings no guests.
    pub async fn lets_guests_in(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        let view = match self.view(room_id).await {
            Err(RoomError::RoomNotFound) => return Ok(false),
            view => view?,
        };
        let access = view.state_event(view.current_state().await?, "m.room.guest_access", "").await?;
        Ok(access.is_some_and(|access| access.lets_guests_in()))
    }

    /// The local users in a room, by localpart, if there is such a room.
    pub async fn joined_local_members(
        &self,
        room: RoomNumber,
    ) -> Result<Option<(OwnedRoomId, Vec<String>)>, RoomError> {
        let snapshot = self.store().snapshot().await?;
        let view = match self.view_in(&snapshot, room, self.redactions()).await {
            Err(RoomError::RoomNotFound) => return Ok(None),
            view => view?,
        };
        Ok(Some((view.room.room_id.clone(), self.local_members(&snapshot, room).await?)))
    }
}
