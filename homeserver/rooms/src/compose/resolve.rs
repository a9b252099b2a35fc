//! The one state that follows from several: what state resolution needs is read from the store, and what it says is written.

use std::{collections::BTreeSet, sync::Arc};

use ruma::OwnedEventId;

use super::Composer;
use crate::{
    Event, RoomError,
    auth_chain::{AuthDifference, conflicted_subgraph},
    chain_store::ChainStore,
    resolution::{Conflict, Key, Needs, Resolution, StateMap},
    room::state_type,
    state::{self, EventNumber, Partition, StateKeyId, StateRoot},
};

impl Composer {
    /// Resolves states of the room ("State resolution" of its version).
    pub(super) async fn resolve(&mut self, states: &[StateRoot]) -> Result<StateRoot, RoomError> {
        let mut roots: Vec<StateRoot> = Vec::with_capacity(states.len());
        for root in states {
            if !roots.contains(root) {
                roots.push(*root);
            }
        }
        let Some((&first, others)) = roots.split_first() else { return Ok(StateRoot::EMPTY) };
        if others.is_empty() {
            return Ok(first);
        }
        let mut keys: BTreeSet<(u8, u32)> = BTreeSet::new();
        for &other in others {
            for change in state::difference(&self.nodes(), first, other).await? {
                keys.insert(sortable(change.key));
            }
        }
        let keys: Vec<StateKeyId> = keys.into_iter().map(from_sortable).collect();
        let mut numbers = Vec::with_capacity(roots.len());
        for &root in &roots {
            numbers.push(state::get_many(&self.nodes(), root, &keys).await?);
        }
        let (conflict, names) = self.conflict(&numbers, first).await?;
        let mut resolution = Resolution::<Arc<Event>>::new(&self.view.room.rules, conflict);
        loop {
            let needs = resolution.needs();
            if needs.is_empty() {
                break;
            }
            let (events, common) = self.supply(needs, first).await?;
            resolution.supply(events, common);
        }
        // It takes long in large conflicts.
        let resolved = tokio::task::spawn_blocking(move || resolution.resolve()).await;
        let resolved = resolved.map_err(|error| RoomError::Internal(error.to_string()))?;
        let resolved = resolved.map_err(|error| RoomError::Internal(error.to_string()))?;
        let mut changes = Vec::with_capacity(resolved.len());
        for (key, event_id) in resolved {
            let place = names.iter().position(|name| name.as_ref() == Some(&key));
            let known = place.and_then(|place| keys.get(place));
            let id = match known {
                Some(id) => *id,
                None => self.state_key_id(&key.0.to_string().into(), &key.1).await?,
            };
            let number = match event_id {
                Some(event_id) => self.number_of(&event_id).await?,
                None => None,
            };
            changes.push((id, number));
        }
        let updated = state::update(&self.nodes(), first, &changes).await?;
        self.nodes.extend(updated.nodes);
        Ok(updated.root)
    }

    /// What is in conflict: the events of each state under the keys that differ, and the names of these keys.
    async fn conflict(
        &self,
        numbers: &[Vec<Option<EventNumber>>],
        first: StateRoot,
    ) -> Result<(Conflict, Vec<Option<Key>>), RoomError> {
        let mut states = Vec::with_capacity(numbers.len());
        let mut names: Vec<Option<Key>> = vec![None; numbers.first().map_or(0, Vec::len)];
        let mut of_states = Vec::with_capacity(numbers.len());
        for state in numbers {
            let mut map = StateMap::new();
            for (number, name) in state.iter().zip(&mut names) {
                let Some(number) = number else { continue };
                let event = self.required_event(*number).await?;
                let key = key_of(&event);
                name.get_or_insert_with(|| key.clone());
                map.insert(key, event.event_id.clone());
            }
            states.push(map);
            of_states.push(state.iter().flatten().copied().collect::<Vec<_>>());
        }
        let chains = self.chains();
        let mut difference = AuthDifference::of_conflicted(&chains, &of_states).await?;
        for partition in [Partition::Settings, Partition::Members] {
            if difference.is_empty() {
                break;
            }
            let entries = state::entries(&self.nodes(), first, partition).await?;
            let conflicted: BTreeSet<EventNumber> = of_states.iter().flatten().copied().collect();
            let common: Vec<EventNumber> = entries
                .into_iter()
                .map(|(_, number)| number)
                .filter(|number| !conflicted.contains(number))
                .collect();
            difference.subtract(&chains, &common).await?;
        }
        let auth_difference = difference.events(&chains).await?;
        let conflicted: BTreeSet<EventNumber> = of_states.into_iter().flatten().collect();
        let conflicted: Vec<EventNumber> = conflicted.into_iter().collect();
        let subgraph = conflicted_subgraph(&chains, &conflicted).await?;
        let conflict = Conflict {
            states,
            auth_difference: self.ids_of(&auth_difference).await?,
            conflicted_subgraph: self.ids_of(&subgraph).await?,
        };
        Ok((conflict, names))
    }

    async fn supply(
        &self,
        needs: Needs,
        common: StateRoot,
    ) -> Result<(Vec<Arc<Event>>, StateMap), RoomError> {
        let mut events = Vec::with_capacity(needs.events.len());
        for event_id in &needs.events {
            events.extend(self.find(event_id).await?);
        }
        let names: Vec<(String, &str)> = needs
            .state
            .iter()
            .map(|(event_type, state_key)| (event_type.to_string(), state_key.as_str()))
            .collect();
        let found = self.stored_state(common, &names).await?;
        let of_common = needs.state.iter().cloned().zip(found);
        let of_common = of_common.filter_map(|(key, event)| Some((key, event?.event_id.clone())));
        Ok((events, of_common.collect()))
    }

    pub(super) fn chains(&self) -> ChainStore<'_> {
        ChainStore { snapshot: &self.view.snapshot, room: self.view.room.number, new: &self.new_chains }
    }

    pub(super) async fn number_of(&self, event_id: &OwnedEventId) -> Result<Option<EventNumber>, RoomError> {
        Ok(self.find(event_id).await?.map(|event| event.state_number()))
    }

    pub(super) async fn required_event(&self, number: EventNumber) -> Result<Arc<Event>, RoomError> {
        let event = self.event(number).await?;
        event.ok_or_else(|| RoomError::Internal(format!("event {} of a room is missing", number.0)))
    }

    async fn ids_of(&self, numbers: &[EventNumber]) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut ids = Vec::with_capacity(numbers.len());
        for number in numbers {
            ids.push(self.required_event(*number).await?.event_id.clone());
        }
        Ok(ids)
    }
}

fn key_of(event: &Event) -> Key {
    (state_type(&event.event_type), event.state_key.clone().unwrap_or_default())
}

fn sortable(key: StateKeyId) -> (u8, u32) {
    (u8::from(key.partition == Partition::Members), key.index)
}

fn from_sortable((is_member, index): (u8, u32)) -> StateKeyId {
    let partition = if is_member == 1 { Partition::Members } else { Partition::Settings };
    StateKeyId { partition, index }
}
