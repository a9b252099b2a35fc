//! Memberships of local users in a room in which this server is not.

use std::sync::Arc;

use entente_storage::{Bytes, LogPosition, Snapshot, Transaction, value::Stamped};
use ruma::UserId;

use super::Composer;
use crate::{
    Change, Event, Membership, Room, RoomError,
    incoming::OutsideMembership,
    rows::{self, EventHeader, StoredEvent, UserRoomRow},
    state::EventNumber,
};

impl Composer {
    /// Notes a membership that another server told of.
    pub(crate) async fn note_outside(
        &mut self,
        outside: &OutsideMembership,
        told: &Bytes,
    ) -> Result<(), RoomError> {
        let event = self.outside_event(outside)?;
        let is_fitting = event.membership() == Some(outside.membership)
            && event.state_key.as_deref() == Some(outside.user_id.as_str());
        if !is_fitting {
            return Err(RoomError::BadEvent(String::from("the event is not that membership of that user")));
        }
        let room = self.view.room.number.0;
        let localpart = outside.user_id.localpart();
        let key = (localpart, room);
        let old = self.view.snapshot.get(&rows::USER_ROOMS, key).await?;
        if let Some(old) = &old
            && let Some(known) = self.event(EventNumber(old.value.event)).await?
            && known.event_id == event.event_id
        {
            return Ok(());
        }
        self.put_outside(&event, outside);
        self.transaction.check_unchanged(&rows::USER_ROOMS, key, old.as_ref());
        let row = UserRoomRow {
            membership: outside.membership,
            event: event.number.0,
            was_joined: old.as_ref().is_some_and(|old| old.value.was_joined),
            forgotten: false,
            before: old.map(|old| old.value.membership),
        };
        self.transaction.put(
            &rows::USER_ROOMS,
            key,
            &Stamped { position: LogPosition::AT_COMMIT, value: row },
        );
        match outside.membership {
            Membership::Invite | Membership::Knock => {
                self.transaction.put(&rows::TOLD_STATES, (room, localpart), told);
            }
            _ => self.transaction.delete(&rows::TOLD_STATES, (room, localpart)),
        }
        let (user_id, membership) = (outside.user_id.to_string(), outside.membership);
        Change::Membership { room, user_id, membership }.log_in(&mut self.transaction);
        Ok(())
    }

    /// The membership event, which has no place in the timeline.
    fn outside_event(&mut self, outside: &OutsideMembership) -> Result<Arc<Event>, RoomError> {
        let number = self.next_outlier();
        let event = Arc::new(Event::new(self.view.room.number, number, stored(outside))?);
        self.check_room(&event)?;
        Ok(event)
    }

    /// Writes it where only the user's own row leads: what authorises it is not known, and so it must not authorise others.
    fn put_outside(&mut self, event: &Arc<Event>, outside: &OutsideMembership) {
        let key = (self.view.room.number.0, event.number.0);
        self.transaction.put(&rows::EVENTS, key, &stored(outside));
        self.made.insert(event.number.0, Arc::clone(event));
    }

    /// Ends a membership that stands outside of the room's state.
    pub(crate) async fn end_outside(
        snapshot: &Snapshot,
        transaction: &mut Transaction,
        room: &Room,
        localpart: &str,
        user_id: &UserId,
    ) -> Result<(), RoomError> {
        let key = (localpart, room.number.0);
        let old = snapshot.get(&rows::USER_ROOMS, key).await?.ok_or(RoomError::RoomNotFound)?;
        if !matches!(old.value.membership, Membership::Invite | Membership::Knock) {
            return Err(RoomError::BadState("there is no invite and no knock to take back"));
        }
        transaction.check_unchanged(&rows::USER_ROOMS, key, Some(&old));
        let before = Some(old.value.membership);
        let value = UserRoomRow { membership: Membership::Leave, before, ..old.value };
        transaction.put(&rows::USER_ROOMS, key, &Stamped { position: LogPosition::AT_COMMIT, value });
        transaction.delete(&rows::TOLD_STATES, (room.number.0, localpart));
        let (room, user_id) = (room.number.0, user_id.to_string());
        Change::Membership { room, user_id, membership: Membership::Leave }.log_in(transaction);
        Ok(())
    }
}

fn stored(outside: &OutsideMembership) -> StoredEvent {
    let event_id = outside.event.event_id.to_string();
    let header = EventHeader { event_id, outlier: true, ..EventHeader::default() };
    StoredEvent { position: LogPosition::AT_COMMIT, header, json: outside.event.json.clone() }
}
