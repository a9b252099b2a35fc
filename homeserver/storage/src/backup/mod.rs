//! Online backups that any engine can be restored from: also the way from one engine to another.
//!
//! - [`write()`] copies a running store, as one snapshot shows it, into a file. Writers go on meanwhile.
//! - [`verify`] reads such a file to its end and says what is in it.
//! - [`restore`] fills an empty store of any engine from it.
//!
//! Log rows and the heads of the writers are carried over as they are, so positions keep their meaning: a token that a
//! client got from the old store goes on in the new one, and followers go on from their cursors.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use self::{
    file::PartialFile,
    format::{BackupRow, End, FormatError, FormatReader, FormatWriter, Head, NamedKeyspace, Next},
};
use crate::{
    Catalogue, KeyspaceId, KeyspaceInfo, Position, Schema, Snapshot, StorageError, Store, Transaction,
    engine::Engine,
    keyspace::RowKey,
    scan::RowRange,
    schema,
    transaction::{Stamps, Write},
};

mod file;
mod format;

/// Rows that are read from the store at once.
const PAGE_ROWS: usize = 1_000;
/// Pages or blocks that wait between the store and the file.
const QUEUE_LENGTH: usize = 4;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The schema version of the store that was backed up.
    pub schema: u32,
    /// Up to where the log is in the backup.
    pub position: Position,
    /// Rows, over all keyspaces.
    pub rows: u64,
    /// The rows of each keyspace that has any, under its name.
    pub rows_by_keyspace: BTreeMap<String, u64>,
    /// Bytes of keys and values.
    pub data_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Names the contents: 64 hexadecimal digits. Two files with the same digest hold the same.
    pub digest: String,
}

/// Backs up what the store holds at this moment into a file, which appears under its name when it is whole and on disk; it
/// takes the place of an earlier file of that name.
///
/// One snapshot is held until the end. Cancelling the future leaves no file behind. The file is readable for its owner
/// only, for it holds every secret of the store; it is not encrypted.
pub async fn write(store: &Store, path: &Path) -> Result<BackupReport, StorageError> {
    let snapshot = store.snapshot().await?;
    let keyspaces: Vec<_> =
        store.catalogue().iter().filter(|&keyspace| !schema::is_of_the_store_itself(keyspace)).collect();
    let schema = schema::version_in(&snapshot).await?;
    let head = Head {
        schema: schema
            .ok_or_else(|| StorageError::Refused(String::from("the store has no schema version")))?,
        position: snapshot.position().await?,
        keyspaces: keyspaces.iter().map(named).collect(),
    };
    let (pages, queue) = mpsc::channel(QUEUE_LENGTH);
    let destination = path.to_owned();
    let writing = tokio::task::spawn_blocking(move || write_file(&destination, head, queue));
    if let Err(error) = read_pages(&snapshot, keyspaces, &pages).await {
        drop(pages);
        // The thread notices that the last page did not come, and removes the file.
        let _ = writing.await;
        return Err(error);
    }
    drop(pages);
    writing.await.unwrap_or_else(|_| Err(abandoned()))
}

/// Reads a backup to its end. If this succeeds, it is exactly what was written.
pub async fn verify(path: &Path) -> Result<BackupReport, StorageError> {
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_file(&path, |_| Ok(())));
    reading.await.unwrap_or_else(|_| Err(abandoned())).map(|(report, _)| report)
}

/// Fills the empty store on `engine` with a backup, and closes the engine.
///
/// An engine knows the newest position of its log from the moment when it was opened. That is why it is closed here, also
/// when the restore fails: drop every handle of it, open it anew, and hand it to [`Store::open`], which migrates the rows
/// forward if the backup has an older schema.
///
/// The whole file is verified before anything is written. Refused are a store that is not empty, a backup with a newer
/// schema, and one with rows of keyspaces that `schema` does not have. After an interruption the store does not open; run
/// the restore again with the same backup, or empty the store.
pub async fn restore(
    engine: Arc<dyn Engine>,
    schema: &Schema,
    path: &Path,
) -> Result<BackupReport, StorageError> {
    let store = Store { engine, catalogue: Arc::new(schema.catalogue.clone()) };
    let restored = restore_rows(&store, schema, path).await;
    let closed = store.close().await;
    restored.and_then(|report| closed.map(|()| report))
}

fn named(keyspace: &KeyspaceInfo) -> NamedKeyspace {
    NamedKeyspace { id: keyspace.id.0, name: keyspace.name.to_owned() }
}

fn abandoned() -> StorageError {
    StorageError::Unavailable(String::from("the work on a backup was abandoned"))
}

/// What the thread that writes the file is given.
enum ToFile {
    Page(KeyspaceId, Vec<(Bytes, Bytes)>),
    /// There are no more pages: only now may the file get its name.
    Complete,
}

async fn read_pages(
    snapshot: &Snapshot,
    keyspaces: Vec<KeyspaceInfo>,
    pages: &mpsc::Sender<ToFile>,
) -> Result<(), StorageError> {
    for keyspace in keyspaces {
        let mut next = Some(RowRange::all_of(keyspace, PAGE_ROWS));
        while let Some(mut range) = next {
            let page = snapshot.scan_rows(range.clone()).await?;
            next = page.next().map(|at| {
                range.resume(at);
                range
            });
            if pages.send(ToFile::Page(keyspace.id, page.rows)).await.is_err() {
                // The thread gave up, and will say why.
                return Ok(());
            }
        }
    }
    let _ = pages.send(ToFile::Complete).await;
    Ok(())
}

