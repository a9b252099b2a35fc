use std::collections::BTreeMap;

use super::{
    EventNumber, InvalidNode, Node, NodeHash, NodeSource, Partition, StateKeyId, StateRoot,
    node::INNER_CHILDREN,
    tree::{Below, Loaded, Tree, child_place, height_for, slot_place},
};

/// A state that was made from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The new state.
    pub root: StateRoot,
    /// The nodes that it has and the other has not. Some may be stored already, as parts of third states.
    pub nodes: BTreeMap<NodeHash, Node>,
}

/// What is to stand under some numbers of one tree; `None`: nothing.
type Changes<'a> = &'a [(u32, Option<EventNumber>)];

/// The state that differs from `root` by what `changes` says; of several changes of one key the last one counts.
pub async fn update<S: NodeSource>(
    source: &S,
    root: StateRoot,
    changes: &[(StateKeyId, Option<EventNumber>)],
) -> Result<Update, S::Error> {
    let mut updated = Update { root, nodes: BTreeMap::new() };
    for partition in [Partition::Settings, Partition::Members] {
        let of_partition = changes.iter().filter(|(key, _)| key.partition == partition);
        let sorted: BTreeMap<u32, Option<EventNumber>> =
            of_partition.map(|&(key, event)| (key.index, event)).collect();
        if sorted.is_empty() {
            continue;
        }
        let sorted: Vec<_> = sorted.into_iter().collect();
        let tree = root.tree(partition);
        let loaded = load_paths(source, tree, &sorted).await?;
        let tree = update_tree(tree, &sorted, &loaded, &mut updated.nodes)?;
        updated.root = updated.root.with_tree(partition, tree);
    }
    Ok(updated)
}

/// Loads every node that the changes pass, level by level.
async fn load_paths<S: NodeSource>(
    source: &S,
    tree: Option<Tree>,
    changes: Changes<'_>,
) -> Result<Loaded, S::Error> {
    let mut loaded = Loaded::default();
    let Some(tree) = tree else { return Ok(loaded) };
    // A tree from which something goes may become lower; then what is left of it hangs at the far left.
    let leftmost = changes.iter().any(|(_, event)| event.is_none()).then_some(0);
    let indices = changes.iter().map(|&(index, _)| index).chain(leftmost);
    let indices: Vec<u32> = indices.filter(|&index| height_for(index) <= tree.height).collect();
    let mut level: Vec<(u32, Below)> =
        indices.into_iter().map(|index| (index, Below::Here(tree.top))).collect();
    for height in (0..=tree.height).rev() {
        loaded.load(source, level.iter().filter_map(|(_, below)| below.name())).await?;
        if height == 0 {
            break;
        }
        for (index, below) in &mut level {
            *below = below.children(height - 1, &loaded)?[child_place(*index, height)];
        }
    }
    Ok(loaded)
}

fn update_tree(
    tree: Option<Tree>,
    changes: Changes<'_>,
    loaded: &Loaded,
    nodes: &mut BTreeMap<NodeHash, Node>,
) -> Result<Option<Tree>, InvalidNode> {
    let greatest = changes.iter().filter(|(_, event)| event.is_some()).map(|&(index, _)| index).max();
    let height = greatest.map_or(0, height_for).max(tree.map_or(0, |tree| tree.height));
    // Beyond the height there is nothing to delete.
    let within = changes.partition_point(|&(index, _)| height_for(index) <= height);
    let below = Below::top(tree, height);
    let mut written = BTreeMap::new();
    let top = rebuild(below, height, &changes[..within], loaded, &mut written)?;
    let tree = lowest(top.map(|top| Tree { height, top }), loaded, &mut written)?;
    nodes.append(&mut written);
    Ok(tree)
}

/// The node that takes the place of `below`, on the level `height`; `None` if nothing is left.
fn rebuild(
    below: Below,
    height: u8,
    changes: Changes<'_>,
    loaded: &Loaded,
    written: &mut BTreeMap<NodeHash, Node>,
) -> Result<Option<NodeHash>, InvalidNode> {
    if changes.is_empty()
        && let Below::Here(name) = below
    {
        return Ok(Some(name));
    }
    let node = if height == 0 {
        rebuild_leaf(below.slots(loaded)?, changes)
    } else {
        let mut children = [None; INNER_CHILDREN];
        let mut rest = changes;
        for (place, child) in below.children(height - 1, loaded)?.into_iter().enumerate() {
            let end = rest.partition_point(|&(index, _)| child_place(index, height) <= place);
            let (of_child, behind) = rest.split_at(end);
            rest = behind;
            if child != Below::Nothing || !of_child.is_empty() {
                children[place] = rebuild(child, height - 1, of_child, loaded, written)?;
            }
        }
        children.iter().any(Option::is_some).then_some(Node::Inner(children))
    };
    let Some(node) = node else { return Ok(None) };
    let name = node.hash();
    if below != Below::Here(name) {
        written.insert(name, node);
    }
    Ok(Some(name))
}

fn rebuild_leaf(slots: &[(u8, EventNumber)], changes: Changes<'_>) -> Option<Node> {
    let mut slots: BTreeMap<u8, EventNumber> = slots.iter().copied().collect();
    for &(index, event) in changes {
        match event {
            Some(event) => slots.insert(slot_place(index), event),
            None => slots.remove(&slot_place(index)),
        };
    }
    (!slots.is_empty()).then(|| Node::Leaf(slots.into_iter().collect()))
}

/// The same tree without levels that it does not need, so that equal states have equal roots.
fn lowest(
    tree: Option<Tree>,
    loaded: &Loaded,
    written: &mut BTreeMap<NodeHash, Node>,
) -> Result<Option<Tree>, InvalidNode> {
    let Some(mut tree) = tree else { return Ok(None) };
    while tree.height > 0 {
        let node = match written.get(&tree.top) {
            Some(node) => node,
            None => loaded.get(tree.top)?,
        };
        let Node::Inner([Some(first), rest @ ..]) = node else { break };
        if rest.iter().any(Option::is_some) {
            break;
        }
        let top = *first;
        written.remove(&tree.top);
        tree = Tree { height: tree.height - 1, top };
    }
    Ok(Some(tree))
}
