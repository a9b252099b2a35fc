//! Whose devices the client has to look at again, and whose it may forget (C-S API, "Tracking the device list for a user").

use std::collections::{BTreeSet, HashSet};

use entente_rooms::{
    Event, Membership, ObjectWriter, RoomError, RoomNumber, RoomView,
    state::{Partition, StateRoot},
};
use entente_storage::Position;
use ruma::events::TimelineEventType;

use crate::{SyncError, joined::was_joined, response::Making};

/// What a client is told about others' devices.
#[derive(Debug, Default)]
pub(crate) struct DeviceLists {
    changed: BTreeSet<String>,
    left: BTreeSet<String>,
}

/// With whom the user may have begun or ceased to share encrypted rooms.
#[derive(Debug, Default)]
pub(crate) struct KeyCompany {
    met: HashSet<String>,
    parted: HashSet<String>,
}

impl DeviceLists {
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }

    pub(crate) fn write(&self, json: &mut Vec<u8>) {
        let mut writer = ObjectWriter::begin(json);
        writer.value("changed", &self.changed);
        writer.value("left", &self.left);
        writer.end();
    }

    /// Whose devices changed.
    pub(crate) fn into_parts(self) -> (BTreeSet<String>, BTreeSet<String>) {
        (self.changed, self.left)
    }
}

impl KeyCompany {
    pub(crate) fn is_empty(&self) -> bool {
        self.met.is_empty() && self.parted.is_empty()
    }

    /// The user came into a room: they meet everybody in it.
    pub(crate) async fn came_into(&mut self, view: &RoomView, state: StateRoot) -> Result<(), RoomError> {
        if is_encrypted(view, state).await? {
            self.met.extend(joined_users(view, state).await?);
        }
        Ok(())
    }

    /// The user left a room: they part from everybody in it.
    pub(crate) async fn went_from(&mut self, view: &RoomView, state: StateRoot) -> Result<(), RoomError> {
        if is_encrypted(view, state).await? {
            self.parted.extend(joined_users(view, state).await?);
        }
        Ok(())
    }

    /// Others came and went, or the room became encrypted.
    pub(crate) async fn note_changes(
        &mut self,
        view: &RoomView,
        before: StateRoot,
        after: StateRoot,
    ) -> Result<(), RoomError> {
        if before == after || !is_encrypted(view, after).await? {
            return Ok(());
        }
        if !is_encrypted(view, before).await? {
            return self.came_into(view, after).await;
        }
        for event in view.state_changes(before, after).await? {
            if event.event_type != TimelineEventType::RoomMember {
                continue;
            }
            let Some(user_id) = event.state_key.clone() else { continue };
            let previous = view.state_event(before, "m.room.member", &user_id).await?;
            let was_in = previous.as_deref().and_then(Event::membership) == Some(Membership::Join);
            let is_in = event.membership() == Some(Membership::Join);
            match (was_in, is_in) {
                (false, true) => drop(self.met.insert(user_id)),
                (true, false) => drop(self.parted.insert(user_id)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Finds out with whom the user began or ceased to share encrypted rooms since a position. Answers the rooms that they are in.
pub(crate) async fn company_since(
    making: &mut Making<'_>,
    since: &Position,
) -> Result<Vec<RoomNumber>, SyncError> {
    let mut present = Vec::new();
    let mut company = KeyCompany::default();
    for room in making.user_rooms().await?.iter() {
        let changed = !since.includes(room.position);
        let is_in = room.membership == Membership::Join;
        if is_in {
            present.push(room.number);
        }
        let has_events = is_in && making.sync.inner.news.of_room(room.number, since).events;
        if !changed && !has_events {
            continue;
        }
        let view = making.view(room.number).await?;
        let was_in = !changed || was_joined(&view, making, since).await?;
        match (was_in, is_in) {
            (false, true) => company.came_into(&view, view.current_state().await?).await?,
            (true, true) => {
                let before = view.state_at(since).await?;
                company.note_changes(&view, before, view.current_state().await?).await?;
            }
            (true, false) => {
                if let Some(left) = view.event(room.event).await? {
                    company.went_from(&view, left.state_before()).await?;
                }
            }
            (false, false) => {}
        }
    }
    making.company = company;
    Ok(present)
}

async fn is_encrypted(view: &RoomView, state: StateRoot) -> Result<bool, RoomError> {
    let found = view.state_numbers(state, &[("m.room.encryption", "")]).await?;
    Ok(found.into_iter().flatten().next().is_some())
}

async fn joined_users(view: &RoomView, state: StateRoot) -> Result<Vec<String>, RoomError> {
    let members = view.state_of(state, Partition::Members).await?;
    let joined = members.iter().filter(|event| event.membership() == Some(Membership::Join));
    Ok(joined.filter_map(|event| event.state_key.clone()).collect())
}

/// Whose devices changed or came into view, and whose went out of it, since a position.
pub(crate) async fn between(
    making: &mut Making<'_>,
    since: &Position,
    rooms: &[RoomNumber],
) -> Result<DeviceLists, SyncError> {
    let inner = &making.sync.inner;
    let own = making.request.user_id.as_str();
    let (snapshot, to) = (&making.snapshot, &making.position);
    let updated = inner.encryption.device_list_changes(snapshot, since, to).await?;
    let updated: Vec<String> = updated.into_iter().map(String::from).collect();
    let signed = inner.encryption.signed_others(snapshot, &making.request.user_id, since, to).await?;
    let company = std::mem::take(&mut making.company);
    let changed = signed.into_iter().map(String::from).collect();
    let mut lists = DeviceLists { changed, left: BTreeSet::new() };
    if updated.is_empty() && company.is_empty() {
        return Ok(lists);
    }
    let candidates: Vec<&str> =
        updated.iter().chain(&company.met).chain(&company.parted).map(String::as_str).collect();
    let sharing = inner.rooms.sharing_rooms(&making.snapshot, rooms, &candidates).await?;
    for user_id in updated.into_iter().chain(company.met) {
        if user_id == own || sharing.contains(user_id.as_str()) {
            lists.changed.insert(user_id);
        }
    }
    for user_id in company.parted {
        if user_id != own && !sharing.contains(user_id.as_str()) {
            lists.left.insert(user_id);
        }
    }
    lists.changed.retain(|user_id| !lists.left.contains(user_id));
    Ok(lists)
}