fn write_file(
    path: &Path,
    head: Head,
    mut queue: mpsc::Receiver<ToFile>,
) -> Result<BackupReport, StorageError> {
    let in_words = |error| error_at(path, error);
    let (partial, output) = PartialFile::create(path).map_err(|error| error_at(path, error.into()))?;
    let mut count = Count::default();
    let mut writer = FormatWriter::start(output, &head).map_err(in_words)?;
    while let ToFile::Page(keyspace, rows) = queue.blocking_recv().ok_or_else(abandoned)? {
        for (key, value) in rows {
            writer.row(keyspace, &key, &value).map_err(in_words)?;
            count.add(keyspace, &key, &value);
        }
    }
    let (output, end) = writer.finish().map_err(in_words)?;
    let file_bytes = partial.complete(output).map_err(|error| error_at(path, error.into()))?;
    Ok(count.report(head, end, file_bytes))
}

/// Reads and checks the whole file; `take` is given each block.
fn read_file(
    path: &Path,
    mut take: impl FnMut(Vec<BackupRow>) -> Result<(), StorageError>,
) -> Result<(BackupReport, Count), StorageError> {
    let in_words = |error| error_at(path, error);
    let (input, file_bytes) = file::open(path).map_err(|error| error_at(path, error.into()))?;
    let mut reader = FormatReader::start(input).map_err(in_words)?;
    let mut count = Count::default();
    loop {
        match reader.next().map_err(in_words)? {
            Next::Rows(rows) => {
                for row in &rows {
                    count.add(row.keyspace, &row.key, &row.value);
                }
                take(rows)?;
            }
            Next::End(end) => {
                let report = count.report(reader.head().clone(), end, file_bytes);
                return Ok((report, count));
            }
        }
    }
}

async fn restore_rows(store: &Store, schema: &Schema, path: &Path) -> Result<BackupReport, StorageError> {
    let path = path.to_owned();
    let report = check_fitness(path.clone(), schema).await?;
    let digest = Bytes::from(report.digest.clone());
    schema::begin_restore(store, &digest).await?;

    let (blocks, mut queue) = mpsc::channel(QUEUE_LENGTH);
    let reading = tokio::task::spawn_blocking(move || {
        read_file(&path, |rows| blocks.blocking_send(rows).map_err(|_| abandoned()))
    });
    while let Some(rows) = queue.recv().await {
        let mut transaction = Transaction::new();
        schema::check_restoring(&mut transaction, &digest);
        for row in rows {
            transaction.writes.push(put(&schema.catalogue, row)?);
        }
        store.commit(transaction).await?;
    }
    let (written, _) = reading.await.unwrap_or_else(|_| Err(abandoned()))?;
    if written != report {
        return Err(StorageError::Refused(String::from(
            "the backup was replaced while it was being restored",
        )));
    }
    schema::complete_restore(store, &digest, report.schema).await?;
    Ok(report)
}

/// Verifies the backup, and that this program knows what is in it.
async fn check_fitness(path: PathBuf, schema: &Schema) -> Result<BackupReport, StorageError> {
    let reading = tokio::task::spawn_blocking(move || read_file(&path, |_| Ok(())));
    let (report, count) = reading.await.unwrap_or_else(|_| Err(abandoned()))?;
    if report.schema > schema.version {
        return Err(StorageError::SchemaTooNew { found: report.schema, supported: schema.version });
    }
    for &keyspace in count.rows.keys() {
        known(&schema.catalogue, keyspace)?;
    }
    Ok(report)
}

fn known(catalogue: &Catalogue, keyspace: KeyspaceId) -> Result<KeyspaceInfo, StorageError> {
    let info = catalogue.get(keyspace).filter(|&info| !schema::is_of_the_store_itself(info));
    info.ok_or_else(|| {
        StorageError::Refused(format!(
            "the backup has rows of keyspace {}, which this program does not know",
            keyspace.0
        ))
    })
}

fn put(catalogue: &Catalogue, row: BackupRow) -> Result<Write, StorageError> {
    let key = RowKey { info: known(catalogue, row.keyspace)?, key: row.key };
    Ok(Write::Put { key, value: row.value, stamps: Stamps::default() })
}

/// Counts what goes past.
#[derive(Default)]
struct Count {
    rows: BTreeMap<KeyspaceId, u64>,
    data_bytes: u64,
}

impl Count {
    fn add(&mut self, keyspace: KeyspaceId, key: &[u8], value: &[u8]) {
        *self.rows.entry(keyspace).or_default() += 1;
        self.data_bytes += (key.len() + value.len()) as u64;
    }

    fn report(&self, head: Head, end: End, file_bytes: u64) -> BackupReport {
        let names: BTreeMap<u16, String> =
            head.keyspaces.into_iter().map(|keyspace| (keyspace.id, keyspace.name)).collect();
        let name = |id: u16| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
        BackupReport {
            schema: head.schema,
            position: head.position,
            rows: end.rows,
            rows_by_keyspace: self.rows.iter().map(|(id, &rows)| (name(id.0), rows)).collect(),
            data_bytes: self.data_bytes,
            file_bytes,
            digest: end.digest.to_string(),
        }
    }
}

fn error_at(path: &Path, error: FormatError) -> StorageError {
    match error {
        FormatError::Io(error) => {
            StorageError::engine(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        }
        FormatError::Damaged(reason) => StorageError::DamagedBackup { path: path.to_owned(), reason },
        error @ (FormatError::UnknownFormat(_) | FormatError::RowTooLarge(_)) => {
            StorageError::Refused(format!("{}: {error}", path.display()))
        }
    }
}
