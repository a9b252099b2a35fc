//! What rooms come to after quarrels is what the spec says, in whatever order the quarrels are told.

#[path = "resolution/authorization.rs"]
mod authorization;
#[path = "resolution/event.rs"]
mod event;
#[path = "resolution/reference.rs"]
mod reference;
#[path = "resolution/room.rs"]
mod room;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    sync::Arc,
};

use entente_rooms::{
    auth_chain::{
        AuthDifference, ChainError, ChainPosition, ChainRow, ChainSource, Span, assign, conflicted_subgraph,
    },
    resolution::{Conflict, Key, Resolution, Resolved, StateMap},
    state::EventNumber,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use ruma::{OwnedEventId, RoomVersionId, events::StateEventType, room_version_rules::RoomVersionRules};

use self::{
    authorization::AUTHORISED_VIA,
    event::{MadeEvent, State},
    room::{Room, Step, steps},
};

/// The auth chains of a room.
#[derive(Default)]
struct Chains {
    numbers: BTreeMap<OwnedEventId, EventNumber>,
    ids: HashMap<EventNumber, OwnedEventId>,
    positions: HashMap<EventNumber, ChainPosition>,
    rows: HashMap<ChainPosition, ChainRow>,
}

impl ChainSource for Chains {
    type Error = ChainError;

    async fn positions(&self, events: &[EventNumber]) -> Result<Vec<Option<ChainPosition>>, ChainError> {
        Ok(events.iter().map(|event| self.positions.get(event).copied()).collect())
    }

    async fn rows(&self, spans: &[Span]) -> Result<Vec<Vec<ChainRow>>, ChainError> {
        let rows = |span: &Span| span.positions().filter_map(|at| self.rows.get(&at)).cloned().collect();
        Ok(spans.iter().map(rows).collect())
    }
}

impl Chains {
    /// Adds the events of a room that are not there yet.
    fn follow(&mut self, room: &Room) {
        for event_id in room.order.iter().skip(self.numbers.len()) {
            let event = &room.events[event_id];
            let number = EventNumber(i64::try_from(self.numbers.len()).expect("few events"));
            let replaced = event.auth_events.iter().find(|id| room.events[*id].key() == event.key());
            let replaced = replaced.map(|id| self.numbers[id]);
            let auth_events = self.of(&event.auth_events);
            let assignment = wait(assign(self, number, &auth_events, replaced)).expect("it has a place");
            self.positions.insert(number, assignment.position);
            self.rows.insert(assignment.position, assignment.row);
            self.numbers.insert(event_id.clone(), number);
            self.ids.insert(number, event_id.clone());
        }
    }

    fn of<'a>(&self, ids: impl IntoIterator<Item = &'a OwnedEventId>) -> Vec<EventNumber> {
        ids.into_iter().map(|id| self.numbers[id]).collect()
    }

    fn ids(&self, numbers: &[EventNumber]) -> Vec<OwnedEventId> {
        numbers.iter().map(|number| self.ids[number].clone()).collect()
    }

    async fn conflict(&self, states: &[StateMap], common: &StateMap) -> Result<Conflict, ChainError> {
        let numbers: Vec<Vec<EventNumber>> = states.iter().map(|state| self.of(state.values())).collect();
        let mut difference = AuthDifference::of_conflicted(self, &numbers).await?;
        difference.subtract(self, &self.of(common.values())).await?;
        let conflicted: BTreeSet<EventNumber> = numbers.into_iter().flatten().collect();
        let conflicted: Vec<EventNumber> = conflicted.into_iter().collect();
        Ok(Conflict {
            states: states.to_vec(),
            auth_difference: self.ids(&difference.events(self).await?),
            conflicted_subgraph: self.ids(&conflicted_subgraph(self, &conflicted).await?),
        })
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).expect("nothing waits for anything")
}

fn rules(version: u8) -> RoomVersionRules {
    let id = RoomVersionId::try_from(version.to_string()).expect("it is a room version");
    id.rules().expect("it is known")
}

fn typed(state: &State) -> StateMap {
    let key = |(event_type, state_key): &(String, String)| -> Key {
        (StateEventType::from(event_type.as_str()), state_key.clone())
    };
    state.iter().map(|(place, id)| (key(place), id.clone())).collect()
}

