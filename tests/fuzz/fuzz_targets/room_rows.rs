//! What is stored of rooms: events, changes, nodes of states, positions in auth chains.
#![no_main]

use entente_rooms::{
    Change,
    auth_chain::{ChainPosition, ChainRow},
    fuzzing,
    state::{Node, StateRoot},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    fuzzing::stored_event(data);
    let _ = Change::from_payload(data);
    if let Ok(node) = Node::decode(data) {
        assert_eq!(node.encode(), data);
    }
    if let Ok(root) = StateRoot::decode(data) {
        assert_eq!(root.encode(), data);
    }
    if let Ok(position) = ChainPosition::decode(data) {
        assert_eq!(ChainPosition::decode(&position.encode()), Ok(position));
    }
    if let Ok(row) = ChainRow::decode(data) {
        assert_eq!(ChainRow::decode(&row.encode()), Ok(row));
    }
});
