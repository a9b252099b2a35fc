//! What a homeserver's load costs each engine, in processor time, in bytes written and in bytes on disk.
//!
//! Not a criterion benchmark: one run of a fixed amount of work, and a table. Linux only, for it reads `/proc/self`.

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

mod support;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use entente_storage::{
    Bytes, Catalogue, Keyspace, LogPosition, Schema, StorageError, Store, Topic, Transaction, value::Stamped,
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::support::{Candidate, Home, Stopwatch};

const EVENTS: Keyspace<String, Bytes> = Keyspace::blobs(100, "bench.events");
const TIMELINE: Keyspace<(u64, LogPosition), String> = Keyspace::new(101, "bench.timeline");
const PLACES: Keyspace<String, Stamped<u64>> = Keyspace::new(102, "bench.places");
const STATE: Keyspace<String, u64> = Keyspace::new(103, "bench.state");
const EDGES: Keyspace<(u64, String, String), ()> = Keyspace::new(104, "bench.edges");
const UNREAD: Keyspace<(u64, u64), u64> = Keyspace::new(105, "bench.unread");
const TOPIC: Topic = Topic(1);

const EVENT_COUNT: u64 = 50_000;
const WRITERS: u64 = 64;
const ROOMS: u64 = 500;
const EVENT_BYTES: usize = 1_024;

/// Looks random, is the same in each run, and does not compress, as event ids and ciphertext do not.
fn noise(seed: u64, length: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(ALPHABET[(state >> 58) as usize])
    };
    (0..length).map(|_| letter()).collect()
}

fn event_id(number: u64) -> String {
    format!("${}", noise(number, 43))
}

/// An encrypted message: a kilobyte of JSON, most of it ciphertext.
fn event_json(number: u64) -> String {
    let room = number % ROOMS;
    let mut json = format!(
        r#"{{"type":"m.room.encrypted","room_id":"!{room}:example.org","sender":"@user{}:example.org","origin_server_ts":{},"content":{{"algorithm":"m.megolm.v1.aes-sha2","session_id":"{}","ciphertext":""#,
        number % 1_000,
        1_700_000_000_000 + number,
        noise(room, 43),
    );
    let rest = EVENT_BYTES.saturating_sub(json.len() + 3);
    json.push_str(&noise(number ^ 0x5555, rest));
    json.push_str("\"}}");
    json
}

/// The six rows of an event and its log entry. Answers how many bytes of keys, values and payload they have, too.
fn store_event(number: u64) -> (Transaction, u64) {
    let (room, id, json) = (number % ROOMS, event_id(number), event_json(number));
    let previous = event_id(number.wrapping_sub(ROOMS));
    let user = number % 1_000;
    let row_bytes = [
        id.len() + json.len(),
        8 + 10 + id.len(),
        id.len() + 10 + 8,
        id.len() + 8,
        8 + previous.len() + id.len(),
        8 + 8 + 8,
        id.len(),
    ];
    let mut transaction = Transaction::new();
    transaction.check_absent(&EVENTS, id.as_str());
    transaction.put(&EVENTS, id.as_str(), &Bytes::from(json));
    transaction.put(&TIMELINE, (room, LogPosition::AT_COMMIT), &id);
    transaction.put(&PLACES, id.as_str(), &Stamped { position: LogPosition::AT_COMMIT, value: room });
    transaction.put(&STATE, id.as_str(), &(number / 20));
    transaction.put(&EDGES, (room, previous, id.clone()), &());
    transaction.put(&UNREAD, (room, user), &number);
    transaction.log(TOPIC, id);
    (transaction, row_bytes.iter().sum::<usize>() as u64)
}

fn schema() -> Schema {
    let keyspaces =
        [EVENTS.info(), TIMELINE.info(), PLACES.info(), STATE.info(), EDGES.info(), UNREAD.info()];
    Schema { catalogue: Catalogue::new(keyspaces), version: 1, migrations: Vec::new() }
}

/// Stores all events. Answers their bytes.
async fn load(store: &Store) -> Result<u64, StorageError> {
    let next = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (store, next) = (store.clone(), Arc::clone(&next));
        writers.spawn(async move {
            let mut bytes = 0;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= EVENT_COUNT {
                    return Ok::<_, StorageError>(bytes);
                }
                let (transaction, event_bytes) = store_event(number);
                store.commit(transaction).await?;
                bytes += event_bytes;
            }
        });
    }
    let mut bytes = 0;
    while let Some(outcome) = writers.join_next().await {
        bytes += outcome.expect("a writer does not panic")?;
    }
    Ok(bytes)
}

/// What the process has used so far, and with it the database server whose files are in a directory.
#[derive(Clone, Copy)]
struct Usage {
    processor: Duration,
    written_bytes: u64,
}

impl Usage {
    fn now(server_directory: &Path) -> Self {
        let mut usage = Self { processor: processor_time("self"), written_bytes: written_bytes("self") };
        for process in server_processes(server_directory) {
            usage.processor += processor_time(&process);
            usage.written_bytes += written_bytes(&process);
        }
        usage
    }
}

