//! Backups through the public surface: what comes back, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use entente_storage::{
    Bytes, Catalogue, Follower, Keyspace, LogPosition, Position, Schema, StartFrom, StorageError, Store,
    Topic, Transaction,
    backup::{self, BackupReport},
    engine::{
        Engine, fjall,
        memory::{Disk, Fault, Operation},
    },
    value::Stamped,
};
use tempfile::TempDir;

const ACCOUNTS: Keyspace<String, u64> = Keyspace::new(100, "test.accounts");
const EVENTS: Keyspace<(String, LogPosition), Stamped<Bytes>> = Keyspace::blobs(101, "test.events");
const EMPTY: Keyspace<u64, ()> = Keyspace::new(102, "test.empty");
const TOPIC: Topic = Topic(1);

const VERSION: u32 = 3;

fn schema() -> Schema {
    schema_of_version(VERSION)
}

fn schema_of_version(version: u32) -> Schema {
    let catalogue = Catalogue::new([ACCOUNTS.info(), EVENTS.info(), EMPTY.info()]);
    Schema { catalogue, version, migrations: Vec::new() }
}

async fn store_on(disk: &Disk) -> Store {
    Store::open(disk.open().unwrap(), schema()).await.unwrap()
}

fn fjall_in(directory: &Path) -> Arc<dyn Engine> {
    fjall::open(directory, fjall::Options::default()).unwrap()
}

/// Two thousand events, some accounts, and a follower that has read some of the log.
async fn filled_store() -> Store {
    let store = store_on(&Disk::new()).await;
    let mut follower = Follower::open(&store, "reader", StartFrom::Beginning).await.unwrap();
    for number in 0..40_u64 {
        let mut transaction = Transaction::new();
        for event in 0..50_u64 {
            let room = format!("!room{number}-{event}");
            let value = Bytes::from(format!("event {event} ").repeat(40));
            transaction.put(
                &EVENTS,
                (room, LogPosition::AT_COMMIT),
                &Stamped { position: LogPosition::AT_COMMIT, value },
            );
        }
        transaction.put(&ACCOUNTS, format!("account{number}"), &number);
        transaction.log(TOPIC, format!("commit {number}"));
        store.commit(transaction).await.unwrap();
    }
    follower.next(7).await.unwrap();
    follower.advance().await.unwrap();
    store
}

#[derive(Debug, PartialEq)]
struct Contents {
    accounts: Vec<(String, u64)>,
    events: Vec<((String, LogPosition), Stamped<Bytes>)>,
    log: Vec<entente_storage::LogRecord>,
    position: Position,
}

async fn contents(store: &Store) -> Contents {
    let snapshot = store.snapshot().await.unwrap();
    Contents {
        accounts: snapshot.scan_all(ACCOUNTS.scan(())).await.unwrap(),
        events: snapshot.scan_all(EVENTS.scan(())).await.unwrap(),
        log: store.read_log(&Position::start(), 10_000).await.unwrap().0,
        position: snapshot.position().await.unwrap(),
    }
}

struct Backup {
    directory: TempDir,
    path: PathBuf,
    report: BackupReport,
}

async fn backup_of(store: &Store) -> Backup {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("entente.backup");
    let report = backup::write(store, &path).await.unwrap();
    Backup { directory, path, report }
}

fn files_in(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    std::fs::read_dir(directory).unwrap().map(name).collect()
}

/// Restores into an empty disk, and expects that it is refused and that nothing was written.
async fn refusal(path: &Path, schema: Schema) -> StorageError {
    let disk = Disk::new();
    let error = backup::restore(disk.open().unwrap(), &schema, path).await.unwrap_err();
    store_on(&disk).await;
    error
}

