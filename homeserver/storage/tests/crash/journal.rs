//! What a power cut leaves of fjall's journal: simulated on copies of a database.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use entente_storage::{Store, engine::fjall};
use tempfile::TempDir;

use crate::{
    support::{BLOBS, NUMBERS, Scatter, close, schema},
    workload::{TASKS, Witness, transaction},
};

const COMMITS: u64 = 60;
const CUTS: u64 = 120;
/// The last commits carry a value that spreads over many pages and does not compress.
const LARGE_COMMITS: u64 = 3;
/// What a disk writes at once.
const PAGE_BYTES: u64 = 4_096;

/// A database on which no process works any more, as it was on disk at some moment.
struct Remains {
    directory: TempDir,
    journal: PathBuf,
    /// The bytes of the journal that were written; behind them it is empty space.
    written: Vec<u8>,
    /// Up to where the journal was written when each commit had been acknowledged.
    ends: Vec<u64>,
}

fn journal_in(directory: &Path) -> PathBuf {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut journals = entries.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let journal = journals.next().unwrap();
    assert_eq!(journals.next(), None, "the journal was rotated");
    journal
}

/// What was written from `start` on: the space behind it is all zeros.
fn written_from(journal: &Path, start: u64) -> Vec<u8> {
    let mut file = File::open(journal).unwrap();
    file.seek(SeekFrom::Start(start)).unwrap();
    let mut bytes = vec![0; 1024 * 1024];
    let length = file.read(&mut bytes).unwrap();
    let end = bytes[..length].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    assert!(end < bytes.len() / 2, "more than one commit");
    bytes.truncate(end);
    bytes
}

/// Commits in turn for each task, and keeps the files as they are when the last commit has been acknowledged.
async fn remains() -> Remains {
    let live = TempDir::new().unwrap();
    let store = open(live.path()).await;
    let journal = journal_in(live.path());
    let mut written = Vec::new();
    let mut ends = Vec::new();
    for number in 0..=COMMITS {
        let start = written.len() as u64;
        written.extend(written_from(&journal, start));
        ends.push(written.len() as u64);
        if number < COMMITS {
            let mut transaction = transaction(number % TASKS, number / TASKS + 1);
            if number >= COMMITS - LARGE_COMMITS {
                transaction.put(&BLOBS, 1_000 + number, &Scatter(number).bytes(40_000));
            }
            store.commit(transaction).await.unwrap();
        }
    }
    let directory = TempDir::new().unwrap();
    copy(live.path(), directory.path());
    let journal = directory.path().join(journal.file_name().unwrap());
    close(store).await;
    Remains { directory, journal, written, ends }
}

async fn open(directory: &Path) -> Store {
    Store::open(fjall::open(directory, fjall::Options::default()).unwrap(), schema()).await.unwrap()
}

