//! A server that is the policy server of its own rooms (S-S API, "Policy Servers"; MSC4284).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod network;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use entente_federation::SharedRooms;
use entente_rooms::{PolicyRefusal, PolicyServers, Preset, RoomError};
use futures_util::future::{BoxFuture, FutureExt};
use ruma::{CanonicalJsonObject, OwnedServerName, RoomVersionId, ServerName};
use serde_json::json;

use self::network::{Home, Network};

/// Asks a server that is within reach.
struct Asking {
    own: OwnedServerName,
    policy_server: SharedRooms,
    asked: AtomicUsize,
}

impl std::fmt::Debug for Asking {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Asking").field("own", &self.own).finish_non_exhaustive()
    }
}

impl PolicyServers for Asking {
    fn sign<'a>(
        &'a self,
        _: &'a ServerName,
        event: &'a CanonicalJsonObject,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, PolicyRefusal>> {
        async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let signed = self.policy_server.sign_as_policy_server(&self.own, event.clone()).await;
            signed.map_err(|error| PolicyRefusal {
                status: 403,
                errcode: String::from("M_FORBIDDEN"),
                message: error.to_string(),
                retry_after: None,
            })
        }
        .boxed()
    }
}

fn asking(home: &Home, policy_server: &Home) -> Arc<Asking> {
    let own = home.rooms.server_name().to_owned();
    let asking = Asking { own, policy_server: policy_server.shared.clone(), asked: AtomicUsize::new(0) };
    let asking = Arc::new(asking);
    home.rooms.ask_policy_servers_through(asking.clone());
    asking
}

fn is_signed(event: &CanonicalJsonObject) -> bool {
    let by = event["signatures"].as_object().unwrap().get("one.example");
    let by = by.and_then(|by| by.as_object());
    by.is_some_and(|by| by.contains_key("ed25519:policy_server"))
}

#[tokio::test]
async fn it_signs_for_rooms_of_its_users_what_they_allow() {
    let network = Arc::new(Network::default());
    let one = Home::new(&network, "one.example", 1).await;
    let other = Home::new(&network, "other.example", 2).await;
    let (alice, bob) = (one.user("alice"), other.user("bob"));
    let room = one.create(&alice, RoomVersionId::V12, Preset::Public).await;
    let asking = asking(&other, &one);
    other.join(&room, &bob, &one).await.unwrap();
    let key = one.rooms.public_key().1.encode();
    let named = json!({ "via": "one.example", "public_keys": { "ed25519": key } });
    let policy = one.set(&room, &alice, "m.room.policy", "", named.clone()).await.unwrap();
    assert_eq!(one.deliver(&other, &room, &[policy]).await, Vec::<String>::new());

    // What is said here it signs by itself, and others find its signature good without asking.
    let said = one.say(&room, &alice, "salut").await;
    assert!(is_signed(&one.event(&room, &said).await));
    assert_eq!(one.deliver(&other, &room, std::slice::from_ref(&said)).await, Vec::<String>::new());
    assert_eq!(asking.asked.load(Ordering::SeqCst), 0);
    assert!(is_signed(&other.event(&room, &said).await));
    // What is said elsewhere it is asked for.
    let answer = other.say(&room, &bob, "bonjour").await;
    assert_eq!(asking.asked.load(Ordering::SeqCst), 1);
    assert!(is_signed(&other.event(&room, &answer).await));
    assert_eq!(other.deliver(&one, &room, &[answer]).await, Vec::<String>::new());

    // It knows already that Bob is out; his own server does not yet.
    one.set(&room, &alice, "m.room.member", bob.as_str(), json!({ "membership": "ban" })).await.unwrap();
    let unsigned = other.event(&room, &said).await;
    let refused = one.shared.sign_as_policy_server(other.rooms.server_name(), unsigned).await;
    assert!(refused.is_err(), "Bob's server is out of the room");
}

#[tokio::test]
async fn it_does_not_sign_what_the_room_does_not_allow_any_more_nor_for_rooms_of_others() {
    let network = Arc::new(Network::default());
    let one = Home::new(&network, "one.example", 1).await;
    let other = Home::new(&network, "other.example", 2).await;
    let (alice, bob) = (one.user("alice"), other.user("bob"));
    let key = one.rooms.public_key().1.encode();
    let named = json!({ "via": "one.example", "public_keys": { "ed25519": key } });
    let asking = asking(&other, &one);

    // The room falls silent, which Bob's server has not heard yet.
    let room = one.create(&alice, RoomVersionId::V12, Preset::Public).await;
    other.join(&room, &bob, &one).await.unwrap();
    let policy = one.set(&room, &alice, "m.room.policy", "", named.clone()).await.unwrap();
    assert_eq!(one.deliver(&other, &room, &[policy]).await, Vec::<String>::new());
    one.set(&room, &alice, "m.room.power_levels", "", json!({ "events_default": 50 })).await.unwrap();
    let content = entente_rooms::object(json!({ "msgtype": "m.text", "body": "?" })).unwrap();
    let draft =
        entente_rooms::Draft::message(&bob, ruma::events::TimelineEventType::RoomMessage, content.clone());
    let refused = other.rooms.send(&room, draft).await;
    assert!(matches!(refused, Err(RoomError::PolicyRefused(_))), "{refused:?}");
    assert_eq!(asking.asked.load(Ordering::SeqCst), 1);

    // Nobody of this server put that room under it.
    let room = other.create(&bob, RoomVersionId::V12, Preset::Public).await;
    one.join(&room, &alice, &other).await.unwrap();
    let join = other.rooms.view(&room).await.unwrap().newest_events().await.unwrap();
    assert_eq!(other.deliver(&one, &room, &join).await, Vec::<String>::new());
    let policy = other.set(&room, &bob, "m.room.policy", "", named).await.unwrap();
    assert_eq!(other.deliver(&one, &room, &[policy]).await, Vec::<String>::new());
    let draft = entente_rooms::Draft::message(&bob, ruma::events::TimelineEventType::RoomMessage, content);
    let refused = other.rooms.send(&room, draft).await;
    assert!(matches!(refused, Err(RoomError::PolicyRefused(_))), "{refused:?}");
}
