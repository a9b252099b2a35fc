//! The room list and the timeline as Element X has them: `matrix-sdk-ui` over sliding sync, with a connection for rooms and one for
//! encryption.

#![recursion_limit = "256"]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, time::Duration};

use entente_sdk_tests::{PASSWORD, Person, eventually};
use entente_tests::{Server, User, segment};
use matrix_sdk::{
    Client, RoomState,
    encryption::EncryptionSettings,
    ruma::{RoomId, events::room::message::RoomMessageEventContent},
};
use matrix_sdk_ui::{
    sync_service::SyncService,
    timeline::{RoomExt, Timeline},
};
use serde_json::{Value, json};

/// What of a room a list shows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    name: Option<String>,
    topic: Option<String>,
    joined: u64,
    invited: u64,
    unread: u64,
}

async fn log_in(server: &Server, name: &str) -> (Client, SyncService) {
    let settings = EncryptionSettings { auto_enable_cross_signing: true, ..EncryptionSettings::default() };
    let builder = Client::builder().homeserver_url(&server.base_url).with_encryption_settings(settings);
    let client = builder.build().await.unwrap();
    client.matrix_auth().login_username(name, PASSWORD).send().await.unwrap();
    client.encryption().wait_for_e2ee_initialization_tasks().await;
    let service = SyncService::builder(client.clone()).build().await.unwrap();
    service.start().await;
    (client, service)
}

/// Everything that the client knows of its user's rooms, and to which they are invited.
fn shown(client: &Client) -> (BTreeMap<String, Shown>, Vec<String>) {
    let mut joined = BTreeMap::new();
    for room in client.joined_rooms() {
        let shown = Shown {
            name: room.name(),
            topic: room.topic(),
            joined: room.joined_members_count(),
            invited: room.invited_members_count(),
            unread: room.unread_notification_counts().notification_count,
        };
        joined.insert(room.room_id().to_string(), shown);
    }
    let mut invited: Vec<String> =
        client.invited_rooms().iter().map(|room| room.room_id().to_string()).collect();
    invited.sort_unstable();
    (joined, invited)
}

