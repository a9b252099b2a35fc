//! Which services look at a room: decided from what is remembered of its members, not by looking through them at each event.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use entente_rooms::{Event, Membership, RoomView};

use super::{is_behind, member_of};
use crate::{AppServiceError, Registration, Registry};

/// Rooms and members that are remembered; beyond it all are forgotten and looked at anew.
const MOST_REMEMBERED: usize = 500_000;

/// What is remembered of rooms, as far as the log was read.
#[derive(Debug, Default)]
pub(super) struct Interests {
    registry: Arc<Registry>,
    rooms: HashMap<u64, RoomMembers>,
    remembered: usize,
}

/// Who is in a room of each service's users, in the services' order.
type RoomMembers = Vec<HashSet<String>>;

impl Interests {
    /// Goes by these services from here on.
    pub(super) fn look_at(&mut self, registry: &Arc<Registry>) {
        if !Arc::ptr_eq(&self.registry, registry) {
            *self = Self { registry: Arc::clone(registry), ..Self::default() };
        }
    }

    /// Whether anybody is to hear anything.
    pub(super) fn has_services(&self) -> bool {
        self.services().iter().any(|service| service.url.is_some())
    }

    pub(super) fn services(&self) -> &[Arc<Registration>] {
        self.registry.services()
    }

    /// The services whose user this is.
    pub(super) fn of_user<'a>(&'a self, user_id: &'a str) -> impl Iterator<Item = Arc<Registration>> + 'a {
        let of_user = |service: &&Arc<Registration>| service.url.is_some() && service.is_user(user_id);
        self.services().iter().filter(of_user).cloned()
    }

    /// The services that are to have an event (A-S API, "Pushing events"). To be asked for all events in the order of the log.
    pub(super) async fn in_event(
        &mut self,
        view: &RoomView,
        event: &Event,
    ) -> Result<Vec<Arc<Registration>>, AppServiceError> {
        let room = view.room.number.0;
        self.remember(view, Some(event)).await?;
        let aliases = self.aliases(view).await?;
        let member = member_of(event);
        let mut interested = Vec::new();
        for (place, service) in self.services().iter().enumerate() {
            if service.url.is_none() {
                continue;
            }
            let is_theirs = service.is_user(event.sender.as_str())
                || member.is_some_and(|(user_id, _)| service.is_user(user_id))
                || self.has_members(room, place)
                || service.is_room(&view.room.room_id)
                || aliases.iter().any(|alias| service.is_alias(alias));
            if is_theirs {
                interested.push(Arc::clone(service));
            }
        }
        if let Some((user_id, membership)) = member {
            self.note_member(room, user_id, membership);
        }
        Ok(interested)
    }

    /// The services that look at a room as it is.
    pub(super) async fn in_room(
        &mut self,
        view: &RoomView,
    ) -> Result<Vec<Arc<Registration>>, AppServiceError> {
        self.remember(view, None).await?;
        let aliases = self.aliases(view).await?;
        let looks = |(place, service): &(usize, &Arc<Registration>)| {
            service.url.is_some()
                && (self.has_members(view.room.number.0, *place)
                    || service.is_room(&view.room.room_id)
                    || aliases.iter().any(|alias| service.is_alias(alias)))
        };
        Ok(self.services().iter().enumerate().filter(looks).map(|(_, service)| Arc::clone(service)).collect())
    }

    /// Notes that somebody came into a room or left it.
    pub(super) fn note_member(&mut self, room: u64, user_id: &str, membership: Membership) {
        let Some(members) = self.rooms.get_mut(&room) else { return };
        for (service, users) in self.registry.services().iter().zip(members) {
            if membership != Membership::Join {
                users.remove(user_id);
            } else if service.is_user(user_id) && users.insert(user_id.to_owned()) {
                self.remembered += 1;
            }
        }
    }

    fn has_members(&self, room: u64, place: usize) -> bool {
        self.rooms.get(&room).and_then(|members| members.get(place)).is_some_and(|users| !users.is_empty())
    }

    /// The aliases of a room, if anybody goes by them.
    async fn aliases(&self, view: &RoomView) -> Result<Vec<ruma::OwnedRoomAliasId>, AppServiceError> {
        if self.services().iter().any(|service| service.has_aliases()) {
            return Ok(view.aliases().await?);
        }
        Ok(Vec::new())
    }

    /// Looks at the members of a room that is not remembered: as they were before the event, if others came after it.
    async fn remember(&mut self, view: &RoomView, event: Option<&Event>) -> Result<(), AppServiceError> {
        let room = view.room.number.0;
        if self.rooms.contains_key(&room) {
            return Ok(());
        }
        let is_as_it_was = match event {
            Some(event) => is_behind(view, event).await?,
            None => true,
        };
        let users: Vec<String> = match event {
            Some(event) if !is_as_it_was => {
                let is_join = |membership| membership == Membership::Join;
                let members = view.members(event.room_state_before(), is_join).await?;
                members.iter().filter_map(|member| member.state_key.clone()).collect()
            }
            _ => view.joined_members().await?.into_iter().map(|(user_id, _)| user_id.to_string()).collect(),
        };
        let of_service = |service: &Arc<Registration>| -> HashSet<String> {
            users.iter().filter(|user_id| service.is_user(user_id)).cloned().collect()
        };
        let members: RoomMembers = self.services().iter().map(of_service).collect();
        let size = 1 + members.iter().map(HashSet::len).sum::<usize>();
        if self.remembered + size > MOST_REMEMBERED {
            self.rooms.clear();
            self.remembered = 0;
        }
        self.remembered += size;
        self.rooms.insert(room, members);
        Ok(())
    }
}
