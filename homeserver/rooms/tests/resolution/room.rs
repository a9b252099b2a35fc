//! Rooms in which everybody quarrels, on several servers that do not hear of each other in time.

use std::{collections::BTreeSet, sync::Arc};

use proptest::{prelude::*, sample::Index};
use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedUserId, RoomId, UserId,
    events::TimelineEventType,
    signatures::{Ed25519KeyPair, sign_json},
    third_party_invite::IdentityServerBase64PublicKey,
};
use serde_json::{Value, json};

use crate::{
    authorization::{AUTHORISED_VIA, TRULY_SIGNED_BY, auth_keys},
    event::{Events, MadeEvent, State},
    reference::Reference,
};

const MEMBERSHIPS: [&str; 5] = ["join", "leave", "ban", "invite", "knock"];
const JOIN_RULES: [&str; 6] = ["public", "invite", "knock", "restricted", "knock_restricted", "private"];
const LEVELS: [i64; 5] = [0, 25, 50, 75, 100];
const USERS: usize = 5;
/// Addresses that are invited, and keys with which identity servers vouch for them.
const TOKENS: usize = 2;
const KEYS: usize = 2;
/// What precedes the seed of an Ed25519 key in PKCS #8 (RFC 8410).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What somebody does.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Membership {
        target: usize,
        membership: usize,
    },
    Own {
        membership: usize,
    },
    /// Joins because somebody who is there lets them in.
    JoinVia {
        via: usize,
    },
    /// Invites whoever shows that an address is theirs, to an identity server with this key.
    InviteAddress {
        token: usize,
        key: usize,
    },
    /// Invites somebody who has.
    Redeem {
        target: usize,
        token: usize,
        key: usize,
        signed: usize,
    },
    PowerLevel {
        target: usize,
        level: usize,
        as_text: bool,
    },
    PowerField {
        field: usize,
        level: usize,
    },
    JoinRules {
        rule: usize,
    },
    Aliases {
        server: usize,
    },
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

/// Mostly the same, so that much of what is signed is signed rightly.
fn key() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0), 1 => 0..KEYS]
}

pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let deed = prop_oneof![
        4 => (0..USERS, 0..MEMBERSHIPS.len()).prop_map(|(target, membership)| Deed::Membership { target, membership }),
        3 => prop::sample::select(vec![0, 1, 4, 4]).prop_map(|membership| Deed::Own { membership }),
        2 => (0..USERS).prop_map(|via| Deed::JoinVia { via }),
        2 => (0..TOKENS, key()).prop_map(|(token, key)| Deed::InviteAddress { token, key }),
        3 => (0..USERS, 0..TOKENS, key(), prop_oneof![2 => Just(0), 1 => 2..4_usize])
            .prop_map(|(target, token, key, signed)| Deed::Redeem { target, token, key, signed }),
        3 => (0..USERS, 0..LEVELS.len(), prop::bool::weighted(0.2))
            .prop_map(|(target, level, as_text)| Deed::PowerLevel { target, level, as_text }),
        1 => (0..5_usize, 0..LEVELS.len()).prop_map(|(field, level)| Deed::PowerField { field, level }),
        3 => (0..JOIN_RULES.len()).prop_map(|rule| Deed::JoinRules { rule }),
        1 => (0..3_usize).prop_map(|server| Deed::Aliases { server }),
        3 => Just(Deed::Topic),
    ];
    let after = prop::collection::vec(any::<Index>(), 1..4);
    let sender = prop_oneof![2 => Just(0), 2 => Just(1), 1 => Just(USERS - 1), 3 => 0..USERS];
    let step = (after, sender, deed, 0..20_u32, prop::bool::weighted(0.03))
        .prop_map(|(after, sender, deed, clock, rejected)| Step { after, sender, deed, clock, rejected });
    prop::collection::vec(step, 5..most)
}

pub(crate) fn user(number: usize) -> OwnedUserId {
    UserId::parse(format!("@user{number}:server{}.example", number % 3)).expect("it is a user id")
}

/// The key of an identity server.
fn identity_key(number: usize) -> Ed25519KeyPair {
    let seed = blake3::hash(format!("identity server {number}").as_bytes());
    let document = [&PKCS8_PREFIX[..], seed.as_bytes()].concat();
    Ed25519KeyPair::from_der(&document, "0".to_owned()).expect("it is a key")
}

/// The public half of one, as rooms have it.
fn public_key(key: &Ed25519KeyPair) -> String {
    IdentityServerBase64PublicKey::new(&key.public_key()).0
}

/// What an identity server says of whoever an address belongs to: true, with a signature of something else, or of somebody else.
fn redeemed(target: usize, token: usize, key: usize, signed: usize) -> Value {
    let named = if signed == 3 { (target + 1) % USERS } else { target };
    let mut object: CanonicalJsonObject =
        serde_json::from_value(json!({ "mxid": user(named), "token": format!("token{token}") }))
            .expect("it is canonical");
    let key = identity_key(key);
    sign_json("vouching.example", &key, &mut object).expect("it can be signed");
    let is_altered = signed == 2;
    if is_altered {
        object.insert("token".to_owned(), format!("token{}", (token + 1) % TOKENS).into());
    }
    let truly_signed_by = if is_altered { "nobody".to_owned() } else { public_key(&key) };
    json!({
        "membership": "invite",
        "third_party_invite": { "display_name": "somebody", "signed": object },
        TRULY_SIGNED_BY: truly_signed_by,
    })
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
        let content = match version {
            ..=10 => json!({ "creator": creator }),
            // Somebody who comes later may be one of those who made the room.
            12 if seed % 2 == 1 => json!({ "additional_creators": [user(2)] }),
            _ => json!({}),
        };
        room.begin("m.room.create", 0, "", content);
        room.begin("m.room.member", 0, creator.as_str(), json!({ "membership": "join" }));
        let users =
            if version < 12 { json!({ creator: 100, user(1): 100 }) } else { json!({ user(1): 100 }) };
        room.begin("m.room.power_levels", 0, "", json!({ "users": users }));
        room.begin("m.room.join_rules", 0, "", json!({ "join_rule": "public" }));
        for number in 1..USERS - 1 {
            room.begin("m.room.member", number, user(number).as_str(), json!({ "membership": "join" }));
        }
        // Not everybody may come whenever they like.
        let rule = JOIN_RULES[usize::try_from(seed % JOIN_RULES.len() as u64).expect("there are few")];
        if rule != "public" {
            room.begin("m.room.join_rules", 0, "", json!({ "join_rule": rule }));
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
            Deed::JoinVia { via } => {
                let content = json!({ "membership": "join", AUTHORISED_VIA: user(via) });
                ("m.room.member", sender.to_string(), content)
            }
            Deed::InviteAddress { token, key } => {
                let key = public_key(&identity_key(key));
                let url = "https://vouching.example/valid";
                let keys = json!([{ "public_key": key, "key_validity_url": url }]);
                let content = json!({ "display_name": "somebody", "public_key": key, "key_validity_url": url,
                    "public_keys": keys });
                ("m.room.third_party_invite", format!("token{token}"), content)
            }
            Deed::Redeem { target, token, key, signed } => {
                ("m.room.member", user(target).to_string(), redeemed(target, token, key, signed))
            }
            Deed::Aliases { server } => {
                let aliases = json!({ "aliases": [format!("#room:server{server}.example")] });
                ("m.room.aliases", format!("server{server}.example"), aliases)
            }
            Deed::PowerLevel { target, level, as_text } => {
                let level = LEVELS[level];
                let level = if as_text { json!(level.to_string()) } else { json!(level) };
                levels["users"][user(target).as_str()] = level;
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