/// Copies all but the journals.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&path, &target);
        } else if path.extension().is_none_or(|extension| extension != "jnl") {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

impl Remains {
    /// Opens a copy with this journal, padded with empty space if the file had it; answers how many commits are there.
    async fn survivors(&self, journal: &[u8], padded: bool) -> u64 {
        let directory = TempDir::new().unwrap();
        copy(self.directory.path(), directory.path());
        let mut file = File::create(directory.path().join(self.journal.file_name().unwrap())).unwrap();
        file.write_all(journal).unwrap();
        if padded {
            file.set_len(64 * 1024 * 1024).unwrap();
        }
        drop(file);
        let store = open(directory.path()).await;
        let survivors = examine(&store).await;
        // It can be written to, and what is written then is there after another start.
        for number in survivors..survivors + 2 {
            store.commit(transaction(number % TASKS, number / TASKS + 1)).await.unwrap();
        }
        close(store).await;
        let store = open(directory.path()).await;
        assert_eq!(examine(&store).await, survivors + 2);
        close(store).await;
        survivors
    }

    /// How many commits end before this place.
    fn commits_before(&self, place: u64) -> u64 {
        self.ends.iter().filter(|&&end| end <= place).count() as u64 - 1
    }
}

/// Expects the commits from the first on and none in part, and answers how many.
async fn examine(store: &Store) -> u64 {
    let snapshot = store.snapshot().await.unwrap();
    let numbers = snapshot.get_many(&NUMBERS, 0..TASKS).await.unwrap();
    let survivors: u64 = numbers.iter().copied().map(Option::unwrap_or_default).sum();
    let mut witness = Witness::new();
    for number in 0..survivors {
        witness.acknowledged(number % TASKS, number / TASKS + 1);
    }
    witness.examine(store).await;
    witness.examine_all(store).await;
    survivors
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_was_cut_off_loses_a_suffix_only() {
    let remains = remains().await;
    let (first, last) = (remains.ends[0], *remains.ends.last().unwrap());
    assert_eq!(remains.survivors(&remains.written, true).await, COMMITS);
    let mut scatter = Scatter(9);
    for cut in 0..CUTS {
        let place = first + scatter.below(last - first);
        // Either the file is shorter, or the space behind was never written.
        let padded = cut % 2 == 0;
        let kept = &remains.written[..usize::try_from(place).unwrap()];
        let survivors = remains.survivors(kept, padded).await;
        let expected = remains.commits_before(place);
        // A commit can end in zeros, which are there in the empty space, too.
        let complete_by_chance = expected + u64::from(padded);
        assert!(
            survivors >= expected && survivors <= complete_by_chance,
            "cut at {place}: {survivors} instead of {expected}"
        );
    }
    println!(
        "fjall: a journal of {COMMITS} commits cut at {CUTS} places; each time it opened, with a suffix missing"
    );
}

/// A disk writes the pages of one sync in any order: of the newest commit, any of them can be missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_wrote_some_of_its_pages_loses_its_commit_only() {
    let remains = remains().await;
    let mut holes = 0;
    let mut number = COMMITS;
    while number > COMMITS - 12 {
        let at = usize::try_from(number).unwrap();
        let (start, end) = (remains.ends[at - 1], remains.ends[at]);
        number -= 1;
        let journal = remains.written[..usize::try_from(end).unwrap()].to_vec();
        let mut page = start / PAGE_BYTES * PAGE_BYTES;
        while page < end {
            let mut torn = journal.clone();
            let hole = page.max(start)..(page + PAGE_BYTES).min(end);
            torn[usize::try_from(hole.start).unwrap()..usize::try_from(hole.end).unwrap()].fill(0);
            assert_eq!(remains.survivors(&torn, true).await, number, "hole at {page} in {start}..{end}");
            page += PAGE_BYTES;
            holes += 1;
        }
    }
    println!("fjall: {holes} syncs with a missing page; each time it opened, without that commit only");
}

/// Damage further up is no power cut: commits behind it had been acknowledged. The database says so, and is not changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_damaged_in_its_midst_is_refused_and_left_alone() {
    let remains = remains().await;
    let directory = TempDir::new().unwrap();
    copy(remains.directory.path(), directory.path());
    let mut journal = remains.written.clone();
    // In the large value of the last commit but one.
    let middle = usize::midpoint(
        usize::try_from(remains.ends[remains.ends.len() - 3]).unwrap(),
        usize::try_from(remains.ends[remains.ends.len() - 2]).unwrap(),
    );
    journal[middle] ^= 0xff;
    let path = directory.path().join(remains.journal.file_name().unwrap());
    std::fs::write(&path, &journal).unwrap();
    for _ in 0..2 {
        let error = fjall::open(directory.path(), fjall::Options::default()).err().unwrap();
        assert!(error.to_string().contains("ChecksumMismatch"), "{error}");
        assert!(std::fs::read(&path).unwrap() == journal, "the journal was changed");
    }
}
