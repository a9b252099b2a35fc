//! From drafts to one transaction.

mod format;
mod history;
mod index;
mod outside;
mod policy;
mod receive;
mod resolve;
mod servers;
mod sticky;
mod take_over;
mod written;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use entente_storage::{Bytes, LogPosition, Transaction, value::Stamped};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
    state_res,
};
use serde_json::value::RawValue;

use crate::{
    Change, Event, RoomError, RoomView,
    auth_chain::assign,
    chain_store::NewChains,
    policy_server::PolicyAnswers,
    room::{Head, StateKey, state_type},
    rows::{
        self, AggregateRow, EventHeader, EventPlace, Extremity, HeadRow, SentAs, StoredEvent, TransactionRow,
    },
    state::{self, EventNumber, InvalidNode, Node, NodeHash, NodeSource, Partition, StateKeyId, StateRoot},
};

pub(crate) use self::format::{event_id, needs_hashes, sign};
use self::{servers::ServerCounts, written::Written};

/// An event that is yet to be made.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who sends it.
    pub sender: OwnedUserId,
    /// Its type.
    pub event_type: TimelineEventType,
    /// Its state key, if it is a state event.
    pub state_key: Option<String>,
    /// Its content.
    pub content: CanonicalJsonObject,
    /// The event that it redacts, if it is a redaction.
    pub redacts: Option<OwnedEventId>,
    /// When it was sent, in ms since 1970; `None`: now.
    pub origin_server_ts: Option<u64>,
    /// The device that sends it.
    pub device: Option<SendingDevice>,
    /// The id that it had while it was delayed.
    pub delay_id: Option<String>,
    /// For how long it is sticky, in ms (MSC4354).
    pub sticky: Option<u64>,
}

/// The device that sends an event, and the transaction id by which it recognises a retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendingDevice {
    /// The device.
    pub device_id: String,
    /// The transaction id.
    pub transaction_id: String,
}

impl Draft {
    /// A message-like event.
    pub fn message(sender: &UserId, event_type: TimelineEventType, content: CanonicalJsonObject) -> Self {
        Self {
            sender: sender.to_owned(),
            event_type,
            state_key: None,
            content,
            redacts: None,
            origin_server_ts: None,
            device: None,
            delay_id: None,
            sticky: None,
        }
    }

    /// A state event.
    pub fn state(
        sender: &UserId,
        event_type: StateEventType,
        state_key: impl Into<String>,
        content: CanonicalJsonObject,
    ) -> Self {
        let event_type = TimelineEventType::from(event_type.to_string());
        Self { state_key: Some(state_key.into()), ..Self::message(sender, event_type, content) }
    }
}

/// Makes events of one room, each built upon the one before, and collects all that is to be written.
pub(crate) struct Composer {
    pub(crate) view: RoomView,
    /// What the store holds; `None` if the room is new.
    base: Option<HeadRow>,
    pub(crate) head: Head,
    nodes: BTreeMap<NodeHash, Node>,
    /// Events that were made here, by number.
    made: BTreeMap<i64, Arc<Event>>,
    /// Their numbers by their ids.
    made_ids: HashMap<OwnedEventId, i64>,
    written: Box<Written>,
    new_state_keys: BTreeMap<(String, String), StateKeyId>,
    new_chains: NewChains,
    servers: ServerCounts,
    redacted: Vec<EventNumber>,
    /// What the relations to events come to, of those of which it was changed here.
    aggregates: HashMap<EventNumber, AggregateRow>,
    /// What the room's policy server said before.
    pub(crate) answers: Arc<PolicyAnswers>,
    /// Events that were made here and signed by it.
    own_events: usize,
    pub(crate) transaction: Transaction,
}

/// What came of composing.
pub(crate) struct Composed {
    pub(crate) view: RoomView,
    pub(crate) transaction: Transaction,
    pub(crate) head: Head,
    pub(crate) changes_state: bool,
    /// Events with a place in a timeline that were made or changed.
    pub(crate) made: Vec<Arc<Event>>,
    /// Events whose remembered form is not true any more once this is committed.
    pub(crate) redacted: Vec<EventNumber>,
}

