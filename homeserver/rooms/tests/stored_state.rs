//! State in the store: through commits, restarts, and a memory that is too small.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use entente_rooms::{
    KEYSPACES, RoomNumber, StateStore,
    state::{EventNumber, Partition, StateKeyId, StateRoot, entries, get_many, update},
};
use entente_storage::{Catalogue, Schema, Store, Transaction, engine::memory::Disk};

fn key(index: u32) -> StateKeyId {
    StateKeyId { partition: Partition::Members, index }
}

async fn open(disk: &Disk) -> Store {
    let schema = Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
    Store::open(disk.open().unwrap(), schema).await.unwrap()
}

async fn set(
    place: &Store,
    nodes: &StateStore,
    room: RoomNumber,
    before: StateRoot,
    index: u32,
    event: i64,
) -> StateRoot {
    let snapshot = place.snapshot().await.unwrap();
    let changes = [(key(index), Some(EventNumber(event)))];
    let updated = update(&nodes.reader(&snapshot, room), before, &changes).await.unwrap();
    let mut transaction = Transaction::new();
    nodes.put_in(&mut transaction, room, &updated.nodes);
    place.commit(transaction).await.unwrap();
    updated.root
}

#[tokio::test]
async fn rooms_keep_their_states_apart_and_over_restarts() {
    let disk = Disk::new();
    let store = open(&disk).await;
    // Less memory than one path needs: everything is read from the store again and again.
    let states = StateStore::new(2);
    let mut roots = [StateRoot::EMPTY; 2];
    for number in 0..300_u32 {
        for (room, root) in (0_u64..).zip(&mut roots) {
            let event = i64::from(number) * 10 + room.cast_signed();
            *root = set(&store, &states, RoomNumber(room), *root, number, event).await;
        }
    }
    assert_ne!(roots[0], roots[1]);
    store.close().await.unwrap();
    drop(store);
    let store = open(&disk).await;
    let snapshot = store.snapshot().await.unwrap();
    for (room, root) in (0_i64..).zip(roots) {
        for states in [StateStore::new(2), StateStore::new(10_000)] {
            let reader = states.reader(&snapshot, RoomNumber(room.cast_unsigned()));
            let all = entries(&reader, root, Partition::Members).await.unwrap();
            let expected =
                (0..300_u32).map(|number| (key(number), EventNumber(i64::from(number) * 10 + room)));
            assert!(all.into_iter().eq(expected));
            let found = get_many(&reader, root, &[key(7), key(300)]).await.unwrap();
            assert_eq!(found, [Some(EventNumber(70 + room)), None]);
        }
    }
    let other = StateStore::new(10);
    let stranger = other.reader(&snapshot, RoomNumber(2));
    assert!(get_many(&stranger, roots[0], &[key(0)]).await.is_err(), "a node is read in its own room only");
}
