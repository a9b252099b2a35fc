//! All that the server keeps: every keyspace once, and the steps that lead older stores forward.

use entente_storage::{Catalogue, Schema};

/// The schema that this program writes.
const SCHEMA_VERSION: u32 = 1;

/// What this program expects of its store.
///
/// Keyspace numbers are for ever. Each crate has a range of 256: `storage` 0x0000, `accounts` 0x0100.
pub(crate) fn schema() -> Schema {
    Schema {
        catalogue: Catalogue::new(entente_accounts::KEYSPACES),
        version: SCHEMA_VERSION,
        migrations: Vec::new(),
    }
}