#[tokio::test]
async fn a_store_survives_the_way_over_another_engine_and_back() {
    let original = filled_store().await;
    let expected = contents(&original).await;
    let first = backup_of(&original).await;

    let directory = TempDir::new().unwrap();
    let restored = backup::restore(fjall_in(directory.path()), &schema(), &first.path).await.unwrap();
    assert_eq!(restored, first.report);
    let on_fjall = Store::open(fjall_in(directory.path()), schema()).await.unwrap();
    assert_eq!(contents(&on_fjall).await, expected);

    let second = backup_of(&on_fjall).await;
    assert_eq!(second.report.digest, first.report.digest);
    let disk = Disk::new();
    backup::restore(disk.open().unwrap(), &schema(), &second.path).await.unwrap();
    assert_eq!(contents(&store_on(&disk).await).await, expected);
}

#[tokio::test]
async fn positions_and_cursors_go_on_where_they_were() {
    let original = filled_store().await;
    let token = original.published().to_string();
    let backup = backup_of(&original).await;
    let disk = Disk::new();
    backup::restore(disk.open().unwrap(), &schema(), &backup.path).await.unwrap();

    let store = store_on(&disk).await;
    let mut follower = Follower::open(&store, "reader", StartFrom::Now).await.unwrap();
    let records = follower.next(1).await.unwrap();
    assert_eq!(records[0].entries[0].payload, "commit 7");

    let position: Position = token.parse().unwrap();
    assert_eq!(store.published(), position);
    let mut transaction = Transaction::new();
    transaction.log(TOPIC, "the first after the restore");
    let commit = store.commit(transaction).await.unwrap();
    assert!(!position.includes(commit.position.unwrap()));
    let (records, _) = store.read_log(&position, 10).await.unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].entries[0].payload, "the first after the restore");
}

/// A clustered engine has several writers; an embedded one goes on as writer 0 and keeps the others' commits.
#[tokio::test]
async fn commits_of_other_writers_stay_in_the_log() {
    const RAW_LOG: Keyspace<(u16, u64), Bytes> = Keyspace::new(1, "storage.log");
    const RAW_HEADS: Keyspace<u16, u64> = Keyspace::new(2, "storage.heads");
    let original = filled_store().await;
    let snapshot = original.snapshot().await.unwrap();
    let mut transaction = Transaction::new();
    for sequence in 1..=5 {
        let record = snapshot.get(&RAW_LOG, (0, sequence)).await.unwrap().unwrap();
        transaction.put(&RAW_LOG, (3, sequence), &record);
    }
    transaction.put(&RAW_HEADS, 3, &5);
    original.commit(transaction).await.unwrap();

    let backup = backup_of(&original).await;
    let disk = Disk::new();
    backup::restore(disk.open().unwrap(), &schema(), &backup.path).await.unwrap();
    let store = store_on(&disk).await;
    assert_eq!(store.published().to_string(), "s40w3s5");
    let mut transaction = Transaction::new();
    transaction.log(TOPIC, "the next");
    store.commit(transaction).await.unwrap();
    assert_eq!(store.published().to_string(), "s41w3s5");
    assert_eq!(store.read_log(&Position::start(), 100).await.unwrap().0.len(), 41 + 5);
}

#[tokio::test]
async fn the_report_says_what_is_in_the_file() {
    let original = filled_store().await;
    let backup = backup_of(&original).await;
    let expected = [("storage.cursors", 1), ("storage.heads", 1), ("storage.log", 40), ("test.accounts", 40)];
    let mut expected: BTreeMap<String, u64> =
        expected.into_iter().map(|(name, rows)| (name.to_owned(), rows)).collect();
    expected.insert(String::from("test.events"), 2_000);
    assert_eq!(backup.report.rows_by_keyspace, expected);
    assert_eq!(backup.report.rows, 2_082);
    assert_eq!(backup.report.schema, VERSION);
    assert_eq!(backup.report.position, original.published());
    assert_eq!(backup.report.file_bytes, std::fs::metadata(&backup.path).unwrap().len());
    assert!(backup.report.file_bytes < backup.report.data_bytes);
    assert_eq!(backup::verify(&backup.path).await.unwrap(), backup.report);
    assert_eq!(files_in(backup.directory.path()), ["entente.backup"]);
}

