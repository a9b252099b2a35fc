//! Which devices are here, in memory: what is counted together into a user's presence.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use entente_environment::Timestamp;
use parking_lot::Mutex;

use crate::{Presence, PresenceState};

/// A device that stopped waiting for news is here for so long.
const LINGERS: Duration = Duration::from_secs(30);
/// Who does nothing for so long is not available, whatever their devices say.
const IDLE_AFTER: Duration = Duration::from_secs(5 * 60);

/// Now, by the clock that only moves forward and by the time of day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    pub(crate) time: Timestamp,
}

/// A user whose presence is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) localpart: String,
    pub(crate) state: PresenceState,
    /// Milliseconds since 1970.
    pub(crate) last_active_at: Option<u64>,
}

/// Who is here, by localpart. Users leave it when they left: it has as many as are here.
#[derive(Debug, Default)]
pub(crate) struct Attendances {
    users: Mutex<HashMap<String, User>>,
}

#[derive(Debug, Default)]
struct User {
    devices: HashMap<String, Device>,
    /// When they did something last.
    active: Option<Moment>,
    /// What the store says.
    told: PresenceState,
    /// What was last found here.
    found: PresenceState,
    /// Until then they are taken for what was told, though no device is here.
    expected_until: Option<Instant>,
}

#[derive(Debug)]
struct Device {
    state: PresenceState,
    /// Requests that wait.
    waiting: u32,
    /// When the last of them ended.
    seen: Instant,
}

impl Attendances {
    /// A device waits for news.
    pub(crate) fn arrive(&self, localpart: &str, device_id: &str, state: PresenceState, now: Moment) {
        let mut users = self.users.lock();
        let user = users.entry(localpart.to_owned()).or_default();
        user.set(device_id, state, now).waiting += 1;
    }

    /// It waits no more.
    pub(crate) fn leave(&self, localpart: &str, device_id: &str, now: Moment) {
        let mut users = self.users.lock();
        if let Some(device) = users.get_mut(localpart).and_then(|user| user.devices.get_mut(device_id)) {
            device.waiting = device.waiting.saturating_sub(1);
            device.seen = now.at;
        }
    }

    /// A user says on a device what they are.
    pub(crate) fn declare(&self, localpart: &str, device_id: &str, state: PresenceState, now: Moment) {
        let mut users = self.users.lock();
        let user = users.entry(localpart.to_owned()).or_default();
        if state == PresenceState::Offline {
            user.devices.remove(device_id);
        } else {
            user.set(device_id, state, now);
        }
        user.expected_until = None;
        // Saying it is doing something.
        user.active = Some(now);
    }

    /// A user who is here does something.
    pub(crate) fn act(&self, localpart: &str, now: Moment) {
        if let Some(user) = self.users.lock().get_mut(localpart) {
            user.active = Some(now);
        }
    }

    /// A user who was here before this process was may come back.
    pub(crate) fn expect(&self, localpart: &str, presence: &Presence, now: Moment) {
        let mut users = self.users.lock();
        let user = users.entry(localpart.to_owned()).or_default();
        user.told = presence.state;
        user.found = user.found.max(presence.state);
        user.expected_until = now.at.checked_add(LINGERS);
    }

    /// What was told about a user, perhaps by another node.
    pub(crate) fn hear(&self, localpart: &str, state: PresenceState) {
        if let Some(user) = self.users.lock().get_mut(localpart) {
            user.told = state;
        }
    }

    /// This was found here and told.
    pub(crate) fn told(&self, localpart: &str, state: PresenceState) {
        if let Some(user) = self.users.lock().get_mut(localpart) {
            user.told = state;
            user.found = state;
        }
    }

    pub(crate) fn forget(&self, localpart: &str) {
        self.users.lock().remove(localpart);
    }

    /// When a user who is here did something last, in ms since 1970.
    pub(crate) fn last_active_at(&self, localpart: &str) -> Option<u64> {
        self.users.lock().get(localpart)?.active.map(|active| active.time.millis())
    }

    /// What a user is now.
    pub(crate) fn of(&self, localpart: &str, now: Moment) -> Due {
        let mut users = self.users.lock();
        match users.get_mut(localpart) {
            Some(user) => user.due(localpart, now),
            None => {
                Due { localpart: localpart.to_owned(), state: PresenceState::Offline, last_active_at: None }
            }
        }
    }

    /// Those of whom something else was told than what they are. More than what is found here is another node's to tell: less is told
    /// only when it became less here.
    pub(crate) fn due(&self, now: Moment) -> Vec<Due> {
        let mut due = Vec::new();
        self.users.lock().retain(|localpart, user| {
            let state = user.state(now);
            if state > user.told || state < user.found {
                due.push(user.due(localpart, now));
                return true;
            }
            user.found = state;
            !user.devices.is_empty() || user.expected_until.is_some()
        });
        due
    }
}

impl User {
    /// Notes what a device is. To come here, or back to being online, is to do something.
    fn set(&mut self, device_id: &str, state: PresenceState, now: Moment) -> &mut Device {
        let is_news = self.devices.get(device_id).is_none_or(|device| device.state != state);
        if is_news && state == PresenceState::Online {
            self.active = Some(now);
        }
        let new = || Device { state, waiting: 0, seen: now.at };
        let device = self.devices.entry(device_id.to_owned()).or_insert_with(new);
        device.state = state;
        device.seen = now.at;
        device
    }

    /// Lets go of devices that left, and answers what the others make of their user.
    fn state(&mut self, now: Moment) -> PresenceState {
        self.devices.retain(|_, device| {
            device.waiting > 0 || now.at.saturating_duration_since(device.seen) < LINGERS
        });
        self.expected_until = self.expected_until.filter(|until| now.at < *until);
        let of_devices = self.devices.values().map(|device| device.state).max().unwrap_or_default();
        let expected = if self.expected_until.is_some() { self.found } else { PresenceState::Offline };
        let is_idle = |active: Moment| now.at.saturating_duration_since(active.at) >= IDLE_AFTER;
        let of_devices = if self.active.is_some_and(is_idle) {
            of_devices.min(PresenceState::Unavailable)
        } else {
            of_devices
        };
        of_devices.max(expected)
    }

    fn due(&mut self, localpart: &str, now: Moment) -> Due {
        let last_active_at = self.active.map(|active| active.time.millis());
        Due { localpart: localpart.to_owned(), state: self.state(now), last_active_at }
    }
}