impl Composer {
    /// Adds to a room that stands at `head`.
    pub(crate) fn new(view: RoomView, head: Head) -> Self {
        Self { base: Some(head.row.clone()), ..Self::of_new_room(view, head) }
    }

    /// Adds the first events to a room.
    pub(crate) fn of_new_room(view: RoomView, head: Head) -> Self {
        Self {
            view,
            base: None,
            head,
            nodes: BTreeMap::new(),
            made: BTreeMap::new(),
            made_ids: HashMap::new(),
            written: Box::default(),
            new_state_keys: BTreeMap::new(),
            new_chains: NewChains::default(),
            servers: ServerCounts::default(),
            redacted: Vec::new(),
            aggregates: HashMap::new(),
            answers: Arc::default(),
            own_events: 0,
            transaction: Transaction::new(),
        }
    }

    /// All that is to be written, on condition that the room still stands where it stood. `None` if nothing was made.
    pub(crate) fn finish(mut self) -> Option<Composed> {
        if self.made.is_empty() {
            return None;
        }
        let room = self.view.room.number;
        let resolved = self.base.as_ref().is_some_and(|base| base.state != self.head.row.state);
        self.transaction.check_unchanged(&rows::HEADS, room.0, self.base.as_ref());
        self.transaction.put(&rows::HEADS, room.0, &self.head.row);
        let states = &self.view.rooms.inner.states;
        states.put_in(&mut self.transaction, room, &self.nodes);
        self.new_chains.put_in(&mut self.transaction, room);
        self.servers.put_in(&mut self.transaction, room);
        let changes_state = resolved || self.made.values().any(|event| event.state_key.is_some());
        Some(Composed {
            view: self.view,
            transaction: self.transaction,
            head: self.head,
            changes_state,
            made: self.made.into_values().filter(|event| !event.is_outlier()).collect(),
            redacted: self.redacted,
        })
    }

    /// The event under a key of the present state.
    pub(crate) async fn current(
        &mut self,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<Arc<Event>>, RoomError> {
        let key = (event_type.clone(), state_key.to_owned());
        Ok(self.current_many(std::slice::from_ref(&key)).await?.pop().flatten())
    }

    /// The events under keys of the present state, in the keys' order.
    pub(crate) async fn current_many(
        &mut self,
        keys: &[StateKey],
    ) -> Result<Vec<Option<Arc<Event>>>, RoomError> {
        let mut events = Vec::with_capacity(keys.len());
        let (mut unknown, mut names) = (Vec::new(), Vec::new());
        for (place, key) in keys.iter().enumerate() {
            let remembered = self.head.current.get(key);
            if remembered.is_none() {
                unknown.push((place, key));
                names.push((key.0.to_string(), key.1.as_str()));
            }
            events.push(remembered.cloned().flatten());
        }
        if !unknown.is_empty() {
            let found = self.stored_state(self.head.state(), &names).await?;
            for ((place, key), event) in unknown.into_iter().zip(found) {
                // This can make everything else forgotten that is asked for here.
                self.head.remember(key.clone(), event.clone());
                events[place] = event;
            }
        }
        Ok(events)
    }

    async fn stored_state(
        &self,
        root: StateRoot,
        keys: &[(String, &str)],
    ) -> Result<Vec<Option<Arc<Event>>>, RoomError> {
        let mut ids = Vec::with_capacity(keys.len());
        if self.base.is_none() {
            // Nothing of a new room is stored.
            for (event_type, state_key) in keys {
                let key = (event_type.clone(), (*state_key).to_owned());
                ids.push(self.new_state_keys.get(&key).copied());
            }
        } else {
            let names: Vec<(&str, &str)> =
                keys.iter().map(|(event_type, state_key)| (event_type.as_str(), *state_key)).collect();
            ids = self.view.state_key_ids(&names).await?;
            for (id, (event_type, state_key)) in ids.iter_mut().zip(keys) {
                if id.is_none() {
                    let key = (event_type.clone(), (*state_key).to_owned());
                    *id = self.new_state_keys.get(&key).copied();
                }
            }
        }
        let known: Vec<StateKeyId> = ids.iter().flatten().copied().collect();
        let numbers = state::get_many(&self.nodes(), root, &known).await?;
        let mut numbers = numbers.into_iter();
        let mut events = Vec::with_capacity(ids.len());
        for id in ids {
            let number = id.and_then(|_| numbers.next().flatten());
            events.push(match number {
                None => None,
                Some(number) => self.event(number).await?,
            });
        }
        Ok(events)
    }

    /// An event of the room, one that was made here included.
    pub(crate) async fn event(&self, number: EventNumber) -> Result<Option<Arc<Event>>, RoomError> {
        match self.made.get(&number.0) {
            Some(event) => Ok(Some(Arc::clone(event))),
            None => self.view.event(number).await,
        }
    }

    /// Remembers an event that was made here.
    fn keep(&mut self, event: &Arc<Event>) {
        self.made.insert(event.number.0, Arc::clone(event));
        self.made_ids.insert(event.event_id.clone(), event.number.0);
    }

    fn nodes(&self) -> WithNew<'_> {
        WithNew { new: &self.nodes, view: &self.view }
    }

