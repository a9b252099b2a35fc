//! Crash proof: processes that are killed, and power that is cut, while commits are under way.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "crash/journal.rs"]
mod journal;
mod support;
#[path = "crash/workload.rs"]
mod workload;

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use entente_storage::{
    StorageError, Store, Transaction, backup,
    engine::{
        fjall,
        memory::{Disk, Fault, Operation},
    },
};
use tempfile::TempDir;

use crate::{
    support::{BLOBS, NUMBERS, Scatter, TOPIC, close, schema, whole_log},
    workload::{Witness, parse, write_until_failure},
};

const KILLS: u64 = 200;
const POWER_CUTS: u64 = 300;
const KILLED_RESTORES: u64 = 15;
const KILLED_BACKUPS: u64 = 15;

/// Tells a child where to work.
const PLACE: &str = "ENTENTE_CRASH_TEST_PLACE";
/// A child says so when it begins with what it is to be killed at.
const BEGUN: &str = "begun";

/// Small tables and journals, so that flushes, compactions and rotations happen while processes are being killed.
async fn open_fjall(directory: &Path) -> Store {
    let options = fjall::Options { memtable_bytes: 128 * 1024, ..fjall::Options::default() };
    Store::open(fjall::open(directory, options).unwrap(), schema()).await.unwrap()
}

/// A test of this binary that runs as a process of its own, to be killed.
struct Victim {
    process: Child,
    lines: JoinHandle<Vec<String>>,
    begun: mpsc::Receiver<()>,
}

impl Victim {
    fn start(test: &str, place: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
            .env(PLACE, place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let (tell, begun) = mpsc::channel();
        let lines = std::thread::spawn(move || {
            let mut lines = Vec::new();
            let mut line = String::new();
            while output.read_line(&mut line).unwrap() > 0 {
                // One that was cut off was not said.
                if let Some(whole) = line.strip_suffix('\n') {
                    if whole == BEGUN {
                        let _ = tell.send(());
                    }
                    lines.push(whole.to_owned());
                }
                line.clear();
            }
            lines
        });
        Self { process, lines, begun }
    }

    /// Waits until it has begun.
    fn await_begin(&self) {
        self.begun.recv_timeout(Duration::from_secs(60)).expect("the process begins");
    }

    /// Kills it after this time, and answers what it had said until then.
    fn kill_after(mut self, delay: Duration) -> Vec<String> {
        std::thread::sleep(delay);
        self.process.kill().unwrap();
        let status = self.process.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it ended before it was killed: {status}");
        self.lines.join().unwrap()
    }
}

/// Where this process is to work, if it is a victim. It ends with the process that started it.
#[expect(clippy::disallowed_methods, reason = "the arguments of a test binary are the test runner's")]
fn place() -> Option<PathBuf> {
    let place: OsString = std::env::var_os(PLACE)?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(1);
    });
    Some(place.into())
}

