//! Server-side key backups (C-S API, "Server-side key backups").

use entente_storage::{Bytes, Keyspace, Scan, Snapshot, StorageError, Transaction, codec::Key, value::Value};
use ruma::UserId;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Encryption, EncryptionError,
    rows::{self, BackupRow},
};

/// A backed-up key has at most this many bytes of JSON.
const MOST_KEY_BYTES: usize = 64 * 1024;
/// A backup's description has at most this many bytes of JSON.
const MOST_DESCRIPTION_BYTES: usize = 64 * 1024;
/// A session id has at most this many bytes.
const MOST_ID_BYTES: usize = 255;
/// Rows that are deleted in one transaction.
const PAGE_ROWS: usize = 1_000;

const NO_BACKUP: &str = "there is no such backup";

/// A backup, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupVersion {
    /// Its version: opaque to clients.
    pub version: String,
    /// A JSON object with `algorithm` and `auth_data`, as the client sent it.
    pub description: String,
    /// How many keys there are, and which state they are in.
    pub state: BackupState,
}

/// How many keys a backup has, and a text that is another one whenever they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupState {
    /// The number of keys.
    pub count: u64,
    /// Differs from what it was before a change.
    pub etag: String,
}

/// A key that a client backs up.
#[derive(Clone, Copy, Debug)]
pub struct BackupKey<'a> {
    /// The room.
    pub room_id: &'a str,
    /// The Megolm session.
    pub session_id: &'a str,
    /// A JSON object with `first_message_index`, `forwarded_count`, `is_verified` and `session_data`.
    pub data: &'a str,
}

/// A key as it was backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedUpKey {
    /// The room.
    pub room_id: String,
    /// The Megolm session.
    pub session_id: String,
    /// The JSON object, as the client sent it.
    pub data: Bytes,
}

/// Which of a backup's keys are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyScope<'a> {
    /// All.
    All,
    /// Those of one room.
    Room(&'a str),
    /// One.
    Session(&'a str, &'a str),
}

/// What decides which of two backups of one key is kept.
#[derive(Deserialize)]
struct KeyMerits {
    first_message_index: u64,
    forwarded_count: u64,
    is_verified: bool,
    #[serde(rename = "session_data")]
    _session_data: serde::de::IgnoredAny,
}

impl KeyMerits {
    fn of(data: &[u8]) -> Result<Self, EncryptionError> {
        serde_json::from_slice(data).map_err(|_| {
            EncryptionError::InvalidParameter(
                "a backed-up key needs first_message_index, forwarded_count, is_verified and session_data",
            )
        })
    }

    /// The rule of the spec: verified before not verified, then the one that decrypts more, then the shorter way.
    fn replace(&self, stored: &Self) -> bool {
        if self.is_verified != stored.is_verified {
            return self.is_verified;
        }
        if self.first_message_index != stored.first_message_index {
            return self.first_message_index < stored.first_message_index;
        }
        self.forwarded_count < stored.forwarded_count
    }
}

#[derive(Deserialize)]
struct Description<'a> {
    algorithm: String,
    #[serde(borrow, rename = "auth_data")]
    _auth_data: &'a RawValue,
}

impl Encryption {
    /// Makes a new backup, which is the newest from now on. Answers its version.
    pub async fn create_backup(
        &self,
        user_id: &UserId,
        description: &str,
    ) -> Result<String, EncryptionError> {
        let algorithm = algorithm_of(description)?;
        let localpart = user_id.localpart();
        let (version, _) = self
            .store
            .run(async |snapshot| {
                let version = newest_ever(&snapshot, localpart).await?.map_or(1, |(version, _)| version + 1);
                let row = BackupRow {
                    deleted: false,
                    algorithm: algorithm.clone(),
                    description: description.to_owned(),
                    count: 0,
                    changes: 0,
                };
                let mut transaction = Transaction::new();
                transaction.check_absent(&rows::BACKUPS, (localpart, version));
                transaction.put(&rows::BACKUPS, (localpart, version), &row);
                Ok::<_, EncryptionError>((transaction, version))
            })
            .await?;
        Ok(version.to_string())
    }

