//! Servers that reach each other without a network.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use entente_environment::{Environment, ManualClock, Randomness, Timestamp};
use entente_federation::{
    Asked, EventAt, FederationError, JoinRequest, KeyRing, KnownKey, KnownKeys, MembershipTemplate, Peers,
    ReceivedInvite, SendJoin, SharedRooms, StateAnswer, StateIdsAnswer, Transaction, WantedKeys,
};
use entente_rooms::{
    Direction, Draft, Event, KEYSPACES, NewRoom, Preset, Profile, ROOM_VERSIONS, RoomError, Rooms, Settings,
    object,
};
use entente_storage::{Bytes, Catalogue, Schema, Store, engine::memory::Disk};
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
    RoomVersionId, ServerName, UserId,
    events::{StateEventType, TimelineEventType},
    signatures::hash_and_sign_event,
};
use serde_json::{Value, json};

/// Servers by name, and between which of them nothing passes.
#[derive(Default)]
pub(crate) struct Network {
    homes: Mutex<BTreeMap<OwnedServerName, (Rooms, SharedRooms)>>,
    down: Mutex<BTreeSet<OwnedServerName>>,
    /// What a server answers instead of what it has: by endpoint, and the events that were asked for.
    pub(crate) lies: Mutex<Option<Lie>>,
    /// Until when servers' keys are good that are not good for ever, in ms since 1970.
    pub(crate) keys_end: Mutex<BTreeMap<OwnedServerName, u64>>,
    /// What was asked: server and endpoint.
    pub(crate) asked: Mutex<Vec<(String, &'static str)>>,
}

/// An answer that is made up.
pub(crate) type Lie = Box<dyn Fn(&str, &[OwnedEventId]) -> Option<Vec<CanonicalJsonObject>> + Send>;

/// What one server sees of the others.
struct Link {
    network: Arc<Network>,
    own: OwnedServerName,
}

/// A server with its rooms.
pub(crate) struct Home {
    pub(crate) rooms: Rooms,
    pub(crate) shared: SharedRooms,
    clock: Arc<ManualClock>,
    network: Arc<Network>,
}

impl Network {
    pub(crate) fn cut_off(&self, home: &Home) {
        self.down.lock().insert(home.rooms.server_name().to_owned());
    }

    pub(crate) fn connect(&self) {
        self.down.lock().clear();
    }
}

impl Home {
    pub(crate) async fn new(network: &Arc<Network>, name: &str, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
        let environment = Environment::new(clock.clone(), Randomness::from_seed(seed));
        let schema = Schema { version: 1, catalogue: Catalogue::new(KEYSPACES), migrations: Vec::new() };
        let store = Store::open(Disk::new().open().unwrap(), schema).await.unwrap();
        let own = ServerName::parse(name).unwrap();
        let rooms = Rooms::open(store, environment, own.clone(), Settings::default()).await.unwrap();
        let link = Arc::new(Link { network: Arc::clone(network), own: own.clone() });
        let shared = SharedRooms::new(rooms.clone(), link.clone(), link);
        network.homes.lock().insert(own, (rooms.clone(), shared.clone()));
        Self { rooms, shared, clock, network: Arc::clone(network) }
    }

    pub(crate) fn user(&self, name: &str) -> OwnedUserId {
        UserId::parse_with_server_name(name, self.rooms.server_name()).unwrap()
    }

    pub(crate) async fn create(
        &self,
        creator: &UserId,
        version: RoomVersionId,
        preset: Preset,
    ) -> OwnedRoomId {
        let mut new = NewRoom::new(creator.to_owned(), preset);
        new.version = Some(version);
        self.rooms.create_room(new).await.unwrap()
    }

    pub(crate) fn request(room_id: &RoomId, user_id: &UserId, through: &Home) -> JoinRequest {
        JoinRequest {
            room_id: room_id.to_owned(),
            user_id: user_id.to_owned(),
            profile: Profile { displayname: Some(user_id.localpart().to_owned()), avatar_url: None },
            reason: None,
            servers: vec![through.rooms.server_name().to_owned()],
        }
    }

