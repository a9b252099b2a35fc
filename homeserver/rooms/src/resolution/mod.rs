//! State resolution: the one state that follows from several ("State resolution" of each room version). Which algorithm a room has
//! is said by its [`RoomVersionRules`]: version 1 is ours, versions 2 and 2.1 are `ruma`'s.
//!
//! No I/O here. A [`Resolution`] begins with what the states do not have in common, and with two sets of events that
//! [`crate::auth_chain`] finds: the auth difference and, for version 2.1, the conflicted state subgraph. It says which events and
//! which of the common state it [`Needs`], a level of auth events at a time, is supplied with them, and resolves when it needs
//! nothing more. So it costs a large room no more than a small one: what is not in conflict is only looked at where an event in
//! conflict is authorised by it.
//!
//! Resolving is computation only, and with thousands of conflicted events takes long enough to be done on a thread that may block.

mod version1;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, RoomId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{RoomVersionRules, StateResolutionV2Rules, StateResolutionVersion},
    state_res,
};

/// What stands under an event type and state key.
pub type Key = (StateEventType, String);

/// A state, or a part of one.
pub type StateMap = state_res::StateMap<OwnedEventId>;

/// An event as state resolution sees it.
pub trait ResolutionEvent: state_res::Event<Id = OwnedEventId> {
    /// Its depth in the event graph, by which room version 1 puts events in order.
    fn depth(&self) -> u64;
}

impl<E: ResolutionEvent> ResolutionEvent for &E {
    fn depth(&self) -> u64 {
        (**self).depth()
    }
}

impl<E: ResolutionEvent> ResolutionEvent for Arc<E> {
    fn depth(&self) -> u64 {
        (**self).depth()
    }
}

impl ResolutionEvent for crate::Event {
    fn depth(&self) -> u64 {
        self.depth
    }
}

/// What is to be resolved.
#[derive(Clone, Debug, Default)]
pub struct Conflict {
    /// Each state, without what is the same in all of them. (It may be there; it only costs.)
    pub states: Vec<StateMap>,
    /// The auth difference of the whole states. Not used in room version 1.
    pub auth_difference: Vec<OwnedEventId>,
    /// The conflicted state subgraph. Not used before room version 12.
    pub conflicted_subgraph: Vec<OwnedEventId>,
}

/// What a [`Resolution`] has to know before it can go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Events of the room, by id.
    pub events: Vec<OwnedEventId>,
    /// What the states have in common under these keys.
    pub state: Vec<Key>,
}

impl Needs {
    /// Whether that is nothing.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.state.is_empty()
    }
}

/// What a conflict comes to: under each key that was in conflict, the event that stands there now, or `None` if none does. Keys
/// that were in no state may come up too. Under all other keys, everything stays.
pub type Resolved = HashMap<Key, Option<OwnedEventId>>;

/// Why states cannot be resolved: an event that takes part in it is not what the room's rules demand.
#[derive(Debug, thiserror::Error)]
#[error("the state cannot be resolved: {0}")]
pub struct ResolutionError(String);

/// States on their way to be resolved.
#[derive(Debug)]
pub struct Resolution<E> {
    rules: RoomVersionRules,
    states: Vec<StateMap>,
    conflicted_keys: HashSet<Key>,
    auth_difference: HashSet<OwnedEventId>,
    conflicted_subgraph: HashSet<OwnedEventId>,
    /// The full conflicted set.
    conflicted: HashSet<OwnedEventId>,
    events: HashMap<OwnedEventId, E>,
    /// What all states have in common, as far as it is known.
    common: StateMap,
    /// Keys of the common state whose events authorise conflicted ones.
    authorising: HashSet<Key>,
    /// What was asked for, ever.
    asked_events: HashSet<OwnedEventId>,
    asked_state: HashSet<Key>,
    needs: Needs,
}

impl<E: ResolutionEvent> Resolution<E> {
    /// Begins to resolve states of one room, of the version that `rules` describe. The order of the states does not matter.
    pub fn new(rules: &RoomVersionRules, conflict: Conflict) -> Self {
        let (states, common) = split(conflict.states);
        let of_states = states.iter().flat_map(StateMap::values).cloned();
        let mut conflicted: HashSet<OwnedEventId> = of_states.collect();
        let (mut auth_difference, mut conflicted_subgraph) = (HashSet::new(), HashSet::new());
        if let StateResolutionVersion::V2(rules) = &rules.state_res
            && !conflicted.is_empty()
        {
            auth_difference.extend(conflict.auth_difference);
            if rules.consider_conflicted_state_subgraph {
                conflicted_subgraph.extend(conflict.conflicted_subgraph);
            }
            conflicted.extend(auth_difference.iter().chain(&conflicted_subgraph).cloned());
        }
        let mut resolution = Self {
            rules: rules.clone(),
            conflicted_keys: states.iter().flat_map(StateMap::keys).cloned().collect(),
            states,
            auth_difference,
            conflicted_subgraph,
            conflicted: HashSet::new(),
            events: HashMap::new(),
            common,
            authorising: HashSet::new(),
            asked_events: HashSet::new(),
            asked_state: HashSet::new(),
            needs: Needs::default(),
        };
        for event_id in &conflicted {
            resolution.need_event(event_id);
        }
        resolution.conflicted = conflicted;
        resolution
    }

    /// What it needs next; nothing: it can be resolved. What was asked for and is not supplied does not exist: nothing is asked for
    /// twice.
    pub fn needs(&mut self) -> Needs {
        std::mem::take(&mut self.needs)
    }

