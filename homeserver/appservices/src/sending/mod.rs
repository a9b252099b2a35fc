//! What services are to hear, brought to them (A-S API, "Pushing events"). What waits for a service is in the store until it has
//! taken it; each service has a worker of its own, so that none delays another.

mod interests;
mod passing;
mod queue;
mod transaction;
mod worker;

use std::{collections::HashMap, sync::Arc};

use entente_rooms::{Change, Event, Membership, RoomError, RoomView};
use entente_storage::{Follower, LogEntry, StartFrom, keep_following};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use self::{interests::Interests, queue::Waiting};
use crate::{AppServiceError, AppServices, Registration, rows::WaitingRow};

/// Records that are read at once.
const MOST_RECORDS: usize = 256;
/// Records that may pass unnoticed before the cursor is stored.
const MOST_PASSED: usize = 4_096;
/// The follower that puts down what services are to hear.
const NAME: &str = "appservices.outgoing";
/// Messages worth telling only now that a worker is handed at once.
const MOST_PASSING: usize = 100;
/// Members of a room that are looked at when the last user of a service left it.
const MOST_PARTED: usize = 500;

/// Where the workers find their work, by service.
#[derive(Debug, Default)]
pub(crate) struct Desks(Mutex<HashMap<String, Arc<Desk>>>);

#[derive(Debug, Default)]
struct Desk {
    /// Something waits in the store, or here.
    notify: Notify,
    /// The service was heard of.
    alive: Notify,
    /// What is worth telling only now, the oldest first.
    passing: Mutex<Vec<Value>>,
}

impl Desks {
    /// Ends the pause of the worker of a service that is there again.
    pub(crate) fn note_alive(&self, service: &str) {
        if let Some(desk) = self.0.lock().get(service) {
            desk.alive.notify_waiters();
        }
    }
}

impl AppServices {
    /// Follows the log and sends, for as long as it is polled.
    pub async fn follow(self) {
        keep_following(NAME, AppServiceError::is_conflict, || self.follow_until_failure()).await;
    }

    async fn follow_until_failure(&self) -> Result<std::convert::Infallible, AppServiceError> {
        self.wake_all();
        let mut follower = Follower::open(self.store(), NAME, StartFrom::Now).await?;
        let mut interests = Interests::default();
        let mut passed = 0;
        loop {
            let records = follower.next(MOST_RECORDS).await?;
            // What is put down for a service that is being removed comes before what waits for it is deleted.
            let _steady = self.inner.in_use.read().await;
            interests.look_at(&self.registry());
            let mut waiting = Waiting::default();
            if interests.has_services() {
                for entry in records.iter().flat_map(|record| &record.entries) {
                    self.note(entry, &mut interests, &mut waiting).await?;
                }
            }
            passed += records.len();
            if !waiting.is_empty() || passed >= MOST_PASSED {
                let mut transaction = waiting.put(self.store()).await?;
                follower.advance_in(&mut transaction);
                self.store().commit(transaction).await?;
                follower.advanced();
                passed = 0;
            }
            for service in waiting.services() {
                self.wake(service);
            }
        }
    }

    /// Notes for whom a log entry is.
    async fn note(
        &self,
        entry: &LogEntry,
        interests: &mut Interests,
        waiting: &mut Waiting,
    ) -> Result<(), AppServiceError> {
        let unreadable = |error: String| tracing::error!(%error, "a log entry cannot be read");
        match entry.topic {
            entente_rooms::TOPIC => match Change::from_payload(&entry.payload) {
                Ok(change) => self.note_room(&change, interests, waiting).await?,
                Err(error) => unreadable(error),
            },
            entente_encryption::TOPIC => match entente_encryption::Change::from_payload(&entry.payload) {
                Ok(change) => self.note_keys(change, interests, waiting).await?,
                Err(error) => unreadable(error),
            },
            entente_accounts::TOPIC => match entente_accounts::Change::from_payload(&entry.payload) {
                Ok(entente_accounts::Change::Presence { localparts }) => {
                    self.tell_presence(&localparts, interests).await?;
                }
                Ok(_) => {}
                Err(error) => unreadable(error),
            },
            _ => {}
        }
        Ok(())
    }

