use super::{
    EventNumber, NodeSource, Partition, StateKeyId, StateRoot,
    tree::{Below, Loaded, first_of_child},
};

/// Where two states differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: StateKeyId,
    /// What stands there in the first state.
    pub before: Option<EventNumber>,
    /// What stands there in the second; never the same.
    pub after: Option<EventNumber>,
}

/// All places where two states of one room differ, settings first, in the order of the keys' numbers. Reads only nodes that
/// the two do not share.
pub async fn difference<S: NodeSource>(
    source: &S,
    before: StateRoot,
    after: StateRoot,
) -> Result<Vec<Change>, S::Error> {
    let mut changes = Vec::new();
    let mut loaded = Loaded::default();
    for partition in [Partition::Settings, Partition::Members] {
        let (old, new) = (before.tree(partition), after.tree(partition));
        let heights = [old, new].into_iter().flatten().map(|tree| tree.height);
        let Some(mut height) = heights.max() else { continue };
        let mut level = vec![(0_u32, Below::top(old, height), Below::top(new, height))];
        level.retain(|(_, old, new)| old != new);
        while height > 0 {
            loaded.load(source, names(&level)).await?;
            let mut next = Vec::with_capacity(level.len());
            for (first, old, new) in level {
                let children =
                    old.children(height - 1, &loaded)?.into_iter().zip(new.children(height - 1, &loaded)?);
                for (place, (old, new)) in children.enumerate() {
                    if old != new {
                        next.push((first_of_child(first, place, height), old, new));
                    }
                }
            }
            level = next;
            height -= 1;
        }
        loaded.load(source, names(&level)).await?;
        for (first, old, new) in level {
            compare_leaves(partition, first, old.slots(&loaded)?, new.slots(&loaded)?, &mut changes);
        }
    }
    Ok(changes)
}

fn names(level: &[(u32, Below, Below)]) -> impl Iterator<Item = super::NodeHash> + '_ {
    level.iter().flat_map(|(_, old, new)| [old.name(), new.name()]).flatten()
}

fn compare_leaves(
    partition: Partition,
    first: u32,
    old: &[(u8, EventNumber)],
    new: &[(u8, EventNumber)],
    changes: &mut Vec<Change>,
) {
    let event_at = |slots: &[(u8, EventNumber)], place: u8| {
        slots.iter().find(|(occupied, _)| *occupied == place).map(|&(_, event)| event)
    };
    let mut places: Vec<u8> = old.iter().chain(new).map(|&(place, _)| place).collect();
    places.sort_unstable();
    places.dedup();
    for place in places {
        let (before, after) = (event_at(old, place), event_at(new, place));
        if before != after {
            let key = StateKeyId { partition, index: first | u32::from(place) };
            changes.push(Change { key, before, after });
        }
    }
}
