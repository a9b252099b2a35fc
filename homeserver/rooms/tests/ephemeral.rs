//! What passes in a room beside its timeline: who has read, who types. Under a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use entente_environment::{Environment, ManualClock, Randomness, Timestamp};
use entente_rooms::{
    Change, Draft, KEYSPACES, MembershipRequest, NewReceipt, NewRoom, Preset, Profile, Receipt, ReceiptType,
    RoomError, Rooms, Settings, TOPIC, object,
};
use entente_storage::{Catalogue, Position, Schema, Store, engine::memory::Disk};
use ruma::{OwnedEventId, OwnedRoomId, UserId, events::TimelineEventType, server_name, user_id};
use serde_json::{Value, json};

fn alice() -> &'static UserId {
    user_id!("@alice:example.org")
}

fn bob() -> &'static UserId {
    user_id!("@bob:example.org")
}

/// A room that two users are in.
struct Home {
    store: Store,
    rooms: Rooms,
    clock: Arc<ManualClock>,
    room: OwnedRoomId,
}

impl Home {
    async fn new(disk: &Disk) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
        let (store, rooms) = open(disk, &clock).await;
        let room = rooms.create_room(NewRoom::new(alice().to_owned(), Preset::Public)).await.unwrap();
        rooms.join(&room, &MembershipRequest::own(bob(), Profile::default(), None)).await.unwrap();
        Self { store, rooms, clock, room }
    }

    async fn send(&self, sender: &UserId, content: Value) -> OwnedEventId {
        let draft = Draft::message(sender, TimelineEventType::RoomMessage, object(content).unwrap());
        self.rooms.send(&self.room, draft).await.unwrap()
    }

    async fn say(&self, sender: &UserId) -> OwnedEventId {
        self.send(sender, json!({ "msgtype": "m.text", "body": "text" })).await
    }

    async fn related(&self, rel_type: &str, event_id: &OwnedEventId) -> OwnedEventId {
        let relates_to = json!({ "rel_type": rel_type, "event_id": event_id });
        self.send(alice(), json!({ "msgtype": "m.text", "body": "text", "m.relates_to": relates_to })).await
    }

    async fn read(
        &self,
        user_id: &UserId,
        receipt_type: ReceiptType,
        thread: Option<&str>,
        event_id: &OwnedEventId,
    ) -> Result<(), RoomError> {
        let thread = thread.map(str::to_owned);
        let receipt = NewReceipt { receipt_type, thread, event_id: event_id.clone() };
        self.rooms.acknowledge(&self.room, user_id, &[receipt]).await
    }

    async fn receipts(&self, reader: &UserId, since: Option<&Position>) -> Vec<Receipt> {
        self.rooms.view(&self.room).await.unwrap().receipts(reader, since).await.unwrap()
    }

    async fn typing(&self) -> Vec<String> {
        let view = self.rooms.view(&self.room).await.unwrap();
        let now = Timestamp(1_700_000_000_000).after(self.elapsed());
        view.typing(now).await.unwrap().iter().map(ToString::to_string).collect()
    }

    fn elapsed(&self) -> Duration {
        use entente_environment::Clock;
        self.clock.now().since(Timestamp(1_700_000_000_000))
    }

    /// How often the log told since a position that who types has changed.
    async fn typing_told(&self, since: &Position) -> usize {
        let (records, _) = self.store.read_log(since, 1_000).await.unwrap();
        let entries = records.iter().flat_map(|record| &record.entries).filter(|entry| entry.topic == TOPIC);
        let changes = entries.map(|entry| Change::from_payload(&entry.payload).unwrap());
        changes.filter(|change| matches!(change, Change::Typing { .. })).count()
    }
}

