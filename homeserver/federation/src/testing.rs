//! What the tests of this crate share.

use entente_storage::{Catalogue, Schema, Store, engine::memory::Disk};

/// An empty store.
pub(crate) async fn memory_store() -> Store {
    let keyspaces = crate::KEYSPACES.into_iter().chain(entente_rooms::KEYSPACES);
    let schema = Schema { catalogue: Catalogue::new(keyspaces), version: 1, migrations: Vec::new() };
    Store::open(Disk::new().open().unwrap(), schema).await.unwrap()
}