    /// Supplies events of the room, and what all states have in common under some keys. More than was asked for is welcome: former
    /// power levels would else be asked for one by one (see [`crate::auth_chain::chain_up_to`]).
    pub fn supply(&mut self, events: impl IntoIterator<Item = E>, state: StateMap) {
        for (key, event_id) in state {
            if self.conflicted_keys.contains(&key) {
                continue;
            }
            if self.authorising.contains(&key) {
                self.need_event(&event_id);
            }
            self.common.insert(key, event_id);
        }
        for event in events {
            self.take_event(event);
        }
    }

    fn take_event(&mut self, event: E) {
        let event_id = event.event_id().clone();
        if self.events.contains_key(&event_id) {
            return;
        }
        let is_power_levels =
            *event.event_type() == TimelineEventType::RoomPowerLevels && event.state_key() == Some("");
        let is_conflicted = self.conflicted.contains(&event_id);
        if is_conflicted {
            self.need_state_for(&event);
        }
        // The mainline of power levels goes back to the first ones.
        if self.v2_rules().is_some() && (is_conflicted || is_power_levels) {
            for auth_event in event.auth_events() {
                self.need_event(auth_event);
            }
        }
        // It is nobody's auth event where the room is named after it.
        if is_conflicted
            && self.rules.authorization.room_create_event_id_as_room_id
            && let Some(create) = event.room_id().and_then(create_event_id)
        {
            self.need_event(&create);
        }
        self.events.insert(event_id, event);
    }

    /// The common state that decides about a conflicted event.
    fn need_state_for(&mut self, event: &E) {
        let state_type = |event_type: &TimelineEventType| StateEventType::from(event_type.to_string());
        if let Some(state_key) = event.state_key() {
            // What all states agree upon outweighs what their auth chains say.
            self.need_state((state_type(event.event_type()), state_key.to_owned()));
        }
        if self.v2_rules().is_some_and(|rules| rules.begin_iterative_auth_checks_with_empty_state_map) {
            return;
        }
        let authorising = state_res::auth_types_for_event(
            event.event_type(),
            event.sender(),
            event.state_key(),
            event.content(),
            &self.rules.authorization,
        );
        // An event whose content says nothing of use is not allowed, whatever the state.
        for key in authorising.unwrap_or_default() {
            if let Some(event_id) = self.common.get(&key).cloned() {
                self.need_event(&event_id);
            }
            self.authorising.insert(key.clone());
            self.need_state(key);
        }
    }

    fn need_event(&mut self, event_id: &EventId) {
        if !self.events.contains_key(event_id) && self.asked_events.insert(event_id.to_owned()) {
            self.needs.events.push(event_id.to_owned());
        }
    }

    fn need_state(&mut self, key: Key) {
        let is_known = self.conflicted_keys.contains(&key) || self.common.contains_key(&key);
        if !is_known && self.asked_state.insert(key.clone()) {
            self.needs.state.push(key);
        }
    }

    fn v2_rules(&self) -> Option<StateResolutionV2Rules> {
        self.rules.state_res.v2_rules().copied()
    }

    /// Resolves. To be called when it needs nothing more; what it then does not know is taken not to exist.
    pub fn resolve(&self) -> Result<Resolved, ResolutionError> {
        if self.conflicted_keys.is_empty() {
            return Ok(Resolved::new());
        }
        let mut state = match self.v2_rules() {
            Some(rules) => self.resolve_version_2(rules)?,
            None => version1::resolve(&self.rules.authorization, &self.states, &self.common, &self.events),
        };
        let in_conflict = self.conflicted_keys.iter();
        let mut resolved: Resolved = in_conflict.map(|key| (key.clone(), state.remove(key))).collect();
        let new = state.into_iter().filter(|(key, _)| !self.common.contains_key(key));
        resolved.extend(new.map(|(key, event_id)| (key, Some(event_id))));
        Ok(resolved)
    }

    fn resolve_version_2(&self, rules: StateResolutionV2Rules) -> Result<StateMap, ResolutionError> {
        let states: Vec<StateMap> = self
            .states
            .iter()
            .map(|state| {
                state.iter().chain(&self.common).map(|(key, id)| (key.clone(), id.clone())).collect()
            })
            .collect();
        // The auth difference is what is in one of these and not in the other.
        let auth_chains = vec![self.auth_difference.iter().cloned().collect(), [].into_iter().collect()];
        let resolved = state_res::resolve(
            &self.rules.authorization,
            &rules,
            &states,
            auth_chains,
            |event_id| self.events.get(event_id),
            |_| Some(self.conflicted_subgraph.iter().cloned().collect()),
        );
        resolved.map_err(|error| ResolutionError(error.to_string()))
    }
}

/// The id of the `m.room.create` event after which a room is named, since room version 12.
fn create_event_id(room_id: &RoomId) -> Option<OwnedEventId> {
    EventId::parse(format!("${}", room_id.strip_sigil())).ok()
}

/// The states without what they have in common, and that.
fn split(mut states: Vec<StateMap>) -> (Vec<StateMap>, StateMap) {
    let Some((first, others)) = states.split_first() else { return (states, StateMap::new()) };
    let is_common = |&(key, event_id): &(&Key, &OwnedEventId)| {
        others.iter().all(|state| state.get(key).is_some_and(|other| other == event_id))
    };
    let common: StateMap =
        first.iter().filter(is_common).map(|(key, event_id)| (key.clone(), event_id.clone())).collect();
    for state in &mut states {
        state.retain(|key, _| !common.contains_key(key));
    }
    (states, common)
}
