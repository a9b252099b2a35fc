//! What it costs that somebody comes, in a large room: looks into the store are counted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use entente_accounts::{Accounts, PresenceState};
use entente_encryption::Encryption;
use entente_environment::Environment;
use entente_rooms::{MembershipRequest, NewRoom, Preset, Profile, Rooms};
use entente_storage::{
    Bytes, Catalogue, Commit, Position, Schema, StorageError, Store, Transaction,
    engine::{Engine, EngineSnapshot, RowKey, RowPage, RowRange, memory::Disk},
};
use entente_sync::{Answer, StateMode, Sync, SyncRequest, SyncToken};
use futures_util::future::BoxFuture;
use ruma::{UserId, server_name, user_id};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Members of the room.
const MEMBERS: usize = 300;

/// An engine that counts what is read from it.
struct Counting {
    engine: Arc<dyn Engine>,
    reads: Arc<AtomicUsize>,
}

struct CountingSnapshot {
    snapshot: Arc<dyn EngineSnapshot>,
    reads: Arc<AtomicUsize>,
}

impl Engine for Counting {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Arc<dyn EngineSnapshot>, StorageError>> {
        Box::pin(async {
            let snapshot = self.engine.snapshot().await?;
            let counting = CountingSnapshot { snapshot, reads: Arc::clone(&self.reads) };
            Ok(Arc::new(counting) as Arc<dyn EngineSnapshot>)
        })
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Commit, StorageError>> {
        self.engine.commit(transaction)
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.engine.watch()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        self.engine.close()
    }
}

impl EngineSnapshot for CountingSnapshot {
    fn position(&self) -> BoxFuture<'_, Result<Position, StorageError>> {
        self.snapshot.position()
    }

    fn get_many(&self, keys: Vec<RowKey>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StorageError>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.snapshot.get_many(keys)
    }

    fn scan(&self, range: RowRange) -> BoxFuture<'_, Result<RowPage, StorageError>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.snapshot.scan(range)
    }
}

struct Home {
    accounts: Accounts,
    rooms: Rooms,
    sync: Sync,
    reads: Arc<AtomicUsize>,
}

async fn home() -> Home {
    let keyspaces = entente_accounts::KEYSPACES
        .into_iter()
        .chain(entente_encryption::KEYSPACES)
        .chain(entente_rooms::KEYSPACES);
    let schema = Schema { catalogue: Catalogue::new(keyspaces), version: 1, migrations: Vec::new() };
    let reads = Arc::new(AtomicUsize::new(0));
    let engine = Counting { engine: Disk::new().open().unwrap(), reads: Arc::clone(&reads) };
    let store = Store::open(Arc::new(engine), schema).await.unwrap();
    let name = server_name!("example.org").to_owned();
    let settings = entente_accounts::Settings::default();
    let environment = Environment::system();
    let accounts = Accounts::open(store.clone(), environment.clone(), name.clone(), settings).await.unwrap();
    let rooms = Rooms::open(store.clone(), environment.clone(), name, entente_rooms::Settings::default())
        .await
        .unwrap();
    let encryption = Encryption::new(store.clone());
    let minute = Duration::from_secs(60);
    let sync = Sync::new(environment, store, accounts.clone(), encryption, rooms.clone(), minute);
    tokio::spawn(sync.clone().follow());
    Home { accounts, rooms, sync, reads }
}

impl Home {
    async fn sync(&self, user_id: &UserId, since: Option<&str>, filter: Value) -> Value {
        let request = SyncRequest {
            user_id: user_id.to_owned(),
            device_id: "PHONE".into(),
            since: since.map(|since| SyncToken::parse(since).unwrap()),
            timeout: Duration::from_secs(60),
            full_state: false,
            state_mode: StateMode::Before,
            filter: self.sync.filter(filter.to_string().as_bytes()).unwrap(),
        };
        let Answer::Whole(json) = self.sync.sync(&request).await.unwrap() else {
            panic!("a long answer");
        };
        serde_json::from_slice(&json).unwrap()
    }
}

fn member(number: usize) -> ruma::OwnedUserId {
    UserId::parse(format!("@member{number}:example.org")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_somebody_comes_costs_a_large_room_nothing() {
    let home = Arc::new(home().await);
    let alice = user_id!("@alice:example.org");
    let room = home.rooms.create_room(NewRoom::new(alice.to_owned(), Preset::Public)).await.unwrap();
    for number in 0..MEMBERS {
        let join = MembershipRequest::own(&member(number), Profile::default(), None);
        home.rooms.join(&room, &join).await.unwrap();
    }
    // All but alice wait, and do not want to hear of presence.
    let none = json!({ "presence": { "types": [] }, "room": { "timeline": { "limit": 1 } } });
    let mut waiting = Vec::new();
    for number in 1..MEMBERS {
        let first = home.sync(&member(number), None, none.clone()).await;
        let (home, none) = (Arc::clone(&home), none.clone());
        waiting.push(tokio::spawn(async move {
            let since = first["next_batch"].as_str().unwrap();
            home.sync(&member(number), Some(since), none).await
        }));
    }
    let first = home.sync(alice, None, json!({})).await;
    let since = first["next_batch"].as_str().unwrap();
    let before = home.reads.load(Ordering::SeqCst);
    home.accounts.set_presence(&member(0), "PHONE", PresenceState::Online, Some("here")).await.unwrap();
    let told = home.sync(alice, Some(since), json!({})).await;
    let reads = home.reads.load(Ordering::SeqCst) - before;
    let events = told["presence"]["events"].as_array().unwrap();
    assert_eq!(events.len(), 1, "{told}");
    assert_eq!(events[0]["sender"], "@member0:example.org");
    assert_eq!(events[0]["content"]["status_msg"], "here");
    assert!(reads <= 12, "{reads} reads for one change and one answer");
    assert!(waiting.iter().all(|task| !task.is_finished()), "nobody else was answered");

    // What was told once is not told again, and what is missed is not lost.
    let since = told["next_batch"].as_str().unwrap().to_owned();
    home.accounts.set_presence(&member(0), "PHONE", PresenceState::Unavailable, None).await.unwrap();
    home.accounts.set_presence(&member(1), "PHONE", PresenceState::Online, None).await.unwrap();
    for _ in 0..2 {
        let told = home.sync(alice, Some(&since), json!({})).await;
        let states = |told: &Value| {
            let events = told["presence"]["events"].as_array().unwrap().clone();
            let state = |event: &Value| (event["sender"].clone(), event["content"]["presence"].clone());
            events.iter().map(state).collect::<Vec<_>>()
        };
        let expected = [
            (json!("@member0:example.org"), json!("unavailable")),
            (json!("@member1:example.org"), json!("online")),
        ];
        assert_eq!(states(&told), expected);
    }
}
