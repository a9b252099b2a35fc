//! Rooms. So far their state as a persistent map ([`state`]), and how it is kept in the store ([`StateStore`]).

pub mod state;

mod rows;
mod state_store;

pub use self::{
    rows::{KEYSPACES, RoomNumber},
    state_store::{StateReader, StateStore, StateStoreError},
};