    /// Makes an event, if the rules of the room allow it at its present state.
    pub(crate) async fn append(&mut self, draft: Draft) -> Result<Arc<Event>, RoomError> {
        if let Some(policy) = self.policy_server_for(&draft).await? {
            return self.append_signed(draft, policy).await;
        }
        let rules = self.view.room.rules.clone();
        let content = format::raw_content(&draft.content)?;
        let authorisation = self.authorisation(&draft, &content).await?;
        let auth_events: Vec<Arc<Event>> = authorisation.selected.iter().flatten().cloned().collect();
        let (json, event_id) = self.build(&draft, &auth_events).await?;
        let number = self.head.row.next_event;
        let mut header = EventHeader {
            event_id: event_id.to_string(),
            state_before: self.head.row.state.clone(),
            transaction: draft
                .device
                .map(|device| SentAs { device_id: device.device_id, transaction_id: device.transaction_id }),
            delay_id: draft.delay_id,
            ..EventHeader::default()
        };
        let position = LogPosition::AT_COMMIT;
        let stored = StoredEvent { position, header: header.clone(), json: json.clone() };
        let event = Event::new(self.view.room.number, number, stored)?;
        authorisation.check(&rules.authorization, &event)?;
        header.sticky_until = event.sticky_until(self.view.now());
        let mut replaced = None;
        if event.state_key.is_some() {
            replaced = self.change_state(&event).await?;
            header.replaces = replaced.as_ref().map(|replaced| replaced.number.0);
            header.state_after = Some(self.head.row.state.clone());
            self.assign_chain(event.number, &event, &auth_events).await?;
        }
        let stored = StoredEvent { position, header, json };
        self.put_rows(&event, &stored)?;
        self.head.row.extremities =
            vec![Extremity { event_id: event.event_id.to_string(), number, depth: event.depth }];
        let event = Arc::new(Event::new(self.view.room.number, number, stored)?);
        self.note(&event, replaced.as_deref()).await?;
        if event.state_key.is_some() {
            self.judge_refused().await?;
        }
        Ok(event)
    }

    /// The parts of the present state that decide about a draft.
    async fn authorisation(&mut self, draft: &Draft, content: &RawValue) -> Result<Authorisation, RoomError> {
        let rules = &self.view.room.rules.authorization;
        let mut keys = state_res::auth_types_for_event(
            &draft.event_type,
            &draft.sender,
            draft.state_key.as_deref(),
            content,
            rules,
        )
        .map_err(RoomError::BadEvent)?;
        let count = keys.len();
        // Since version 12 the create event authorises by the room's id, without being named.
        keys.push((StateEventType::RoomCreate, String::new()));
        let mut selected = self.current_many(&keys).await?;
        let create = selected.pop().flatten();
        keys.truncate(count);
        Ok(Authorisation { keys, selected, create })
    }

    /// The canonical JSON of an event with its hash and signature, and its id.
    async fn build(
        &self,
        draft: &Draft,
        auth_events: &[Arc<Event>],
    ) -> Result<(Bytes, OwnedEventId), RoomError> {
        let rooms = &self.view.rooms.inner;
        let (prev_events, depth) = self.prev_events().await?;
        let parts = self.parts(draft, &prev_events, auth_events, depth);
        format::build(&parts, &self.view.room.rules, &rooms.signing_keys)
    }

