//! What the state of a room of 100 000 members costs, on the embedded engine. See docs/benchmarks.md.

#![expect(clippy::print_stdout, reason = "a benchmark says what it measured")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use entente_rooms::{
    KEYSPACES, RoomNumber, StateStore,
    state::{EventNumber, Partition, StateKeyId, StateRoot, difference, entries, get_many, update},
};
use entente_storage::{Catalogue, Schema, Snapshot, Store, Transaction, engine::fjall};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const MEMBERS: u32 = 100_000;
const CHANGES: u32 = 1_000;
const ROOM: RoomNumber = RoomNumber(1);

fn member(index: u32) -> StateKeyId {
    StateKeyId { partition: Partition::Members, index }
}

/// Scatters the numbers below [`MEMBERS`].
fn scattered(number: u32) -> u32 {
    number.wrapping_mul(2_654_435_761) % MEMBERS
}

struct Room {
    runtime: Runtime,
    store: Store,
    /// The state after each change.
    states: Vec<StateRoot>,
    _directory: TempDir,
}

impl Room {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let directory = TempDir::new().expect("a directory can be made");
        let (store, states) = runtime.block_on(async {
            let engine = fjall::open(directory.path(), fjall::Options::default()).expect("the engine opens");
            let schema = Schema { catalogue: Catalogue::new(KEYSPACES), version: 1, migrations: Vec::new() };
            let store = Store::open(engine, schema).await.expect("the store opens");
            let everyone: Vec<_> =
                (0..MEMBERS).map(|index| (member(index), Some(EventNumber(i64::from(index))))).collect();
            let nodes = StateStore::new(100_000);
            let (mut root, _) = store_update(&store, &nodes, StateRoot::EMPTY, &everyone).await;
            let mut states = vec![root];
            let mut bytes = 0;
            for change in 0..CHANGES {
                let change = [(member(scattered(change)), Some(EventNumber(i64::from(MEMBERS + change))))];
                let written;
                (root, written) = store_update(&store, &nodes, root, &change).await;
                bytes += written;
                states.push(root);
            }
            println!("{} bytes of keys and values for a membership change\n", bytes / u64::from(CHANGES));
            (store, states)
        });
        Self { runtime, store, states, _directory: directory }
    }

    fn snapshot(&self) -> Snapshot {
        self.runtime.block_on(self.store.snapshot()).expect("a snapshot can be taken")
    }
}

/// Stores a changed state. Answers it, and the bytes of its new nodes with their keys.
async fn store_update(
    store: &Store,
    nodes: &StateStore,
    root: StateRoot,
    changes: &[(StateKeyId, Option<EventNumber>)],
) -> (StateRoot, u64) {
    const KEY_BYTES: usize = 2 + 8 + 16;
    let snapshot = store.snapshot().await.expect("a snapshot can be taken");
    let updated =
        update(&nodes.reader(&snapshot, ROOM), root, changes).await.expect("the state can be changed");
    let mut transaction = Transaction::new();
    nodes.put_in(&mut transaction, ROOM, &updated.nodes);
    store.commit(transaction).await.expect("the nodes are stored");
    let bytes: usize = updated.nodes.values().map(|node| node.encode().len() + KEY_BYTES).sum();
    (updated.root, bytes as u64)
}

fn state(criterion: &mut Criterion) {
    let room = Room::new();
    let snapshot = room.snapshot();
    let newest = room.states[room.states.len() - 1];
    // `warm` has all nodes in memory, `cold` none.
    for (name, in_memory) in [("warm", 100_000), ("cold", 0)] {
        let nodes = StateStore::new(in_memory);
        let reader = nodes.reader(&snapshot, ROOM);
        let mut group = criterion.benchmark_group(name);
        let mut next = 0;
        group.bench_function("look up 1 of 100000 members", |bencher| {
            bencher.iter(|| {
                next += 1;
                room.runtime.block_on(get_many(&reader, newest, black_box(&[member(scattered(next))])))
            });
        });
        group.bench_function("change 1 of 100000 members", |bencher| {
            bencher.iter(|| {
                next += 1;
                let change = [(member(scattered(next)), Some(EventNumber(i64::MAX)))];
                room.runtime.block_on(update(&reader, newest, black_box(&change)))
            });
        });
        group.bench_function("difference of 10 changes", |bencher| {
            bencher.iter(|| room.runtime.block_on(difference(&reader, room.states[500], room.states[510])));
        });
        group.bench_function("read all 100000 members", |bencher| {
            bencher.iter(|| room.runtime.block_on(entries(&reader, newest, Partition::Members)));
        });
        group.finish();
    }
}

criterion_group!(benches, state);
criterion_main!(benches);
