//! Room state as a persistent map: which event stands under each event type and state key.
//!
//! A state is a [`StateRoot`], a small value that is stored with whatever has that state. It names two trees of immutable,
//! content-addressed nodes that states of one room share: a change writes the nodes on one path and nothing else, equal states
//! have equal roots, and comparing two states reads only where they differ.
//!
//! Within a room every (event type, state key) has a [`StateKeyId`] and every event a number, both counted from 0. So the
//! trees are dense radix trees over small numbers: their shape follows from what is in them and not from how it came there.
//! Memberships have a tree of their own, so that the state of a large room can be read without its members.
//!
//! No I/O here: nodes are asked of a [`NodeSource`], always many at once, one round trip for each level of a tree.

mod difference;
mod node;
mod tree;
mod update;

use std::future::Future;

use self::tree::Tree;
pub use self::{
    difference::{Change, difference},
    node::{InvalidNode, Node, NodeHash},
    tree::{Lookup, entries, get_many},
    update::{Update, update},
};

/// An event's number in its room: its place in the timeline as this server has it. Events that are new when they come count up
/// from 0; older ones that come later count down from -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventNumber(pub i64);

/// The number of an event type and state key in its room, counted from 0 in each partition. Given once, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKeyId {
    /// Which of the two trees it belongs to.
    pub partition: Partition,
    /// Its number there.
    pub index: u32,
}

/// The two trees of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Partition {
    /// Everything but memberships: small in every room.
    Settings,
    /// `m.room.member`: as large as the room.
    Members,
}

/// A state, by the trees that it consists of. Equal roots are equal states, in the same room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StateRoot {
    settings: Option<Tree>,
    members: Option<Tree>,
}

impl StateRoot {
    /// The state in which nothing is set.
    pub const EMPTY: Self = Self { settings: None, members: None };

    /// Whether both have the same memberships.
    pub fn same_members(self, other: Self) -> bool {
        self.members == other.members
    }

    fn tree(self, partition: Partition) -> Option<Tree> {
        match partition {
            Partition::Settings => self.settings,
            Partition::Members => self.members,
        }
    }

    fn with_tree(self, partition: Partition, tree: Option<Tree>) -> Self {
        match partition {
            Partition::Settings => Self { settings: tree, ..self },
            Partition::Members => Self { members: tree, ..self },
        }
    }

    /// The encoding, of at most 36 bytes: for each tree its height and the name of its top.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(36);
        for tree in [self.settings, self.members] {
            match tree {
                None => bytes.push(NO_TREE),
                Some(Tree { height, top }) => {
                    bytes.push(height);
                    bytes.extend_from_slice(&top.0);
                }
            }
        }
        bytes
    }

    /// Reads an encoding.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, InvalidNode> {
        let mut take_tree = || {
            let (&height, rest) = bytes.split_first().ok_or(InvalidNode)?;
            bytes = rest;
            if height == NO_TREE {
                return Ok(None);
            }
            let (top, rest) = bytes.split_first_chunk::<16>().ok_or(InvalidNode)?;
            bytes = rest;
            if height > tree::GREATEST_HEIGHT {
                Err(InvalidNode)
            } else {
                Ok(Some(Tree { height, top: NodeHash(*top) }))
            }
        };
        let (settings, members) = (take_tree()?, take_tree()?);
        if bytes.is_empty() { Ok(Self { settings, members }) } else { Err(InvalidNode) }
    }
}

/// Stands where a height stands if there is no tree.
const NO_TREE: u8 = u8::MAX;

/// Where nodes are kept.
pub trait NodeSource {
    /// Why they cannot be read; also for nodes that are not what they should be.
    type Error: From<InvalidNode>;

    /// The nodes with these names, in their order.
    fn load(&self, names: &[NodeHash]) -> impl Future<Output = Result<Vec<Node>, Self::Error>> + Send;
}
