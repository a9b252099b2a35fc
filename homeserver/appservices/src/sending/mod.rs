//! What services are to hear, brought to them (A-S API, "Pushing events"). What waits for a service is in the store until it has
//! taken it; each service has a worker of its own, so that none delays another.

mod interests;
mod passing;
mod queue;
mod transaction;
mod worker;

use std::{collections::HashMap, sync::Arc, time::Duration};

use entente_rooms::{Change, Event, RoomView};
use entente_storage::{Follower, LogEntry, StartFrom};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use self::{interests::Interests, queue::Waiting};
use crate::{AppServiceError, AppServices, Registration, rows::WaitingRow};

/// Records that are read at once.
const MOST_RECORDS: usize = 256;
/// Records that may pass unnoticed before the cursor is stored.
const MOST_PASSED: usize = 4_096;
/// Before a follower that failed goes on.
const PAUSE: Duration = Duration::from_secs(1);
/// The follower that puts down what services are to hear.
const NAME: &str = "appservices.outgoing";
/// Messages worth telling only now that a worker is handed at once.
const MOST_PASSING: usize = 100;

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
        loop {
            let Err(error) = self.follow_until_failure().await;
            if error.is_conflict() {
                tracing::debug!(follower = NAME, "another node was quicker");
            } else {
                tracing::warn!(%error, follower = NAME, "a follower of the log failed and begins again at its cursor");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn follow_until_failure(&self) -> Result<std::convert::Infallible, AppServiceError> {
        self.wake_all();
        let mut follower = Follower::open(self.store(), NAME, StartFrom::Now).await?;
        let mut interests = Interests::default();
        let mut passed = 0;
        loop {
            let records = follower.next(MOST_RECORDS).await?;
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
            Change::Event { room, number, redacted, .. } => {
                if let Some(redacted) = redacted {
                    let redacted = entente_rooms::state::EventNumber(*redacted);
                    self.rooms().forget_redacted(entente_rooms::RoomNumber(*room), redacted);
                }
                let Some((view, event)) = self.rooms().event_by_number(*room, *number).await? else {
                    return Ok(());
                };
                for service in interests.in_event(&view, &event).await? {
                    waiting.add(&service, WaitingRow::Event { room: *room, number: *number });
                }
                Ok(())
            }
            Change::Membership { room, user_id, membership } => {
                interests.note_member(*room, user_id, *membership);
                self.note_outside(*room, user_id, interests, waiting).await
            }
            Change::Typing { room } => self.tell_typing(*room, interests).await,
            Change::Receipt { room, user_id, private: false } => {
                self.tell_receipt(*room, user_id, interests).await
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
                    for service in interests.of_user(&user_id).filter(|service| service.receive_ephemeral) {
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
            let view = self.rooms().view_of(room.0).await?;
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

/// Whose membership an event is, and which.
fn member_of(event: &Event) -> Option<(&str, entente_rooms::Membership)> {
    Some((event.state_key.as_deref()?, event.membership()?))
}

/// Whether a view shows the room as it was behind an event.
async fn is_behind(view: &RoomView, event: &Event) -> Result<bool, AppServiceError> {
    Ok(view.current_state().await? == event.room_state_after())
}
