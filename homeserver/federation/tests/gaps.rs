//! What a server missed: while it was out of a room, and before it came into one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod network;

use std::sync::Arc;

use entente_rooms::{Direction, EventFilter, Preset};
use ruma::{OwnedEventId, RoomId, RoomVersionId, UserId};
use serde_json::json;

use self::network::{Home, Network};

/// What a reader sees written, the oldest first, by pages of 20: in a room whose gaps are filled as they are read, if so wished.
async fn read(home: &Home, room: &RoomId, reader: &UserId, fill: bool) -> Vec<String> {
    let mut place = home.rooms.view(room).await.unwrap().timeline_end().await.unwrap();
    let mut said = Vec::new();
    loop {
        if fill {
            home.shared.fill_gap(room, place, 20).await.unwrap();
        }
        let view = home.rooms.view(room).await.unwrap();
        let filter = EventFilter::default();
        let page = view.timeline(reader, place, None, Direction::Backward, 20, &filter).await.unwrap();
        for seen in &page.events {
            let content: serde_json::Value = seen.event.content_as().unwrap();
            said.extend(content["body"].as_str().map(str::to_owned));
        }
        match page.end {
            Some(end) => place = end,
            None => break,
        }
    }
    said.reverse();
    said
}

async fn newest(home: &Home, room: &RoomId) -> Vec<OwnedEventId> {
    home.rooms.view(room).await.unwrap().newest_events().await.unwrap()
}

/// Two servers in a room that one of them leaves while much happens, and comes into again.
struct Return {
    network: Arc<Network>,
    one: Home,
    other: Home,
    room: ruma::OwnedRoomId,
    bob: ruma::OwnedUserId,
    before: Vec<String>,
    missed: Vec<String>,
    after: Vec<String>,
}

impl Return {
    async fn of_room_with(history_visibility: &str) -> Self {
        let network = Arc::new(Network::default());
        let one = Home::new(&network, "one.example", 1).await;
        let other = Home::new(&network, "other.example", 2).await;
        let (alice, bob) = (one.user("alice"), other.user("bob"));
        let room = one.create(&alice, RoomVersionId::V12, Preset::Public).await;
        let visibility = json!({ "history_visibility": history_visibility });
        one.set(&room, &alice, "m.room.history_visibility", "", visibility).await.unwrap();
        other.join(&room, &bob, &one).await.unwrap();
        let (mut before, mut missed, mut after) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..5 {
            before.push(format!("before {number}"));
            let said = one.say(&room, &alice, &format!("before {number}")).await;
            assert_eq!(one.deliver(&other, &room, &[said]).await, Vec::<String>::new());
        }
        other.rooms.leave(&room, &bob, None).await.unwrap();
        let left = newest(&other, &room).await;
        assert_eq!(other.deliver(&one, &room, &left).await, Vec::<String>::new());
        for number in 0..130 {
            missed.push(format!("missed {number}"));
            one.say(&room, &alice, &format!("missed {number}")).await;
            if number == 60 {
                one.set(&room, &alice, "m.room.name", "", json!({ "name": "Conseil" })).await.unwrap();
            }
        }
        network.asked.lock().clear();
        other.join(&room, &bob, &one).await.unwrap();
        for number in 0..3 {
            after.push(format!("after {number}"));
            let said = one.say(&room, &alice, &format!("after {number}")).await;
            assert_eq!(one.deliver(&other, &room, &[said]).await, Vec::<String>::new());
        }
        Self { network, one, other, room, bob, before, missed, after }
    }

    fn asked(&self, endpoint: &str) -> usize {
        self.network.asked.lock().iter().filter(|(_, asked)| *asked == endpoint).count()
    }
}

#[tokio::test]
async fn what_was_missed_is_read_between_what_was_heard_before_and_after() {
    let scene = Return::of_room_with("shared").await;
    let Return { one, other, room, bob, before, missed, after, .. } = &scene;
    assert_eq!(read(other, room, bob, false).await, [before.as_slice(), after].concat());
    let all = [before.as_slice(), missed, after].concat();
    assert_eq!(read(other, room, bob, true).await, all);
    assert!(scene.asked("backfill") > 1, "it comes as it is read");
    assert_eq!(read(other, room, bob, false).await, all, "it is there now");
    assert_eq!(one.state(room).await, other.state(room).await);

    // The gap is closed: nobody is asked any more, and new events come behind all of it.
    scene.network.asked.lock().clear();
    assert_eq!(read(other, room, bob, true).await, all);
    assert_eq!(scene.asked("backfill"), 0);
    other.say(room, bob, "at last").await;
    assert_eq!(read(other, room, bob, true).await, [all, vec![String::from("at last")]].concat());
}