async fn open(disk: &Disk, clock: &Arc<ManualClock>) -> (Store, Rooms) {
    let schema = Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
    let store = Store::open(disk.open().unwrap(), schema).await.unwrap();
    let environment = Environment::new(clock.clone(), Randomness::from_seed(1));
    let name = server_name!("example.org").to_owned();
    let rooms = Rooms::open(store.clone(), environment, name, Settings::default()).await.unwrap();
    (store, rooms)
}

#[tokio::test]
async fn receipts_move_forward_and_come_once() {
    let home = Home::new(&Disk::new()).await;
    let (first, second) = (home.say(alice()).await, home.say(alice()).await);
    let start = home.store.published();
    home.read(bob(), ReceiptType::Read, None, &first).await.unwrap();
    let between = home.store.published();
    home.clock.advance(Duration::from_secs(1));
    home.read(bob(), ReceiptType::Read, None, &second).await.unwrap();
    let end = home.store.published();
    home.read(bob(), ReceiptType::Read, None, &first).await.unwrap();
    home.read(bob(), ReceiptType::Read, None, &second).await.unwrap();
    assert_eq!(home.store.published(), end, "an older one and the same one change nothing");
    let expected = [Receipt {
        user_id: bob().to_string(),
        receipt_type: ReceiptType::Read,
        thread: None,
        event_id: second.to_string(),
        ts: 1_700_000_001_000,
    }];
    for since in [None, Some(&start), Some(&between)] {
        assert_eq!(home.receipts(alice(), since).await, expected);
    }
    assert_eq!(home.receipts(alice(), Some(&end)).await, []);
    let markers = home.rooms.view(&home.room).await.unwrap().read_up_to(bob()).await.unwrap();
    let newest = home.rooms.view(&home.room).await.unwrap().number_of(&second).await.unwrap();
    assert_eq!((markers.unthreaded, markers.main), (newest, None));
}

#[tokio::test]
async fn private_receipts_are_their_readers_own() {
    let home = Home::new(&Disk::new()).await;
    let event = home.say(alice()).await;
    let start = home.store.published();
    home.read(bob(), ReceiptType::ReadPrivate, Some("main"), &event).await.unwrap();
    for since in [None, Some(&start)] {
        assert_eq!(home.receipts(alice(), since).await, []);
        assert_eq!(home.receipts(bob(), since).await.len(), 1);
    }
    let markers = home.rooms.view(&home.room).await.unwrap().read_up_to(bob()).await.unwrap();
    assert!(markers.main.is_some() && markers.unthreaded.is_none());
}

#[tokio::test]
async fn a_receipt_belongs_to_the_thread_of_its_event() {
    let home = Home::new(&Disk::new()).await;
    let (root, other) = (home.say(alice()).await, home.say(alice()).await);
    let reply = home.related("m.thread", &root).await;
    let edit = home.related("m.replace", &reply).await;
    let edit_of_other = home.related("m.replace", &other).await;
    let thread = root.as_str();
    for (thread, event, is_in) in [
        (thread, &root, true),
        (thread, &reply, true),
        (thread, &edit, true),
        (thread, &other, false),
        (thread, &edit_of_other, false),
        ("main", &root, true),
        ("main", &other, true),
        ("main", &edit_of_other, true),
        ("main", &reply, false),
        ("main", &edit, false),
        (other.as_str(), &reply, false),
    ] {
        let outcome = home.read(bob(), ReceiptType::Read, Some(thread), event).await;
        match outcome {
            Ok(()) => assert!(is_in, "{event} is not in {thread}"),
            Err(RoomError::InvalidParameter(_)) => assert!(!is_in, "{event} is in {thread}"),
            Err(error) => panic!("{error}"),
        }
    }
    let markers = home.rooms.view(&home.room).await.unwrap().read_up_to(bob()).await.unwrap();
    let view = home.rooms.view(&home.room).await.unwrap();
    assert_eq!(markers.in_thread(Some(thread)), view.number_of(&edit).await.unwrap());
    assert_eq!(markers.in_thread(None), view.number_of(&edit_of_other).await.unwrap());
}

