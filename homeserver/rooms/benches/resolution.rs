//! What a fork of a room of 100 000 members costs, in which 1 000 memberships are in conflict. See docs/benchmarks.md.

#![expect(clippy::print_stdout, reason = "a benchmark says what it measured")]

use std::{collections::HashMap, future::Future, hint::black_box};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use entente_rooms::{
    auth_chain::{
        AuthDifference, ChainError, ChainPosition, ChainRow, ChainSource, Span, assign, conflicted_subgraph,
    },
    resolution::{Conflict, Key, Resolution, ResolutionEvent, Resolved, StateMap},
    state::EventNumber,
};
use futures_util::FutureExt;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res,
};
use serde_json::value::RawValue;

const MEMBERS: usize = 100_000;
const CONFLICTS: usize = 1_000;
/// `m.room.create`, the creator's membership, power levels, join rules: the first events.
const CREATE: usize = 0;
const CREATOR: usize = 1;
const POWER_LEVELS: usize = 2;
const JOIN_RULES: usize = 3;

struct MadeEvent {
    event_id: OwnedEventId,
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    event_type: TimelineEventType,
    state_key: String,
    content: Box<RawValue>,
    auth_events: Vec<OwnedEventId>,
    depth: u32,
}

impl ResolutionEvent for MadeEvent {
    fn depth(&self) -> u64 {
        self.depth.into()
    }
}

impl state_res::Event for MadeEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.room_id.as_deref()
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::from(self.depth))
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        Some(&self.state_key)
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(std::iter::empty())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        None
    }

    fn rejected(&self) -> bool {
        false
    }
}

fn user(number: usize) -> OwnedUserId {
    UserId::parse(format!("@user{number}:example.org")).expect("it is a user id")
}

fn event_id(number: usize) -> OwnedEventId {
    EventId::parse(format!("${number:043}")).expect("it is an event id")
}

fn event_number(number: usize) -> EventNumber {
    EventNumber(i64::try_from(number).expect("few events"))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing waits for anything")
}

/// A room, and where its events are.
struct Room {
    rules: RoomVersionRules,
    events: Vec<MadeEvent>,
    numbers: HashMap<OwnedEventId, usize>,
    positions: Vec<ChainPosition>,
    rows: HashMap<ChainPosition, ChainRow>,
    row_bytes: usize,
    /// What both sides of the fork have in common: settings first.
    common: StateMap,
    common_numbers: Vec<EventNumber>,
    states: Vec<StateMap>,
    state_numbers: Vec<Vec<EventNumber>>,
}

impl ChainSource for Room {
    type Error = ChainError;

    async fn positions(&self, events: &[EventNumber]) -> Result<Vec<Option<ChainPosition>>, ChainError> {
        let position = |event: &EventNumber| self.positions.get(usize::try_from(event.0).ok()?).copied();
        Ok(events.iter().map(position).collect())
    }

    async fn rows(&self, spans: &[Span]) -> Result<Vec<Vec<ChainRow>>, ChainError> {
        let rows = |span: &Span| span.positions().filter_map(|at| self.rows.get(&at)).cloned().collect();
        Ok(spans.iter().map(rows).collect())
    }
}