/// The same as `/v3/sync` tells it.
fn expected(sync: &Value) -> (BTreeMap<String, Shown>, Vec<String>) {
    let empty = serde_json::Map::new();
    let mut joined = BTreeMap::new();
    for (room_id, room) in sync["rooms"]["join"].as_object().unwrap_or(&empty) {
        let events =
            room["state"]["events"].as_array().into_iter().chain(room["timeline"]["events"].as_array());
        let mut state = BTreeMap::new();
        for event in events.flatten().filter(|event| event.get("state_key").is_some()) {
            state.insert(event["type"].as_str().unwrap(), &event["content"]);
        }
        let text = |event_type: &str, field: &str| {
            state.get(event_type).and_then(|content| content[field].as_str()).map(str::to_owned)
        };
        let shown = Shown {
            name: text("m.room.name", "name"),
            topic: text("m.room.topic", "topic"),
            joined: room["summary"]["m.joined_member_count"].as_u64().unwrap(),
            invited: room["summary"]["m.invited_member_count"].as_u64().unwrap(),
            unread: room["unread_notifications"]["notification_count"].as_u64().unwrap(),
        };
        joined.insert(room_id.clone(), shown);
    }
    let mut invited: Vec<String> =
        sync["rooms"]["invite"].as_object().unwrap_or(&empty).keys().cloned().collect();
    invited.sort_unstable();
    (joined, invited)
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// Does something in one of the rooms; `alice` is the one who looks on.
async fn do_something(dice: &mut Dice, alice: &User, bob: &User, rooms: &mut Vec<String>) {
    if rooms.is_empty() || dice.below(50) == 0 {
        let body = json!({ "name": format!("Salle {}", rooms.len()), "preset": "public_chat", "invite": [alice.id] });
        rooms.push(bob.create_room(body).await);
        return;
    }
    let room = &rooms[dice.below(rooms.len())];
    let target = json!({ "user_id": alice.id });
    match dice.below(20) {
        0..=8 => drop(bob.say(room, &format!("message {}", dice.below(1_000))).await),
        9 => drop(bob.say(room, "alice: regarde").await),
        10 | 11 => drop(alice.join(room).await),
        12 => drop(alice.membership(room, "leave", json!({})).await),
        13 => drop(bob.membership(room, "invite", target).await),
        14 => drop(bob.membership(room, "kick", target).await),
        15 => {
            let name = json!({ "name": format!("Nom {}", dice.below(1_000)) });
            bob.set_state(room, "m.room.name", "", name).await.ok();
        }
        16 => {
            let topic = json!({ "topic": format!("Sujet {}", dice.below(1_000)) });
            bob.set_state(room, "m.room.topic", "", topic).await.ok();
        }
        _ => {
            let page = alice.get(&User::in_room(room, "messages?dir=b&limit=3")).await;
            if let Some(event) = page.body["chunk"].as_array().and_then(|chunk| chunk.last()) {
                let event_id = segment(event["event_id"].as_str().unwrap());
                alice.post(&User::in_room(room, &format!("receipt/m.read/{event_id}")), &json!({})).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_list_stays_right_through_a_thousand_operations() {
    let server = Server::open();
    let bob = User::register(&server, "bob").await;
    let alice = User::register(&server, "alice").await;
    let (client, service) = log_in(&server, "alice").await;
    let mut dice = Dice(23);
    let mut rooms = Vec::new();
    for _ in 0..10 {
        for _ in 0..100 {
            do_something(&mut dice, &alice, &bob, &mut rooms).await;
        }
        let filter = json!({ "room": { "timeline": { "limit": 1 } } }).to_string();
        let truth = expected(&alice.sync(&[("filter", &filter)]).await);
        for _ in 0..1_200 {
            if shown(&client) == truth {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(shown(&client), truth);
    }
    assert!(client.joined_rooms().len() > 3 && rooms.len() > 10, "something happened");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_read_in_timelines_encrypted_ones_too() {
    let server = Server::open();
    server.register("bob", PASSWORD).await;
    server.register("alice", PASSWORD).await;
    let bob = Person::log_in(&server, "bob", "phone").await;
    let (client, service) = log_in(&server, "alice").await;
    let encryption =
        json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let caller = server.caller(&bob.client.access_token().unwrap());
    let body =
        json!({ "name": "Secret", "invite": [client.user_id().unwrap()], "initial_state": [encryption] });
    let created = caller.post("/_matrix/client/v3/createRoom", &body).await.ok();
    let room_id = RoomId::parse(created["room_id"].as_str().unwrap()).unwrap();
    // The client has a room before it has read what came of it.
    let invited = eventually("the invite with its name", || async {
        let room = client.get_room(&room_id).filter(|room| room.state() == RoomState::Invited)?;
        (room.name()? == "Secret").then_some(room)
    })
    .await;
    invited.join().await.unwrap();
    let in_bobs = bob.room(&room_id).await;
    eventually("the guest", || async { (in_bobs.joined_members_count() == 2).then_some(()) }).await;
    service.room_list_service().subscribe_to_rooms(&[&room_id]).await;
    let room = eventually("the room", || async {
        client.get_room(&room_id).filter(|room| room.state() == RoomState::Joined)
    })
    .await;
    let timeline = room.timeline().await.unwrap();
    in_bobs.send(RoomMessageEventContent::text_plain("le secret")).await.unwrap();
    eventually("the message", || async {
        texts(&timeline).await.contains(&"le secret".to_owned()).then_some(())
    })
    .await;
    let answer = RoomMessageEventContent::text_plain("bien reçu");
    timeline.send(answer.into()).await.unwrap();
    let from_alice = eventually("the answer", || async {
        let texts = texts(&timeline).await;
        texts.contains(&"bien reçu".to_owned()).then_some(())
    });
    from_alice.await;
    let read = bob.reads_from(client.user_id().unwrap(), "bien reçu").await;
    assert!(read.encrypted);
    service.stop().await;
}

async fn texts(timeline: &Timeline) -> Vec<String> {
    let items = timeline.items().await;
    let messages = items.iter().filter_map(|item| item.as_event()?.content().as_message());
    messages.map(|message| message.body().to_owned()).collect()
}
