//! Memberships in rooms in which this server is not: invites from other servers, knocks at rooms of others (S-S API, "Inviting to a
//! room", "Knocking upon a room").

use entente_storage::{Bytes, Transaction};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId};
use serde_json::value::RawValue;

use super::VerifiedPdu;
use crate::{
    Event, Membership, MembershipRequest, Room, RoomError, RoomNumber, RoomView, Rooms,
    compose::Composer,
    room::Head,
    rows::{self, HeadRow},
    state::EventNumber,
};

/// What a server may tell of a room to somebody who is not in it takes at most this many bytes.
const MOST_TOLD_BYTES: usize = 512 * 1024;

/// A membership of a local user in a room that only other servers know.
#[derive(Clone, Debug)]
pub struct OutsideMembership {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// Whose membership.
    pub user_id: OwnedUserId,
    /// What it is: an invite, a knock, or that it ended.
    pub membership: Membership,
    /// The membership event.
    pub event: VerifiedPdu,
    /// What the user is told of the room: stripped state.
    pub told: Vec<CanonicalJsonObject>,
}

/// An invite for a user of another server, which that server is to sign too.
#[derive(Clone, Debug)]
pub struct OutsideInvite {
    /// The room's version.
    pub version: RoomVersionId,
    /// The invite: canonical JSON, signed by this server.
    pub event: Bytes,
    /// Its id.
    pub event_id: OwnedEventId,
    /// What the user is told of the room: events.
    pub told: Vec<Bytes>,
}

/// What servers are told of a room to show it to somebody who is not in it (C-S API, "Stripped state").
const TOLD: [&str; 9] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.history_visibility",
    "m.room.tombstone",
];

impl Rooms {
    /// Makes an invite for a user of another server; it is added to the room by `receive` once that server has signed it (S-S API,
    /// "Inviting to a room").
    pub async fn prepare_invite(
        &self,
        room_id: &RoomId,
        request: &MembershipRequest,
    ) -> Result<OutsideInvite, RoomError> {
        let (event, event_id) = self
            .change_room(room_id, async |mut composer| {
                composer.require_sender(&request.sender).await?;
                let current = composer.member(&request.target).await?;
                if current.as_deref().and_then(Event::membership) == Some(Membership::Join) {
                    return Err(RoomError::Forbidden("that user is in the room already"));
                }
                let prepared = composer.prepare(&request.draft("invite")).await?;
                Ok((composer, prepared))
            })
            .await?;
        let view = self.view(room_id).await?;
        let mut told = view.told_to_others().await?;
        let inviter = view.state_event(view.current_state().await?, "m.room.member", request.sender.as_str());
        told.extend(inviter.await?.map(|inviter| inviter.json().clone()));
        Ok(OutsideInvite { version: view.room.version.clone(), event, event_id, told })
    }

    /// Notes a membership in a room in which this server is not.
    pub async fn note_outside(&self, outside: &OutsideMembership) -> Result<(), RoomError> {
        let localpart = self.localpart(&outside.user_id);
        localpart.ok_or(RoomError::Forbidden("that user is not of this server"))?;
        let told =
            serde_json::to_vec(&outside.told).map_err(|error| RoomError::BadEvent(error.to_string()))?;
        if told.len() > MOST_TOLD_BYTES {
            return Err(RoomError::TooLarge("that is too much to tell of a room"));
        }
        let told = Bytes::from(told);
        self.change_or_begin(&outside.room_id, &outside.version, async |mut composer| {
            composer.note_outside(outside, &told).await?;
            Ok((composer, ()))
        })
        .await
    }

    /// Ends a membership in a room in which this server is not, where no other server could be told of it.
    pub async fn end_outside(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), RoomError> {
        let localpart = self.localpart(user_id).ok_or(RoomError::RoomNotFound)?;
        self.store()
            .run(async |snapshot| {
                let room = self.room(&snapshot, room_id).await?;
                let mut transaction = Transaction::new();
                Composer::end_outside(&snapshot, &mut transaction, &room, localpart, user_id).await?;
                Ok::<_, RoomError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// What a local user has to do with a room, and who gave them that membership.
    pub async fn own_membership(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<(Membership, OwnedUserId)>, RoomError> {
        let localpart = self.localpart(user_id).ok_or(RoomError::RoomNotFound)?;
        let view = match self.view(room_id).await {
            Err(RoomError::RoomNotFound) => return Ok(None),
            view => view?,
        };
        let row = view.snapshot.get(&rows::USER_ROOMS, (localpart, view.room.number.0)).await?;
        let Some(row) = row else { return Ok(None) };
        let event = view.event(EventNumber(row.value.event)).await?;
        Ok(event.map(|event| (row.value.membership, event.sender.clone())))
    }

    /// Changes a room, or begins it here if nothing of it is known.
    pub(crate) async fn change_or_begin<T, F, Fut>(
        &self,
        room_id: &RoomId,
        version: &RoomVersionId,
        compose: F,
    ) -> Result<T, RoomError>
    where
        F: Fn(Composer) -> Fut,
        Fut: Future<Output = Result<(Composer, T), RoomError>>,
    {
        let redactions = self.redactions();
        let snapshot = self.store().snapshot().await?;
        match self.room(&snapshot, room_id).await {
            Ok(room) if room.version == *version => return self.change_stored_room(room_id, compose).await,
            Ok(_) => return Err(RoomError::BadEvent(String::from("the room has another version"))),
            Err(RoomError::RoomNotFound) => {}
            Err(error) => return Err(error),
        }
        let number = RoomNumber(u64::from_be_bytes(self.inner.environment.randomness().bytes()));
        let room = Room::new(number, room_id.to_owned(), version.clone())?;
        let view = RoomView::new(self.clone(), snapshot, room.into(), redactions);
        let (mut composer, answer) =
            compose(Composer::of_new_room(view, Head::new(HeadRow::default()))).await?;
        composer.put_room();
        if let Some(composed) = composer.finish() {
            match self.store().commit(composed.transaction).await {
                // Somebody else began it meanwhile.
                Err(error) if error.is_conflict() => {
                    return Box::pin(self.change_stored_room(room_id, compose)).await;
                }
                committed => committed?,
            };
        }
        Ok(answer)
    }
}

impl RoomView {
    /// What other servers are told of the room to show it to those who are invited, or who knocked: events.
    pub async fn told_to_others(&self) -> Result<Vec<Bytes>, RoomError> {
        let keys: Vec<(&str, &str)> = TOLD.iter().map(|event_type| (*event_type, "")).collect();
        let events = self.state_events(self.current_state().await?, &keys).await?;
        Ok(events.into_iter().flatten().map(|event| event.json().clone()).collect())
    }

    /// Whether this server takes part in the room: one of its users is in it.
    pub async fn is_resident(&self) -> Result<bool, RoomError> {
        let head = self.head().await?;
        Ok(head.joined > head.joined_elsewhere)
    }

    /// What another server told a local user of the room: stripped state.
    pub async fn told_state(&self, user_id: &UserId) -> Result<Vec<Box<RawValue>>, RoomError> {
        let Some(localpart) = self.rooms.localpart(user_id) else { return Ok(Vec::new()) };
        let told = self.snapshot.get(&rows::TOLD_STATES, (self.room.number.0, localpart)).await?;
        let damaged = |error| RoomError::Internal(format!("stored stripped state: {error}"));
        told.map_or(Ok(Vec::new()), |told| serde_json::from_slice(&told).map_err(damaged))
    }
}