    /// An event that another server is to sign, if the rules of the room allow it at its present state.
    pub(crate) async fn template(&mut self, draft: &Draft) -> Result<CanonicalJsonObject, RoomError> {
        Ok(self.rehearse(draft).await?.0)
    }

    /// An event that is to be added later, if the rules of the room allow it at its present state: canonical JSON, and its id.
    pub(crate) async fn prepare(&mut self, draft: &Draft) -> Result<(Bytes, OwnedEventId), RoomError> {
        if let Some(policy) = self.policy_server_for(draft).await? {
            return self.prepare_signed(draft.clone(), policy).await;
        }
        let (_, json, event_id) = self.rehearse(draft).await?;
        Ok((json, event_id))
    }

    async fn rehearse(
        &mut self,
        draft: &Draft,
    ) -> Result<(CanonicalJsonObject, Bytes, OwnedEventId), RoomError> {
        let rules = self.view.room.rules.clone();
        let content = format::raw_content(&draft.content)?;
        let authorisation = self.authorisation(draft, &content).await?;
        let auth_events: Vec<Arc<Event>> = authorisation.selected.iter().flatten().cloned().collect();
        let (prev_events, depth) = self.prev_events().await?;
        let parts = self.parts(draft, &prev_events, &auth_events, depth);
        let template = format::unsigned(&parts, &rules)?;
        // Authority is decided on an event, which this is but for its signature.
        let (json, event_id) = format::build(&parts, &rules, &self.view.rooms.inner.signing_keys)?;
        let header = EventHeader { event_id: event_id.to_string(), ..EventHeader::default() };
        let stored = StoredEvent { position: LogPosition::AT_COMMIT, header, json: json.clone() };
        let event = Event::new(self.view.room.number, self.head.row.next_event, stored)?;
        authorisation.check(&rules.authorization, &event)?;
        Ok((template, json, event_id))
    }