#[tokio::test]
async fn what_was_said_while_nobody_here_was_in_the_room_is_shown_if_its_history_is() {
    let scene = Return::of_room_with("joined").await;
    let Return { other, room, bob, before, after, .. } = &scene;
    let seen = [before.as_slice(), after].concat();
    assert_eq!(read(other, room, bob, true).await, seen);
    assert!(scene.asked("backfill") > 1, "it was fetched, and is not for him");
}

#[tokio::test]
async fn memberships_that_are_known_are_not_told_again() {
    let scene = Return::of_room_with("shared").await;
    assert_eq!(scene.one.state(&scene.room).await, scene.other.state(&scene.room).await);
    assert_eq!((scene.asked("state_ids"), scene.asked("state")), (1, 0), "only what is new is asked for");
    let members = scene.other.rooms.view(&scene.room).await.unwrap().member_counts().await.unwrap();
    assert_eq!(members, (2, 0));

    // A server to which the room is new gets all of it at once.
    let third = Home::new(&scene.network, "third.example", 3).await;
    scene.network.asked.lock().clear();
    third.join(&scene.room, &third.user("dora"), &scene.one).await.unwrap();
    assert_eq!((scene.asked("state_ids"), scene.asked("state")), (0, 0));
    assert_eq!(scene.one.state(&scene.room).await, third.state(&scene.room).await);
}

#[tokio::test]
async fn places_are_found_on_both_sides_of_what_was_filled_in_later() {
    let scene = Return::of_room_with("shared").await;
    let Return { other, room, bob, .. } = &scene;
    let position = async || other.rooms.view(room).await.unwrap().position().await.unwrap();
    let behind_return = position().await;
    let place = other.rooms.view(room).await.unwrap().timeline_end().await.unwrap();
    read(other, room, bob, true).await;
    // So much that the place is not near the end any more.
    for number in 0..60 {
        other.say(room, bob, &format!("much later {number}")).await;
    }
    let view = other.rooms.view(room).await.unwrap();
    assert_eq!(
        view.place_at(&behind_return).await.unwrap(),
        place,
        "not before what came later into the gap"
    );
}

/// An event that was made before a server came into a room, and reaches it later, leads back to what it does not know.
#[tokio::test]
async fn what_came_before_a_server_does_not_come_behind_what_it_heard() {
    let network = Arc::new(Network::default());
    let one = Home::new(&network, "one.example", 1).await;
    let other = Home::new(&network, "other.example", 2).await;
    let third = Home::new(&network, "third.example", 3).await;
    let (alice, bob, dora) = (one.user("alice"), other.user("bob"), third.user("dora"));
    let room = one.create(&alice, RoomVersionId::V12, Preset::Public).await;
    third.join(&room, &dora, &one).await.unwrap();
    let mut past = Vec::new();
    for number in 0..5 {
        past.push(format!("past {number}"));
        let said = one.say(&room, &alice, &format!("past {number}")).await;
        assert_eq!(one.deliver(&third, &room, &[said]).await, Vec::<String>::new());
    }
    // Dora says something that nobody hears yet; Bob comes in meanwhile.
    let unheard = third.say(&room, &dora, "meanwhile").await;
    other.join(&room, &bob, &one).await.unwrap();
    let join = newest(&one, &room).await;
    assert_eq!(one.deliver(&third, &room, &join).await, Vec::<String>::new());
    other.say(&room, &bob, "bonjour").await;
    assert_eq!(third.deliver(&other, &room, &[unheard]).await, Vec::<String>::new());
    assert_eq!(read(&other, &room, &bob, true).await, ["bonjour", "meanwhile"]);
    while other.shared.fetch_past(&room, 20).await.unwrap() > 0 {}
    let all = [past, vec![String::from("bonjour"), String::from("meanwhile")]].concat();
    assert_eq!(read(&other, &room, &bob, true).await, all);
}
