//! All that the server keeps: every keyspace once, and the steps that lead older stores forward.

use entente_storage::{Catalogue, Schema};

/// The schema that this program writes.
const SCHEMA_VERSION: u32 = 1;

/// What this program expects of its store.
///
/// Keyspace numbers are for ever. Each crate has a range of 256: `storage` 0x0000, `accounts` 0x0100, `rooms` 0x0200, `encryption`
/// 0x0300, `sync` 0x0400,
/// `media` 0x0500, `federation` 0x0600, `delivery` 0x0700, `appservices` 0x0800.
pub(crate) fn schema() -> Schema {
    Schema {
        catalogue: Catalogue::new(
            entente_accounts::KEYSPACES
                .into_iter()
                .chain(entente_rooms::KEYSPACES)
                .chain(entente_encryption::KEYSPACES)
                .chain(entente_sync::KEYSPACES)
                .chain(entente_federation::KEYSPACES)
                .chain(entente_media::KEYSPACES)
                .chain(entente_delivery::KEYSPACES)
                .chain(entente_appservices::KEYSPACES),
        ),
        version: SCHEMA_VERSION,
        migrations: Vec::new(),
    }
}