    fn parts<'p>(
        &'p self,
        draft: &'p Draft,
        prev_events: &'p [format::Reference<'p>],
        auth_events: &'p [Arc<Event>],
        depth: u64,
    ) -> format::Parts<'p> {
        let rooms = &self.view.rooms.inner;
        format::Parts {
            draft,
            room_id: &self.view.room.room_id,
            prev_events,
            auth_events,
            depth: depth.saturating_add(1),
            origin_server_ts: draft.origin_server_ts.unwrap_or_else(|| rooms.environment.now().millis()),
            randomness: rooms.environment.randomness(),
        }
    }

    /// The events upon which the next one is built, and the greatest depth of them.
    async fn prev_events(&self) -> Result<(Vec<format::Reference<'_>>, u64), RoomError> {
        let mut prev_events = Vec::with_capacity(self.head.row.extremities.len());
        for extremity in self.head.row.extremities.iter().take(format::MOST_PREV_EVENTS) {
            prev_events.push(format::Reference {
                event_id: extremity.event_id.as_str(),
                event: if format::needs_hashes(&self.view.room.rules) {
                    self.event(EventNumber(extremity.number)).await?
                } else {
                    None
                },
            });
        }
        let depth =
            self.head.row.extremities.iter().map(|extremity| extremity.depth).max().unwrap_or_default();
        Ok((prev_events, depth))
    }

    /// Puts a state event into the present state. Answers which event it replaced.
    async fn change_state(&mut self, event: &Event) -> Result<Option<Arc<Event>>, RoomError> {
        let state_key = event.state_key.as_deref().unwrap_or_default();
        let key = (state_type(&event.event_type), state_key.to_owned());
        let replaced = self.current_many(std::slice::from_ref(&key)).await?.pop().flatten();
        let id = self.state_key_id(&event.event_type, state_key).await?;
        let root = self.head.state();
        let changes = [(id, Some(event.number))];
        let updated = state::update(&self.nodes(), root, &changes).await?;
        self.nodes.extend(updated.nodes);
        self.head.row.state = updated.root.encode();
        Ok(replaced)
    }

    /// The number of a state key; a new one gets the next.
    async fn state_key_id(
        &mut self,
        event_type: &TimelineEventType,
        state_key: &str,
    ) -> Result<StateKeyId, RoomError> {
        let name = (event_type.to_string(), state_key.to_owned());
        if let Some(id) = self.new_state_keys.get(&name) {
            return Ok(*id);
        }
        if self.base.is_some() {
            let known = self.view.state_key_ids(&[(&name.0, &name.1)]).await?.pop().flatten();
            if let Some(id) = known {
                return Ok(id);
            }
        }
        let (partition, next) = match event_type {
            TimelineEventType::RoomMember => (Partition::Members, &mut self.head.row.next_member),
            _ => (Partition::Settings, &mut self.head.row.next_setting),
        };
        let id = StateKeyId { partition, index: *next };
        *next += 1;
        let row = (self.view.room.number.0, name.0.as_str(), name.1.as_str());
        self.transaction.put(&rows::STATE_KEYS, row, &rows::state_key::encode(id));
        self.new_state_keys.insert(name, id);
        Ok(id)
    }

    /// Gives a state event its place in the auth chains of the room.
    async fn assign_chain(
        &mut self,
        number: EventNumber,
        event: &Event,
        auth_events: &[Arc<Event>],
    ) -> Result<(), RoomError> {
        let numbers: Vec<EventNumber> =
            auth_events.iter().map(|auth_event| auth_event.state_number()).collect();
        let replaced = auth_events.iter().find(|auth_event| {
            auth_event.event_type == event.event_type && auth_event.state_key == event.state_key
        });
        let replaced = replaced.map(|replaced| replaced.state_number());
        let assignment = assign(&self.chains(), number, &numbers, replaced).await?;
        self.new_chains.add(number, assignment);
        Ok(())
    }

    /// Writes an event that has no place in the timeline.
    fn put_outlier(&mut self, event: &Event, stored: &StoredEvent) {
        let (room, number) = (self.view.room.number.0, event.number.0);
        self.transaction.put(&rows::EVENTS, (room, number), stored);
        self.transaction.check_absent(&rows::EVENT_IDS, event.event_id.as_str());
        self.transaction.put(&rows::EVENT_IDS, event.event_id.as_str(), &EventPlace { room, number });
    }

    /// Writes the event itself, and everything that finds it. One that was an outlier has been found by its id before.
    fn put_rows(&mut self, event: &Event, stored: &StoredEvent) -> Result<(), RoomError> {
        let room = self.view.room.number.0;
        let number = event.number.0;
        let transaction = &mut self.transaction;
        transaction.put(&rows::EVENTS, (room, number), stored);
        if stored.header.known_as.is_none() {
            transaction.check_absent(&rows::EVENT_IDS, event.event_id.as_str());
        }
        transaction.put(&rows::EVENT_IDS, event.event_id.as_str(), &EventPlace { room, number });
        if !stored.header.rejected && !stored.header.soft_failed {
            transaction.put(&rows::EVENT_TIMES, (room, event.origin_server_ts, number), &());
            note_sticky(transaction, event, stored);
        }
        if let Some(SentAs { device_id, transaction_id }) = &stored.header.transaction {
            let localpart = event.sender.localpart();
            let event_type = event.event_type.to_string();
            let key = (localpart, device_id.as_str(), room, event_type.as_str(), transaction_id.as_str());
            let row = TransactionRow {
                event_id: event.event_id.to_string(),
                at: self.view.rooms.inner.environment.now().millis(),
            };
            transaction.check_absent(&rows::TRANSACTIONS, key);
            transaction.put(&rows::TRANSACTIONS, key, &row);
        }
        self.head.row.next_event =
            number.checked_add(1).ok_or_else(|| RoomError::Internal(String::from("a room is full")))?;
        Ok(())
    }

    /// Keeps the indices that depend on what kind of event it is, and tells the log.
    async fn note(&mut self, event: &Arc<Event>, replaced: Option<&Event>) -> Result<(), RoomError> {
        self.keep(event);
        if let Some(state_key) = &event.state_key {
            let key = (state_type(&event.event_type), state_key.clone());
            self.head.remember(key, Some(Arc::clone(event)));
        }
        let member = match (event.membership(), &event.state_key) {
            (Some(membership), Some(state_key)) => {
                self.note_membership(event, replaced, membership, state_key).await?;
                Some((state_key.clone(), membership))
            }
            _ => None,
        };
        self.note_relation(event).await?;
        let redacted = self.apply_redaction(event).await?;
        self.redacted.extend(redacted.map(EventNumber));
        let (room, number) = (self.view.room.number.0, event.number.0);
        Change::Event { room, number, member, redacted }.log_in(&mut self.transaction);
        if event.event_type == TimelineEventType::RoomGuestAccess && !event.lets_guests_in() {
            Change::GuestsRefused { room }.log_in(&mut self.transaction);
        }
        Ok(())
    }
}

