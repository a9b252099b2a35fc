//! Rooms in which everybody quarrels, on several servers that do not hear of each other in time.

use std::{collections::BTreeSet, sync::Arc};

use proptest::{prelude::*, sample::Index};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId, events::TimelineEventType};
use serde_json::{Value, json};

use crate::{
    authorization::auth_keys,
    event::{Events, MadeEvent, State},
    reference::Reference,
};

const MEMBERSHIPS: [&str; 5] = ["join", "leave", "ban", "invite", "knock"];
const JOIN_RULES: [&str; 3] = ["public", "invite", "knock"];
const LEVELS: [i64; 5] = [0, 25, 50, 75, 100];
const USERS: usize = 5;

/// What somebody does.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Membership { target: usize, membership: usize },
    Own { membership: usize },
    PowerLevel { target: usize, level: usize },
    PowerField { field: usize, level: usize },
    JoinRules { rule: usize },
    Topic,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    after: Vec<Index>,
    sender: usize,
    deed: Deed,
    /// Clocks of servers are wrong by some seconds.
    clock: u32,
    rejected: bool,
}

pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let deed = prop_oneof![
        4 => (0..USERS, 0..MEMBERSHIPS.len()).prop_map(|(target, membership)| Deed::Membership { target, membership }),
        2 => (0..2_usize).prop_map(|membership| Deed::Own { membership }),
        3 => (0..USERS, 0..LEVELS.len()).prop_map(|(target, level)| Deed::PowerLevel { target, level }),
        1 => (0..5_usize, 0..LEVELS.len()).prop_map(|(field, level)| Deed::PowerField { field, level }),
        1 => (0..JOIN_RULES.len()).prop_map(|rule| Deed::JoinRules { rule }),
        3 => Just(Deed::Topic),
    ];
    let after = prop::collection::vec(any::<Index>(), 1..4);
    let sender = prop_oneof![2 => Just(0), 2 => Just(1), 3 => 0..USERS];
    let step = (after, sender, deed, 0..20_u32, prop::bool::weighted(0.03))
        .prop_map(|(after, sender, deed, clock, rejected)| Step { after, sender, deed, clock, rejected });
    prop::collection::vec(step, 5..most)
}

pub(crate) fn user(number: usize) -> OwnedUserId {
    UserId::parse(format!("@user{number}:server{}.example", number % 3)).expect("it is a user id")
}

/// A place in the graph: the events up to here, and the state behind them.
struct Place {
    event_id: OwnedEventId,
    depth: u64,
    state: State,
}

pub(crate) struct Room {
    pub(crate) version: u8,
    pub(crate) events: Events,
    /// The events as they came.
    pub(crate) order: Vec<OwnedEventId>,
    places: Vec<Place>,
    seed: u64,
}

impl Room {
    /// Makes a room in which some people have joined and two have power.
    pub(crate) fn new(version: u8, seed: u64) -> Self {
        let mut room = Self { version, events: Events::new(), order: Vec::new(), places: Vec::new(), seed };
        let creator = user(0);
        let content = if version < 11 { json!({ "creator": creator }) } else { json!({}) };
        room.begin("m.room.create", 0, "", content);
        room.begin("m.room.member", 0, creator.as_str(), json!({ "membership": "join" }));
        let users =
            if version < 12 { json!({ creator: 100, user(1): 100 }) } else { json!({ user(1): 100 }) };
        room.begin("m.room.power_levels", 0, "", json!({ "users": users }));
        room.begin("m.room.join_rules", 0, "", json!({ "join_rule": "public" }));
        for number in 1..USERS - 1 {
            room.begin("m.room.member", number, user(number).as_str(), json!({ "membership": "join" }));
        }
        room
    }

    fn begin(&mut self, event_type: &str, sender: usize, state_key: &str, content: Value) {
        let after = self.places.len().checked_sub(1).into_iter().collect();
        let state = self.places.last().map(|place| place.state.clone()).unwrap_or_default();
        let event = self.make(event_type, sender, state_key, content, &after, &state, 0, false);
        assert!(self.add(event, &after, state), "{event_type} is allowed");
    }

    pub(crate) fn newest_state(&self) -> &State {
        &self.places.last().expect("the room has begun").state
    }

    /// Somebody sets the topic behind the newest event that was there when the room began.
    pub(crate) fn topic(&mut self, sender: usize) -> OwnedEventId {
        let after = BTreeSet::from([USERS + 1]);
        let state = self.places[USERS + 1].state.clone();
        let event =
            self.make("m.room.topic", sender, "", json!({ "topic": sender }), &after, &state, 0, false);
        let event_id = event.event_id.clone();
        assert!(self.add(event, &after, state), "the topic is allowed");
        event_id
    }

