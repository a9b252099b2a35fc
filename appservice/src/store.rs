//! What a service remembers: what it has handled, whom it has registered, and whatever its author puts there.
//!
//! One `SQLite` file. Every change is one transaction, on the disk before it is acknowledged.

mod inbox;
mod users;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Serialize, de::DeserializeOwned};

pub(crate) use self::{inbox::Waiting, users::UserRow};

/// Why something cannot be remembered.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `SQLite` cannot do it: no disk space, a broken file.
    #[error("the store failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// A value that is no JSON, or no longer has the form that is asked for.
    #[error("a value of the store has another form: {0}")]
    Form(#[from] serde_json::Error),
    /// A name or value that is too long.
    #[error("a key may have {MOST_KEY_BYTES} bytes, a value {MOST_VALUE_BYTES}")]
    TooLong,
    /// The file was written by a newer version.
    #[error("the store has the schema {found}; this version knows schemas up to {SCHEMA}")]
    TooNew {
        /// What the file says.
        found: usize,
    },
    /// The thread that worked on it broke off.
    #[error("the store's work broke off")]
    BrokeOff,
}

impl StoreError {
    /// Whether the same may work later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Database(_) | Self::BrokeOff)
    }
}

/// What leads from each schema to the next, the first from an empty file.
const SCHEMAS: [&str; 2] = [include_str!("store/schema.sql"), include_str!("store/schema_2.sql")];
/// The newest schema.
const SCHEMA: usize = SCHEMAS.len();
/// The longest space or key, in bytes.
pub const MOST_KEY_BYTES: usize = 512;
/// The longest value, in bytes of JSON.
pub const MOST_VALUE_BYTES: usize = 1024 * 1024;
/// The most rows that one call lists.
const MOST_LISTED: usize = 10_000;

/// The store of a service. Cheap to clone.
///
/// Values are JSON under a space and a key. A *link* ties a name of another network to one of Matrix (a room, a user, an event)
/// and is found from either end.
#[derive(Clone, Debug)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
}

/// Changes that are made together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Put { space: String, key: String, value: Result<String, serde_json::Error> },
    Delete { space: String, key: String },
    Link { kind: String, remote: String, matrix: String },
    Unlink { kind: String, remote: String },
}

impl Batch {
    /// No changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value.
    #[must_use]
    pub fn put(mut self, space: &str, key: &str, value: &impl Serialize) -> Self {
        let value = serde_json::to_string(value);
        self.changes.push(Change::Put { space: space.to_owned(), key: key.to_owned(), value });
        self
    }

    /// Removes a value.
    #[must_use]
    pub fn delete(mut self, space: &str, key: &str) -> Self {
        self.changes.push(Change::Delete { space: space.to_owned(), key: key.to_owned() });
        self
    }

    /// Ties a name of another network to one of Matrix, instead of what either was tied to before.
    #[must_use]
    pub fn link(mut self, kind: &str, remote: &str, matrix: &str) -> Self {
        let (kind, remote, matrix) = (kind.to_owned(), remote.to_owned(), matrix.to_owned());
        self.changes.push(Change::Link { kind, remote, matrix });
        self
    }

    /// Unties a name of another network.
    #[must_use]
    pub fn unlink(mut self, kind: &str, remote: &str) -> Self {
        self.changes.push(Change::Unlink { kind: kind.to_owned(), remote: remote.to_owned() });
        self
    }
}

