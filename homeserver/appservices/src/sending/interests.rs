//! Which services look at a room: decided from what is remembered of its members, not by looking through them at each event.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use entente_rooms::{Event, Membership, RoomView, state::StateRoot};

use super::{is_behind, member_of};
use crate::{AppServiceError, Registration, Registry};

/// Rooms and members that are remembered; beyond it all are forgotten and looked at anew.
const MOST_REMEMBERED: usize = 500_000;
/// Rooms of which it is remembered who is in them at present.
const MOST_PRESENT: usize = 10_000;

/// What is remembered of rooms, as far as the log was read.
#[derive(Debug, Default)]
pub(super) struct Interests {
    registry: Arc<Registry>,
    rooms: HashMap<u64, RoomMembers>,
    remembered: usize,
    present: HashMap<u64, Present>,
}

/// Who is in a room of each service's users, in the services' order.
type RoomMembers = Vec<HashSet<String>>;

/// Which services, in their order, have users in a room of which no event was read yet: as it is now, not as far as the log was read.
#[derive(Debug)]
struct Present {
    state: StateRoot,
    services: Vec<bool>,
}

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
    /// `member`: whose membership it changed, and to what.
    pub(super) async fn in_event(
        &mut self,
        view: &RoomView,
        event: &Event,
        member: Option<&(String, Membership)>,
    ) -> Result<Vec<Arc<Registration>>, AppServiceError> {
        let room = view.room.number.0;
        self.remember(view, event).await?;
        let aliases = self.aliases(view).await?;
        let meant = member_of(event);
        let mut interested = Vec::new();
        for (place, service) in self.services().iter().enumerate() {
            if service.url.is_none() {
                continue;
            }
            let is_theirs = service.is_user(event.sender.as_str())
                || meant.is_some_and(|user_id| service.is_user(user_id))
                || self.has_members(room, place)
                || service.is_room(&view.room.room_id)
                || aliases.iter().any(|alias| service.is_alias(alias));
            if is_theirs {
                interested.push(Arc::clone(service));
            }
        }
        if let Some((user_id, membership)) = member {
            self.note_member(room, user_id, *membership);
        }
        Ok(interested)
    }

    /// The services that look at a room: as far as the log was read, or if no event of it was, as it is now.
    pub(super) async fn in_room(
        &mut self,
        view: &RoomView,
    ) -> Result<Vec<Arc<Registration>>, AppServiceError> {
        let room = view.room.number.0;
        let services = match self.rooms.get(&room) {
            Some(members) => members.iter().map(|users| !users.is_empty()).collect(),
            None => self.present_in(view).await?,
        };
        let aliases = self.aliases(view).await?;
        let looks = |(service, has_members): &(&Arc<Registration>, bool)| {
            service.url.is_some()
                && (*has_members
                    || service.is_room(&view.room.room_id)
                    || aliases.iter().any(|alias| service.is_alias(alias)))
        };
        let looking = self.services().iter().zip(services).filter(looks);
        Ok(looking.map(|(service, _)| Arc::clone(service)).collect())
    }

    /// Which services have users in a room as it is now. Not remembered for events: those are read in the order of the log, which may be
    /// far behind.
    async fn present_in(&mut self, view: &RoomView) -> Result<Vec<bool>, AppServiceError> {
        let (room, state) = (view.room.number.0, view.current_state().await?);
        if let Some(present) = self.present.get(&room).filter(|present| present.state == state) {
            return Ok(present.services.clone());
        }
        let members = self.sorted(&joined(view).await?);
        let services: Vec<bool> = members.iter().map(|users| !users.is_empty()).collect();
        if self.present.len() >= MOST_PRESENT {
            self.present.clear();
        }
        self.present.insert(room, Present { state, services: services.clone() });
        Ok(services)
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

    /// Each service's users among these.
    fn sorted(&self, users: &[String]) -> RoomMembers {
        let of_service = |service: &Arc<Registration>| -> HashSet<String> {
            users.iter().filter(|user_id| service.is_user(user_id)).cloned().collect()
        };
        self.services().iter().map(of_service).collect()
    }

    /// The aliases of a room, if anybody goes by them.
    async fn aliases(&self, view: &RoomView) -> Result<Vec<ruma::OwnedRoomAliasId>, AppServiceError> {
        if self.services().iter().any(|service| service.has_aliases()) {
            return Ok(view.aliases().await?);
        }
        Ok(Vec::new())
    }

    /// Looks at the members of a room that is not remembered: as they were since the event, if others came after it. Whom it made leave is
    /// named by the event itself.
    async fn remember(&mut self, view: &RoomView, event: &Event) -> Result<(), AppServiceError> {
        let room = view.room.number.0;
        if self.rooms.contains_key(&room) {
            return Ok(());
        }
        let users = if is_behind(view, event).await? {
            joined(view).await?
        } else {
            let is_join = |membership| membership == Membership::Join;
            let members = view.members(event.room_state_after(), is_join).await?;
            members.iter().filter_map(|member| member.state_key.clone()).collect()
        };
        let members = self.sorted(&users);
        let size = 1 + members.iter().map(HashSet::len).sum::<usize>();
        if self.remembered + size > MOST_REMEMBERED {
            self.rooms.clear();
            self.remembered = 0;
        }
        self.remembered += size;
        self.rooms.insert(room, members);
        self.present.remove(&room);
        Ok(())
    }
}

/// Who is in a room at present.
async fn joined(view: &RoomView) -> Result<Vec<String>, AppServiceError> {
    Ok(view.joined_members().await?.into_iter().map(|(user_id, _)| user_id.to_string()).collect())
}