    /// What came at most a few events ago: old heads stay around, but not for ever.
    pub(crate) fn parents(&self, step: &Step) -> BTreeSet<usize> {
        let recent = self.places.len().min(12);
        step.after.iter().map(|index| self.places.len() - 1 - index.index(recent)).collect()
    }

    pub(crate) fn states(&self, parents: &BTreeSet<usize>) -> Vec<State> {
        parents.iter().map(|&parent| self.places[parent].state.clone()).collect()
    }

    pub(crate) fn reference(&self) -> Reference<'_> {
        Reference { version: self.version, events: &self.events }
    }

    /// Somebody does something, if the rules allow it in this state.
    pub(crate) fn step(&mut self, step: &Step, parents: &BTreeSet<usize>, state: State) {
        let sender = user(step.sender);
        let old_levels = state.get(&("m.room.power_levels".to_owned(), String::new()));
        let mut levels = old_levels.map_or_else(|| json!({}), |id| self.events[id].content.clone());
        let (event_type, state_key, content) = match step.deed {
            Deed::Membership { target, membership } => {
                ("m.room.member", user(target).to_string(), json!({ "membership": MEMBERSHIPS[membership] }))
            }
            Deed::Own { membership } => {
                ("m.room.member", sender.to_string(), json!({ "membership": MEMBERSHIPS[membership] }))
            }
            Deed::PowerLevel { target, level } => {
                levels["users"][user(target).as_str()] = json!(LEVELS[level]);
                ("m.room.power_levels", String::new(), levels)
            }
            Deed::PowerField { field, level } => {
                let fields = ["users_default", "state_default", "ban", "kick", "invite"];
                levels[fields[field]] = json!(LEVELS[level]);
                ("m.room.power_levels", String::new(), levels)
            }
            Deed::JoinRules { rule } => {
                ("m.room.join_rules", String::new(), json!({ "join_rule": JOIN_RULES[rule] }))
            }
            Deed::Topic => ("m.room.topic", String::new(), json!({ "topic": self.order.len() })),
        };
        let event = self.make(
            event_type,
            step.sender,
            &state_key,
            content,
            parents,
            &state,
            step.clock,
            step.rejected,
        );
        self.add(event, parents, state);
    }

    #[expect(clippy::too_many_arguments, reason = "an event has so many parts")]
    fn make(
        &self,
        event_type: &str,
        sender: usize,
        state_key: &str,
        content: Value,
        after: &BTreeSet<usize>,
        state: &State,
        clock: u32,
        rejected: bool,
    ) -> MadeEvent {
        let number = self.order.len();
        let hash = blake3::hash(format!("{} {number}", self.seed).as_bytes()).to_hex();
        let event_id = match self.version {
            1 | 2 => format!("${}:server{}.example", &hash[..18], sender % 3),
            _ => format!("${}", &hash[..43]),
        };
        let room_id = match self.order.first() {
            None if self.version >= 12 => None,
            Some(create) if self.version >= 12 => Some(create.as_str().replace('$', "!")),
            _ => Some("!room:server0.example".to_owned()),
        };
        let depth = after.iter().map(|&place| self.places[place].depth).max().unwrap_or_default() + 1;
        let mut event = MadeEvent {
            event_id: EventId::parse(event_id).expect("it is an event id"),
            room_id: room_id.map(|id| RoomId::parse(id).expect("it is a room id")),
            sender: user(sender),
            event_type: TimelineEventType::from(event_type),
            state_key: state_key.to_owned(),
            raw_content: serde_json::value::to_raw_value(&content).expect("it is JSON"),
            content,
            prev_events: after.iter().map(|&place| self.places[place].event_id.clone()).collect(),
            auth_events: Vec::new(),
            origin_server_ts: u32::try_from(depth).expect("rooms are shallow") * 5 + clock,
            depth,
            rejected,
        };
        let keys = auth_keys(self.version, &event);
        event.auth_events = keys.iter().filter_map(|key| state.get(key).cloned()).collect();
        event
    }

    fn add(&mut self, event: MadeEvent, parents: &BTreeSet<usize>, mut state: State) -> bool {
        let reference = self.reference();
        // What names a rejected auth event is rejected for good.
        let is_sound = event.auth_events.iter().all(|id| !self.events[id].rejected);
        if !is_sound || !reference.is_allowed(&event, &state) {
            return false;
        }
        state.insert(event.key(), event.event_id.clone());
        let depth = parents.iter().map(|&place| self.places[place].depth).max().unwrap_or_default() + 1;
        self.places.push(Place { event_id: event.event_id.clone(), depth, state });
        self.order.push(event.event_id.clone());
        self.events.insert(event.event_id.clone(), Arc::new(event));
        true
    }
}
