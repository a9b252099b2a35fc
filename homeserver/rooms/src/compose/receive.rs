//! Events that other servers made: checked as the spec says ("Checks performed on receipt of a PDU"), and put where they belong.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    OwnedEventId,
    events::{StateEventType, TimelineEventType},
    state_res,
};

use super::{Authorisation, Composer};
use crate::{
    Change, Event, Membership, RoomError,
    incoming::{Received, VerifiedPdu},
    room::state_type,
    rows::{Extremity, StoredEvent},
    state::{self, EventNumber, Partition, StateRoot},
};

/// A room whose forward extremities are more takes no events but those that name them.
const MOST_EXTREMITIES: usize = 100;

/// What came of looking at an event's authority.
pub(super) enum Verdict {
    Accepted,
    SoftFailed,
    Rejected(String),
}

/// What came of looking at an event, before anything is written.
enum Weighed {
    /// There is nothing to be written.
    Decided(Received),
    /// It has a place behind what there is.
    Fits(Box<Fitting>),
}

/// An event that is to be written.
struct Fitting {
    event: Event,
    stored: StoredEvent,
    verdict: Verdict,
    auth_events: Vec<Arc<Event>>,
}

impl Composer {
    /// Takes in an event that another server made. All that it names must be known; what is not is answered, and nothing happens.
    pub(crate) async fn receive(&mut self, pdu: &VerifiedPdu) -> Result<Received, RoomError> {
        match self.weigh(pdu).await? {
            Weighed::Decided(received) => Ok(received),
            Weighed::Fits(fitting) => self.place_fitting(*fitting).await,
        }
    }

    /// Takes in events in their order, up to the first for which something has to be asked for, or that cannot be taken in. Answers
    /// what became of those before it. After an error some of an event may have been written.
    pub(crate) async fn receive_run(&mut self, pdus: &[VerifiedPdu]) -> Result<Vec<Received>, RoomError> {
        let mut outcomes = Vec::with_capacity(pdus.len());
        for pdu in pdus {
            let received = match self.weigh(pdu).await {
                Ok(Weighed::Fits(fitting)) => self.place_fitting(*fitting).await?,
                Ok(Weighed::Decided(Received::MissingAuthEvents(_) | Received::MissingPrevEvents(_))) => {
                    break;
                }
                Ok(Weighed::Decided(received)) => received,
                Err(error @ (RoomError::Storage(_) | RoomError::Internal(_))) => return Err(error),
                Err(_) => break,
            };
            outcomes.push(received);
        }
        Ok(outcomes)
    }

    async fn place_fitting(&mut self, fitting: Fitting) -> Result<Received, RoomError> {
        let Fitting { event, stored, verdict, auth_events } = fitting;
        self.place(event, stored, verdict, &auth_events).await
    }

    /// Decides about an event that another server made.
    async fn weigh(&mut self, pdu: &VerifiedPdu) -> Result<Weighed, RoomError> {
        let known = self.find(&pdu.event_id).await?;
        if let Some(answer) = known.as_deref().and_then(already_decided) {
            return Ok(Weighed::Decided(answer));
        }
        if pdu.event_type == "m.room.create" {
            return Err(RoomError::BadEvent(String::from("a room is created once")));
        }
        let (auth_events, missing) = self.find_all(&pdu.auth_events).await?;
        if !missing.is_empty() {
            return Ok(Weighed::Decided(Received::MissingAuthEvents(missing)));
        }
        let (prev_events, mut missing) = self.find_all(&pdu.prev_events).await?;
        missing.extend(
            prev_events.iter().filter(|event| event.is_outlier()).map(|event| event.event_id.clone()),
        );
        if !missing.is_empty() || prev_events.is_empty() {
            return Ok(Weighed::Decided(Received::MissingPrevEvents(missing)));
        }
        let states: Vec<StateRoot> = prev_events.iter().map(|event| event.state_after()).collect();
        let state_before = self.resolve(&states).await?;
        let known_as = known.map(|known| known.number.0);
        let (event, mut stored) = self.unplaced(pdu, self.head.row.next_event, known_as, state_before)?;
        let verdict = self.judge(&event, &auth_events, state_before).await?;
        let verdict = self.heed_policy(&event, &mut stored, verdict).await?;
        if matches!(verdict, Verdict::Accepted) {
            self.extremities_behind(&event)?;
        }
        Ok(Weighed::Fits(Box::new(Fitting { event, stored, verdict, auth_events })))
    }