/// Indexes a sticky event, and tells the log that there is one.
fn note_sticky(transaction: &mut Transaction, event: &Event, stored: &StoredEvent) {
    if let Some(until) = stored.header.sticky_until {
        let row = Stamped { position: LogPosition::AT_COMMIT, value: until };
        transaction.put(&rows::STICKY, (event.room.0, event.number.0), &row);
        Change::Sticky { room: event.room.0, number: None }.log_in(transaction);
    }
}

/// The parts of a state that decide about an event.
struct Authorisation {
    keys: Vec<StateKey>,
    selected: Vec<Option<Arc<Event>>>,
    create: Option<Arc<Event>>,
}

impl Authorisation {
    /// Whether these are the events that it consists of, and this the one that made the room.
    fn is_by(&self, create: Option<&Arc<Event>>, events: &[Arc<Event>]) -> bool {
        let is_same = |one: &Arc<Event>, other: &Arc<Event>| one.event_id == other.event_id;
        let is_of_room = match (&self.create, create) {
            (Some(own), Some(create)) => is_same(own, create),
            _ => false,
        };
        let selected: Vec<&Arc<Event>> = self.selected.iter().flatten().collect();
        let are_named = selected.iter().all(|own| events.iter().any(|event| is_same(own, event)));
        is_of_room && are_named && selected.len() == events.len()
    }

    fn check(
        &self,
        rules: &ruma::room_version_rules::AuthorizationRules,
        event: &Event,
    ) -> Result<(), RoomError> {
        let fetch = |event_type: &StateEventType, state_key: &str| {
            if *event_type == StateEventType::RoomCreate {
                return self.create.as_deref();
            }
            let place =
                self.keys.iter().position(|(key_type, key)| key_type == event_type && key == state_key)?;
            self.selected.get(place)?.as_deref()
        };
        if event.event_type == TimelineEventType::RoomCreate {
            return state_res::check_state_independent_auth_rules(rules, event, |_| None::<&Event>)
                .map_err(RoomError::Unauthorized);
        }
        state_res::check_state_dependent_auth_rules(rules, event, fetch).map_err(RoomError::Unauthorized)
    }
}

/// Nodes that were made here, and those in the store.
struct WithNew<'a> {
    new: &'a BTreeMap<NodeHash, Node>,
    view: &'a RoomView,
}

impl NodeSource for WithNew<'_> {
    type Error = RoomError;

    async fn load(&self, names: &[NodeHash]) -> Result<Vec<Node>, RoomError> {
        let missing: Vec<NodeHash> =
            names.iter().filter(|name| !self.new.contains_key(name)).copied().collect();
        let stored = if missing.is_empty() {
            Vec::new()
        } else {
            let states = &self.view.rooms.inner.states;
            states.reader(&self.view.snapshot, self.view.room.number).load(&missing).await?
        };
        let mut stored = stored.into_iter();
        names
            .iter()
            .map(|name| {
                self.new.get(name).cloned().or_else(|| stored.next()).ok_or(RoomError::from(InvalidNode))
            })
            .collect()
    }
}

impl From<InvalidNode> for RoomError {
    fn from(error: InvalidNode) -> Self {
        Self::Internal(format!("the state of a room: {error}"))
    }
}

/// The id of a room whose create event is this one (room version 12, "Room IDs").
pub(crate) fn room_id_of_create(event_id: &ruma::EventId) -> Result<OwnedRoomId, RoomError> {
    let hash = event_id.as_str().trim_start_matches('$');
    RoomId::parse(format!("!{hash}")).map_err(|error| RoomError::Internal(format!("a room id: {error}")))
}
