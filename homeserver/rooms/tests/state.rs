//! The state map against a plain map, and what its changes cost.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use entente_rooms::state::{
    Change, EventNumber, InvalidNode, Node, NodeHash, NodeSource, Partition, StateKeyId, StateRoot,
    difference, entries, get_many, update,
};
use proptest::prelude::*;

type Plain = BTreeMap<StateKeyId, EventNumber>;

/// Nodes in memory, that counts how often it is asked.
#[derive(Default)]
struct Memory {
    nodes: BTreeMap<NodeHash, Vec<u8>>,
    rounds: AtomicUsize,
    loaded: AtomicUsize,
}

impl NodeSource for Memory {
    type Error = InvalidNode;

    async fn load(&self, names: &[NodeHash]) -> Result<Vec<Node>, InvalidNode> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.loaded.fetch_add(names.len(), Ordering::Relaxed);
        names.iter().map(|name| Node::decode(self.nodes.get(name).ok_or(InvalidNode)?)).collect()
    }
}

impl Memory {
    async fn update(&mut self, root: StateRoot, changes: &[(StateKeyId, Option<EventNumber>)]) -> StateRoot {
        let updated = update(self, root, changes).await.unwrap();
        for (name, node) in updated.nodes {
            assert_eq!(name, node.hash());
            self.nodes.insert(name, node.encode());
        }
        let root = StateRoot::decode(&updated.root.encode()).unwrap();
        assert_eq!(root, updated.root);
        root
    }

    async fn all(&self, root: StateRoot) -> Plain {
        let mut all = Plain::new();
        for partition in [Partition::Settings, Partition::Members] {
            let entries = entries(self, root, partition).await.unwrap();
            assert!(entries.is_sorted());
            all.extend(entries);
        }
        all
    }
}

fn key() -> impl Strategy<Value = StateKeyId> {
    let partition = prop_oneof![Just(Partition::Settings), Just(Partition::Members)];
    let index = prop_oneof![4 => 0..40_u32, 3 => 0..3_000_u32, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    (partition, index).prop_map(|(partition, index)| StateKeyId { partition, index })
}

fn changes() -> impl Strategy<Value = Vec<(StateKeyId, Option<EventNumber>)>> {
    let event = prop_oneof![1 => Just(None), 3 => any::<i64>().prop_map(|number| Some(EventNumber(number)))];
    prop::collection::vec((key(), event), 0..12)
}

fn apply(plain: &mut Plain, changes: &[(StateKeyId, Option<EventNumber>)]) {
    for &(key, event) in changes {
        match event {
            Some(event) => plain.insert(key, event),
            None => plain.remove(&key),
        };
    }
}

fn plain_difference(before: &Plain, after: &Plain) -> Vec<Change> {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let change = |key| Change { key, before: before.get(&key).copied(), after: after.get(&key).copied() };
    keys.into_iter().map(change).filter(|change| change.before != change.after).collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).unwrap()
}

proptest! {
    #[test]
    fn it_is_a_map(history in prop::collection::vec(changes(), 1..12), probes in prop::collection::vec(key(), 20)) {
        run(async {
            let mut memory = Memory::default();
            let mut states = vec![(StateRoot::EMPTY, Plain::new())];
            for changes in history {
                let (root, mut plain) = states.last().unwrap().clone();
                apply(&mut plain, &changes);
                let root = memory.update(root, &changes).await;
                states.push((root, plain));
            }
            for (root, plain) in &states {
                assert_eq!(memory.all(*root).await, *plain, "earlier states stay what they were");
                let keys: Vec<_> = plain.keys().copied().chain(probes.iter().copied()).collect();
                let expected: Vec<_> = keys.iter().map(|key| plain.get(key).copied()).collect();
                assert_eq!(get_many(&memory, *root, &keys).await.unwrap(), expected);
            }
            for (before, plain_before) in &states {
                for (after, plain_after) in &states {
                    let found = difference(&memory, *before, *after).await.unwrap();
                    assert_eq!(found, plain_difference(plain_before, plain_after));
                    assert_eq!(before == after, plain_before == plain_after, "equal states have equal roots");
                }
            }
        });
    }

    #[test]
    fn only_encodings_are_read(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(node) = Node::decode(&bytes) {
            prop_assert_eq!(node.encode(), bytes.clone());
        }
        if let Ok(root) = StateRoot::decode(&bytes) {
            prop_assert_eq!(root.encode(), bytes);
        }
    }
}

fn member(index: u32) -> StateKeyId {
    StateKeyId { partition: Partition::Members, index }
}

fn event(number: u32) -> EventNumber {
    EventNumber(i64::from(number))
}

#[test]
fn a_change_in_a_large_room_writes_one_path_and_a_difference_reads_no_more() {
    const MEMBERS: u32 = 100_000;
    const CHANGES: u32 = 500;
    run(async {
        let mut memory = Memory::default();
        let everyone: Vec<_> = (0..MEMBERS).map(|index| (member(index), Some(event(index)))).collect();
        let mut states = vec![memory.update(StateRoot::EMPTY, &everyone).await];
        let before: usize = memory.nodes.values().map(Vec::len).sum();
        let nodes_before = memory.nodes.len();
        for change in 0..CHANGES {
            let who = change.wrapping_mul(2_654_435_761) % MEMBERS;
            let root =
                memory.update(*states.last().unwrap(), &[(member(who), Some(event(MEMBERS + change)))]).await;
            states.push(root);
        }
        let written: usize = memory.nodes.values().map(Vec::len).sum::<usize>() - before;
        let nodes = memory.nodes.len() - nodes_before;
        assert!(nodes <= 5 * CHANGES as usize, "{nodes} nodes for {CHANGES} changes");
        assert!(written <= 600 * CHANGES as usize, "{written} bytes for {CHANGES} changes");

        memory.rounds.store(0, Ordering::Relaxed);
        memory.loaded.store(0, Ordering::Relaxed);
        assert_eq!(difference(&memory, states[200], states[210]).await.unwrap().len(), 10);
        let (rounds, loaded) = (memory.rounds.load(Ordering::Relaxed), memory.loaded.load(Ordering::Relaxed));
        assert!(rounds <= 5 && loaded <= 2 * 10 * 5, "{rounds} rounds, {loaded} nodes");
    });
}

#[test]
fn damage_is_noticed() {
    run(async {
        let mut memory = Memory::default();
        let root = memory
            .update(StateRoot::EMPTY, &[(member(0), Some(event(1))), (member(99), Some(event(2)))])
            .await;
        let keys = [member(0), member(99)];
        get_many(&memory, root, &keys).await.unwrap();
        let names: Vec<NodeHash> = memory.nodes.keys().copied().collect();
        for name in names {
            let whole = memory.nodes.remove(&name).unwrap();
            assert_eq!(get_many(&memory, root, &keys).await, Err(InvalidNode), "a node is missing");
            memory.nodes.insert(name, whole[..whole.len() - 1].to_vec());
            assert_eq!(get_many(&memory, root, &keys).await, Err(InvalidNode), "a node is cut short");
            memory.nodes.insert(name, whole);
        }
        // Leaves where inner nodes should be, and the other way round.
        let leaf = memory.update(StateRoot::EMPTY, &[(member(0), Some(event(1)))]).await.encode();
        let mut lies = leaf.clone();
        lies[1] = 1;
        let lying = StateRoot::decode(&lies).unwrap();
        assert_eq!(get_many(&memory, lying, &keys).await, Err(InvalidNode));
        assert!(entries(&memory, lying, Partition::Members).await.is_err());
    });
}