    pub(crate) async fn join(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        through: &Home,
    ) -> Result<(), FederationError> {
        self.shared.join(&Self::request(room_id, user_id, through)).await
    }

    pub(crate) async fn say(&self, room: &RoomId, sender: &UserId, text: &str) -> OwnedEventId {
        self.clock.advance(Duration::from_millis(10));
        let content = object(json!({ "msgtype": "m.text", "body": text })).unwrap();
        let draft = Draft::message(sender, TimelineEventType::RoomMessage, content);
        self.rooms.send(room, draft).await.unwrap()
    }

    pub(crate) async fn set(
        &self,
        room: &RoomId,
        sender: &UserId,
        event_type: &str,
        state_key: &str,
        content: Value,
    ) -> Result<OwnedEventId, RoomError> {
        self.clock.advance(Duration::from_millis(10));
        let event_type = StateEventType::from(event_type);
        self.rooms.send(room, Draft::state(sender, event_type, state_key, object(content).unwrap())).await
    }

    pub(crate) async fn event(&self, room: &RoomId, event_id: &EventId) -> CanonicalJsonObject {
        let view = self.rooms.view(room).await.unwrap();
        parsed(view.event_by_id(event_id).await.unwrap().unwrap().json())
    }

    /// Sends events of a room to another server. Answers what that refused.
    pub(crate) async fn deliver(&self, to: &Home, room: &RoomId, events: &[OwnedEventId]) -> Vec<String> {
        self.try_to_deliver(to, room, events).await.unwrap()
    }

    /// The same, unless the other server wants all of it again.
    pub(crate) async fn try_to_deliver(
        &self,
        to: &Home,
        room: &RoomId,
        events: &[OwnedEventId],
    ) -> Result<Vec<String>, FederationError> {
        let mut pdus = Vec::new();
        for event_id in events {
            pdus.push(self.event(room, event_id).await);
        }
        let origin = self.rooms.server_name().to_owned();
        let transaction_id = format!("{}", self.clock_millis());
        self.clock.advance(Duration::from_millis(1));
        let answer = to.shared.receive(Transaction { origin, transaction_id, pdus }).await?;
        Ok(answer.values().filter_map(|outcome| outcome.clone().err()).collect())
    }

    /// Signs an event of this server's users anew, whatever it says.
    pub(crate) fn resign(&self, event: CanonicalJsonObject, version: &RoomVersionId) -> CanonicalJsonObject {
        let mut event = event;
        for field in ["signatures", "hashes", "unsigned"] {
            event.remove(field);
        }
        let rules = version.rules().unwrap();
        let key = self.rooms.signing_keys().current();
        let own = self.rooms.server_name().as_str();
        hash_and_sign_event(own, &*key, &mut event, &rules.redaction).unwrap();
        event
    }

    /// Sends what may be no events at all to another server. Answers how many it took.
    pub(crate) async fn press(&self, to: &Home, pdus: Vec<CanonicalJsonObject>) -> usize {
        let origin = self.rooms.server_name().to_owned();
        let transaction_id = format!("pressed {}", self.clock_millis());
        self.clock.advance(Duration::from_millis(1));
        let answer = to.shared.receive(Transaction { origin, transaction_id, pdus }).await.unwrap();
        answer.values().filter(|outcome| outcome.is_ok()).count()
    }

    fn clock_millis(&self) -> u64 {
        use entente_environment::Clock;
        self.clock.now().millis()
    }