    async fn note_room(
        &self,
        change: &Change,
        interests: &mut Interests,
        waiting: &mut Waiting,
    ) -> Result<(), AppServiceError> {
        match change {
            Change::Event { room, number, member, redacted } => {
                if let Some(redacted) = redacted {
                    let redacted = entente_rooms::state::EventNumber(*redacted);
                    self.rooms().forget_redacted(entente_rooms::RoomNumber(*room), redacted);
                }
                let Some((view, event)) = self.rooms().event_by_number(*room, *number).await? else {
                    return Ok(());
                };
                let interested = interests.in_event(&view, &event, member.as_ref()).await?;
                for service in &interested {
                    waiting.add(service, WaitingRow::Event { room: *room, number: *number });
                }
                match member {
                    Some((user_id, membership)) => {
                        let moved = Moved { view: &view, event: &event, user_id, membership: *membership };
                        self.note_company(&moved, &interested, interests, waiting).await
                    }
                    None => Ok(()),
                }
            }
            Change::Membership { room, user_id, membership } => {
                interests.note_member(*room, user_id, *membership);
                self.note_outside(*room, user_id, interests, waiting).await
            }
            Change::Typing { room } => self.tell_typing(*room, interests).await,
            Change::Receipt { room, user_id, private } => {
                self.tell_receipt(*room, user_id, *private, interests).await
            }
            _ => Ok(()),
        }
    }

    /// A membership in a room that this server is not in, as an invite from elsewhere is: its event is in no timeline, and only
    /// who is meant has it.
    async fn note_outside(
        &self,
        room: u64,
        user_id: &str,
        interests: &Interests,
        waiting: &mut Waiting,
    ) -> Result<(), AppServiceError> {
        let Some(localpart) = self.rooms().local(user_id) else { return Ok(()) };
        let concerned: Vec<Arc<Registration>> = interests.of_user(user_id).collect();
        if concerned.is_empty() {
            return Ok(());
        }
        let snapshot = self.store().snapshot().await?;
        let rooms = self.rooms().user_rooms(&snapshot, localpart).await?;
        let Some(place) = rooms.into_iter().find(|place| place.number.0 == room) else { return Ok(()) };
        let Some((_, event)) = self.rooms().event_by_number(room, place.event.0).await? else {
            return Ok(());
        };
        if event.is_shown() {
            // It came by itself.
            return Ok(());
        }
        for service in concerned {
            waiting.add(&service, WaitingRow::Event { room, number: place.event.0 });
        }
        Ok(())
    }

    /// Notes who came to share a room with a service's users, or shares none any more, as `/sync` tells users (MSC3202).
    async fn note_company(
        &self,
        moved: &Moved<'_>,
        interested: &[Arc<Registration>],
        interests: &mut Interests,
        waiting: &mut Waiting,
    ) -> Result<(), AppServiceError> {
        let concerned: Vec<&Arc<Registration>> =
            interested.iter().filter(|service| service.encryption).collect();
        if concerned.is_empty() {
            return Ok(());
        }
        let before = match moved.event.replaces() {
            Some(number) => moved.view.event(number).await?.and_then(|event| event.membership()),
            None => None,
        };
        let (was_in, is_in) = (before == Some(Membership::Join), moved.membership == Membership::Join);
        if was_in == is_in {
            return Ok(());
        }
        if is_in {
            for service in concerned.iter().filter(|service| !service.is_user(moved.user_id)) {
                waiting.add(service, WaitingRow::Devices { user_id: moved.user_id.to_owned() });
            }
            return Ok(());
        }
        let looking = interests.in_room(moved.view).await?;
        for service in concerned {
            let parted = if !service.is_user(moved.user_id) {
                vec![moved.user_id.to_owned()]
            } else if looking.iter().any(|other| other.id == service.id) {
                continue;
            } else {
                let members = moved.view.first_members(MOST_PARTED).await?;
                let joined = members.into_iter().filter(|(_, membership)| *membership == Membership::Join);
                joined.map(|(user_id, _)| user_id).filter(|user_id| !service.is_user(user_id)).collect()
            };
            for user_id in parted {
                let sharing = self.sharing_rooms(&user_id, interests, |other| other.id == service.id).await?;
                if sharing.is_empty() {
                    waiting.add(service, WaitingRow::DevicesLeft { user_id });
                }
            }
        }
        Ok(())
    }