/// Supplies all that a resolution needs, and resolves.
fn run(room: &Room, conflict: Conflict, common: &StateMap) -> Resolved {
    let mut resolution = Resolution::new(&rules(room.version), conflict);
    loop {
        let needs = resolution.needs();
        if needs.is_empty() {
            break;
        }
        let events = needs.events.iter().filter_map(|id| room.events.get(id)).map(Arc::clone);
        let state = needs.state.into_iter().filter_map(|key| {
            let id = common.get(&key)?.clone();
            Some((key, id))
        });
        resolution.supply(events, state.collect());
    }
    resolution.resolve().expect("it can be resolved")
}

/// Resolves states with what is to be tested.
fn resolve(room: &Room, chains: &Chains, states: &[State]) -> StateMap {
    let mut states: Vec<StateMap> = states.iter().map(typed).collect();
    let in_all = |(key, id): &(&Key, &OwnedEventId)| states.iter().all(|state| state.get(*key) == Some(*id));
    let common: StateMap =
        states[0].iter().filter(in_all).map(|(key, id)| (key.clone(), id.clone())).collect();
    for state in &mut states {
        state.retain(|key, _| !common.contains_key(key));
    }
    let conflict = wait(chains.conflict(&states, &common)).expect("the chains are complete");
    let resolved = run(room, conflict.clone(), &common);
    let mut turned = conflict;
    turned.states.reverse();
    turned.auth_difference.reverse();
    turned.conflicted_subgraph.reverse();
    assert_eq!(run(room, turned, &common), resolved, "the order matters");

    let mut state = common;
    for (key, event_id) in resolved {
        match event_id {
            Some(event_id) => assert_eq!(state.insert(key, event_id), None, "common state is not resolved"),
            None => assert_eq!(state.remove(&key), None, "common state is not resolved"),
        }
    }
    state
}