    pub(crate) async fn state(&self, room: &RoomId) -> BTreeMap<(String, String), OwnedEventId> {
        let view = self.rooms.view(room).await.unwrap();
        let events = view.full_state(view.current_state().await.unwrap()).await.unwrap();
        let entry = |event: &Arc<Event>| {
            let key = (event.event_type.to_string(), event.state_key.clone().unwrap());
            (key, event.event_id.clone())
        };
        events.iter().map(entry).collect()
    }
}

pub(crate) fn parsed(json: &[u8]) -> CanonicalJsonObject {
    serde_json::from_slice(json).unwrap()
}

fn all(events: &[Bytes]) -> Vec<CanonicalJsonObject> {
    events.iter().map(|json| parsed(json)).collect()
}

fn jsons(events: &[Arc<Event>]) -> Vec<CanonicalJsonObject> {
    events.iter().map(|event| parsed(event.json())).collect()
}

fn ids(events: &[Arc<Event>]) -> Vec<OwnedEventId> {
    events.iter().map(|event| event.event_id.clone()).collect()
}

impl Link {
    fn lie(&self, endpoint: &str, asked: &[OwnedEventId]) -> Option<Vec<CanonicalJsonObject>> {
        self.network.lies.lock().as_ref().and_then(|lie| lie(endpoint, asked))
    }

