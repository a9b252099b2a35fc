use std::collections::HashMap;

use super::{
    EventNumber, InvalidNode, Node, NodeHash, NodeSource, Partition, StateKeyId, StateRoot,
    node::{INNER_BITS, INNER_CHILDREN, LEAF_BITS, LEAF_SLOTS},
};

/// A tree of this height has room for every number.
pub(super) const GREATEST_HEIGHT: u8 = 9;

/// A radix tree over numbers: as high as its greatest number needs, and no higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tree {
    /// Levels above the leaves.
    pub(super) height: u8,
    pub(super) top: NodeHash,
}

/// A place in a tree that may be higher than what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    /// Nothing.
    Nothing,
    /// A node of just this level.
    Here(NodeHash),
    /// A node of a lower level, which begins where this place begins.
    Lower(Tree),
}

impl Below {
    /// What lies under the top of a tree of `height` that holds what `tree` holds.
    pub(super) fn top(tree: Option<Tree>, height: u8) -> Self {
        match tree {
            None => Self::Nothing,
            Some(tree) if tree.height == height => Self::Here(tree.top),
            Some(tree) => Self::Lower(tree),
        }
    }

    /// The node that has to be known to see what lies under it.
    pub(super) fn name(self) -> Option<NodeHash> {
        match self {
            Self::Here(name) => Some(name),
            Self::Nothing | Self::Lower(_) => None,
        }
    }

    /// What lies under each of its children, which are of the level `height`.
    pub(super) fn children(self, height: u8, loaded: &Loaded) -> Result<[Self; INNER_CHILDREN], InvalidNode> {
        match self {
            Self::Nothing => Ok([Self::Nothing; INNER_CHILDREN]),
            Self::Here(name) => {
                let Node::Inner(children) = loaded.get(name)? else { return Err(InvalidNode) };
                Ok(children.map(|child| child.map_or(Self::Nothing, Self::Here)))
            }
            Self::Lower(tree) => {
                let mut children = [Self::Nothing; INNER_CHILDREN];
                children[0] = Self::top(Some(tree), height);
                Ok(children)
            }
        }
    }

    /// The events in a leaf.
    pub(super) fn slots(self, loaded: &Loaded) -> Result<&[(u8, EventNumber)], InvalidNode> {
        match self {
            Self::Nothing => Ok(&[]),
            Self::Here(name) => match loaded.get(name)? {
                Node::Leaf(slots) => Ok(slots),
                Node::Inner(_) => Err(InvalidNode),
            },
            Self::Lower(_) => Err(InvalidNode),
        }
    }
}

/// Nodes that have been loaded.
#[derive(Debug, Default)]
pub(super) struct Loaded(HashMap<NodeHash, Node>);

impl Loaded {
    pub(super) fn get(&self, name: NodeHash) -> Result<&Node, InvalidNode> {
        self.0.get(&name).ok_or(InvalidNode)
    }

    /// Loads those that are not there yet.
    pub(super) async fn load<S: NodeSource>(
        &mut self,
        source: &S,
        names: impl IntoIterator<Item = NodeHash>,
    ) -> Result<(), S::Error> {
        let mut missing: Vec<_> = names.into_iter().filter(|name| !self.0.contains_key(name)).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let nodes = source.load(&missing).await?;
        if nodes.len() != missing.len() {
            return Err(InvalidNode.into());
        }
        self.0.extend(missing.into_iter().zip(nodes));
        Ok(())
    }
}

/// The height of the lowest tree with room for `index`.
pub(super) fn height_for(index: u32) -> u8 {
    (0..=GREATEST_HEIGHT)
        .find(|&height| index >> LEAF_BITS >> inner_shift(height) == 0)
        .unwrap_or(GREATEST_HEIGHT)
}

/// Which child of a node of level `height` (1 and above) leads to `index`.
pub(super) fn child_place(index: u32, height: u8) -> usize {
    let child = index >> LEAF_BITS >> inner_shift(height - 1);
    child as usize % INNER_CHILDREN
}

/// The place of `index` in its leaf.
pub(super) fn slot_place(index: u32) -> u8 {
    (index % LEAF_SLOTS).to_le_bytes()[0]
}

/// The first number under the child at `place` of a node of level `height` that begins at `first`.
pub(super) fn first_of_child(first: u32, place: usize, height: u8) -> u32 {
    let place = u32::try_from(place).unwrap_or_default();
    first | place << inner_shift(height - 1) << LEAF_BITS
}

fn inner_shift(height: u8) -> u32 {
    INNER_BITS * u32::from(height)
}

/// What is found under a key.
pub type Lookup = Option<EventNumber>;

/// The events under `keys`, in their order.
pub async fn get_many<S: NodeSource>(
    source: &S,
    root: StateRoot,
    keys: &[StateKeyId],
) -> Result<Vec<Lookup>, S::Error> {
    struct Walk {
        below: Below,
        height: u8,
    }
    let mut found = vec![None; keys.len()];
    let mut loaded = Loaded::default();
    let mut walks: Vec<(usize, Walk)> = Vec::with_capacity(keys.len());
    for (position, key) in keys.iter().enumerate() {
        if let Some(tree) = root.tree(key.partition).filter(|tree| height_for(key.index) <= tree.height) {
            walks.push((position, Walk { below: Below::Here(tree.top), height: tree.height }));
        }
    }
    while !walks.is_empty() {
        loaded.load(source, walks.iter().filter_map(|(_, walk)| walk.below.name())).await?;
        let mut deeper = Vec::with_capacity(walks.len());
        for (position, Walk { below, height }) in walks {
            let index = keys[position].index;
            if height == 0 {
                let slots = below.slots(&loaded)?;
                let slot = slots.iter().find(|(place, _)| *place == slot_place(index));
                found[position] = slot.map(|&(_, event)| event);
                continue;
            }
            let below = below.children(height - 1, &loaded)?[child_place(index, height)];
            if below != Below::Nothing {
                deeper.push((position, Walk { below, height: height - 1 }));
            }
        }
        walks = deeper;
    }
    Ok(found)
}

/// Everything in one tree of a state, in the order of the keys' numbers.
pub async fn entries<S: NodeSource>(
    source: &S,
    root: StateRoot,
    partition: Partition,
) -> Result<Vec<(StateKeyId, EventNumber)>, S::Error> {
    let Some(tree) = root.tree(partition) else { return Ok(Vec::new()) };
    let mut level = vec![(0_u32, Below::Here(tree.top))];
    let mut height = tree.height;
    let mut loaded = Loaded::default();
    loop {
        loaded.load(source, level.iter().filter_map(|(_, below)| below.name())).await?;
        if height == 0 {
            break;
        }
        let mut next = Vec::with_capacity(level.len() * INNER_CHILDREN);
        for (first, below) in level {
            for (place, child) in below.children(height - 1, &loaded)?.into_iter().enumerate() {
                if child != Below::Nothing {
                    next.push((first_of_child(first, place, height), child));
                }
            }
        }
        level = next;
        height -= 1;
    }
    let mut all = Vec::new();
    for (first, below) in level {
        for &(place, event) in below.slots(&loaded)? {
            all.push((StateKeyId { partition, index: first | u32::from(place) }, event));
        }
    }
    Ok(all)
}