fn quarrel(version: u8, seed: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut room = Room::new(version, seed);
    let mut chains = Chains::default();
    for step in steps {
        chains.follow(&room);
        let parents = room.parents(step);
        let states = room.states(&parents);
        let expected = room.reference().resolve(&states);
        prop_assert_eq!(resolve(&room, &chains, &states), typed(&expected));
        room.step(step, &parents, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn version_1(seed: u64, steps in steps(60)) {
        quarrel(1, seed, &steps)?;
    }

    #[test]
    fn version_2(seed: u64, steps in steps(60)) {
        quarrel(2, seed, &steps)?;
    }

    #[test]
    fn version_3(seed: u64, steps in steps(60)) {
        quarrel(3, seed, &steps)?;
    }

    #[test]
    fn version_4(seed: u64, steps in steps(60)) {
        quarrel(4, seed, &steps)?;
    }

    #[test]
    fn version_5(seed: u64, steps in steps(60)) {
        quarrel(5, seed, &steps)?;
    }

    #[test]
    fn version_6(seed: u64, steps in steps(60)) {
        quarrel(6, seed, &steps)?;
    }

    #[test]
    fn version_7(seed: u64, steps in steps(60)) {
        quarrel(7, seed, &steps)?;
    }

    #[test]
    fn version_8(seed: u64, steps in steps(60)) {
        quarrel(8, seed, &steps)?;
    }

    #[test]
    fn version_9(seed: u64, steps in steps(60)) {
        quarrel(9, seed, &steps)?;
    }

    #[test]
    fn version_10(seed: u64, steps in steps(60)) {
        quarrel(10, seed, &steps)?;
    }

    #[test]
    fn version_11(seed: u64, steps in steps(60)) {
        quarrel(11, seed, &steps)?;
    }

    #[test]
    fn version_12(seed: u64, steps in steps(60)) {
        quarrel(12, seed, &steps)?;
    }
}

/// What somebody did that not everybody can in every room.
fn feat(event: &MadeEvent) -> Option<&'static str> {
    match (event.event_type.to_string().as_str(), event.text("membership")) {
        ("m.room.member", "join") if event.content.get(AUTHORISED_VIA).is_some() => Some("let in"),
        ("m.room.member", "invite") if event.content.get("third_party_invite").is_some() => {
            Some("vouched for")
        }
        ("m.room.member", "knock") => Some("knocked"),
        ("m.room.third_party_invite", _) => Some("invited an address"),
        ("m.room.aliases", _) => Some("named the room"),
        ("m.room.power_levels", _) if event.content.to_string().contains(":\"") => {
            Some("wrote levels as text")
        }
        _ => None,
    }
}

/// Quarrels in which nobody may do much would prove little.
#[test]
fn people_do_whatever_their_room_lets_them() {
    let mut runner = TestRunner::deterministic();
    for (version, not_here) in [
        (5, vec!["knocked"]),
        (6, vec!["knocked"]),
        (9, vec![]),
        (10, vec!["wrote levels as text"]),
        (12, vec!["wrote levels as text"]),
    ] {
        let mut done = BTreeSet::new();
        for seed in 0..60 {
            let steps = steps(60).new_tree(&mut runner).expect("steps are made").current();
            let mut room = Room::new(version, seed);
            for step in &steps {
                let parents = room.parents(step);
                let state = room.reference().resolve(&room.states(&parents));
                room.step(step, &parents, state);
            }
            done.extend(room.events.values().filter_map(|event| feat(event)));
        }
        let mut expected = BTreeSet::from([
            "let in",
            "vouched for",
            "knocked",
            "invited an address",
            "named the room",
            "wrote levels as text",
        ]);
        expected.retain(|feat| !not_here.contains(feat));
        assert_eq!(done, expected, "version {version}");
    }
}

/// Two people set the topic at the same time.
fn two_topics(version: u8) -> (Room, Conflict, StateMap) {
    let mut room = Room::new(version, 0);
    let common = room.newest_state().clone();
    let topics = [room.topic(0), room.topic(1)];
    let key = (StateEventType::RoomTopic, String::new());
    let states = topics.map(|topic| StateMap::from([(key.clone(), topic)]));
    (room, Conflict { states: states.to_vec(), ..Conflict::default() }, typed(&common))
}

#[test]
fn a_large_room_costs_no_more() {
    for version in 1..=12 {
        let (room, conflict, mut common) = two_topics(version);
        for number in 0..1_000 {
            let member = (StateEventType::RoomMember, format!("@other{number}:example.org"));
            common.insert(member, room.order[1].clone());
        }
        let mut resolution = Resolution::new(&rules(version), conflict);
        let mut needed = Vec::new();
        loop {
            let needs = resolution.needs();
            if needs.is_empty() {
                break;
            }
            let of_common =
                needs.state.iter().filter_map(|key| Some((key.clone(), common.get(key)?.clone())));
            needed.extend(needs.events.iter().cloned());
            resolution
                .supply(needs.events.iter().map(|id| Arc::clone(&room.events[id])), of_common.collect());
        }
        let asked: BTreeSet<&OwnedEventId> = needed.iter().collect();
        assert_eq!(asked.len(), needed.len(), "nothing is asked for twice");
        assert!(needed.len() <= 6, "two topics, who set them, power levels, the creation: {needed:?}");
        assert_eq!(resolution.resolve().expect("it can be resolved").len(), 1);
    }
}

#[test]
fn what_is_not_there_does_not_stand() {
    for version in 1..=12 {
        let (room, conflict, _) = two_topics(version);
        let key = conflict.states[0].keys().next().expect("there is a topic").clone();
        let mut resolution: Resolution<Arc<event::MadeEvent>> =
            Resolution::new(&rules(room.version), conflict);
        assert_eq!(resolution.needs().events.len(), 2);
        assert!(resolution.needs().is_empty(), "nothing is asked for twice");
        let resolved = resolution.resolve().expect("it can be resolved");
        assert_eq!(resolved, Resolved::from([(key, None)]));
    }
}

#[test]
fn equal_states_need_nothing() {
    let (_, mut conflict, common) = two_topics(12);
    conflict.states = vec![common.clone(), common];
    let mut resolution: Resolution<Arc<event::MadeEvent>> = Resolution::new(&rules(12), conflict);
    assert!(resolution.needs().is_empty());
    assert_eq!(resolution.resolve().expect("it can be resolved"), Resolved::new());
}