    fn ask(
        &self,
        server: &ServerName,
        endpoint: &'static str,
    ) -> Result<(Rooms, SharedRooms), FederationError> {
        self.network.asked.lock().push((server.to_string(), endpoint));
        let down = self.network.down.lock();
        let unreachable =
            || FederationError::Unreachable { server: server.to_owned(), reason: String::from("cut off") };
        if down.contains(server) || down.contains(&self.own) {
            return Err(unreachable());
        }
        self.network.homes.lock().get(server).cloned().ok_or_else(unreachable)
    }
}

/// What a refusal looks like from outside.
fn status(server: &ServerName, error: &FederationError) -> FederationError {
    FederationError::Status {
        server: server.to_owned(),
        status: 403,
        errcode: String::from("M_FORBIDDEN"),
        message: error.to_string(),
        retry_after: None,
    }
}

impl Peers for Link {
    fn make_membership<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user_id: &'a UserId,
        membership: &'a str,
    ) -> Asked<'a, MembershipTemplate> {
        async move {
            let (_, shared) = self.ask(server, "make_membership")?;
            let template =
                shared.make_membership(&self.own, room_id, user_id, membership, &ROOM_VERSIONS).await;
            let template = template.map_err(|error| status(server, &error))?;
            Ok(MembershipTemplate { version: template.version, event: template.event })
        }
        .boxed()
    }

    fn send_join<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: &'a CanonicalJsonObject,
        omit_members: bool,
    ) -> Asked<'a, SendJoin> {
        async move {
            let (_, shared) = self.ask(server, "send_join")?;
            let answer = shared.accept_join(&self.own, room_id, event_id, event.clone(), omit_members).await;
            let answer = answer.map_err(|error| status(server, &error))?;
            Ok(SendJoin {
                state: all(&answer.state),
                auth_chain: all(&answer.auth_chain),
                event: Some(answer.event),
                omits_members: answer.servers.is_some(),
            })
        }
        .boxed()
    }

    fn send_leave<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: &'a CanonicalJsonObject,
    ) -> Asked<'a, ()> {
        async move {
            let (_, shared) = self.ask(server, "send_leave")?;
            shared.accept_leave(&self.own, room_id, event_id, event.clone()).await
        }
        .boxed()
    }

    fn send_knock<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: &'a CanonicalJsonObject,
    ) -> Asked<'a, Vec<CanonicalJsonObject>> {
        async move {
            let (_, shared) = self.ask(server, "send_knock")?;
            Ok(all(&shared.accept_knock(&self.own, room_id, event_id, event.clone()).await?))
        }
        .boxed()
    }

    fn invite<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        version: &'a RoomVersionId,
        event: &'a CanonicalJsonObject,
        told: &'a [CanonicalJsonObject],
    ) -> Asked<'a, CanonicalJsonObject> {
        async move {
            let (_, shared) = self.ask(server, "invite")?;
            let invite = ReceivedInvite {
                origin: self.own.clone(),
                room_id: room_id.to_owned(),
                event_id: event_id.to_owned(),
                version: version.clone(),
                event: event.clone(),
                told: told.to_vec(),
            };
            shared.accept_invite(invite).await
        }
        .boxed()
    }

    fn missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        earliest: &'a [OwnedEventId],
        latest: &'a [OwnedEventId],
        limit: usize,
    ) -> Asked<'a, Vec<CanonicalJsonObject>> {
        async move {
            let (_, shared) = self.ask(server, "missing_events")?;
            if let Some(lie) = self.lie("missing_events", latest) {
                return Ok(lie);
            }
            let view = shared.readable_view(&self.own, room_id).await?;
            Ok(jsons(&view.events_between(earliest, latest, 0, limit.min(20)).await?))
        }
        .boxed()
    }

    fn backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        from: &'a [OwnedEventId],
        limit: usize,
    ) -> Asked<'a, Vec<CanonicalJsonObject>> {
        async move {
            let (_, shared) = self.ask(server, "backfill")?;
            if let Some(lie) = self.lie("backfill", from) {
                return Ok(lie);
            }
            let view = shared.readable_view(&self.own, room_id).await?;
            Ok(jsons(&view.history_before(from, limit).await?))
        }
        .boxed()
    }

    fn event<'a>(&'a self, server: &'a ServerName, event_id: &'a EventId) -> Asked<'a, CanonicalJsonObject> {
        async move {
            let (rooms, _) = self.ask(server, "event")?;
            let event = rooms.event_anywhere(event_id).await?;
            Ok(parsed(event.ok_or(RoomError::EventNotFound)?.1.json()))
        }
        .boxed()
    }

    fn event_at<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        at: u64,
        forward: bool,
    ) -> Asked<'a, EventAt> {
        async move {
            let (_, shared) = self.ask(server, "event_at")?;
            let view = shared.readable_view(&self.own, room_id).await?;
            let direction = if forward { Direction::Forward } else { Direction::Backward };
            let event = view.event_at_for_server(&self.own, at, direction).await?;
            let (event_id, origin_server_ts) = (event.event_id.clone(), event.origin_server_ts);
            Ok(EventAt { event_id, origin_server_ts })
        }
        .boxed()
    }

    fn state<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> Asked<'a, StateAnswer> {
        async move {
            let (_, shared) = self.ask(server, "state")?;
            let view = shared.readable_view(&self.own, room_id).await?;
            let (state, auth_chain) = view.state_before(event_id).await?;
            Ok(StateAnswer { state: jsons(&state), auth_chain: jsons(&auth_chain) })
        }
        .boxed()
    }

    fn state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> Asked<'a, StateIdsAnswer> {
        async move {
            let (_, shared) = self.ask(server, "state_ids")?;
            let view = shared.readable_view(&self.own, room_id).await?;
            let (state, auth_chain) = view.state_before(event_id).await?;
            Ok(StateIdsAnswer { state: ids(&state), auth_chain: ids(&auth_chain) })
        }
        .boxed()
    }

    fn event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> Asked<'a, Vec<CanonicalJsonObject>> {
        async move {
            let (_, shared) = self.ask(server, "event_auth")?;
            if let Some(lie) = self.lie("event_auth", &[event_id.to_owned()]) {
                return Ok(lie);
            }
            let view = shared.readable_view(&self.own, room_id).await?;
            Ok(jsons(&view.auth_chain_of(event_id).await?))
        }
        .boxed()
    }
}

impl KeyRing for Link {
    fn keys<'a>(&'a self, wanted: &'a [WantedKeys]) -> BoxFuture<'a, KnownKeys> {
        async move {
            let homes = self.network.homes.lock();
            let mut known = KnownKeys::new();
            for WantedKeys { server, .. } in wanted {
                if let Some((rooms, _)) = homes.get(server) {
                    let (key_id, key) = rooms.public_key();
                    let good_until = self.network.keys_end.lock().get(server).copied().unwrap_or(u64::MAX);
                    let key = KnownKey { key, good_until };
                    known.entry(server.clone()).or_default().insert(key_id, key);
                }
            }
            known
        }
        .boxed()
    }
}
