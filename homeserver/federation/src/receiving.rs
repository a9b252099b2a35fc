//! Events that other servers send (S-S API, "Transactions", "Receiving a PDU").

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use entente_rooms::{
    Chapter, Received, RoomError, RoomView, TimelinePlace, ToldState, VerifiedPdu, state::EventNumber,
};
use futures_util::{FutureExt, StreamExt, stream};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};

use crate::{
    FederationError, SharedRooms,
    past::OLDEST,
    together::Run,
    turns::Turn,
    verification::{verify, verify_good},
};

/// Events that are asked for at once to close a gap.
const MOST_BETWEEN: usize = 50;
/// Events of a gap for which the state before them is asked.
const MOST_STATES: usize = 5;
/// Events of a state that are fetched one by one; when more are unknown the whole state is.
const MOST_SINGLE: usize = 30;
/// Events that are fetched at the same time.
const AT_ONCE: usize = 5;

/// How long events of a room wait for it to be joined. Then they are to be sent again.
const LONGEST_JOIN: Duration = Duration::from_secs(30);
/// Before what an event names is asked for again of a server that could not be asked.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(1_100), Duration::from_millis(2_200), Duration::from_millis(4_400)];
/// So often an event is left to its server to send again because what it names could not be asked for. Then it is refused, so that
/// it does not hold up what comes behind it for ever.
const MOST_POSTPONED: u32 = 8;

/// Who sent it, and under which id.
pub(crate) type TransactionKey = (OwnedServerName, String);
/// What became of its events: why they were refused.
pub type TransactionAnswer = Arc<BTreeMap<OwnedEventId, Result<(), String>>>;

/// The same of one event.
type EventAnswer = (OwnedEventId, Result<(), String>);

/// The events of a transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Who sends it.
    pub origin: OwnedServerName,
    /// Its id: it is taken in once.
    pub transaction_id: String,
    /// The events, of any rooms.
    pub pdus: Vec<CanonicalJsonObject>,
}

impl SharedRooms {
    /// Takes in the events of a transaction. Answers for each, as far as its id can be told, whether it was taken, or why not.
    pub async fn receive(&self, transaction: Transaction) -> Result<TransactionAnswer, FederationError> {
        let Transaction { origin, transaction_id, pdus } = transaction;
        let key = (origin, transaction_id);
        if let Some(answer) = self.inner.transactions.get(&key) {
            return Ok(answer);
        }
        let mut by_room: BTreeMap<OwnedRoomId, Vec<CanonicalJsonObject>> = BTreeMap::new();
        for pdu in pdus {
            let room_id = pdu.get("room_id").and_then(|room_id| room_id.as_str());
            if let Some(room_id) = room_id.and_then(|room_id| RoomId::parse(room_id).ok()) {
                by_room.entry(room_id).or_default().push(pdu);
            } else {
                tracing::info!(origin = %key.0, "an event without a room is left out");
            }
        }
        let mut rooms = Vec::with_capacity(by_room.len());
        for (room_id, events) in by_room {
            rooms.push(self.receive_in(&key.0, room_id, events).boxed());
        }
        let answers: Vec<_> = stream::iter(rooms).buffer_unordered(AT_ONCE).collect().await;
        let mut answer = BTreeMap::new();
        for of_room in answers {
            answer.extend(of_room?);
        }
        let answer = Arc::new(answer);
        self.inner.transactions.insert(key, Arc::clone(&answer));
        Ok(answer)
    }

    /// Takes in events of one room, in their order.
    async fn receive_in(
        &self,
        origin: &ServerName,
        room_id: OwnedRoomId,
        events: Vec<CanonicalJsonObject>,
    ) -> Result<Vec<EventAnswer>, FederationError> {
        let Some(view) = self.view_for_events(origin, &room_id).await? else {
            tracing::info!(%origin, %room_id, "events of a room that nobody here is in are left out");
            return Ok(Vec::new());
        };
        let is_allowed = view.require_allowed(origin).await;
        let mut pdus = Vec::with_capacity(events.len());
        for verified in verify(&*self.inner.keys, &view.room.rules, events).await? {
            match verified {
                Ok(pdu) => pdus.push(pdu),
                Err(error) => tracing::info!(%origin, %room_id, %error, "an event is refused"),
            }
        }
        let _turn = self.turn(&room_id, origin).await;
        match is_allowed {
            Ok(()) => self.fit_in_all(origin, &room_id, Run::new(pdus)).await,
            Err(error) => {
                let refused =
                    |pdu: VerifiedPdu| logged(origin, &room_id, pdu.event_id, Err(error.to_string()));
                Ok(pdus.into_iter().map(refused).collect())
            }
        }
    }