    async fn note_keys(
        &self,
        change: entente_encryption::Change,
        interests: &mut Interests,
        waiting: &mut Waiting,
    ) -> Result<(), AppServiceError> {
        use entente_encryption::Change;
        match change {
            Change::ToDevice { recipients } => {
                for (localpart, device_id) in recipients {
                    let user_id = format!("@{localpart}:{}", self.rooms().server_name());
                    for service in interests.of_user(&user_id).filter(|service| service.wants_messages()) {
                        waiting.add_mailbox(&service, &localpart, &device_id);
                    }
                }
            }
            Change::DeviceList { user_id } => {
                for service in self.sharing_rooms(&user_id, interests, |service| service.encryption).await? {
                    waiting.add(&service, WaitingRow::Devices { user_id: user_id.clone() });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The services, of those that want it, whose user somebody is or that look at a room that somebody is in.
    async fn sharing_rooms(
        &self,
        user_id: &str,
        interests: &mut Interests,
        wants: impl Fn(&Registration) -> bool,
    ) -> Result<Vec<Arc<Registration>>, AppServiceError> {
        let mut sharing: Vec<Arc<Registration>> =
            interests.of_user(user_id).filter(|service| wants(service)).collect();
        let wanting = interests.services().iter().filter(|service| wants(service)).count();
        if sharing.len() == wanting {
            return Ok(sharing);
        }
        let snapshot = self.store().snapshot().await?;
        for room in self.rooms().joined_rooms(&snapshot, user_id).await? {
            let Some(view) = self.room_if_there(room.0).await? else { continue };
            for service in interests.in_room(&view).await? {
                if wants(&service) && !sharing.iter().any(|other| other.id == service.id) {
                    sharing.push(service);
                }
            }
            if sharing.len() == wanting {
                break;
            }
        }
        Ok(sharing)
    }

    /// A room as it is now; `None` if it was purged since the log told of it.
    async fn room_if_there(&self, room: u64) -> Result<Option<RoomView>, AppServiceError> {
        match self.rooms().view_of(room).await {
            Err(RoomError::RoomNotFound) => Ok(None),
            view => Ok(Some(view?)),
        }
    }

    /// Lets the workers of all services look for what waits.
    pub(crate) fn wake_all(&self) {
        for service in self.registry().services() {
            if service.url.is_some() {
                self.wake(&service.id);
            }
        }
    }

    fn wake(&self, service: &str) {
        self.with_desk(service, |_| ());
    }

    /// Hands a message to the worker of a service that is worth telling only now. The oldest give way to the newest.
    fn pass(&self, service: &str, message: Value) {
        self.with_desk(service, |desk| {
            let mut passing = desk.passing.lock();
            if passing.len() >= MOST_PASSING {
                passing.remove(0);
            }
            passing.push(message);
        });
    }

    fn with_desk(&self, service: &str, put: impl FnOnce(&Desk)) {
        let mut desks = self.inner.desks.0.lock();
        if let Some(desk) = desks.get(service) {
            put(desk);
            desk.notify.notify_one();
            return;
        }
        let desk = Arc::new(Desk::default());
        put(&desk);
        desk.notify.notify_one();
        desks.insert(service.to_owned(), Arc::clone(&desk));
        tokio::spawn(self.clone().work(service.to_owned(), desk));
    }
}

/// A membership that an event changed.
struct Moved<'a> {
    view: &'a RoomView,
    event: &'a Event,
    user_id: &'a str,
    membership: Membership,
}

/// Whose membership an event says, whether it counts or not.
fn member_of(event: &Event) -> Option<&str> {
    event.membership()?;
    event.state_key.as_deref()
}

/// Whether a view shows the room as it was behind an event.
async fn is_behind(view: &RoomView, event: &Event) -> Result<bool, AppServiceError> {
    Ok(view.current_state().await? == event.room_state_after())
}