impl Store {
    /// Opens the file, or makes it.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let connection = Connection::open(path)?;
            prepare(&connection)?;
            Ok(Self { connection: Arc::new(Mutex::new(connection)) })
        });
        opened.await.map_err(|_| StoreError::BrokeOff)?
    }

    /// A value, if there is one.
    pub async fn get<T: DeserializeOwned>(&self, space: &str, key: &str) -> Result<Option<T>, StoreError> {
        let (space, key) = (space.to_owned(), key.to_owned());
        let text: Option<String> = self
            .run(move |connection| {
                let mut statement =
                    connection.prepare_cached("SELECT value FROM pairs WHERE space = ?1 AND key = ?2")?;
                Ok(statement.query_row(params![space, key], |row| row.get(0)).optional()?)
            })
            .await?;
        text.map(|text| serde_json::from_str(&text)).transpose().map_err(StoreError::from)
    }

    /// All values of a space by key, at most 10 000.
    pub async fn list<T: DeserializeOwned>(&self, space: &str) -> Result<Vec<(String, T)>, StoreError> {
        let space = space.to_owned();
        let rows: Vec<(String, String)> = self
            .run(move |connection| {
                let mut statement = connection
                    .prepare_cached("SELECT key, value FROM pairs WHERE space = ?1 ORDER BY key LIMIT ?2")?;
                let rows =
                    statement.query_map(params![space, MOST_LISTED], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await?;
        rows.into_iter().map(|(key, text)| Ok((key, serde_json::from_str(&text)?))).collect()
    }

    /// Sets a value.
    pub async fn put(&self, space: &str, key: &str, value: &impl Serialize) -> Result<(), StoreError> {
        self.apply(Batch::new().put(space, key, value)).await
    }

    /// Removes a value.
    pub async fn delete(&self, space: &str, key: &str) -> Result<(), StoreError> {
        self.apply(Batch::new().delete(space, key)).await
    }

    /// Makes all changes, or none.
    pub async fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.run(move |connection| {
            let transaction = connection.transaction()?;
            for change in batch.changes {
                apply(&transaction, change)?;
            }
            Ok(transaction.commit()?)
        })
        .await
    }

    /// What a name of another network is tied to in Matrix.
    pub async fn matrix_of(&self, kind: &str, remote: &str) -> Result<Option<String>, StoreError> {
        self.linked("SELECT matrix FROM links WHERE kind = ?1 AND remote = ?2", kind, remote).await
    }

    /// What a name of Matrix is tied to in the other network.
    pub async fn remote_of(&self, kind: &str, matrix: &str) -> Result<Option<String>, StoreError> {
        self.linked("SELECT remote FROM links WHERE kind = ?1 AND matrix = ?2", kind, matrix).await
    }

    async fn linked(
        &self,
        query: &'static str,
        kind: &str,
        name: &str,
    ) -> Result<Option<String>, StoreError> {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        self.run(move |connection| {
            let mut statement = connection.prepare_cached(query)?;
            Ok(statement.query_row(params![kind, name], |row| row.get(0)).optional()?)
        })
        .await
    }

    /// Does something with the database on a thread that may wait for the disk.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = Arc::clone(&self.connection);
        let done = tokio::task::spawn_blocking(move || {
            work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.map_err(|_| StoreError::BrokeOff)?
    }
}

fn prepare(connection: &Connection) -> Result<(), StoreError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Also the last transaction before a power cut was acknowledged.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let found: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > SCHEMA {
        return Err(StoreError::TooNew { found });
    }
    for (version, script) in (1..).zip(SCHEMAS).skip(found) {
        connection.execute_batch(&format!("BEGIN; {script} PRAGMA user_version = {version}; COMMIT;"))?;
    }
    Ok(())
}

fn apply(connection: &Connection, change: Change) -> Result<(), StoreError> {
    match change {
        Change::Put { space, key, value } => {
            let value = value?;
            if space.len() > MOST_KEY_BYTES || key.len() > MOST_KEY_BYTES || value.len() > MOST_VALUE_BYTES {
                return Err(StoreError::TooLong);
            }
            let mut statement = connection
                .prepare_cached("INSERT OR REPLACE INTO pairs (space, key, value) VALUES (?1, ?2, ?3)")?;
            statement.execute(params![space, key, value])?;
        }
        Change::Delete { space, key } => {
            let mut statement =
                connection.prepare_cached("DELETE FROM pairs WHERE space = ?1 AND key = ?2")?;
            statement.execute(params![space, key])?;
        }
        Change::Link { kind, remote, matrix } => {
            if [&kind, &remote, &matrix].into_iter().any(|name| name.len() > MOST_KEY_BYTES) {
                return Err(StoreError::TooLong);
            }
            // Either end is unique, so both of the former links give way.
            let mut statement = connection
                .prepare_cached("INSERT OR REPLACE INTO links (kind, remote, matrix) VALUES (?1, ?2, ?3)")?;
            statement.execute(params![kind, remote, matrix])?;
        }
        Change::Unlink { kind, remote } => {
            let mut statement =
                connection.prepare_cached("DELETE FROM links WHERE kind = ?1 AND remote = ?2")?;
            statement.execute(params![kind, remote])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{inbox::Failures, *};

    async fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.sqlite3")).await.unwrap();
        (directory, store)
    }

    #[tokio::test]
    async fn values_outlive_the_process() {
        let (directory, store) = store().await;
        store.put("notes", "a", &vec![1, 2]).await.unwrap();
        store.put("notes", "b", &vec![3]).await.unwrap();
        store.delete("notes", "b").await.unwrap();
        drop(store);
        let store = Store::open(&directory.path().join("store.sqlite3")).await.unwrap();
        assert_eq!(store.get::<Vec<u8>>("notes", "a").await.unwrap(), Some(vec![1, 2]));
        assert_eq!(store.list::<Vec<u8>>("notes").await.unwrap(), [("a".to_owned(), vec![1, 2])]);
        assert!(matches!(store.get::<String>("notes", "a").await, Err(StoreError::Form(_))));
    }

    #[tokio::test]
    async fn a_batch_is_applied_as_a_whole_or_not_at_all() {
        let (_directory, store) = store().await;
        let too_long = "x".repeat(MOST_KEY_BYTES + 1);
        let batch = Batch::new().put("notes", "a", &1).put("notes", &too_long, &2);
        assert!(matches!(store.apply(batch).await, Err(StoreError::TooLong)));
        assert_eq!(store.get::<u8>("notes", "a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn links_are_found_from_either_end_and_are_one_to_one() {
        let (_directory, store) = store().await;
        let batch = Batch::new().link("room", "general", "!a:x").link("room", "random", "!b:x");
        store.apply(batch).await.unwrap();
        assert_eq!(store.remote_of("room", "!a:x").await.unwrap().as_deref(), Some("general"));
        store.apply(Batch::new().link("room", "general", "!b:x")).await.unwrap();
        assert_eq!(store.remote_of("room", "!a:x").await.unwrap(), None);
        assert_eq!(store.matrix_of("room", "random").await.unwrap(), None);
        assert_eq!(store.matrix_of("room", "general").await.unwrap().as_deref(), Some("!b:x"));
        assert_eq!(store.matrix_of("user", "general").await.unwrap(), None);
        store.apply(Batch::new().unlink("room", "general")).await.unwrap();
        assert_eq!(store.remote_of("room", "!b:x").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_file_of_an_older_version_is_brought_up_to_date() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.sqlite3");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(SCHEMAS[0]).unwrap();
        old.execute_batch("INSERT INTO handled (id, failures, is_done) VALUES ('$a', 2, 0), ('$b', 0, 1)")
            .unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);
        let store = Store::open(&path).await.unwrap();
        assert!(store.is_handled("$b").await.unwrap());
        assert_eq!(store.mark_failed("$a", 7).await.unwrap(), Failures { count: 3, since: 7 });
    }

    #[tokio::test]
    async fn a_file_of_a_newer_version_is_left_alone() {
        let (directory, store) = store().await;
        store
            .run(|connection| Ok(connection.pragma_update(None, "user_version", SCHEMA + 1)?))
            .await
            .unwrap();
        drop(store);
        let opened = Store::open(&directory.path().join("store.sqlite3")).await;
        assert!(matches!(opened, Err(StoreError::TooNew { .. })));
    }
}