    /// Takes in events in their order: together as far as nothing has to be asked for, and one by one where something has.
    async fn fit_in_all(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        mut run: Run,
    ) -> Result<Vec<EventAnswer>, FederationError> {
        let mut answers = Vec::with_capacity(run.rest().len());
        loop {
            for (event_id, received) in self.take_together(room_id, &mut run).await? {
                let answer = match received {
                    Received::Rejected(reason) => Err(reason),
                    _ => Ok(()),
                };
                answers.push(logged(origin, room_id, event_id, answer));
            }
            let Some(pdu) = run.take_next() else { break };
            let outcome = self.fit_in_patiently(origin, room_id, &pdu).await;
            let answer = match outcome {
                Ok(Received::Rejected(reason)) => Err(reason),
                Ok(Received::MissingAuthEvents(missing) | Received::MissingPrevEvents(missing)) => {
                    Err(format!("{} events that it names cannot be had", missing.len()))
                }
                Ok(_) => Ok(()),
                // The sender is to try again: what was taken in so far is known then.
                Err(FederationError::Storage(error) | FederationError::Room(RoomError::Storage(error))) => {
                    return Err(error.into());
                }
                // The same: an event that is refused is not sent again.
                Err(error) if error.may_pass() && self.may_be_postponed(&pdu.event_id) => {
                    tracing::info!(%origin, %room_id, event_id = %pdu.event_id, %error, "an event is left to its server to send again");
                    return Err(error);
                }
                Err(error) => Err(error.to_string()),
            };
            answers.push(logged(origin, room_id, pdu.event_id, answer));
        }
        Ok(answers)
    }

    /// A room that somebody here is in. One that is just being joined is waited for: the others in it may speak before the one through
    /// which it is joined has told of it.
    async fn view_for_events(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<Option<RoomView>, FederationError> {
        let mut has_waited = false;
        loop {
            match self.inner.rooms.view(room_id).await {
                Ok(view) if view.is_resident().await? => return Ok(Some(view)),
                Ok(_) | Err(RoomError::RoomNotFound) if has_waited => return Ok(None),
                Ok(_) | Err(RoomError::RoomNotFound) => {}
                Err(error) => return Err(error.into()),
            }
            let joined = tokio::time::timeout(LONGEST_JOIN, self.inner.asking.take(room_id.as_str()));
            joined.await.map_err(|_| FederationError::TimedOut(origin.to_owned()))?;
            has_waited = true;
        }
    }

    /// Waits until nothing else of a server is being taken into a room: its events keep their order, and a slow one delays no other.
    pub(crate) async fn turn(&self, room_id: &RoomId, origin: &ServerName) -> Turn<'_> {
        self.inner.receiving.take(&format!("{room_id} {origin}")).await
    }

    /// The same as [`Self::fit_in`], again when a server could not be asked for a moment.
    async fn fit_in_patiently(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
    ) -> Result<Received, FederationError> {
        for pause in PAUSES {
            match self.fit_in(origin, room_id, pdu).await {
                Err(error) if error.may_pass_soon() => {
                    tracing::debug!(%origin, %room_id, event_id = %pdu.event_id, %error, "an event waits for what it names");
                    tokio::time::sleep(pause).await;
                }
                outcome => return outcome,
            }
        }
        self.fit_in(origin, room_id, pdu).await
    }

    /// Whether the server that sent an event may be told to send it again, which is counted.
    fn may_be_postponed(&self, event_id: &OwnedEventId) -> bool {
        let postponed = self.inner.postponed.get(event_id).unwrap_or_default();
        self.inner.postponed.insert(event_id.clone(), postponed.saturating_add(1));
        postponed < MOST_POSTPONED
    }

    /// Takes in one event; what it names and is not known is asked of the server that sent it. Whoever calls has that server's turn.
    pub(crate) async fn fit_in(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
    ) -> Result<Received, FederationError> {
        let received = self.fit_in_known(origin, room_id, pdu).await?;
        if !matches!(received, Received::MissingPrevEvents(_)) {
            return Ok(received);
        }
        if let Some(received) = self.fit_in_past(origin, room_id, pdu).await? {
            return Ok(received);
        }
        self.close_gap(origin, room_id, pdu).await?;
        let received = self.fit_in_known(origin, room_id, pdu).await?;
        if !matches!(received, Received::MissingPrevEvents(_)) {
            return Ok(received);
        }
        self.fit_in_with_state(origin, room_id, pdu).await
    }

    /// Takes in one event; what authorises it and is not known is asked for.
    async fn fit_in_known(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
    ) -> Result<Received, FederationError> {
        let received = self.inner.rooms.receive(room_id, pdu).await?;
        if !matches!(received, Received::MissingAuthEvents(_)) {
            return Ok(received);
        }
        let rules = self.inner.rooms.view(room_id).await?.room.rules.clone();
        let events = self.inner.peers.event_auth(origin, room_id, &pdu.event_id).await?;
        let events = verify_good(&*self.inner.keys, &rules, events).await?;
        self.inner.rooms.receive_auth_events(room_id, &events).await?;
        Ok(self.inner.rooms.receive(room_id, pdu).await?)
    }