    /// A backup; `None` asks for the newest.
    pub async fn backup(
        &self,
        user_id: &UserId,
        version: Option<&str>,
    ) -> Result<BackupVersion, EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        let (version, row) = match version {
            Some(version) => existing(&snapshot, user_id.localpart(), version).await?,
            None => newest(&snapshot, user_id.localpart()).await?,
        };
        let state = state_of(&row);
        Ok(BackupVersion { version: version.to_string(), description: row.description, state })
    }

    /// Changes the `auth_data` of a backup; its algorithm stays.
    pub async fn update_backup(
        &self,
        user_id: &UserId,
        version: &str,
        description: &str,
    ) -> Result<(), EncryptionError> {
        let algorithm = algorithm_of(description)?;
        let localpart = user_id.localpart();
        self.store
            .run(async |snapshot| {
                let (version, row) = existing(&snapshot, localpart, version).await?;
                if row.algorithm != algorithm {
                    return Err(EncryptionError::InvalidParameter(
                        "the algorithm of a backup does not change",
                    ));
                }
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::BACKUPS, (localpart, version), Some(&row));
                let row = BackupRow { description: description.to_owned(), ..row };
                transaction.put(&rows::BACKUPS, (localpart, version), &row);
                Ok((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// Deletes a backup and its keys. From the first moment on it is gone for its owner; the keys follow page by page.
    pub async fn delete_backup(&self, user_id: &UserId, version: &str) -> Result<(), EncryptionError> {
        let localpart = user_id.localpart();
        let (number, _) = self
            .store
            .run(async |snapshot| {
                let number = parse(version)?;
                let row = snapshot.get(&rows::BACKUPS, (localpart, number)).await?;
                let row = row.ok_or(EncryptionError::NotFound(NO_BACKUP))?;
                let mut transaction = Transaction::new();
                if !row.deleted {
                    transaction.check_unchanged(&rows::BACKUPS, (localpart, number), Some(&row));
                    let row = BackupRow { deleted: true, description: String::new(), count: 0, ..row };
                    transaction.put(&rows::BACKUPS, (localpart, number), &row);
                }
                // One that was deleted before may have left keys behind when the server crashed.
                Ok::<_, EncryptionError>((transaction, number))
            })
            .await?;
        self.delete_pages(|| rows::BACKUP_KEYS.scan((localpart, number)), &rows::BACKUP_KEYS).await?;
        Ok(())
    }

    /// Backs keys up in the newest backup. Of two backups of one key the better one is kept.
    pub async fn put_backup_keys(
        &self,
        user_id: &UserId,
        version: &str,
        keys: &[BackupKey<'_>],
    ) -> Result<BackupState, EncryptionError> {
        let localpart = user_id.localpart();
        let mut offered = Vec::with_capacity(keys.len());
        for key in keys {
            if key.data.len() > MOST_KEY_BYTES || key.session_id.len() > MOST_ID_BYTES {
                return Err(EncryptionError::TooLarge(
                    "a backed-up key has at most 64 KiB, its session id at most 255 bytes",
                ));
            }
            offered.push((key, KeyMerits::of(key.data.as_bytes())?));
        }
        let offered = &offered;
        let (state, _) = self
            .store
            .run(async |snapshot| {
                let (number, row) = newest(&snapshot, localpart).await?;
                if parse(version)? != number {
                    existing(&snapshot, localpart, version).await?;
                    return Err(EncryptionError::WrongBackupVersion { current: number.to_string() });
                }
                let names = offered.iter().map(|(key, _)| (localpart, number, key.room_id, key.session_id));
                let stored = snapshot.get_many(&rows::BACKUP_KEYS, names).await?;
                let mut transaction = Transaction::new();
                let mut changed = row.clone();
                for ((key, merits), stored) in offered.iter().zip(stored) {
                    match stored {
                        Some(stored) if !merits.replace(&KeyMerits::of(&stored)?) => continue,
                        Some(_) => {}
                        None => changed.count += 1,
                    }
                    changed.changes += 1;
                    let name = (localpart, number, key.room_id, key.session_id);
                    let data = Bytes::copy_from_slice(key.data.as_bytes());
                    transaction.put(&rows::BACKUP_KEYS, name, &data);
                }
                let state = state_of(&changed);
                if changed != row {
                    // Whoever changes any key changes this row, so it guards them all.
                    transaction.check_unchanged(&rows::BACKUPS, (localpart, number), Some(&row));
                    transaction.put(&rows::BACKUPS, (localpart, number), &changed);
                }
                Ok((transaction, state))
            })
            .await?;
        Ok(state)
    }

    /// The keys of a backup, by room and session. For one session that is not there: [`EncryptionError::NotFound`].
    pub async fn backup_keys(
        &self,
        user_id: &UserId,
        version: &str,
        scope: KeyScope<'_>,
    ) -> Result<Vec<BackedUpKey>, EncryptionError> {
        let localpart = user_id.localpart();
        let snapshot = self.store.snapshot().await?;
        let (number, _) = existing(&snapshot, localpart, version).await?;
        if let KeyScope::Session(room_id, session_id) = scope {
            let data = snapshot.get(&rows::BACKUP_KEYS, (localpart, number, room_id, session_id)).await?;
            let data = data.ok_or(EncryptionError::NotFound("that key was not backed up"))?;
            let (room_id, session_id) = (room_id.to_owned(), session_id.to_owned());
            return Ok(vec![BackedUpKey { room_id, session_id, data }]);
        }
        let rows = snapshot.scan_all(scan(localpart, number, scope)).await?;
        let key = |((_, _, room_id, session_id), data)| BackedUpKey { room_id, session_id, data };
        Ok(rows.into_iter().map(key).collect())
    }

    /// Deletes keys of a backup.
    pub async fn delete_backup_keys(
        &self,
        user_id: &UserId,
        version: &str,
        scope: KeyScope<'_>,
    ) -> Result<BackupState, EncryptionError> {
        let localpart = user_id.localpart();
        loop {
            let ((state, complete), _) = self
                .store
                .run(async |snapshot| {
                    let (number, row) = existing(&snapshot, localpart, version).await?;
                    let (names, complete) = names_in(&snapshot, localpart, number, scope).await?;
                    let mut transaction = Transaction::new();
                    let mut changed = row.clone();
                    for (room_id, session_id) in &names {
                        let name = (localpart, number, room_id.as_str(), session_id.as_str());
                        transaction.delete(&rows::BACKUP_KEYS, name);
                        changed.count = changed.count.saturating_sub(1);
                        changed.changes += 1;
                    }
                    if changed != row {
                        transaction.check_unchanged(&rows::BACKUPS, (localpart, number), Some(&row));
                        transaction.put(&rows::BACKUPS, (localpart, number), &changed);
                    }
                    Ok::<_, EncryptionError>((transaction, (state_of(&changed), complete)))
                })
                .await?;
            if complete {
                return Ok(state);
            }
        }
    }
}

impl Encryption {
    /// Deletes all backups of a user whose account is gone and whose name nobody gets again.
    pub(crate) async fn forget_backups(&self, localpart: &str) -> Result<(), StorageError> {
        self.delete_pages(|| rows::BACKUP_KEYS.scan((localpart,)), &rows::BACKUP_KEYS).await?;
        self.delete_pages(|| rows::BACKUPS.scan((localpart,)), &rows::BACKUPS).await
    }

    /// Deletes all rows of a range, page by page.
    async fn delete_pages<K, V>(
        &self,
        range: impl Fn() -> Scan<K, V>,
        keyspace: &Keyspace<K, V>,
    ) -> Result<(), StorageError>
    where
        K: Key,
        V: Value,
    {
        loop {
            let page = self.store.snapshot().await?.scan(&range().limit(PAGE_ROWS)).await?;
            if page.rows.is_empty() {
                return Ok(());
            }
            let mut transaction = Transaction::new();
            for (key, _) in &page.rows {
                transaction.delete(keyspace, key);
            }
            self.store.commit(transaction).await?;
        }
    }
}

fn algorithm_of(description: &str) -> Result<String, EncryptionError> {
    if description.len() > MOST_DESCRIPTION_BYTES {
        return Err(EncryptionError::TooLarge("the description of a backup has at most 64 KiB"));
    }
    let parsed: Description<'_> = serde_json::from_str(description)
        .map_err(|_| EncryptionError::InvalidParameter("a backup needs an algorithm and auth_data"))?;
    Ok(parsed.algorithm)
}

fn parse(version: &str) -> Result<u64, EncryptionError> {
    version.parse().map_err(|_| EncryptionError::NotFound(NO_BACKUP))
}

fn state_of(row: &BackupRow) -> BackupState {
    BackupState { count: row.count, etag: row.changes.to_string() }
}

type KeyScan = Scan<(String, u64, String, String), Bytes>;

fn scan(localpart: &str, number: u64, scope: KeyScope<'_>) -> KeyScan {
    match scope {
        KeyScope::All => rows::BACKUP_KEYS.scan((localpart, number)),
        KeyScope::Room(room_id) | KeyScope::Session(room_id, _) => {
            rows::BACKUP_KEYS.scan((localpart, number, room_id))
        }
    }
}

/// A page of the names of keys, and whether there are no more.
async fn names_in(
    snapshot: &Snapshot,
    localpart: &str,
    number: u64,
    scope: KeyScope<'_>,
) -> Result<(Vec<(String, String)>, bool), EncryptionError> {
    if let KeyScope::Session(room_id, session_id) = scope {
        let stored = snapshot.get(&rows::BACKUP_KEYS, (localpart, number, room_id, session_id)).await?;
        let name = stored.map(|_| (room_id.to_owned(), session_id.to_owned()));
        return Ok((name.into_iter().collect(), true));
    }
    let page = snapshot.scan(&scan(localpart, number, scope).limit(PAGE_ROWS)).await?;
    let names = page.rows.into_iter().map(|((_, _, room_id, session_id), _)| (room_id, session_id)).collect();
    Ok((names, page.next.is_none()))
}

/// The newest version that the user ever made, deleted ones included.
async fn newest_ever(
    snapshot: &Snapshot,
    localpart: &str,
) -> Result<Option<(u64, BackupRow)>, EncryptionError> {
    let page = snapshot.scan(&rows::BACKUPS.scan((localpart,)).reverse().limit(1)).await?;
    Ok(page.rows.into_iter().next().map(|((_, version), row)| (version, row)))
}

/// The newest backup that there is.
async fn newest(snapshot: &Snapshot, localpart: &str) -> Result<(u64, BackupRow), EncryptionError> {
    let mut next = Some(rows::BACKUPS.scan((localpart,)).reverse().limit(8));
    while let Some(scan) = next {
        let page = snapshot.scan(&scan).await?;
        if let Some(((_, version), row)) = page.rows.into_iter().find(|(_, row)| !row.deleted) {
            return Ok((version, row));
        }
        next = page.next.map(|at| scan.resume(at));
    }
    Err(EncryptionError::NotFound("there is no backup"))
}

async fn existing(
    snapshot: &Snapshot,
    localpart: &str,
    version: &str,
) -> Result<(u64, BackupRow), EncryptionError> {
    let number = parse(version)?;
    let row = snapshot.get(&rows::BACKUPS, (localpart, number)).await?.filter(|row| !row.deleted);
    row.map(|row| (number, row)).ok_or(EncryptionError::NotFound(NO_BACKUP))
}
