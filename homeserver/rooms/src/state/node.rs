use std::fmt;

use super::EventNumber;

/// Places in a leaf: 2 to the power of [`LEAF_BITS`].
pub(super) const LEAF_SLOTS: u32 = 1 << LEAF_BITS;
pub(super) const LEAF_BITS: u32 = 5;
/// Children of an inner node: 2 to the power of [`INNER_BITS`].
pub(super) const INNER_CHILDREN: usize = 1 << INNER_BITS;
pub(super) const INNER_BITS: u32 = 3;

const LEAF_TAG: u8 = 0;
const INNER_TAG: u8 = 1;

/// Names a node by what it holds: the first 16 bytes of the BLAKE3 digest of its encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeHash(pub [u8; 16]);

impl fmt::Debug for NodeHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// A part of a state. Immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// The events under 32 consecutive numbers: those that there are, by their place.
    Leaf(Vec<(u8, EventNumber)>),
    /// Up to eight nodes of the level below.
    Inner([Option<NodeHash>; INNER_CHILDREN]),
}

/// Bytes that are not the encoding of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a state node")]
pub struct InvalidNode;

impl Node {
    /// The encoding: for a leaf its occupied places as a bit mask and the numbers as LEB128, each less the smallest of
    /// them, which comes first, zigzag-coded;
    /// for an inner node its children as a bit mask and their names.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Leaf(slots) => {
                let mask = slots.iter().fold(0_u32, |mask, (place, _)| mask | 1 << place);
                let smallest = slots.iter().map(|(_, event)| event.0).min().unwrap_or_default();
                let mut bytes = vec![LEAF_TAG];
                bytes.extend_from_slice(&mask.to_be_bytes());
                put_varint(&mut bytes, zigzag(smallest));
                for (_, event) in slots {
                    put_varint(&mut bytes, event.0.wrapping_sub(smallest).cast_unsigned());
                }
                bytes
            }
            Self::Inner(children) => {
                let occupied = children.iter().enumerate().filter(|(_, child)| child.is_some());
                let mask = occupied.fold(0_u8, |mask, (place, _)| mask | 1 << place);
                let mut bytes = vec![INNER_TAG, mask];
                for child in children.iter().flatten() {
                    bytes.extend_from_slice(&child.0);
                }
                bytes
            }
        }
    }

    /// Reads an encoding. Only what [`Node::encode`] writes is read.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidNode> {
        let (&tag, rest) = bytes.split_first().ok_or(InvalidNode)?;
        let node = match tag {
            LEAF_TAG => decode_leaf(rest)?,
            INNER_TAG => decode_inner(rest)?,
            _ => return Err(InvalidNode),
        };
        if node.encode() == bytes { Ok(node) } else { Err(InvalidNode) }
    }

    /// The name of this node.
    pub fn hash(&self) -> NodeHash {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(&self.encode()).as_bytes()[..16]);
        NodeHash(hash)
    }
}

fn decode_leaf(bytes: &[u8]) -> Result<Node, InvalidNode> {
    let (mask, mut rest) = bytes.split_first_chunk::<4>().ok_or(InvalidNode)?;
    let mask = u32::from_be_bytes(*mask);
    let smallest = unzigzag(take_varint(&mut rest)?);
    let mut slots = Vec::with_capacity(mask.count_ones() as usize);
    for place in 0..32_u8 {
        if mask & 1 << place != 0 {
            let number = smallest.checked_add_unsigned(take_varint(&mut rest)?).ok_or(InvalidNode)?;
            slots.push((place, EventNumber(number)));
        }
    }
    if rest.is_empty() && !slots.is_empty() { Ok(Node::Leaf(slots)) } else { Err(InvalidNode) }
}

fn decode_inner(bytes: &[u8]) -> Result<Node, InvalidNode> {
    let (&mask, mut rest) = bytes.split_first().ok_or(InvalidNode)?;
    let mut children = [None; INNER_CHILDREN];
    for (place, child) in children.iter_mut().enumerate() {
        if mask & 1 << place != 0 {
            let (hash, behind) = rest.split_first_chunk::<16>().ok_or(InvalidNode)?;
            *child = Some(NodeHash(*hash));
            rest = behind;
        }
    }
    if rest.is_empty() && mask != 0 { Ok(Node::Inner(children)) } else { Err(InvalidNode) }
}

/// Small numbers of either sign as small numbers: 0, -1, 1, -2, …
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = (number & 0x7f).to_le_bytes()[0];
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, InvalidNode> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(InvalidNode)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return Err(InvalidNode);
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(InvalidNode)
}