impl Room {
    /// Everybody joins. Then the room forks: on one side some are banned, on the other they change their names; each side sets its
    /// power levels.
    fn new(rules: RoomVersionRules) -> Self {
        let mut room = Self {
            rules,
            events: Vec::new(),
            numbers: HashMap::new(),
            positions: Vec::new(),
            rows: HashMap::new(),
            row_bytes: 0,
            common: StateMap::new(),
            common_numbers: Vec::new(),
            states: vec![StateMap::new(), StateMap::new()],
            state_numbers: vec![Vec::new(), Vec::new()],
        };
        let creator = user(0);
        let content = format!(r#"{{"creator":"{creator}"}}"#);
        room.add("m.room.create", 0, "", &content, &[], None);
        room.add("m.room.member", 0, creator.as_str(), r#"{"membership":"join"}"#, &[CREATE], None);
        room.add("m.room.power_levels", 0, "", "{}", &[CREATE, CREATOR], None);
        let basis = [CREATE, CREATOR, POWER_LEVELS];
        room.add("m.room.join_rules", 0, "", r#"{"join_rule":"public"}"#, &basis, None);
        let mut joins = vec![CREATOR];
        let admission = [CREATE, POWER_LEVELS, JOIN_RULES];
        for number in 1..MEMBERS {
            let join = r#"{"membership":"join"}"#;
            joins.push(room.add("m.room.member", number, user(number).as_str(), join, &admission, None));
        }
        for side in 0..2 {
            let levels = format!(r#"{{"users":{{"{creator}":100}},"invite":{side}}}"#);
            let replaced = Some(POWER_LEVELS);
            let levels = room.add("m.room.power_levels", 0, "", &levels, &basis, replaced);
            room.set(side, levels);
            for (number, &join) in joins.iter().enumerate().skip(1).take(CONFLICTS) {
                let target = user(number);
                let change = if side == 0 {
                    let ban = r#"{"membership":"ban"}"#;
                    let auth_events = [CREATE, levels, CREATOR, join];
                    room.add("m.room.member", 0, target.as_str(), ban, &auth_events, Some(join))
                } else {
                    let name = r#"{"membership":"join","displayname":"Somebody"}"#;
                    let auth_events = [CREATE, levels, JOIN_RULES, join];
                    room.add("m.room.member", number, target.as_str(), name, &auth_events, Some(join))
                };
                room.set(side, change);
            }
        }
        let common = [CREATE, JOIN_RULES].into_iter().chain(joins);
        for number in common.filter(|number| !(CREATOR + 3..CREATOR + 3 + CONFLICTS).contains(number)) {
            let (key, event_id) = room.entry(number);
            room.common.insert(key, event_id);
            room.common_numbers.push(event_number(number));
        }
        room
    }

    fn add(
        &mut self,
        event_type: &str,
        sender: usize,
        state_key: &str,
        content: &str,
        auth_events: &[usize],
        replaces: Option<usize>,
    ) -> usize {
        let number = self.events.len();
        let named: Vec<EventNumber> = auth_events.iter().map(|&number| event_number(number)).collect();
        let assignment = wait(assign(self, event_number(number), &named, replaces.map(event_number)));
        let assignment = assignment.expect("it has a place");
        self.row_bytes += assignment.position.encode().len() + assignment.row.encode().len();
        self.positions.push(assignment.position);
        self.rows.insert(assignment.position, assignment.row);
        let is_named_after_create = self.rules.authorization.room_create_event_id_as_room_id;
        let is_named = |&number: &usize| !(is_named_after_create && number == CREATE);
        let room_id = match number {
            CREATE if is_named_after_create => None,
            _ if is_named_after_create => Some(event_id(CREATE).as_str().replace('$', "!")),
            _ => Some("!room:example.org".to_owned()),
        };
        self.numbers.insert(event_id(number), number);
        self.events.push(MadeEvent {
            event_id: event_id(number),
            room_id: room_id.map(|room_id| RoomId::parse(room_id).expect("it is a room id")),
            sender: user(sender),
            event_type: TimelineEventType::from(event_type),
            state_key: state_key.to_owned(),
            content: RawValue::from_string(content.to_owned()).expect("it is JSON"),
            auth_events: auth_events.iter().copied().filter(is_named).map(event_id).collect(),
            depth: u32::try_from(number).expect("few events"),
        });
        number
    }

    fn entry(&self, number: usize) -> (Key, OwnedEventId) {
        let event = &self.events[number];
        let event_type = StateEventType::from(event.event_type.to_string());
        ((event_type, event.state_key.clone()), event.event_id.clone())
    }

    fn set(&mut self, side: usize, number: usize) {
        let (key, event_id) = self.entry(number);
        self.states[side].insert(key, event_id);
        self.state_numbers[side].push(event_number(number));
    }

    fn ids(numbers: Vec<EventNumber>) -> Vec<OwnedEventId> {
        let id = |number: EventNumber| event_id(usize::try_from(number.0).expect("it counts events"));
        numbers.into_iter().map(id).collect()
    }

    async fn difference(&self, common: &[EventNumber]) -> Result<Vec<EventNumber>, ChainError> {
        let mut difference = AuthDifference::of_conflicted(self, &self.state_numbers).await?;
        difference.subtract(self, common).await?;
        difference.events(self).await
    }

    fn conflict(&self) -> Conflict {
        let conflicted = self.state_numbers.concat();
        let difference = wait(self.difference(&self.common_numbers)).expect("the chains are complete");
        let subgraph = wait(conflicted_subgraph(self, &conflicted)).expect("the chains are complete");
        Conflict {
            states: self.states.clone(),
            auth_difference: Self::ids(difference),
            conflicted_subgraph: Self::ids(subgraph),
        }
    }

    fn resolve(&self, conflict: Conflict) -> Resolved {
        let mut resolution: Resolution<&MadeEvent> = Resolution::new(&self.rules, conflict);
        loop {
            let needs = resolution.needs();
            if needs.is_empty() {
                break;
            }
            let events = needs.events.iter().filter_map(|id| self.events.get(*self.numbers.get(id)?));
            let state = needs.state.into_iter().filter_map(|key| {
                let id = self.common.get(&key)?.clone();
                Some((key, id))
            });
            resolution.supply(events, state.collect());
        }
        resolution.resolve().expect("it can be resolved")
    }
}

fn resolution(criterion: &mut Criterion) {
    for (name, rules) in [
        ("version 1", RoomVersionRules::V1),
        ("version 11", RoomVersionRules::V11),
        ("version 12", RoomVersionRules::V12),
    ] {
        let room = Room::new(rules);
        let conflict = room.conflict();
        println!(
            "{name}: {} bytes of values for an event's place in the auth chains, {} events in the auth difference, {} in the subgraph\n",
            room.row_bytes / room.events.len(),
            conflict.auth_difference.len(),
            conflict.conflicted_subgraph.len(),
        );
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20);
        group.bench_function("resolve 1000 conflicted members of 100000", |bencher| {
            bencher.iter_batched(
                || conflict.clone(),
                |conflict| room.resolve(conflict),
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }

    let room = Room::new(RoomVersionRules::V12);
    let mut group = criterion.benchmark_group("auth chains");
    group.sample_size(20);
    group.bench_function("auth difference", |bencher| {
        bencher.iter(|| wait(room.difference(black_box(&room.common_numbers))));
    });
    // What it costs if an event of the difference is in the auth chain of no common one, and all of them must be looked at.
    group.bench_function("what 99000 common members reach", |bencher| {
        let stray = [vec![room.state_numbers[0][1]], Vec::new()];
        bencher.iter(|| {
            wait(async {
                let mut difference = AuthDifference::of_conflicted(&room, &stray).await?;
                difference.subtract(&room, black_box(&room.common_numbers)).await?;
                difference.events(&room).await
            })
        });
    });
    let conflicted = room.state_numbers.concat();
    group.bench_function("conflicted subgraph", |bencher| {
        bencher.iter(|| wait(conflicted_subgraph(&room, black_box(&conflicted))));
    });
    group.finish();
}

criterion_group!(benches, resolution);
criterion_main!(benches);
