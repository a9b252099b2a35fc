use futures_util::future::BoxFuture;

use crate::{Catalogue, Keyspace, KeyspaceInfo, StorageError, Store, Transaction, follower, log};

/// The schema version that the store has.
const SCHEMA: Keyspace<u8, u64> = Keyspace::new(0, "storage.schema");
const VERSION_ROW: u8 = 0;

pub(crate) const OWN_KEYSPACES: [KeyspaceInfo; 4] =
    [SCHEMA.info(), log::LOG.info(), log::HEADS.info(), follower::CURSORS.info()];

/// What a program expects of a store.
#[derive(Debug)]
pub struct Schema {
    /// All keyspaces.
    pub catalogue: Catalogue,
    /// The version that the program writes.
    pub version: u32,
    /// The steps from older versions, in their order.
    pub migrations: Vec<Migration>,
}

/// One step forward.
///
/// It may be interrupted and is then run again from its start, so it must bear that. The version is written when it has
/// returned.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The version that the store has after it.
    pub to: u32,
    /// What it does, for the log.
    pub name: &'static str,
    /// The step.
    pub run: fn(&Store) -> BoxFuture<'_, Result<(), StorageError>>,
}

pub(crate) async fn prepare(
    store: &Store,
    version: u32,
    migrations: &[Migration],
) -> Result<(), StorageError> {
    let found = stored_version(store).await?;
    let Some(found) = found else {
        return write_version(store, None, version).await;
    };
    if found > version {
        return Err(StorageError::SchemaTooNew { found, supported: version });
    }
    let mut reached = found;
    for migration in migrations.iter().filter(|migration| migration.to > found) {
        tracing::info!(schema.from = reached, schema.to = migration.to, "migrating the store: {}", migration.name);
        (migration.run)(store).await?;
        write_version(store, Some(reached), migration.to).await?;
        reached = migration.to;
    }
    if reached == version {
        Ok(())
    } else {
        Err(StorageError::Refused(format!("no migration leads from schema {reached} to {version}")))
    }
}

pub(crate) async fn stored_version(store: &Store) -> Result<Option<u32>, StorageError> {
    let version = store.snapshot().await?.get(&SCHEMA, VERSION_ROW).await?;
    let corrupt = |_| StorageError::Corrupt {
        keyspace: SCHEMA.info().name,
        reason: String::from("the version is out of range"),
    };
    version.map(|version| version.try_into().map_err(corrupt)).transpose()
}

async fn write_version(store: &Store, from: Option<u32>, to: u32) -> Result<(), StorageError> {
    let mut transaction = Transaction::new();
    transaction.check_unchanged(&SCHEMA, VERSION_ROW, from.map(u64::from).as_ref());
    transaction.put(&SCHEMA, VERSION_ROW, &u64::from(to));
    match store.commit(transaction).await {
        // Another node of the same version was quicker.
        Err(error) if error.is_conflict() && stored_version(store).await? == Some(to) => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}
