use std::{collections::HashSet, sync::Arc};

use ruma::{
    Int, OwnedUserId, UserId,
    events::{TimelineEventType, room::power_levels::UserPowerLevel},
    int,
    room_version_rules::AuthorizationRules,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use crate::{Event, RoomError};

/// Who may do what in a room (C-S API, `m.room.power_levels`), at one state of it.
#[derive(Debug)]
pub struct Powers {
    creators: HashSet<OwnedUserId>,
    levels: Option<RoomPowerLevelsEvent<Arc<Event>>>,
    rules: AuthorizationRules,
}

impl Powers {
    /// By these events of a state.
    pub fn new(
        create: &Event,
        power_levels: Option<Arc<Event>>,
        rules: &AuthorizationRules,
    ) -> Result<Self, RoomError> {
        let creators = RoomCreateEvent::new(create).creators(rules).map_err(RoomError::Internal)?;
        let levels = power_levels.map(RoomPowerLevelsEvent::new);
        Ok(Self { creators, levels, rules: rules.clone() })
    }

    /// A user's power level.
    pub fn of(&self, user_id: &UserId) -> UserPowerLevel {
        let is_creator = self.creators.contains(user_id);
        if is_creator && self.rules.explicitly_privilege_room_creators {
            return UserPowerLevel::Infinite;
        }
        let level = match &self.levels {
            Some(levels) => levels.user_power_level(user_id, &self.rules).unwrap_or(int!(0)),
            None if is_creator => int!(100),
            None => int!(0),
        };
        UserPowerLevel::Int(level)
    }

    /// The level that an action needs.
    pub fn needed(&self, action: RoomPowerLevelsIntField) -> Int {
        let level = self.levels.as_ref().map(|levels| levels.get_as_int_or_default(action, &self.rules));
        level.and_then(Result::ok).unwrap_or_else(|| action.default_value())
    }

    /// Whether a user may do this.
    pub fn may(&self, user_id: &UserId, action: RoomPowerLevelsIntField) -> bool {
        self.of(user_id) >= self.needed(action)
    }

    /// Whether a user may send such an event.
    pub fn may_send(
        &self,
        user_id: &UserId,
        event_type: &TimelineEventType,
        state_key: Option<&str>,
    ) -> bool {
        let needed =
            self.levels.as_ref().map(|levels| levels.event_power_level(event_type, state_key, &self.rules));
        let default = if state_key.is_some() {
            RoomPowerLevelsIntField::StateDefault
        } else {
            RoomPowerLevelsIntField::EventsDefault
        };
        let needed = needed.and_then(Result::ok).unwrap_or_else(|| match &self.levels {
            Some(_) => default.default_value(),
            // Without power levels, everybody may send what only those of 50 may send with them.
            None => int!(0),
        });
        self.of(user_id) >= needed
    }

    /// Who has the highest power among those that are named; the creators first.
    pub fn creators(&self) -> &HashSet<OwnedUserId> {
        &self.creators
    }
}
