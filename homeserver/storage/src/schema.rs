use std::cmp::Ordering;

use futures_util::future::BoxFuture;

use crate::{
    Bytes, Catalogue, Keyspace, KeyspaceInfo, Snapshot, StorageError, Store, Transaction, follower, log,
    scan::RowRange,
};

/// The schema version that the store has.
const SCHEMA: Keyspace<u8, u64> = Keyspace::new(0, "storage.schema");
const VERSION_ROW: u8 = 0;

/// The digest of the backup that is being restored. The row goes in the transaction that writes the schema version, so that
/// a store into which a restore was interrupted never looks complete.
const RESTORING: Keyspace<u8, Bytes> = Keyspace::new(15, "storage.restoring");
const RESTORING_ROW: u8 = 0;

pub(crate) const OWN_KEYSPACES: [KeyspaceInfo; 5] =
    [SCHEMA.info(), log::LOG.info(), log::HEADS.info(), follower::CURSORS.info(), RESTORING.info()];

/// Whether the rows of a keyspace say how far the store itself has come, and so belong into no backup.
pub(crate) fn is_of_the_store_itself(keyspace: KeyspaceInfo) -> bool {
    [SCHEMA.info().id, RESTORING.info().id].contains(&keyspace.id)
}

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
    let snapshot = store.snapshot().await?;
    let mut reached = match version_in(&snapshot).await? {
        Some(found) => found,
        None if snapshot.get(&RESTORING, RESTORING_ROW).await?.is_some() => return Err(interrupted_restore()),
        None => {
            refuse_rows(&snapshot, &store.catalogue).await?;
            write_version(store, None, version).await?
        }
    };
    for migration in migrations {
        if migration.to <= reached {
            continue;
        }
        tracing::info!(
            schema.from = reached,
            schema.to = migration.to,
            "migrating the store: {}",
            migration.name
        );
        (migration.run)(store).await?;
        reached = write_version(store, Some(reached), migration.to).await?;
    }
    match reached.cmp(&version) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(StorageError::SchemaTooNew { found: reached, supported: version }),
        Ordering::Less => {
            Err(StorageError::Refused(format!("no migration leads from schema {reached} to {version}")))
        }
    }
}

fn interrupted_restore() -> StorageError {
    StorageError::Refused(String::from(
        "a restore into this store was interrupted: run it again with the same backup, or empty the store",
    ))
}

/// Refuses a store that has rows, although it has no schema version.
async fn refuse_rows(snapshot: &Snapshot, catalogue: &Catalogue) -> Result<(), StorageError> {
    for keyspace in catalogue.iter() {
        let page = snapshot.scan_rows(RowRange::all_of(keyspace, 1)).await?;
        if !page.rows.is_empty() {
            return Err(StorageError::Refused(format!(
                "the store has rows in {} but no schema version: it is not a store of this program, or not a whole one",
                keyspace.name
            )));
        }
    }
    Ok(())
}

/// The schema version that a snapshot shows; `None` if the store was not prepared yet.
pub(crate) async fn version_in(snapshot: &Snapshot) -> Result<Option<u32>, StorageError> {
    let version = snapshot.get(&SCHEMA, VERSION_ROW).await?;
    let corrupt = |_| StorageError::Corrupt {
        keyspace: SCHEMA.info().name,
        reason: String::from("the version is out of range"),
    };
    version.map(|version| version.try_into().map_err(corrupt)).transpose()
}

/// Answers the version that the store has then: perhaps a later one, if another node was quicker.
async fn write_version(store: &Store, from: Option<u32>, to: u32) -> Result<u32, StorageError> {
    let mut transaction = Transaction::new();
    transaction.check_unchanged(&SCHEMA, VERSION_ROW, from.map(u64::from).as_ref());
    transaction.check_absent(&RESTORING, RESTORING_ROW);
    transaction.put(&SCHEMA, VERSION_ROW, &u64::from(to));
    match store.commit(transaction).await {
        Ok(_) => Ok(to),
        Err(error) if error.is_conflict() => {
            let found = version_in(&store.snapshot().await?).await?;
            found.filter(|&found| found >= to).ok_or(error)
        }
        Err(error) => Err(error),
    }
}

/// Marks an empty store as one into which the backup with this digest is being restored. A store that bears the mark of
/// the same backup already is taken as it is: its rows are some of those that follow.
pub(crate) async fn begin_restore(store: &Store, digest: &Bytes) -> Result<(), StorageError> {
    let snapshot = store.snapshot().await?;
    if version_in(&snapshot).await?.is_some() {
        return Err(StorageError::Refused(String::from(
            "the store is in use already: a backup is restored into an empty one only",
        )));
    }
    match snapshot.get(&RESTORING, RESTORING_ROW).await? {
        Some(marked) if marked == *digest => return Ok(()),
        Some(_) => {
            return Err(StorageError::Refused(String::from(
                "the restore of another backup into this store was interrupted: empty the store first",
            )));
        }
        None => refuse_rows(&snapshot, &store.catalogue).await?,
    }
    let mut transaction = Transaction::new();
    transaction.check_absent(&SCHEMA, VERSION_ROW);
    transaction.check_absent(&RESTORING, RESTORING_ROW);
    transaction.put(&RESTORING, RESTORING_ROW, digest);
    store.commit(transaction).await.map(|_| ())
}

/// Requires that the backup with this digest still is the one that is being restored.
pub(crate) fn check_restoring(transaction: &mut Transaction, digest: &Bytes) {
    transaction.check_unchanged(&RESTORING, RESTORING_ROW, Some(digest));
}

/// Takes the mark away and writes the schema version: from here on the store is complete.
pub(crate) async fn complete_restore(
    store: &Store,
    digest: &Bytes,
    version: u32,
) -> Result<(), StorageError> {
    let mut transaction = Transaction::new();
    check_restoring(&mut transaction, digest);
    transaction.check_absent(&SCHEMA, VERSION_ROW);
    transaction.delete(&RESTORING, RESTORING_ROW);
    transaction.put(&SCHEMA, VERSION_ROW, &u64::from(version));
    store.commit(transaction).await.map(|_| ())
}