/// The processes of a PostgreSQL server: the first one names its directory, the others are its children. What ended ones
/// used is counted with the first.
fn server_processes(directory: &Path) -> Vec<String> {
    let mut processes = Vec::new();
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("this is Linux").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, fields)) = stat.rsplit_once(") ").filter(|(name, _)| name.ends_with("(postgres")) else {
            continue;
        };
        let command_line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let parent = fields.split_whitespace().nth(1).unwrap_or_default().to_owned();
        if command_line.contains(&*directory.to_string_lossy()) {
            parents.push(name.clone());
        }
        processes.push((name, parent));
    }
    let belongs = |(name, parent): &(String, String)| parents.contains(name) || parents.contains(parent);
    processes.into_iter().filter(belongs).map(|(name, _)| name).collect()
}

/// User and system time of a process: of all its threads and of children that ended, from `/proc/<process>/stat`. Nothing for
/// one that is gone.
fn processor_time(process: &str) -> Duration {
    // The unit is 1/100 s on every Linux that this is run on (`getconf CLK_TCK`).
    const TICK: Duration = Duration::from_millis(10);
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { return Duration::ZERO };
    // The fields are counted behind the program's name, which may itself have blanks and parentheses.
    let (_, fields) = stat.rsplit_once(')').expect("the name stands in parentheses");
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse::<u32>().expect("times are numbers"))
        .sum();
    TICK * ticks
}

/// Bytes that a process has caused to be sent to the disk, from `/proc/<process>/io`. Nothing for one that is gone.
fn written_bytes(process: &str) -> u64 {
    let Ok(io) = std::fs::read_to_string(format!("/proc/{process}/io")) else { return 0 };
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("there is such a line");
    line.parse().expect("bytes are a number")
}

/// Bytes of blocks that the files of a directory occupy. Reserved space that was never written counts for nothing.
fn bytes_on_disk(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(directory).expect("the directory can be read");
    let size = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("the directory can be read");
        let metadata = entry.metadata().expect("the file is there");
        if metadata.is_dir() { bytes_on_disk(&entry.path()) } else { metadata.blocks() * 512 }
    };
    entries.map(size).sum()
}

struct Footprint {
    load: Duration,
    processor: Duration,
    written_bytes: u64,
    data_bytes: u64,
    disk_bytes: u64,
    close: Duration,
    reopen: Duration,
}

fn measure(candidate: &Candidate, idle: Duration) -> Footprint {
    let runtime = Runtime::new().expect("a runtime starts");
    let home = runtime.block_on(Home::new(candidate));
    let footprint = runtime.block_on(async {
        let store = Store::open(home.open().await?, schema()).await?;
        let disk_before = bytes_on_disk(home.directory());
        let before = Usage::now(home.directory());
        let watch = Stopwatch::start();
        let data_bytes = load(&store).await?;
        let load = watch.elapsed();
        let watch = Stopwatch::start();
        store.close().await?;
        drop(store);
        let close = watch.elapsed();
        let after = Usage::now(home.directory());
        let disk_bytes = bytes_on_disk(home.directory()).saturating_sub(disk_before);

        let watch = Stopwatch::start();
        let store = Store::open(home.open().await?, schema()).await?;
        let reopen = watch.elapsed();
        let last = event_id(EVENT_COUNT - 1);
        assert!(store.snapshot().await?.get(&EVENTS, last.as_str()).await?.is_some(), "the load was kept");
        store.close().await?;
        Ok::<_, StorageError>(Footprint {
            load,
            processor: after.processor.saturating_sub(before.processor).saturating_sub(idle),
            written_bytes: after.written_bytes - before.written_bytes,
            data_bytes,
            disk_bytes,
            close,
            reopen,
        })
    });
    footprint.expect("the engine bears the load")
}

/// Processor time for making the events alone, which is not the engine's.
fn making_the_events() -> Duration {
    let before = processor_time("self");
    for number in 0..EVENT_COUNT {
        std::hint::black_box(store_event(number));
    }
    processor_time("self").saturating_sub(before)
}

#[expect(clippy::cast_precision_loss, reason = "the table shows three digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        // Built and started by `cargo test --all-targets`, which is not to wait for it.
        return;
    }
    let idle = making_the_events();
    println!("{EVENT_COUNT} events of six rows and a log entry, {WRITERS} concurrent writers\n");
    println!(
        "| engine | events/s | CPU µs per event | written / data | on disk / data | close ms | reopen ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for candidate in Candidate::all() {
        let footprint = measure(&candidate, idle);
        println!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.2} | {} | {} |",
            candidate.name(),
            ratio(EVENT_COUNT, 1) / footprint.load.as_secs_f64(),
            footprint.processor.as_secs_f64() * 1e6 / ratio(EVENT_COUNT, 1),
            ratio(footprint.written_bytes, footprint.data_bytes),
            ratio(footprint.disk_bytes, footprint.data_bytes),
            footprint.close.as_millis(),
            footprint.reopen.as_millis(),
        );
    }
}