#[tokio::test]
async fn only_who_is_in_the_room_reads_and_types() {
    let home = Home::new(&Disk::new()).await;
    let event = home.say(alice()).await;
    home.rooms.begin_typing(&home.room, bob(), Duration::from_secs(30)).await.unwrap();
    assert_eq!(home.typing().await, [bob().as_str()]);
    home.rooms.leave(&home.room, bob(), None).await.unwrap();
    assert_eq!(home.typing().await, Vec::<String>::new(), "who left types no more");
    let refused = home.read(bob(), ReceiptType::Read, None, &event).await;
    assert!(matches!(refused, Err(RoomError::Forbidden(_))));
    let refused = home.rooms.begin_typing(&home.room, bob(), Duration::from_secs(30)).await;
    assert!(matches!(refused, Err(RoomError::Forbidden(_))));
}

#[tokio::test]
async fn typing_is_told_when_it_begins_and_when_it_ends() {
    let home = Home::new(&Disk::new()).await;
    let begin = async || home.rooms.begin_typing(&home.room, bob(), Duration::from_secs(30)).await.unwrap();
    let now = || Timestamp(1_700_000_000_000).after(home.elapsed());
    let start = home.store.published();
    begin().await;
    assert_eq!(home.typing().await, [bob().as_str()]);
    assert_eq!(home.typing_told(&start).await, 1);
    home.clock.advance(Duration::from_secs(20));
    begin().await;
    assert_eq!(home.typing_told(&start).await, 1, "that it goes on is not told");
    home.clock.advance(Duration::from_secs(20));
    home.rooms.end_typing(now()).await.unwrap();
    assert_eq!(home.typing().await, [bob().as_str()], "what was renewed lasts longer");
    assert_eq!(home.typing_told(&start).await, 1);
    home.clock.advance(Duration::from_secs(10));
    assert_eq!(home.typing().await, Vec::<String>::new());
    home.rooms.end_typing(now()).await.unwrap();
    home.rooms.end_typing(now()).await.unwrap();
    assert_eq!(home.typing_told(&start).await, 2, "the end is told once");
    // By its own word, twice: told once.
    begin().await;
    for _ in 0..2 {
        home.rooms.cease_typing(&home.room, bob()).await.unwrap();
    }
    assert_eq!(home.typing_told(&start).await, 4);
    // By a message of one's own, not by that of another.
    begin().await;
    home.say(alice()).await;
    assert_eq!(home.typing().await, [bob().as_str()]);
    home.say(bob()).await;
    assert_eq!(home.typing().await, Vec::<String>::new());
    assert_eq!(home.typing_told(&start).await, 6);
}

#[tokio::test]
async fn nobody_types_longer_than_two_minutes() {
    let home = Home::new(&Disk::new()).await;
    home.rooms.begin_typing(&home.room, bob(), Duration::from_secs(100_000)).await.unwrap();
    home.clock.advance(Duration::from_secs(119));
    assert_eq!(home.typing().await, [bob().as_str()]);
    home.clock.advance(Duration::from_secs(1));
    assert_eq!(home.typing().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_next_process_ends_what_a_crash_left() {
    let disk = Disk::new();
    let home = Home::new(&disk).await;
    home.rooms.begin_typing(&home.room, bob(), Duration::from_secs(30)).await.unwrap();
    let start = home.store.published();
    let Home { store, rooms, clock, room } = home;
    store.close().await.unwrap();
    drop((store, rooms));
    clock.advance(Duration::from_secs(40));
    let (store, rooms) = open(&disk, &clock).await;
    let home = Home { store, rooms, clock, room };
    // Nobody asks for it: the process looks by itself.
    let mut watch = home.store.watch();
    tokio::time::timeout(Duration::from_secs(30), watch.beyond(&start)).await.unwrap().unwrap();
    assert_eq!(home.typing_told(&start).await, 1);
    assert_eq!(home.typing().await, Vec::<String>::new());
}
