//! Two servers in one process, for tests.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{collections::BTreeMap, sync::Arc};

use entente_environment::{Environment, ManualClock, Randomness, Timestamp};
use entente_rooms::{
    Draft, JoinedRoom, KEYSPACES, NewRoom, Pdu, Preset, Received, RoomError, Rooms, Settings, ToldState,
    VerifiedPdu, object,
};
use entente_storage::{Bytes, Catalogue, Schema, Store, engine::memory::Disk};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    signatures::PublicKeyMap,
};
use serde_json::{Value, json};

/// A server with its rooms.
pub(crate) struct Home {
    pub(crate) rooms: Rooms,
    pub(crate) store: Store,
    pub(crate) clock: Arc<ManualClock>,
}

/// Two servers, and a room of one that the other joined.
pub(crate) struct Shared {
    pub(crate) one: Home,
    pub(crate) other: Home,
    pub(crate) room: OwnedRoomId,
    pub(crate) rules: RoomVersionRules,
    pub(crate) keys: PublicKeyMap,
}

impl Home {
    pub(crate) async fn new(name: &str, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
        let environment = Environment::new(clock.clone(), Randomness::from_seed(seed));
        let schema = Schema { version: 1, catalogue: Catalogue::new(KEYSPACES), migrations: Vec::new() };
        let store = Store::open(Disk::new().open().unwrap(), schema).await.unwrap();
        let name = ServerName::parse(name).unwrap();
        let rooms = Rooms::open(store.clone(), environment, name, Settings::default()).await.unwrap();
        Self { rooms, store, clock }
    }

    pub(crate) fn user(&self, name: &str) -> OwnedUserId {
        UserId::parse_with_server_name(name, self.rooms.server_name()).unwrap()
    }

    pub(crate) async fn send(&self, room: &OwnedRoomId, draft: Draft) -> Result<OwnedEventId, RoomError> {
        self.clock.advance(std::time::Duration::from_millis(10));
        self.rooms.send(room, draft).await
    }

    pub(crate) async fn say(&self, room: &OwnedRoomId, sender: &UserId, text: &str) -> OwnedEventId {
        let content = object(json!({ "msgtype": "m.text", "body": text })).unwrap();
        self.send(room, Draft::message(sender, TimelineEventType::RoomMessage, content)).await.unwrap()
    }

    pub(crate) async fn set(
        &self,
        room: &OwnedRoomId,
        sender: &UserId,
        event_type: &str,
        state_key: &str,
        content: Value,
    ) -> Result<OwnedEventId, RoomError> {
        let event_type = StateEventType::from(event_type);
        self.send(room, Draft::state(sender, event_type, state_key, object(content).unwrap())).await
    }

    pub(crate) async fn json(&self, room: &OwnedRoomId, event_id: &OwnedEventId) -> Bytes {
        let view = self.rooms.view(room).await.unwrap();
        view.event_by_id(event_id).await.unwrap().unwrap().json().clone()
    }

    /// What stands under every key of the room's state.
    pub(crate) async fn state(&self, room: &OwnedRoomId) -> BTreeMap<(String, String), OwnedEventId> {
        let view = self.rooms.view(room).await.unwrap();
        let events = view.full_state(view.current_state().await.unwrap()).await.unwrap();
        let entry = |event: &Arc<entente_rooms::Event>| {
            let key = (event.event_type.to_string(), event.state_key.clone().unwrap());
            (key, event.event_id.clone())
        };
        events.iter().map(entry).collect()
    }
}

impl Shared {
    pub(crate) async fn new(version: &RoomVersionId) -> Self {
        let (one, other) = (Home::new("one.example", 1).await, Home::new("other.example", 2).await);
        let mut new = NewRoom::new(one.user("alice"), Preset::Public);
        new.version = Some(version.clone());
        let room = one.rooms.create_room(new).await.unwrap();
        let mut keys = PublicKeyMap::new();
        for home in [&one, &other] {
            let (name, key) = home.rooms.public_key();
            keys.insert(home.rooms.server_name().to_string(), [(name, key)].into());
        }
        Self { one, other, room, rules: version.rules().unwrap(), keys }
    }

    pub(crate) fn verified(&self, json: &[u8]) -> VerifiedPdu {
        let object: CanonicalJsonObject = serde_json::from_slice(json).unwrap();
        Pdu::new(object, &self.rules).unwrap().verify(&self.keys, &self.rules).unwrap()
    }

    /// Lets a user of the other server in, as their servers do it.
    pub(crate) async fn join(&self, user: &UserId) {
        self.join_at(user, &[&self.other]).await;
    }

    /// The same where several stand for the other server.
    pub(crate) async fn join_at(&self, user: &UserId, others: &[&Home]) {
        let (version, template) = self.one.rooms.membership_template(&self.room, user, "join").await.unwrap();
        let (event, event_id) = self.other.rooms.sign_template(template, &self.rules).unwrap();
        let event = self.verified(&serde_json::to_vec(&event).unwrap());
        assert_eq!(event.event_id, event_id);
        assert_eq!(self.one.rooms.receive(&self.room, &event).await.unwrap(), Received::Accepted);
        let answer = self.one.rooms.join_answer(&self.room, &event_id, false).await.unwrap();
        let told = self.told(answer.state.iter(), answer.auth_chain.iter());
        let joined = JoinedRoom { room_id: self.room.clone(), version, told, event };
        for other in others {
            other.rooms.take_over(&joined).await.unwrap();
        }
    }

    pub(crate) fn told<'a>(
        &self,
        state: impl Iterator<Item = &'a Bytes>,
        auth_chain: impl Iterator<Item = &'a Bytes>,
    ) -> ToldState {
        let mut events: Vec<VerifiedPdu> = state.map(|json| self.verified(json)).collect();
        let state = events.iter().map(|event| event.event_id.clone()).collect();
        events.extend(auth_chain.map(|json| self.verified(json)));
        ToldState { state, events }
    }

    /// Takes events in, as many in one transaction as can be. Answers what became of each.
    pub(crate) async fn take_together(&self, to: &Home, pdus: &[VerifiedPdu]) -> Vec<Received> {
        let mut outcomes = Vec::new();
        while outcomes.len() < pdus.len() {
            let rest = &pdus[outcomes.len()..];
            let received = to.rooms.receive_together(&self.room, &[rest]).await.unwrap().remove(0);
            outcomes.extend(received);
            if let Some(pdu) = pdus.get(outcomes.len()) {
                outcomes.push(to.rooms.receive(&self.room, pdu).await.unwrap());
            }
        }
        outcomes
    }

    pub(crate) async fn deliver(&self, from: &Home, to: &Home, events: &[OwnedEventId]) {
        for event_id in events {
            let pdu = self.verified(&from.json(&self.room, event_id).await);
            let received = to.rooms.receive(&self.room, &pdu).await.unwrap();
            assert!(
                !matches!(received, Received::MissingAuthEvents(_) | Received::MissingPrevEvents(_)),
                "{received:?}"
            );
        }
    }

    pub(crate) async fn assert_same_state(&self) {
        let (one, other) = (self.one.state(&self.room).await, self.other.state(&self.room).await);
        assert_eq!(one, other);
        for home in [&self.one, &self.other] {
            let view = home.rooms.view(&self.room).await.unwrap();
            let joined = one.keys().filter(|(event_type, _)| event_type == "m.room.member").count() as u64;
            let members = view.joined_members().await.unwrap().len() as u64;
            assert_eq!(view.member_counts().await.unwrap().0, members);
            assert!(members <= joined);
        }
    }
}