/// One write of a whole line. It begins with a line break: the test runner may have left a line open.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    output.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    output.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test, to be killed"]
async fn victim_that_commits() {
    let Some(place) = place() else { return };
    let store = open_fjall(&place).await;
    say(BEGUN);
    let error =
        write_until_failure(&store, |task, number| say(&format!("acknowledged {task}/{number}"))).await;
    panic!("{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_no_acknowledged_commit() {
    let directory = TempDir::new().unwrap();
    let mut witness = Witness::new();
    let mut scatter = Scatter(2026);
    let mut before_the_first = 0;
    for round in 0..KILLS {
        let victim = Victim::start("victim_that_commits", directory.path());
        // One in five while it starts, and so while it reads its journal; the others while they commit.
        if round % 5 != 0 {
            victim.await_begin();
        }
        let delay = Duration::from_micros(scatter.below(100_000));
        let lines = tokio::task::spawn_blocking(move || victim.kill_after(delay)).await.unwrap();
        let mut acknowledged = lines.iter().filter_map(|line| line.strip_prefix("acknowledged ")).peekable();
        before_the_first += u64::from(acknowledged.peek().is_none());
        for line in acknowledged {
            let (task, number) = parse(line);
            witness.acknowledged(task, number);
        }
        let store = open_fjall(directory.path()).await;
        witness.examine(&store).await;
        if round % 50 == 49 {
            witness.examine_all(&store).await;
        }
        close(store).await;
    }
    println!(
        "fjall: {KILLS} processes killed, {before_the_first} of them before their first acknowledgement; {} durable \
         commits acknowledged and all there, {} more found whole, {} log records dense",
        witness.acknowledgements,
        witness.unacknowledged,
        witness.log_length(),
    );
    assert!(witness.acknowledgements > KILLS, "hardly anything was written");
    assert!(before_the_first < KILLS * 4 / 5, "they are killed too early to mean anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_no_acknowledged_commit() {
    let disk = Disk::new();
    let mut witness = Witness::new();
    let mut scatter = Scatter(1);
    for round in 0..POWER_CUTS {
        let store = Store::open(disk.open().unwrap(), schema()).await.unwrap();
        let operation = if round % 2 == 0 { Operation::Sync } else { Operation::Apply };
        disk.plan(operation, scatter.below(40), Fault::PowerCut);
        let (acknowledge, acknowledged) = mpsc::channel();
        let error =
            write_until_failure(&store, move |task, number| acknowledge.send((task, number)).unwrap()).await;
        assert!(matches!(error, StorageError::Unavailable(_)), "{error}");
        for (task, number) in acknowledged {
            witness.acknowledged(task, number);
        }
        let store = Store::open(disk.open().unwrap(), schema()).await.unwrap();
        witness.examine(&store).await;
    }
    let store = Store::open(disk.open().unwrap(), schema()).await.unwrap();
    witness.examine_all(&store).await;
    println!(
        "memory: power cut {POWER_CUTS} times; {} durable commits acknowledged and all there, {} log records dense",
        witness.acknowledgements,
        witness.log_length(),
    );
    assert!(witness.acknowledgements > POWER_CUTS, "hardly anything was written");
    assert_eq!(witness.unacknowledged, 0, "what was not synced cannot be there after a power cut");
}

/// Some tens of megabytes, so that a restore takes a while.
async fn large_backup(directory: &Path) -> PathBuf {
    let store = Store::open(Disk::new().open().unwrap(), schema()).await.unwrap();
    for number in 0..60_u64 {
        let mut transaction = Transaction::new();
        for row in 0..200 {
            transaction.put(&NUMBERS, number * 200 + row, &row);
        }
        transaction.put(&BLOBS, number, &Scatter(number).bytes(500_000));
        transaction.log(TOPIC, number.to_string());
        store.commit(transaction).await.unwrap();
    }
    let path = directory.join("entente.backup");
    backup::write(&store, &path).await.unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test, to be killed"]
async fn victim_that_restores() {
    let Some(place) = place() else { return };
    let engine = fjall::open(&place.join("store"), fjall::Options::default()).unwrap();
    say(BEGUN);
    backup::restore(engine, &schema(), &place.join("entente.backup")).await.unwrap();
    say("restored");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_restore_never_looks_complete() {
    let directory = TempDir::new().unwrap();
    let backup = large_backup(directory.path()).await;
    let path = directory.path().join("store");
    let mut scatter = Scatter(5);
    let (mut untouched, mut interrupted, mut complete) = (0, 0, 0);
    for _ in 0..KILLED_RESTORES {
        let victim = Victim::start("victim_that_restores", directory.path());
        victim.await_begin();
        let delay = Duration::from_micros(scatter.below(500_000));
        tokio::task::spawn_blocking(move || victim.kill_after(delay)).await.unwrap();
        let engine = fjall::open(&path, fjall::Options::default()).unwrap();
        match Store::open(Arc::clone(&engine), schema()).await {
            Ok(store) if whole_log(&store).await.is_empty() => {
                assert_eq!(store.snapshot().await.unwrap().scan_all(NUMBERS.scan(())).await.unwrap(), []);
                untouched += 1;
            }
            Ok(store) => {
                expect_restored(&store).await;
                complete += 1;
            }
            Err(StorageError::Refused(reason)) => {
                assert!(reason.contains("a restore into this store was interrupted"), "{reason}");
                engine.close().await.unwrap();
                drop(engine);
                let again = fjall::open(&path, fjall::Options::default()).unwrap();
                backup::restore(again, &schema(), &backup).await.unwrap();
                let restored = fjall::open(&path, fjall::Options::default()).unwrap();
                let store = Store::open(restored, schema()).await.unwrap();
                expect_restored(&store).await;
                close(store).await;
                interrupted += 1;
                std::fs::remove_dir_all(&path).unwrap();
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        engine.close().await.unwrap();
        drop(engine);
        std::fs::remove_dir_all(&path).unwrap();
    }
    println!(
        "restores: {KILLED_RESTORES} killed, {untouched} before they wrote, {interrupted} midway, {complete} when done"
    );
    assert!(interrupted > 0, "none was killed midway");
}

async fn expect_restored(store: &Store) {
    assert_eq!(whole_log(store).await.len(), 60);
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.scan_all(NUMBERS.scan(())).await.unwrap().len(), 12_000);
    let blobs = snapshot.scan_all(BLOBS.scan(())).await.unwrap();
    assert_eq!(blobs.len(), 60);
    assert!(blobs.iter().all(|(number, blob)| *blob == Scatter(*number).bytes(500_000)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test, to be killed"]
async fn victim_that_backs_up() {
    let Some(place) = place() else { return };
    let store = Store::open(Disk::new().open().unwrap(), schema()).await.unwrap();
    for number in 0_u64.. {
        let mut transaction = Transaction::new();
        transaction.put(&BLOBS, number % 8, &Scatter(number).bytes(200_000));
        transaction.log(TOPIC, number.to_string());
        store.commit(transaction).await.unwrap();
        if number == 8 {
            say(BEGUN);
        }
        if number >= 8 {
            let report = backup::write(&store, &place.join("entente.backup")).await.unwrap();
            say(&report.digest);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_backup_leaves_the_earlier_one_and_nothing_to_tidy_up() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("entente.backup");
    let partial = directory.path().join("entente.backup.partial");
    let mut scatter = Scatter(6);
    let mut midway = 0;
    for _ in 0..KILLED_BACKUPS {
        let victim = Victim::start("victim_that_backs_up", directory.path());
        victim.await_begin();
        let delay = Duration::from_micros(scatter.below(60_000));
        let lines = tokio::task::spawn_blocking(move || victim.kill_after(delay)).await.unwrap();
        let digests: Vec<_> = lines.iter().filter(|line| line.len() == 64).collect();
        midway += u64::from(partial.exists());
        if path.exists() {
            // Whole, and not older than the last one that was reported.
            let report = backup::verify(&path).await.unwrap();
            assert!(digests.len() < 2 || !digests[..digests.len() - 1].contains(&&report.digest));
        } else {
            assert!(digests.is_empty(), "a backup that was reported is not there");
        }
    }
    // What the dead left behind is in nobody's way, and goes with the next one.
    std::fs::write(&partial, "x".repeat(50_000_000)).unwrap();
    let store = Store::open(Disk::new().open().unwrap(), schema()).await.unwrap();
    let report = backup::write(&store, &path).await.unwrap();
    assert_eq!(backup::verify(&path).await.unwrap(), report);
    assert!(report.file_bytes < 100_000);
    let names: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["entente.backup"]);
    println!("backups: {KILLED_BACKUPS} killed, {midway} of them midway");
    assert!(midway > 0, "none was killed midway");
}
