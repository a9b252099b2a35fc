use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use entente_storage::{Bytes, Snapshot, StorageError, Transaction};
use parking_lot::Mutex;

use crate::{
    RoomNumber, rows,
    state::{InvalidNode, Node, NodeHash, NodeSource},
};

/// Why state cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StateStoreError {
    /// The storage failed or is unavailable.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A node is missing, or is not one.
    #[error("the state of a room is damaged")]
    Damaged(#[from] InvalidNode),
}

/// The nodes of all rooms' states: in the store, the recently used ones in memory too. Cheap to clone.
///
/// Nodes never change, so what is in memory is never wrong.
#[derive(Clone, Debug)]
pub struct StateStore {
    recent: Arc<Mutex<Recent>>,
}

impl StateStore {
    /// Keeps at most this many nodes in memory; a node takes some 200 bytes there.
    pub fn new(most_in_memory: usize) -> Self {
        Self { recent: Arc::new(Mutex::new(Recent { most: most_in_memory, ..Recent::default() })) }
    }

    /// A room's nodes as a snapshot shows them.
    pub fn reader<'a>(&'a self, snapshot: &'a Snapshot, room: RoomNumber) -> StateReader<'a> {
        StateReader { store: self, snapshot, room }
    }

    /// Adds new nodes to a transaction. One that is stored already is written again as it is.
    pub fn put_in(&self, transaction: &mut Transaction, room: RoomNumber, nodes: &BTreeMap<NodeHash, Node>) {
        for (name, node) in nodes {
            transaction.put(&rows::STATE_NODES, (room.0, name.0), &Bytes::from(node.encode()));
        }
    }
}

/// A room's nodes as a snapshot shows them. Made by [`StateStore::reader`].
#[derive(Debug)]
pub struct StateReader<'a> {
    store: &'a StateStore,
    snapshot: &'a Snapshot,
    room: RoomNumber,
}

impl NodeSource for StateReader<'_> {
    type Error = StateStoreError;

    async fn load(&self, names: &[NodeHash]) -> Result<Vec<Node>, StateStoreError> {
        let mut found: Vec<Option<Node>> = {
            let recent = self.store.recent.lock();
            names.iter().map(|&name| recent.get(self.room, name)).collect()
        };
        let missing: Vec<NodeHash> =
            names.iter().zip(&found).filter(|(_, node)| node.is_none()).map(|(&name, _)| name).collect();
        if !missing.is_empty() {
            let keys = missing.iter().map(|name| (self.room.0, name.0));
            let stored = self.snapshot.get_many(&rows::STATE_NODES, keys).await?;
            let mut loaded = Vec::with_capacity(missing.len());
            for (name, bytes) in missing.into_iter().zip(stored) {
                loaded.push((name, Node::decode(&bytes.ok_or(InvalidNode)?)?));
            }
            self.store.recent.lock().add(self.room, &loaded);
            let mut loaded = loaded.into_iter().map(|(_, node)| node);
            for place in found.iter_mut().filter(|place| place.is_none()) {
                *place = loaded.next();
            }
        }
        Ok(found.into_iter().flatten().collect())
    }
}

/// Nodes in memory. When there are too many, those go that came first.
#[derive(Debug, Default)]
struct Recent {
    most: usize,
    nodes: HashMap<(RoomNumber, NodeHash), Node>,
    order: VecDeque<(RoomNumber, NodeHash)>,
}

impl Recent {
    fn get(&self, room: RoomNumber, name: NodeHash) -> Option<Node> {
        self.nodes.get(&(room, name)).cloned()
    }

    fn add(&mut self, room: RoomNumber, nodes: &[(NodeHash, Node)]) {
        for (name, node) in nodes {
            let key = (room, *name);
            if self.nodes.insert(key, node.clone()).is_none() {
                self.order.push_back(key);
            }
        }
        while self.nodes.len() > self.most {
            let Some(oldest) = self.order.pop_front() else { return };
            self.nodes.remove(&oldest);
        }
    }
}