    /// Events by their ids, and those ids that are not known.
    pub(super) async fn find_all(
        &self,
        ids: &[OwnedEventId],
    ) -> Result<(Vec<Arc<Event>>, Vec<OwnedEventId>), RoomError> {
        let (mut found, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in ids {
            match self.find(id).await? {
                Some(event) => found.push(event),
                None => missing.push(id.clone()),
            }
        }
        Ok((found, missing))
    }

    /// Refuses an event of another room.
    pub(super) fn check_room(&self, event: &Event) -> Result<(), RoomError> {
        let room = &self.view.room;
        let is_create = event.event_type == TimelineEventType::RoomCreate;
        let named = match state_res::Event::room_id(event) {
            Some(named) => named == room.room_id,
            None => is_create && room.rules.authorization.room_create_event_id_as_room_id,
        };
        if named { Ok(()) } else { Err(RoomError::BadEvent(String::from("the event is of another room"))) }
    }

    /// Whether an event may be: by the events that it names, by the state before it, and by the room's present state.
    pub(super) async fn judge(
        &mut self,
        event: &Event,
        auth_events: &[Arc<Event>],
        state_before: StateRoot,
    ) -> Result<Verdict, RoomError> {
        let verdict = self.judge_past(event, auth_events, state_before).await?;
        let is_past = self.head.state() != state_before;
        if matches!(verdict, Verdict::Accepted) && is_past && !self.is_allowed_now(event).await? {
            return Ok(Verdict::SoftFailed);
        }
        Ok(verdict)
    }

    /// Whether the room's present state allows an event.
    pub(super) async fn is_allowed_now(&mut self, event: &Event) -> Result<bool, RoomError> {
        let authorisation = self.authorisation_of(event, self.head.state()).await?;
        Ok(authorisation.check(&self.view.room.rules.authorization, event).is_ok())
    }

    /// Whether an event may be where it stands, whatever the room has become since.
    pub(super) async fn judge_past(
        &mut self,
        event: &Event,
        auth_events: &[Arc<Event>],
        state_before: StateRoot,
    ) -> Result<Verdict, RoomError> {
        if let Some(rejected) = auth_events.iter().find(|auth_event| auth_event.is_rejected()) {
            return Ok(Verdict::Rejected(format!("it is authorised by {}, which is not", rejected.event_id)));
        }
        let rules = self.view.room.rules.authorization.clone();
        let create = self.current(&StateEventType::RoomCreate, "").await?;
        if let Err(reason) = check_by_auth_events(&rules, event, auth_events, create.as_ref()) {
            return Ok(Verdict::Rejected(reason));
        }
        let authorisation = self.authorisation_of(event, state_before).await?;
        // Mostly it names what the state says, and what that allows was looked at.
        if authorisation.is_by(create.as_ref(), auth_events) {
            return Ok(Verdict::Accepted);
        }
        if let Err(error) = authorisation.check(&rules, event) {
            return Ok(Verdict::Rejected(error.to_string()));
        }
        Ok(Verdict::Accepted)
    }

    /// The parts of a state that decide about an event.
    pub(super) async fn authorisation_of(
        &mut self,
        event: &Event,
        state: StateRoot,
    ) -> Result<Authorisation, RoomError> {
        let rules = &self.view.room.rules.authorization;
        let mut keys = state_res::auth_types_for_event(
            &event.event_type,
            &event.sender,
            event.state_key.as_deref(),
            event.content(),
            rules,
        )
        .map_err(RoomError::BadEvent)?;
        let count = keys.len();
        keys.push((StateEventType::RoomCreate, String::new()));
        let mut selected = if state == self.head.state() {
            self.current_many(&keys).await?
        } else {
            let names: Vec<(String, &str)> = keys
                .iter()
                .map(|(event_type, state_key)| (event_type.to_string(), state_key.as_str()))
                .collect();
            self.stored_state(state, &names).await?
        };
        let create = selected.pop().flatten();
        keys.truncate(count);
        Ok(Authorisation { keys, selected, create })
    }

    /// Writes an event, and what follows from it for the room.
    pub(super) async fn place(
        &mut self,
        event: Event,
        mut stored: StoredEvent,
        verdict: Verdict,
        auth_events: &[Arc<Event>],
    ) -> Result<Received, RoomError> {
        let number = event.number;
        let present = self.head.state();
        let received = match &verdict {
            Verdict::Accepted => Received::Accepted,
            Verdict::SoftFailed => Received::SoftFailed,
            Verdict::Rejected(reason) => Received::Rejected(reason.clone()),
        };
        stored.header.rejected = matches!(verdict, Verdict::Rejected(_));
        stored.header.soft_failed = matches!(verdict, Verdict::SoftFailed);
        if event.state_key.is_some() && !stored.header.rejected {
            let after = self.with_event(event.state_before(), &event).await?;
            stored.header.state_after = Some(after.encode());
            let replaced = self.replaced_by(&event).await?;
            stored.header.replaces = replaced.as_ref().map(|replaced| replaced.number.0);
            if stored.header.known_as.is_none() {
                self.assign_chain(number, &event, auth_events).await?;
            }
        }
        // In the composer's memory before the room's state is resolved, which may look for it.
        let mut placed = Arc::new(event.stored_as(&stored)?);
        self.keep(&placed);
        if matches!(verdict, Verdict::Accepted) {
            self.follow_graph(&placed).await?;
        }
        let after = self.head.state();
        let is_straight = present == placed.state_before() && after == placed.state_after();
        if !is_straight {
            stored.header.room_before = Some(present.encode());
            stored.header.room_after = Some(after.encode());
            placed = Arc::new(Event::new(self.view.room.number, number.0, stored.clone())?);
            self.keep(&placed);
        }
        self.put_rows(&placed, &stored)?;
        if matches!(verdict, Verdict::Accepted) {
            self.note_received(&placed, present, after).await?;
            if present != after {
                self.judge_refused().await?;
            }
        } else {
            if matches!(verdict, Verdict::SoftFailed) {
                self.note_refused(&placed);
            }
            let (room, number) = (self.view.room.number.0, number.0);
            Change::NotShown { room, number }.log_in(&mut self.transaction);
        }
        Ok(received)
    }

    /// Puts an accepted event at the end of the graph, and finds the room's state anew.
    async fn follow_graph(&mut self, event: &Arc<Event>) -> Result<(), RoomError> {
        self.head.row.extremities = self.extremities_behind(event)?;
        let numbers: Vec<EventNumber> =
            self.head.row.extremities.iter().map(|extremity| EventNumber(extremity.number)).collect();
        let mut states = Vec::with_capacity(numbers.len());
        for number in numbers {
            states.push(self.required_event(number).await?.state_after());
        }
        let (before, after) = (self.head.state(), self.resolve(&states).await?);
        self.head.row.state = after.encode();
        match &event.state_key {
            // It alone is what changed.
            Some(state_key) if before == event.state_before() && after == event.state_after() => {
                let key = (state_type(&event.event_type), state_key.clone());
                self.head.remember(key, Some(Arc::clone(event)));
            }
            _ if before == after => {}
            _ => self.head.current.clear(),
        }
        Ok(())
    }

    /// The ends of the graph with an event behind those that it names.
    fn extremities_behind(&self, event: &Event) -> Result<Vec<Extremity>, RoomError> {
        let is_named = |extremity: &Extremity| {
            event.prev_events().iter().any(|prev_event| prev_event.as_str() == extremity.event_id)
        };
        let others = self.head.row.extremities.iter().filter(|extremity| !is_named(extremity));
        let mut extremities: Vec<Extremity> = others.cloned().collect();
        if extremities.len() >= MOST_EXTREMITIES {
            return Err(RoomError::TooLarge("this room has more loose ends than it can have"));
        }
        extremities.push(Extremity {
            event_id: event.event_id.to_string(),
            number: event.number.0,
            depth: event.depth,
        });
        Ok(extremities)
    }

    /// Keeps the indices of an accepted event, and tells the log.
    pub(super) async fn note_received(
        &mut self,
        event: &Arc<Event>,
        before: StateRoot,
        after: StateRoot,
    ) -> Result<(), RoomError> {
        let mut own = None;
        for change in state::difference(&self.nodes(), before, after).await? {
            if change.key.partition != Partition::Members {
                continue;
            }
            let replaced = match change.before {
                Some(number) => Some(self.required_event(number).await?),
                None => None,
            };
            let (member, user_id) = match (change.after, &replaced) {
                (Some(number), _) => {
                    let is_own = number == event.state_number();
                    let member = if is_own { Arc::clone(event) } else { self.required_event(number).await? };
                    let user_id = member.state_key.clone().unwrap_or_default();
                    (Some(member), user_id)
                }
                (None, Some(replaced)) => (None, replaced.state_key.clone().unwrap_or_default()),
                (None, None) => continue,
            };
            let membership = member.as_deref().and_then(Event::membership).unwrap_or(Membership::Leave);
            match &member {
                Some(member) => {
                    self.note_membership(member, replaced.as_deref(), membership, &user_id).await?;
                }
                None => self.unnote_membership(event, replaced.as_deref(), &user_id).await?,
            }
            if member.is_some_and(|member| member.number == event.number) {
                own = Some((user_id, membership));
            } else if self.view.rooms.local(&user_id).is_some() {
                let room = self.view.room.number.0;
                Change::Membership { room, user_id, membership }.log_in(&mut self.transaction);
            }
        }
        self.note_relation(event).await?;
        self.note_early_relations(event).await?;
        let redacted = self.apply_redaction(event).await?;
        self.redacted.extend(redacted.map(EventNumber));
        self.apply_early_redaction(event).await?;
        let (room, number) = (self.view.room.number.0, event.number.0);
        Change::Event { room, number, member: own, redacted }.log_in(&mut self.transaction);
        if event.event_type == TimelineEventType::RoomGuestAccess && !event.lets_guests_in() {
            Change::GuestsRefused { room }.log_in(&mut self.transaction);
        }
        Ok(())
    }

    /// A state with an event in it.
    pub(super) async fn with_event(
        &mut self,
        state: StateRoot,
        event: &Event,
    ) -> Result<StateRoot, RoomError> {
        let state_key = event.state_key.as_deref().unwrap_or_default();
        let id = self.state_key_id(&event.event_type, state_key).await?;
        let updated = state::update(&self.nodes(), state, &[(id, Some(event.state_number()))]).await?;
        self.nodes.extend(updated.nodes);
        Ok(updated.root)
    }

    /// What a state event replaces in the state before it.
    pub(super) async fn replaced_by(&self, event: &Event) -> Result<Option<Arc<Event>>, RoomError> {
        let name = (event.event_type.to_string(), event.state_key.as_deref().unwrap_or_default());
        Ok(self.stored_state(event.state_before(), &[name]).await?.pop().flatten())
    }
}

/// What became of an event before; `None` for one that is known only because others are authorised by it.
pub(super) fn already_decided(known: &Event) -> Option<Received> {
    match (known.is_outlier(), known.is_rejected()) {
        (false, _) => Some(Received::Known),
        (true, true) => {
            Some(Received::Rejected(String::from("the events that authorise it do not allow it")))
        }
        (true, false) => None,
    }
}

/// Whether the events that one names allow it.
pub(super) fn check_by_auth_events(
    rules: &ruma::room_version_rules::AuthorizationRules,
    event: &Event,
    auth_events: &[Arc<Event>],
    create: Option<&Arc<Event>>,
) -> Result<(), String> {
    let by_id = |id: &ruma::EventId| auth_events.iter().find(|auth_event| auth_event.event_id == *id);
    state_res::check_state_independent_auth_rules(rules, event, |id| by_id(id).or(create_of(create, id)))?;
    if event.event_type == TimelineEventType::RoomCreate {
        return Ok(());
    }
    let mut state: BTreeMap<(String, &str), &Arc<Event>> = BTreeMap::new();
    for auth_event in auth_events {
        let state_key = auth_event.state_key.as_deref().unwrap_or_default();
        state.insert((state_type(&auth_event.event_type).to_string(), state_key), auth_event);
    }
    state_res::check_state_dependent_auth_rules(rules, event, |event_type, state_key| {
        if *event_type == StateEventType::RoomCreate {
            return create;
        }
        state.get(&(event_type.to_string(), state_key)).copied()
    })
}

fn create_of<'a>(create: Option<&'a Arc<Event>>, id: &ruma::EventId) -> Option<&'a Arc<Event>> {
    create.filter(|create| create.event_id == *id)
}
