//! Where in a timeline a position of the log is.

use entente_environment::Environment;
use entente_rooms::{
    Draft, KEYSPACES, NewRoom, Preset, RoomNumber, Rooms, Settings, TimelinePlace, object, state::EventNumber,
};
use entente_storage::{Catalogue, Position, Schema, Store, engine::memory::Disk};
use ruma::{events::TimelineEventType, server_name, user_id};
use serde_json::json;

/// More than is looked through one by one.
const MESSAGES: i64 = 300;

#[tokio::test]
async fn every_position_is_found() {
    let schema = Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
    let store = Store::open(Disk::new().open().unwrap(), schema).await.unwrap();
    let name = server_name!("example.org").to_owned();
    let rooms = Rooms::open(store.clone(), Environment::system(), name, Settings::default()).await.unwrap();
    let alice = user_id!("@alice:example.org");
    let other = rooms.create_room(NewRoom::new(alice.to_owned(), Preset::Private)).await.unwrap();
    let before = store.published();
    let room = rooms.create_room(NewRoom::new(alice.to_owned(), Preset::Private)).await.unwrap();
    let first = rooms.view(&room).await.unwrap().timeline_end().await.unwrap();
    let mut places = vec![(before, TimelinePlace(EventNumber(0))), (store.published(), first)];
    for number in 0..MESSAGES {
        // What happens elsewhere lies between.
        for room_id in [&room, &other] {
            let content = object(json!({ "body": number.to_string() })).unwrap();
            let draft = Draft::message(alice, TimelineEventType::RoomMessage, content);
            rooms.send(room_id, draft).await.unwrap();
            let place = TimelinePlace(EventNumber(first.0.0 + number + 1));
            places.push((store.published(), place));
        }
    }
    let view = rooms.view(&room).await.unwrap();
    assert_ne!(view.room.number, RoomNumber(0));
    places.push((Position::start(), TimelinePlace(EventNumber(0))));
    for (position, place) in places {
        assert_eq!(view.place_at(&position).await.unwrap(), place, "{position}");
    }
}
