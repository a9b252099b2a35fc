//! The state map against a plain map; and with damaged nodes, of which it must say that they are.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use entente_rooms::state::{
    Change, EventNumber, InvalidNode, Node, NodeHash, NodeSource, Partition, StateKeyId, StateRoot,
    difference, entries, get_many, update,
};
use futures_util::FutureExt;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
struct Input {
    history: Vec<Vec<Set>>,
    damage: Option<Damage>,
}

#[derive(Arbitrary, Debug)]
struct Set {
    member: bool,
    index: Index,
    event: Option<i64>,
}

/// Small numbers are usual.
#[derive(Arbitrary, Debug)]
enum Index {
    Small(u8),
    Middle(u16),
    Any(u32),
}

#[derive(Arbitrary, Debug)]
struct Damage {
    node: u8,
    byte: u8,
    value: u8,
}

type Plain = BTreeMap<StateKeyId, EventNumber>;

#[derive(Default)]
struct Memory(BTreeMap<NodeHash, Vec<u8>>);

impl NodeSource for Memory {
    type Error = InvalidNode;

    async fn load(&self, names: &[NodeHash]) -> Result<Vec<Node>, InvalidNode> {
        names.iter().map(|name| Node::decode(self.0.get(name).ok_or(InvalidNode)?)).collect()
    }
}

impl Set {
    fn change(&self) -> (StateKeyId, Option<EventNumber>) {
        let partition = if self.member { Partition::Members } else { Partition::Settings };
        let index = match self.index {
            Index::Small(index) => index.into(),
            Index::Middle(index) => index.into(),
            Index::Any(index) => index,
        };
        (StateKeyId { partition, index }, self.event.map(EventNumber))
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing waits for anything")
}

fn all(memory: &Memory, root: StateRoot) -> Result<Plain, InvalidNode> {
    let mut all = Plain::new();
    for partition in [Partition::Settings, Partition::Members] {
        all.extend(wait(entries(memory, root, partition))?);
    }
    Ok(all)
}

fn plain_difference(before: &Plain, after: &Plain) -> Vec<Change> {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let change = |key| Change { key, before: before.get(&key).copied(), after: after.get(&key).copied() };
    keys.into_iter().map(change).filter(|change| change.before != change.after).collect()
}

fuzz_target!(|input: Input| {
    let mut memory = Memory::default();
    let mut states = vec![(StateRoot::EMPTY, Plain::new())];
    for sets in &input.history {
        let (root, mut plain) = states.last().expect("there is one").clone();
        let changes: Vec<_> = sets.iter().map(Set::change).collect();
        for &(key, event) in &changes {
            match event {
                Some(event) => plain.insert(key, event),
                None => plain.remove(&key),
            };
        }
        let updated = wait(update(&memory, root, &changes)).expect("every node is there");
        for (name, node) in updated.nodes {
            assert_eq!(name, node.hash());
            memory.0.insert(name, node.encode());
        }
        assert_eq!(StateRoot::decode(&updated.root.encode()), Ok(updated.root));
        states.push((updated.root, plain));
    }
    for (root, plain) in &states {
        assert_eq!(all(&memory, *root).as_ref(), Ok(plain), "earlier states stay what they were");
    }
    let (last, plain_last) = states.last().expect("there is one");
    for (root, plain) in &states {
        let found = wait(difference(&memory, *root, *last)).expect("every node is there");
        assert_eq!(found, plain_difference(plain, plain_last));
        assert_eq!(root == last, plain == plain_last, "equal states have equal roots");
    }
    if let Some(damage) = &input.damage {
        harm(&mut memory, damage);
        let keys: Vec<_> = input.history.iter().flatten().map(|set| set.change().0).collect();
        let changes: Vec<_> = input.history.iter().flatten().map(Set::change).collect();
        // Wrong events, or that it is damaged: but nothing worse.
        let _ = all(&memory, *last);
        let _ = wait(get_many(&memory, *last, &keys));
        let _ = wait(update(&memory, *last, &changes));
        let _ = wait(difference(&memory, StateRoot::EMPTY, *last));
        let _ = wait(difference(&memory, *last, StateRoot::EMPTY));
    }
});

fn harm(memory: &mut Memory, damage: &Damage) {
    let count = memory.0.len().max(1);
    if let Some(node) = memory.0.values_mut().nth(usize::from(damage.node) % count) {
        let place = usize::from(damage.byte) % node.len().max(1);
        if let Some(byte) = node.get_mut(place) {
            *byte = damage.value;
        }
    }
}