    /// Puts a sticky event before the room's beginning here, or into its newest gap, if it belongs there. What lies between is asked for
    /// when somebody reads it.
    async fn fit_in_past(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
    ) -> Result<Option<Received>, FederationError> {
        let view = self.inner.rooms.view(room_id).await?;
        let newest = view.gap_before(TimelinePlace(EventNumber(i64::MAX))).await?.map(|gap| gap.behind);
        let gap = match newest {
            _ if view.is_sticky_before(pdu, EventNumber(0)).await? => None,
            Some(behind) if view.is_sticky_before(pdu, behind).await? => newest,
            _ => return Ok(None),
        };
        let told = vec![(pdu.event_id.clone(), self.told_state(origin, room_id, &pdu.event_id).await?)];
        let chapter = Chapter { events: vec![pdu.clone()], told, gap };
        Ok(Some(match self.inner.rooms.add_history(room_id, &chapter).await? {
            0 => Received::Rejected(String::from("what authorises it cannot be had")),
            _ => Received::Accepted,
        }))
    }

    /// Asks for the events between those that are known and one that came.
    async fn close_gap(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
    ) -> Result<(), FederationError> {
        let view = self.inner.rooms.view(room_id).await?;
        let earliest = view.newest_events().await?;
        let latest = std::slice::from_ref(&pdu.event_id);
        let events =
            self.inner.peers.missing_events(origin, room_id, &earliest, latest, MOST_BETWEEN).await?;
        let mut events = verify_good(&*self.inner.keys, &view.room.rules, events).await?;
        // A gap in a young room may reach back to before this server came in, which is no part of what came since: it is fetched when
        // somebody reads so far.
        self.leave_out_past(&view, &mut events).await?;
        events.truncate(MOST_BETWEEN);
        events.sort_by_key(|event| event.depth);
        let mut states = 0;
        let mut run = Run::new(events);
        loop {
            self.take_together(room_id, &mut run).await?;
            let Some(event) = run.take_next() else { break };
            let received = self.fit_in_known(origin, room_id, &event).await?;
            if matches!(received, Received::MissingPrevEvents(_)) && states < MOST_STATES {
                states += 1;
                self.fit_in_with_state(origin, room_id, &event).await?;
            }
        }
        Ok(())
    }

    /// Leaves out of the events of a gap the room's beginning, and those that came before the ones by which this server came into the
    /// room.
    async fn leave_out_past(
        &self,
        view: &RoomView,
        events: &mut Vec<VerifiedPdu>,
    ) -> Result<(), FederationError> {
        let mut past: HashSet<OwnedEventId> = HashSet::new();
        for event in view.events_at_edges(OLDEST).await? {
            past.extend(view.unplaced_of(event.prev_events()).await?);
        }
        // Their order is not to be trusted: one by one, until there are no more.
        while let Some(at) =
            events.iter().position(|event| event.prev_events.is_empty() || past.contains(&event.event_id))
        {
            past.extend(events.swap_remove(at).prev_events);
        }
        Ok(())
    }

    /// Takes in an event with the state before it as the server tells it.
    async fn fit_in_with_state(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
    ) -> Result<Received, FederationError> {
        let told = self.told_state(origin, room_id, &pdu.event_id).await?;
        Ok(self.inner.rooms.receive_with_state(room_id, pdu, &told).await?)
    }

    /// The state before an event as another server tells it: only what is not known here is fetched.
    pub(crate) async fn told_state(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &OwnedEventId,
    ) -> Result<ToldState, FederationError> {
        let view = self.inner.rooms.view(room_id).await?;
        let ids = self.inner.peers.state_ids(server, room_id, event_id).await?;
        let all = [ids.state.as_slice(), &ids.auth_chain].concat();
        let unknown = view.unknown_of(&all).await?;
        let events = if unknown.len() > MOST_SINGLE {
            let answer = self.inner.peers.state(server, room_id, event_id).await?;
            [answer.state, answer.auth_chain].concat()
        } else {
            let mut asked = Vec::with_capacity(unknown.len());
            for event_id in &unknown {
                asked.push(self.inner.peers.event(server, event_id));
            }
            let answers: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
            answers.into_iter().collect::<Result<_, _>>()?
        };
        let mut events = verify_good(&*self.inner.keys, &view.room.rules, events).await?;
        events.retain(|event| unknown.contains(&event.event_id));
        Ok(ToldState { state: ids.state, events })
    }
}

/// An answer for an event, with a line in the log if that is refused.
fn logged(
    origin: &ServerName,
    room_id: &RoomId,
    event_id: OwnedEventId,
    answer: Result<(), String>,
) -> EventAnswer {
    if let Err(reason) = &answer {
        tracing::info!(%origin, %room_id, %event_id, %reason, "an event is refused");
    }
    (event_id, answer)
}
