use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use ruma::{
    OwnedEventId, events::StateEventType, room_version_rules::AuthorizationRules,
    state_res::check_state_dependent_auth_rules,
};

use sha1::{Digest, Sha1};

use super::{Key, ResolutionEvent, StateMap};

/// Resolves states ("State resolution" of room version 1). `common` is what they have in common, as far as it authorises events in
/// conflict.
///
/// Where the spec is silent, this does what servers have always done: memberships are resolved each for itself, by the state before
/// the first of them; and if the rules allow none of the events under a key, the one that comes last stands.
pub(super) fn resolve<E: ResolutionEvent>(
    rules: &AuthorizationRules,
    states: &[StateMap],
    common: &StateMap,
    events: &HashMap<OwnedEventId, E>,
) -> StateMap {
    let (union, conflicts) = begin(states, common);
    let mut resolver = Resolver { rules, events, resolved: union };
    let mut others = Vec::new();
    let mut passes = [Vec::new(), Vec::new(), Vec::new()];
    for (key, event_ids) in conflicts {
        let [power_levels, join_rules, members] = &mut passes;
        let pass = match &key {
            (StateEventType::RoomPowerLevels, state_key) if state_key.is_empty() => power_levels,
            (StateEventType::RoomJoinRules, state_key) if state_key.is_empty() => join_rules,
            (StateEventType::RoomMember, _) => members,
            _ => &mut others,
        };
        pass.push((key, resolver.in_order(event_ids)));
    }
    for pass in passes {
        resolver.pass(pass, Resolver::last_in_turn);
    }
    resolver.pass(others, Resolver::first_allowed);
    resolver.resolved
}

/// The union of the states without what is in conflict, and the events in conflict. Something that is in one state and not at all in
/// another is not in conflict.
fn begin(states: &[StateMap], common: &StateMap) -> (StateMap, BTreeMap<Key, BTreeSet<OwnedEventId>>) {
    let mut candidates: BTreeMap<Key, BTreeSet<OwnedEventId>> = BTreeMap::new();
    for (key, event_id) in states.iter().flatten() {
        candidates.entry(key.clone()).or_default().insert(event_id.clone());
    }
    let (alone, conflicts): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|(_, event_ids)| event_ids.len() == 1);
    let mut union = common.clone();
    union.extend(alone.into_iter().filter_map(|(key, event_ids)| Some((key, event_ids.into_iter().next()?))));
    (union, conflicts.into_iter().collect())
}

struct Resolver<'a, E> {
    rules: &'a AuthorizationRules,
    events: &'a HashMap<OwnedEventId, E>,
    resolved: StateMap,
}

impl<'a, E: ResolutionEvent> Resolver<'a, E> {
    /// The events by ascending depth, then by descending hash of their ids. Those that are not known are left out.
    fn in_order(&self, event_ids: BTreeSet<OwnedEventId>) -> Vec<&'a E> {
        let mut events: Vec<&E> = event_ids.iter().filter_map(|event_id| self.events.get(event_id)).collect();
        events
            .sort_by_cached_key(|event| (event.depth(), Reverse(Sha1::digest(event.event_id().as_bytes()))));
        events
    }

    /// Resolves what is in conflict under some keys, each by what was resolved in former passes.
    fn pass(
        &mut self,
        conflicts: Vec<(Key, Vec<&'a E>)>,
        choose: fn(&Self, &Key, &[&'a E]) -> Option<&'a E>,
    ) {
        let chosen: Vec<(Key, OwnedEventId)> = conflicts
            .into_iter()
            .filter_map(|(key, events)| {
                let event = choose(self, &key, &events)?;
                Some((key, event.event_id().clone()))
            })
            .collect();
        self.resolved.extend(chosen);
    }

    /// The last of the events of which each is allowed by the state with the one before it; the first needs no permission.
    fn last_in_turn(&self, key: &Key, events: &[&'a E]) -> Option<&'a E> {
        let (&first, rest) = events.split_first()?;
        let mut last = first;
        for &event in rest {
            if !self.is_allowed(event, Some((key, last))) {
                break;
            }
            last = event;
        }
        Some(last)
    }

    /// The last event that the state allows.
    fn first_allowed(&self, _: &Key, events: &[&'a E]) -> Option<&'a E> {
        let allowed = events.iter().rev().find(|event| self.is_allowed(event, None));
        allowed.or(events.first()).copied()
    }

    fn is_allowed(&self, event: &E, instead: Option<(&Key, &'a E)>) -> bool {
        let state = |event_type: &StateEventType, state_key: &str| {
            let key = (event_type.clone(), state_key.to_owned());
            match instead {
                Some((place, event)) if *place == key => Some(event),
                _ => self.resolved.get(&key).and_then(|event_id| self.events.get(event_id)),
            }
        };
        check_state_dependent_auth_rules(self.rules, event, state).is_ok()
    }
}