#[tokio::test]
async fn an_empty_store_can_be_backed_up() {
    let backup = backup_of(&store_on(&Disk::new()).await).await;
    assert_eq!(backup.report.rows, 0);
    let disk = Disk::new();
    backup::restore(disk.open().unwrap(), &schema(), &backup.path).await.unwrap();
    assert_eq!(contents(&store_on(&disk).await).await.position, Position::start());
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read_a_backup() {
    use std::os::unix::fs::PermissionsExt;
    let backup = backup_of(&filled_store().await).await;
    assert_eq!(std::fs::metadata(&backup.path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Each transaction moves something from the one account to the other, and a third row far behind says how often.
async fn transfer(store: &Store) {
    let outcome = store.run(async |snapshot| {
        let read =
            async |name: &'static str| snapshot.get(&ACCOUNTS, name).await.map(Option::unwrap_or_default);
        let (from, to, count) = (read("a").await?, read("b").await?, read("z").await?);
        let mut transaction = Transaction::new();
        for (name, old, new) in
            [("a", from, from.wrapping_sub(3)), ("b", to, to.wrapping_add(3)), ("z", count, count + 1)]
        {
            transaction.check_unchanged(&ACCOUNTS, name, Some(&old).filter(|_| count > 0));
            transaction.put(&ACCOUNTS, name, &new);
        }
        transaction.log(TOPIC, "transfer");
        Ok::<_, StorageError>((transaction, ()))
    });
    outcome.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_shows_one_moment_while_writers_write() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(fjall_in(directory.path()), schema()).await.unwrap();
    // Many rows between the account that is read first and the one that is read last.
    let mut filling = Transaction::new();
    for number in 0..20_000_u64 {
        filling.put(&ACCOUNTS, format!("m{number}"), &number);
    }
    store.commit(filling).await.unwrap();
    transfer(&store).await;

    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (store, stopped) = (store.clone(), stopped.clone());
            tokio::spawn(async move {
                while !*stopped.borrow() {
                    transfer(&store).await;
                }
            })
        })
        .collect();
    let mut backups = Vec::new();
    for _ in 0..3 {
        let before = store.published();
        backups.push(backup_of(&store).await);
        // The writers were not held up.
        store.watch().beyond(&before).await.unwrap();
    }
    stop.send(true).unwrap();
    for writer in writers {
        writer.await.unwrap();
    }

    for backup in backups {
        let disk = Disk::new();
        backup::restore(disk.open().unwrap(), &schema(), &backup.path).await.unwrap();
        let store = store_on(&disk).await;
        let snapshot = store.snapshot().await.unwrap();
        let balances = snapshot.get_many(&ACCOUNTS, ["a", "b", "z"]).await.unwrap();
        let [Some(a), Some(b), Some(count)] = balances[..] else { panic!("{balances:?}") };
        assert_eq!(a.wrapping_add(b), 0);
        assert_eq!(b, count * 3);
        assert_eq!(store.read_log(&Position::start(), usize::MAX).await.unwrap().0.len() as u64, count);
        assert_eq!(snapshot.position().await.unwrap().to_string(), format!("s{count}"));
    }
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let backup = backup_of(&filled_store().await).await;
    let whole = std::fs::read(&backup.path).unwrap();
    for length in
        [0, 5, 8, 11, 12, 20, 60, 200, whole.len() / 2, whole.len() - 98, whole.len() - 97, whole.len() - 1]
    {
        std::fs::write(&backup.path, &whole[..length]).unwrap();
        let error = refusal(&backup.path, schema()).await;
        assert!(matches!(error, StorageError::DamagedBackup { .. }), "{length}: {error}");
        assert!(backup::verify(&backup.path).await.is_err(), "{length}");
    }
}

#[tokio::test]
async fn a_flipped_bit_is_noticed_wherever_it_is() {
    let backup = backup_of(&filled_store().await).await;
    let whole = std::fs::read(&backup.path).unwrap();
    let step = whole.len() / 150;
    let offsets = (0..120).chain((120..whole.len()).step_by(step)).chain(whole.len() - 100..whole.len());
    for offset in offsets {
        let mut damaged = whole.clone();
        damaged[offset] ^= 1 << (offset % 8);
        std::fs::write(&backup.path, &damaged).unwrap();
        assert!(backup::verify(&backup.path).await.is_err(), "offset {offset}");
    }
    let error = refusal(&backup.path, schema()).await;
    assert!(matches!(error, StorageError::DamagedBackup { .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_backup_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("letter.txt");
    std::fs::write(&path, "Dear all, this is no backup.").unwrap();
    let error = refusal(&path, schema()).await;
    assert!(error.to_string().ends_with("it does not begin as a backup does"), "{error}");
    let error = refusal(&directory.path().join("missing"), schema()).await;
    assert!(matches!(error, StorageError::Engine(_)), "{error}");
}

#[tokio::test]
async fn a_newer_format_is_refused_in_words() {
    let backup = backup_of(&filled_store().await).await;
    let mut newer = std::fs::read(&backup.path).unwrap();
    newer[8..12].copy_from_slice(&2_u32.to_be_bytes());
    std::fs::write(&backup.path, newer).unwrap();
    let error = refusal(&backup.path, schema()).await;
    assert!(error.to_string().contains("it has format 2, this program reads format 1"), "{error}");
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let backup = backup_of(&filled_store().await).await;
    let disk = Disk::new();
    let older = schema_of_version(VERSION - 1);
    let error = backup::restore(disk.open().unwrap(), &older, &backup.path).await.unwrap_err();
    assert!(matches!(error, StorageError::SchemaTooNew { found: 3, supported: 2 }), "{error}");
    store_on(&disk).await;
}

#[tokio::test]
async fn an_older_schema_is_migrated_when_the_store_is_opened() {
    let backup = backup_of(&filled_store().await).await;
    let newer = || Schema {
        migrations: vec![entente_storage::Migration {
            to: VERSION + 1,
            name: "note that it ran",
            run: |store| {
                Box::pin(async move {
                    let mut transaction = Transaction::new();
                    transaction.put(&ACCOUNTS, "migrated", &1);
                    store.commit(transaction).await.map(|_| ())
                })
            },
        }],
        ..schema_of_version(VERSION + 1)
    };
    let disk = Disk::new();
    backup::restore(disk.open().unwrap(), &newer(), &backup.path).await.unwrap();
    let store = Store::open(disk.open().unwrap(), newer()).await.unwrap();
    assert_eq!(store.snapshot().await.unwrap().get(&ACCOUNTS, "migrated").await.unwrap(), Some(1));
}

#[tokio::test]
async fn rows_of_an_unknown_keyspace_are_refused() {
    let backup = backup_of(&filled_store().await).await;
    let smaller =
        Schema { catalogue: Catalogue::new([ACCOUNTS.info()]), version: VERSION, migrations: Vec::new() };
    let error = refusal(&backup.path, smaller).await;
    assert!(error.to_string().contains("keyspace 101"), "{error}");
    // One that is empty in the backup does no harm.
    let without_empty = Schema {
        catalogue: Catalogue::new([ACCOUNTS.info(), EVENTS.info()]),
        version: VERSION,
        migrations: Vec::new(),
    };
    backup::restore(Disk::new().open().unwrap(), &without_empty, &backup.path).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_in_use_is_refused_and_stays_as_it_was() {
    let backup = backup_of(&filled_store().await).await;
    let disk = Disk::new();
    let store = store_on(&disk).await;
    let mut transaction = Transaction::new();
    transaction.put(&ACCOUNTS, "mine", &5);
    store.commit(transaction).await.unwrap();
    store.close().await.unwrap();
    let error = backup::restore(disk.open().unwrap(), &schema(), &backup.path).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused(_)), "{error}");
    assert_eq!(contents(&store_on(&disk).await).await.accounts, [(String::from("mine"), 5)]);
}

/// Interrupts a restore at its nth write, for every n until one goes through: the store must not open in between, and the
/// same restore must go through afterwards.
async fn interrupt_everywhere(operation: Operation) {
    let original = filled_store().await;
    let expected = contents(&original).await;
    let backup = backup_of(&original).await;
    let mut interrupted = 0;
    for skip in 0.. {
        let disk = Disk::new();
        disk.plan(operation, skip, Fault::PowerCut);
        if backup::restore(disk.open().unwrap(), &schema(), &backup.path).await.is_ok() {
            break;
        }
        match Store::open(disk.open().unwrap(), schema()).await {
            Err(StorageError::Refused(reason)) => {
                assert!(reason.contains("a restore into this store was interrupted"), "{reason}");
                backup::restore(disk.open().unwrap(), &schema(), &backup.path).await.unwrap();
                assert_eq!(contents(&store_on(&disk).await).await, expected);
                interrupted += 1;
            }
            Ok(store) => {
                // Before the first write the store is as empty as it was. When it fails only while the engine is being
                // closed, everything is there already.
                let found = contents(&store).await;
                assert!(skip == 0 && found.position == Position::start() || found == expected, "{found:?}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    // The mark, at least one block, and the completion.
    assert!(interrupted >= 2, "{interrupted}");
}

#[tokio::test]
async fn an_interrupted_restore_never_looks_complete() {
    interrupt_everywhere(Operation::Apply).await;
    interrupt_everywhere(Operation::Sync).await;
}

#[tokio::test]
async fn an_interrupted_restore_goes_on_with_the_same_backup_only() {
    let original = filled_store().await;
    let backup = backup_of(&original).await;
    let other = backup_of(&store_on(&Disk::new()).await).await;
    let disk = Disk::new();
    disk.plan(Operation::Apply, 1, Fault::PowerCut);
    backup::restore(disk.open().unwrap(), &schema(), &backup.path).await.unwrap_err();
    let error = backup::restore(disk.open().unwrap(), &schema(), &other.path).await.unwrap_err();
    assert!(error.to_string().contains("another backup"), "{error}");
    backup::restore(disk.open().unwrap(), &schema(), &backup.path).await.unwrap();
}

#[tokio::test]
async fn rows_without_a_schema_version_do_not_open_as_a_new_store() {
    let disk = Disk::new();
    let engine = disk.open().unwrap();
    let mut transaction = Transaction::new();
    transaction.put(&ACCOUNTS, "stray", &1);
    engine.commit(transaction).await.unwrap();
    let error = Store::open(engine, schema()).await.unwrap_err();
    assert!(error.to_string().contains("test.accounts"), "{error}");
    let backup = backup_of(&filled_store().await).await;
    let error = backup::restore(disk.open().unwrap(), &schema(), &backup.path).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_backup_that_fails_leaves_the_earlier_one_alone() {
    let disk = Disk::new();
    let store = store_on(&disk).await;
    let backup = backup_of(&store).await;
    let before = std::fs::read(&backup.path).unwrap();
    disk.plan(Operation::Scan, 3, Fault::Fail);
    backup::write(&store, &backup.path).await.unwrap_err();
    assert_eq!(std::fs::read(&backup.path).unwrap(), before);
    assert_eq!(files_in(backup.directory.path()), ["entente.backup"]);
}

#[tokio::test]
async fn a_backup_that_cannot_be_written_says_where() {
    let store = filled_store().await;
    let directory = TempDir::new().unwrap();
    let error = backup::write(&store, &directory.path().join("missing/entente.backup")).await.unwrap_err();
    assert!(error.to_string().contains("missing/entente.backup"), "{error}");
}
