//! State resolution of room versions 1 to 12, written after the spec's text: slow and simple.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::OwnedEventId;
use sha1::{Digest, Sha1};

use crate::{
    authorization::{auth_keys, creators, is_allowed, level},
    event::{Events, Key, MadeEvent, State},
};

pub(crate) struct Reference<'a> {
    pub(crate) version: u8,
    pub(crate) events: &'a Events,
}

type Ids = BTreeSet<OwnedEventId>;

fn power_levels() -> Key {
    ("m.room.power_levels".to_owned(), String::new())
}

impl Reference<'_> {
    pub(crate) fn resolve(&self, states: &[State]) -> State {
        if self.version == 1 { self.resolve_1(states) } else { self.resolve_2(states) }
    }

    fn event(&self, id: &OwnedEventId) -> &Arc<MadeEvent> {
        &self.events[id]
    }

    /// Whether a state allows an event.
    pub(crate) fn is_allowed(&self, event: &MadeEvent, state: &State) -> bool {
        is_allowed(self.version, event, &|event_type, state_key| {
            state.get(&(event_type.to_owned(), state_key.to_owned())).map(|id| Arc::clone(self.event(id)))
        })
    }

    fn resolve_1(&self, states: &[State]) -> State {
        let mut all: BTreeMap<&Key, Ids> = BTreeMap::new();
        for (key, id) in states.iter().flatten() {
            all.entry(key).or_default().insert(id.clone());
        }
        let mut resolved = State::new();
        for (&key, ids) in all.iter().filter(|(_, ids)| ids.len() == 1) {
            resolved.extend(ids.iter().map(|id| (key.clone(), id.clone())));
        }
        for event_type in ["m.room.power_levels", "m.room.join_rules", "m.room.member"] {
            let before = resolved.clone();
            for (&key, ids) in all.iter().filter(|(key, ids)| key.0 == event_type && ids.len() > 1) {
                let mut state = before.clone();
                for (place, event) in self.by_depth(ids).into_iter().enumerate() {
                    if place > 0 && !self.is_allowed(event, &state) {
                        break;
                    }
                    state.insert(key.clone(), event.event_id.clone());
                }
                resolved.insert(key.clone(), state[key].clone());
            }
        }
        for (&key, ids) in all.iter().filter(|(_, ids)| ids.len() > 1) {
            if !resolved.contains_key(key) {
                let order = self.by_depth(ids);
                let allowed = order.iter().rfind(|event| self.is_allowed(event, &resolved));
                resolved.insert(key.clone(), allowed.unwrap_or(&order[0]).event_id.clone());
            }
        }
        resolved
    }

    /// Ascending depth, then descending hash.
    fn by_depth(&self, ids: &Ids) -> Vec<&Arc<MadeEvent>> {
        let mut events: Vec<_> = ids.iter().map(|id| self.event(id)).collect();
        events.sort_by_key(|event| (event.depth, Reverse(Sha1::digest(event.event_id.as_bytes()))));
        events
    }

    fn resolve_2(&self, states: &[State]) -> State {
        let all: BTreeSet<(&Key, &OwnedEventId)> = states.iter().flatten().collect();
        let is_in_all =
            |(key, id): &(&Key, &OwnedEventId)| states.iter().all(|state| state.get(key) == Some(id));
        let (common, conflicted): (Vec<_>, Vec<_>) = all.into_iter().partition(is_in_all);
        let unconflicted: State = common.into_iter().map(|(key, id)| (key.clone(), id.clone())).collect();
        let conflicted: Ids = conflicted.into_iter().map(|(_, id)| id.clone()).collect();
        if conflicted.is_empty() {
            return unconflicted;
        }
        let mut full = self.auth_difference(states);
        full.extend(conflicted.clone());
        if self.version >= 12 {
            full.extend(self.subgraph(&conflicted));
        }

        let power: Ids = full.iter().filter(|id| self.is_power_event(id)).cloned().collect();
        let mut first: Ids = power.iter().flat_map(|id| self.auth_chain_within(id, &full)).collect();
        first.extend(power);
        let start = if self.version >= 12 { State::new() } else { unconflicted.clone() };
        let partial = self.iterative_auth_checks(start, &self.power_order(&first, &full));

        let rest: Ids = full.difference(&first).cloned().collect();
        let mainline = partial.get(&power_levels()).map(|id| self.mainline(id)).unwrap_or_default();
        let mut resolved = self.iterative_auth_checks(partial, &self.mainline_order(&rest, &mainline));
        resolved.extend(unconflicted);
        resolved
    }

    fn auth_chain(&self, id: &OwnedEventId) -> Ids {
        let mut chain = Ids::new();
        let mut pending = self.event(id).auth_events.clone();
        while let Some(id) = pending.pop() {
            if chain.insert(id.clone()) {
                pending.extend(self.event(&id).auth_events.iter().cloned());
            }
        }
        chain
    }

    /// The part of the auth chain that is found without leaving a set.
    fn auth_chain_within(&self, id: &OwnedEventId, set: &Ids) -> Ids {
        let mut chain = Ids::new();
        let mut pending = vec![id.clone()];
        while let Some(id) = pending.pop() {
            for id in self.event(&id).auth_events.iter().filter(|id| set.contains(*id)) {
                if chain.insert(id.clone()) {
                    pending.push(id.clone());
                }
            }
        }
        chain
    }

    /// The chains are taken with the events where they begin, as servers do.
    fn auth_difference(&self, states: &[State]) -> Ids {
        let chain_of = |state: &State| -> Ids {
            let chains = state.values().flat_map(|id| self.auth_chain(id));
            chains.chain(state.values().cloned()).collect()
        };
        let chains: Vec<Ids> = states.iter().map(chain_of).collect();
        let union: Ids = chains.iter().flatten().cloned().collect();
        union.into_iter().filter(|id| !chains.iter().all(|chain| chain.contains(id))).collect()
    }

    fn subgraph(&self, conflicted: &Ids) -> Ids {
        let below: Ids = conflicted.iter().flat_map(|id| self.auth_chain(id)).collect();
        below.into_iter().filter(|id| !self.auth_chain(id).is_disjoint(conflicted)).collect()
    }

    fn is_power_event(&self, id: &OwnedEventId) -> bool {
        let event = self.event(id);
        let is_removal = event.is("m.room.member")
            && ["leave", "ban"].contains(&event.text("membership"))
            && event.sender != event.state_key;
        is_removal
            || event.is("m.room.power_levels")
            || event.is("m.room.join_rules")
            || event.is("m.room.create")
    }

    /// The power level of an event's sender by its auth events.
    fn sender_level(&self, event: &MadeEvent) -> i64 {
        let named =
            |event_type| event.auth_events.iter().map(|id| self.event(id)).find(|event| event.is(event_type));
        let create = self.events.values().find(|event| event.is("m.room.create")).expect("rooms are created");
        let is_creator = creators(self.version, create).iter().any(|creator| event.sender == *creator);
        if self.version >= 12 && is_creator {
            return i64::MAX;
        }
        let Some(levels) = named("m.room.power_levels") else {
            return if is_creator && !event.is("m.room.create") { 100 } else { 0 };
        };
        let of_user = levels.content.get("users").and_then(|users| users.get(event.sender.as_str()));
        let of_user = of_user.or(levels.content.get("users_default"));
        of_user.and_then(|value| level(self.version, value)).unwrap_or(0)
    }

    /// Reverse topological power ordering.
    fn power_order(&self, ids: &Ids, full: &Ids) -> Vec<OwnedEventId> {
        let mut left = ids.clone();
        let mut order = Vec::new();
        while !left.is_empty() {
            let ready = left.iter().filter(|id| self.auth_chain_within(id, full).is_disjoint(&left));
            let next = ready.min_by_key(|id| {
                let event = self.event(id);
                (Reverse(self.sender_level(event)), event.origin_server_ts, (*id).clone())
            });
            let next = next.expect("there is no cycle").clone();
            left.remove(&next);
            order.push(next);
        }
        order
    }

    fn power_levels_before(&self, id: &OwnedEventId) -> Option<OwnedEventId> {
        self.event(id).auth_events.iter().find(|id| self.event(id).key() == power_levels()).cloned()
    }

    fn mainline(&self, id: &OwnedEventId) -> Vec<OwnedEventId> {
        std::iter::successors(Some(id.clone()), |id| self.power_levels_before(id)).collect()
    }

    fn mainline_order(&self, ids: &Ids, mainline: &[OwnedEventId]) -> Vec<OwnedEventId> {
        let position = |id: &OwnedEventId| {
            let chain =
                std::iter::successors(self.power_levels_before(id), |id| self.power_levels_before(id));
            let mut positions = chain.filter_map(|id| mainline.iter().position(|other| *other == id));
            positions.next().unwrap_or(usize::MAX)
        };
        let mut order: Vec<OwnedEventId> = ids.iter().cloned().collect();
        order.sort_by_cached_key(|id| (Reverse(position(id)), self.event(id).origin_server_ts, id.clone()));
        order
    }

    fn iterative_auth_checks(&self, mut state: State, order: &[OwnedEventId]) -> State {
        let create = self.events.values().find(|event| event.is("m.room.create")).expect("rooms are created");
        for id in order {
            let event = self.event(id);
            let mut seen = State::new();
            if self.version >= 12 {
                seen.insert(create.key(), create.event_id.clone());
            }
            for auth_event in event.auth_events.iter().map(|id| self.event(id)) {
                if !auth_event.rejected {
                    seen.insert(auth_event.key(), auth_event.event_id.clone());
                }
            }
            for key in auth_keys(self.version, event) {
                if let Some(id) = state.get(&key)
                    && !self.event(id).rejected
                {
                    seen.insert(key, id.clone());
                }
            }
            if self.is_allowed(event, &seen) {
                state.insert(event.key(), id.clone());
            }
        }
        state
    }
}
