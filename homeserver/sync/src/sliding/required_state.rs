//! Which parts of a room's state a client asked for.

use std::{collections::BTreeSet, sync::Arc};

use entente_rooms::{
    Event, RoomError, RoomView,
    state::{Partition, StateRoot},
};
use serde::{Deserialize, Serialize};

const MEMBER: &str = "m.room.member";

/// State events by type and state key; what is `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateSelector {
    /// The event type.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The state key.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub state_key: Option<String>,
}

/// The state that a client wants of a room (MSC4186, `RequiredStateRequest`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequiredState {
    /// What is given.
    #[serde(rename = "i", default)]
    pub include: Vec<StateSelector>,
    /// What of it is not.
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<StateSelector>,
    /// Whether the memberships of those who appear in the timeline are given.
    #[serde(rename = "l", default)]
    pub lazy_members: bool,
}

/// What several rules together ask of a room: whatever one of them does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct CombinedState {
    parts: BTreeSet<RequiredState>,
}

impl StateSelector {
    fn matches(&self, event_type: &str, state_key: &str) -> bool {
        self.event_type.as_deref().is_none_or(|wanted| wanted == event_type)
            && self.state_key.as_deref().is_none_or(|wanted| wanted == state_key)
    }
}

impl RequiredState {
    fn matches(&self, event_type: &str, state_key: &str) -> bool {
        let any = |selectors: &[StateSelector]| {
            selectors.iter().any(|selector| selector.matches(event_type, state_key))
        };
        any(&self.include) && !any(&self.exclude)
    }
}

impl CombinedState {
    pub(crate) fn add(&mut self, part: &RequiredState) {
        self.parts.insert(part.clone());
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        self.parts.extend(other.parts.iter().cloned());
    }

    /// What of `other` is not in this: the rules that are new.
    pub(crate) fn missing_of(&self, other: &Self) -> Self {
        Self { parts: other.parts.difference(&self.parts).cloned().collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn lazy_members(&self) -> bool {
        self.parts.iter().any(|part| part.lazy_members)
    }

    pub(crate) fn matches(&self, event: &Event) -> bool {
        let Some(state_key) = &event.state_key else { return false };
        let event_type = event.event_type.to_string();
        self.parts.iter().any(|part| part.matches(&event_type, state_key))
    }

    /// Everything that is asked for in a state. Single events are looked up; where a rule is wider, the settings of the room are
    /// read, and its members only if it asks for them.
    pub(crate) async fn select(
        &self,
        view: &RoomView,
        state: StateRoot,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let selectors = || self.parts.iter().flat_map(|part| &part.include);
        let mut keys = BTreeSet::new();
        let (mut wide_settings, mut wide_members) = (false, false);
        for selector in selectors() {
            match (selector.event_type.as_deref(), selector.state_key.as_deref()) {
                (Some(event_type), Some(state_key)) => drop(keys.insert((event_type, state_key))),
                (Some(MEMBER), None) => wide_members = true,
                (Some(_), None) => wide_settings = true,
                (None, Some(state_key)) => {
                    wide_settings = true;
                    keys.insert((MEMBER, state_key));
                }
                (None, None) => (wide_settings, wide_members) = (true, true),
            }
        }
        keys.retain(|(event_type, _)| if *event_type == MEMBER { !wide_members } else { !wide_settings });
        let keys: Vec<(&str, &str)> = keys.into_iter().collect();
        let mut events: Vec<Arc<Event>> =
            view.state_events(state, &keys).await?.into_iter().flatten().collect();
        if wide_settings {
            events.extend(view.state_of(state, Partition::Settings).await?);
        }
        if wide_members {
            events.extend(view.state_of(state, Partition::Members).await?);
        }
        events.retain(|event| self.matches(event));
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(event_type: Option<&str>, state_key: Option<&str>) -> StateSelector {
        StateSelector { event_type: event_type.map(str::to_owned), state_key: state_key.map(str::to_owned) }
    }

    #[test]
    fn selectors_match_what_they_name() {
        let all_but_create = RequiredState {
            include: vec![selector(None, None)],
            exclude: vec![selector(Some("m.room.create"), Some(""))],
            lazy_members: false,
        };
        assert!(all_but_create.matches("m.room.name", ""));
        assert!(all_but_create.matches("m.room.create", "x"));
        assert!(!all_but_create.matches("m.room.create", ""));
        let children = RequiredState {
            include: vec![selector(Some("m.space.child"), None), selector(None, Some("@a:b"))],
            ..RequiredState::default()
        };
        assert!(children.matches("m.space.child", "!a:b"));
        assert!(children.matches("org.example", "@a:b"));
        assert!(!children.matches("m.room.name", ""));
    }

    #[test]
    fn rules_add_up() {
        let name = RequiredState {
            include: vec![selector(Some("m.room.name"), Some(""))],
            ..RequiredState::default()
        };
        let lazy = RequiredState { lazy_members: true, ..RequiredState::default() };
        let (mut one, mut both) = (CombinedState::default(), CombinedState::default());
        one.add(&name);
        both.add(&lazy);
        both.add_all(&one);
        assert!(both.lazy_members() && !one.lazy_members());
        assert!(both.missing_of(&one).is_empty());
        assert!(one.missing_of(&both).lazy_members());
    }
}
