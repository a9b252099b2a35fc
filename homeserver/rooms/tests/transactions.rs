//! What was sent already is not sent again, and not remembered for ever either.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod servers;

use std::time::Duration;

use entente_rooms::{Draft, SendingDevice, object};
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId, events::TimelineEventType};
use serde_json::json;

use self::servers::{Home, Shared};

const HOUR: Duration = Duration::from_secs(60 * 60);

async fn send(home: &Home, room: &OwnedRoomId, transaction_id: &str) -> OwnedEventId {
    let content = object(json!({ "body": transaction_id })).unwrap();
    let draft = Draft::message(&home.user("alice"), TimelineEventType::RoomMessage, content);
    let device = SendingDevice { device_id: "PHONE".to_owned(), transaction_id: transaction_id.to_owned() };
    home.send(room, Draft { device: Some(device), ..draft }).await.unwrap()
}

#[tokio::test]
async fn transaction_ids_are_remembered_for_three_days() {
    let Shared { one: home, room, .. } = Shared::new(&RoomVersionId::V12).await;
    let first = send(&home, &room, "first").await;
    home.clock.advance(47 * HOUR);
    let second = send(&home, &room, "second").await;
    home.clock.advance(24 * HOUR);
    assert_eq!(home.rooms.forget_transactions().await.unwrap(), 0);
    assert_eq!(send(&home, &room, "first").await, first);
    home.clock.advance(2 * HOUR);
    assert_eq!(home.rooms.forget_transactions().await.unwrap(), 1);
    assert_eq!(send(&home, &room, "second").await, second);
    let again = send(&home, &room, "first").await;
    assert_ne!(again, first, "it means something new");
    assert_eq!(send(&home, &room, "first").await, again);
    // The event itself still says as what it was sent.
    let view = home.rooms.view(&room).await.unwrap();
    let event = view.event_by_id(&first).await.unwrap().unwrap();
    assert_eq!(event.transaction_id_of(&home.user("alice"), "PHONE"), Some("first"));
}

/// More rows than are looked at at once.
#[tokio::test]
async fn however_many_there_are() {
    let Shared { one: home, room, .. } = Shared::new(&RoomVersionId::V12).await;
    for number in 0..1_100 {
        send(&home, &room, &number.to_string()).await;
    }
    home.clock.advance(73 * HOUR);
    let kept = send(&home, &room, "kept").await;
    assert_eq!(home.rooms.forget_transactions().await.unwrap(), 1_100);
    assert_eq!(send(&home, &room, "kept").await, kept);
}
