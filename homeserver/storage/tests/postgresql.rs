//! What only PostgreSQL has: several processes over one database, lost connections, servers that crash.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the counts are what one wants to see")]

#[path = "postgresql/proxy.rs"]
mod proxy;
mod support;

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use entente_storage::{
    Bytes, Catalogue, Keyspace, LogRecord, Position, Schema, StorageError, Store, Topic, Transaction,
    engine::postgresql::{self, Options},
};
use proxy::{Cut, Proxy};
use support::postgresql::TemporaryPostgres;

const ROWS: Keyspace<(u64, u64), u64> = Keyspace::new(100, "test.rows");
const COUNTER: Keyspace<String, u64> = Keyspace::new(101, "test.counter");
const TOPIC: Topic = Topic(1);
/// What should happen soon happens within this time.
const SOON: Duration = Duration::from_secs(60);

fn options(url: &str) -> Options {
    Options { url: url.to_owned(), max_connections: NonZeroU32::new(8).unwrap(), ca_file: None }
}

async fn open(url: &str) -> Store {
    open_with(options(url)).await
}

async fn open_with(options: Options) -> Store {
    let catalogue = Catalogue::new([ROWS.info(), COUNTER.info()]);
    let schema = Schema { catalogue, version: 1, migrations: Vec::new() };
    Store::open(postgresql::open(options).await.unwrap(), schema).await.unwrap()
}

/// With a single connection for snapshots.
fn one_reader(url: &str) -> Options {
    Options { max_connections: NonZeroU32::new(3).unwrap(), ..options(url) }
}

fn put(number: u64) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.put(&ROWS, (0, number), &number);
    transaction
}

/// A connection beside the engine's.
async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn whole_log(store: &Store) -> Vec<LogRecord> {
    let (mut all, mut known) = (Vec::new(), Position::start());
    loop {
        let (records, reached) = store.read_log(&known, 500).await.unwrap();
        if records.is_empty() {
            return all;
        }
        all.extend(records);
        known = reached;
    }
}

fn payloads(records: &[LogRecord]) -> Vec<Bytes> {
    records.iter().flat_map(|record| &record.entries).map(|entry| entry.payload.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_a_database() {
    let url = TemporaryPostgres::shared().create_database().await;
    let (one, other) = (open(&url).await, open(&url).await);
    let mut watch = one.watch();
    let mut known = one.published();
    for number in 0..50 {
        let mut transaction = Transaction::new();
        transaction.put(&ROWS, (1, number), &number);
        transaction.log(TOPIC, number.to_string());
        other.commit(transaction).await.unwrap();
        // Woken by the other process, and what it wrote is there to be read.
        known = tokio::time::timeout(SOON, watch.beyond(&known)).await.expect("woken").unwrap();
        let read = one.snapshot().await.unwrap().get(&ROWS, (1, number)).await.unwrap();
        assert_eq!(read, Some(number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_of_several_processes_all_count() {
    const EACH: u64 = 40;
    let url = TemporaryPostgres::shared().create_database().await;
    let stores = [open(&url).await, open(&url).await, open(&url).await];
    let tasks: Vec<_> = stores
        .iter()
        .cloned()
        .map(|store| {
            tokio::spawn(async move {
                for _ in 0..EACH {
                    let increment = store.run(async |snapshot| {
                        let read = snapshot.get(&COUNTER, "shared").await?;
                        let mut transaction = Transaction::new();
                        transaction.check_unchanged(&COUNTER, "shared", read.as_ref());
                        transaction.put(&COUNTER, "shared", &(read.unwrap_or_default() + 1));
                        transaction.log(TOPIC, "increment");
                        Ok::<_, StorageError>((transaction, ()))
                    });
                    increment.await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let total = u64::try_from(stores.len()).unwrap() * EACH;
    let snapshot = stores[0].snapshot().await.unwrap();
    assert_eq!(snapshot.get(&COUNTER, "shared").await.unwrap(), Some(total));
    assert_eq!(u64::try_from(whole_log(&stores[1]).await.len()).unwrap(), total);
}

#[tokio::test(flavor = "multi_thread")]
async fn write_skew_between_processes_is_detected() {
    let url = TemporaryPostgres::shared().create_database().await;
    let (one, other) = (open(&url).await, open(&url).await);
    for round in 0..30 {
        let (mine, theirs) = (format!("mine{round}"), format!("theirs{round}"));
        let leave = async |store: &Store, me: &str, partner: &str| {
            let partner_left = store.snapshot().await.unwrap().get(&COUNTER, partner).await.unwrap();
            let mut transaction = Transaction::new();
            transaction.check_unchanged(&COUNTER, partner, partner_left.as_ref());
            transaction.put(&COUNTER, me, &1);
            transaction
        };
        let (first, second) = (leave(&one, &mine, &theirs).await, leave(&other, &theirs, &mine).await);
        let (first, second) = tokio::join!(one.commit(first), other.commit(second));
        assert!(first.is_ok() != second.is_ok(), "exactly one may leave: {first:?}, {second:?}");
    }
}

/// Writers go on while connections are cut, or the server crashes, again and again. What was acknowledged is there, once;
/// what was not may be there, once, or not.
async fn nothing_is_lost_or_doubled(store: &Store, disturb: impl AsyncFn()) {
    const TASKS: u64 = 6;
    const ROUNDS: u32 = 8;
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, stop) = (store.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut acknowledged = BTreeSet::new();
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut transaction = Transaction::new();
                    // Twice the same would be seen: the second time the row is there.
                    transaction.check_absent(&ROWS, (task, number));
                    transaction.put(&ROWS, (task, number), &number);
                    transaction.log(TOPIC, format!("{task}:{number}"));
                    match store.commit(transaction).await {
                        Ok(_) => _ = acknowledged.insert(number),
                        Err(StorageError::Conflict { .. }) => panic!("{task}:{number} was written twice"),
                        Err(_) => {}
                    }
                    number += 1;
                }
                (task, acknowledged)
            })
        })
        .collect();
    for _ in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(150)).await;
        disturb().await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let mut logged = BTreeSet::new();
    let log = whole_log(store).await;
    let mut count = 0;
    for task in tasks {
        let (task, acknowledged) = tokio::time::timeout(SOON, task).await.expect("it goes on").unwrap();
        count += acknowledged.len();
        if logged.is_empty() {
            let log = whole_log(store).await;
            for payload in payloads(&log) {
                assert!(logged.insert(payload.clone()), "{payload:?} is in the log twice");
            }
        }
        let snapshot = store.snapshot().await.unwrap();
        for number in acknowledged {
            let row = snapshot.get(&ROWS, (task, number)).await.unwrap();
            assert_eq!(row, Some(number), "{task}:{number} was acknowledged and is lost");
        }
    }
    let log_after = whole_log(store).await;
    assert!(log_after.len() >= log.len() && log_after.len() >= count, "{} of {count}", log_after.len());
    println!("{count} commits acknowledged, {} in the log, {ROUNDS} disturbances", log_after.len());
    assert!(count > 50, "there was traffic: {count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_lose_nothing() {
    let server = TemporaryPostgres::shared();
    let url = server.create_database().await;
    let database: String =
        connect(&url).await.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    let store = open(&url).await;
    let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'");
    nothing_is_lost_or_doubled(&store, async || server.execute(&cut).await).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_found_out() {
    let server = TemporaryPostgres::start();
    let url = server.create_database().await;
    let port: u16 = url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.parse().unwrap();
    let proxy = Proxy::start(port).await;
    let store = open(&url.replace(&port.to_string(), &proxy.port().to_string())).await;
    let mut number = 0;
    for cut in [Cut::AfterCommit, Cut::BeforeCommit].repeat(5) {
        proxy.plan(cut);
        // The first group's connection is cut; the second shows that life goes on.
        for _ in 0..2 {
            let mut transaction = put(number);
            // Twice the same would be refused.
            transaction.check_absent(&ROWS, (0, number));
            transaction.log(TOPIC, number.to_string());
            store.commit(transaction).await.unwrap();
            number += 1;
        }
        assert!(proxy.has_cut(), "{cut:?}");
    }
    let logged: Vec<_> = payloads(&whole_log(&store).await);
    let logged_once: BTreeSet<_> = logged.iter().cloned().collect();
    assert_eq!(logged_once, (0..number).map(|number| Bytes::from(number.to_string())).collect());
    assert_eq!(logged.len(), logged_once.len(), "nothing is in the log twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_loses_nothing() {
    let server = Arc::new(TemporaryPostgres::start());
    let url = server.create_database().await;
    let store = open(&url).await;
    let crash = async || {
        let server = Arc::clone(&server);
        tokio::task::spawn_blocking(move || server.crash_and_restart()).await.unwrap();
    };
    nothing_is_lost_or_doubled(&store, crash).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_snapshots_than_connections_wait_for_their_turn() {
    let url = TemporaryPostgres::shared().create_database().await;
    let store = open(&url).await;
    let readers: Vec<_> = (0..64)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let snapshot = store.snapshot().await?;
                snapshot.get(&ROWS, (number, 0)).await
            })
        })
        .collect();
    for reader in readers {
        assert_eq!(tokio::time::timeout(SOON, reader).await.unwrap().unwrap().unwrap(), None);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_database_is_said_without_its_password() {
    let server = TemporaryPostgres::start();
    let url = server.create_database().await;
    server.execute("CREATE ROLE outsider NOLOGIN").await;
    let refused = async |url: &str| match postgresql::open(options(url)).await {
        Ok(_) => panic!("{url} opens"),
        Err(error) => error.to_string(),
    };
    let elsewhere = url.rsplit_once('/').unwrap().0.replace("entente@", "entente:s3cret@");
    let missing = refused(&format!("{elsewhere}/no_such_database")).await;
    assert!(missing.contains("no_such_database") && !missing.contains("s3cret"), "{missing}");
    let outsider = refused(&url.replace("entente@", "outsider:s3cret@")).await;
    assert!(outsider.contains("not permitted to log in") && !outsider.contains("s3cret"), "{outsider}");
    let unreachable = refused("postgresql://entente:s3cret@127.0.0.1:1/entente").await;
    assert!(!unreachable.contains("s3cret"), "{unreachable}");
    let malformed = refused("postgresql://entente:s3cret@127.0.0.1:port/entente").await;
    assert!(!malformed.contains("s3cret"), "{malformed}");
    let unencrypted = refused(&format!("{url}?sslmode=require")).await;
    assert!(unencrypted.to_lowercase().contains("tls"), "{unencrypted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_cancelled_fails_one_group_and_no_later_one() {
    let url = TemporaryPostgres::shared().create_database().await;
    let store = open(&url).await;
    let other = connect(&url).await;
    other.batch_execute("BEGIN; LOCK TABLE entente_rows IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let blocked = tokio::spawn({
        let store = store.clone();
        async move { store.commit(put(1)).await }
    });
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                  WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while other.query_one(cancel, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cancelled = tokio::time::timeout(SOON, blocked).await.expect("it is answered").unwrap();
    assert!(matches!(cancelled, Err(StorageError::Engine(_))), "{cancelled:?}");
    other.batch_execute("ROLLBACK").await.unwrap();
    store.commit(put(2)).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.get_many(&ROWS, [(0, 1), (0, 2)]).await.unwrap(), [None, Some(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_ends_on_any_thread_leaves_a_fresh_connection() {
    let url = TemporaryPostgres::shared().create_database().await;
    let store = open_with(one_reader(&url)).await;
    for number in 0..5 {
        let snapshot = store.snapshot().await.unwrap();
        std::thread::spawn(move || drop(snapshot)).join().unwrap();
        store.commit(put(number)).await.unwrap();
        let read = store.snapshot().await.unwrap().get(&ROWS, (0, number)).await.unwrap();
        assert_eq!(read, Some(number), "a later snapshot shows what was committed before it");
    }
}

/// Transactions that have been begun to write, by all writers of a server of one's own; also those that were given up.
async fn attempts(client: &tokio_postgres::Client) -> u64 {
    let row = client.query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text", &[]).await.unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_different_rows_leave_one_another_alone() {
    const EACH: u64 = 300;
    let server = TemporaryPostgres::start();
    let url = server.create_database().await;
    let stores = [open(&url).await, open(&url).await, open(&url).await, open(&url).await];
    // So many rows that no two of them write to the same page of the index.
    for block in 0..4 {
        let mut transaction = Transaction::new();
        for number in 0..20_000 {
            transaction.put(&ROWS, (block, number), &number);
        }
        stores[0].commit(transaction).await.unwrap();
    }
    let client = connect(&url).await;
    let before = attempts(&client).await;
    let write = async |store: &Store, block: u64| {
        for number in 0..EACH {
            let mut transaction = Transaction::new();
            transaction.check_present(&ROWS, (block, 10_000));
            transaction.put(&ROWS, (block, 10_000), &number);
            store.commit(transaction).await.unwrap();
        }
    };
    let [one, two, three, four] = &stores;
    tokio::join!(write(one, 0), write(two, 1), write(three, 2), write(four, 3));
    let attempts = attempts(&client).await - before;
    println!("{attempts} attempts for {} commits", 4 * EACH);
    assert!(attempts < 4 * EACH + EACH / 5, "{attempts} attempts for {} commits", 4 * EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_kills_its_connection_is_given_up() {
    let url = TemporaryPostgres::shared().create_database().await;
    let store = open(&url).await;
    let other = connect(&url).await;
    let poison = "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS \
                  $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN new; END $$; \
                  CREATE TRIGGER die BEFORE INSERT ON entente_rows FOR EACH ROW WHEN (new.space = 100) \
                  EXECUTE FUNCTION die()";
    other.batch_execute(poison).await.unwrap();
    let outcome = tokio::time::timeout(SOON, store.commit(put(1))).await.expect("it is given up");
    assert!(matches!(outcome, Err(StorageError::Unavailable(_))), "{outcome:?}");
    other.batch_execute("DROP TRIGGER die ON entente_rows").await.unwrap();
    store.commit(put(2)).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.get_many(&ROWS, [(0, 1), (0, 2)]).await.unwrap(), [None, Some(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_gets_no_connection_is_refused() {
    let url = TemporaryPostgres::shared().create_database().await;
    let store = open_with(one_reader(&url)).await;
    let held = store.snapshot().await.unwrap();
    let refused = tokio::time::timeout(SOON, store.snapshot()).await.expect("it does not wait for ever");
    let refused = refused.expect_err("there is one connection only").to_string();
    assert!(refused.contains("all connections to the database are in use"), "{refused}");
    drop(held);
    store.snapshot().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_connection_needs_a_certificate_that_is_right() {
    let issuer = rcgen::KeyPair::generate().unwrap();
    let mut root = rcgen::CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&issuer).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![String::from("localhost")]).unwrap();
    let certificate = certificate.signed_by(&key, &rcgen::Issuer::new(root, issuer)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("root.pem");
    std::fs::write(&ca_file, root_certificate.pem()).unwrap();

    let server = TemporaryPostgres::start();
    let url = server.create_database().await;
    server.enable_tls(&certificate.pem(), &key.serialize_pem()).await;
    let right = format!("{}?sslmode=verify-full", url.replace("127.0.0.1", "localhost"));
    let encrypted = |url: &str| Options { ca_file: Some(ca_file.clone()), ..options(url) };
    let store = open_with(encrypted(&right)).await;
    store.commit(put(1)).await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.get(&ROWS, (0, 1)).await.unwrap(), Some(1));
    let count = "SELECT count(*) FILTER (WHERE s.ssl), count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                 WHERE a.application_name = 'entente'";
    let row = connect(&url).await.query_one(count, &[]).await.unwrap();
    let (safe, all): (i64, i64) = (row.get(0), row.get(1));
    assert!(safe == all && all >= 2, "{safe} of {all} connections are encrypted");

    let unknown_root =
        postgresql::open(options(&right)).await.err().expect("nobody vouches for it").to_string();
    assert!(unknown_root.contains("UnknownIssuer"), "{unknown_root}");
    let other_name = encrypted(&format!("{url}?sslmode=require"));
    let other_name = postgresql::open(other_name).await.err().expect("it is another's").to_string();
    assert!(other_name.contains("not valid for name"), "{other_name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_closed_leaves_its_place_to_the_next() {
    const ROUNDS: u64 = 40;
    let url = TemporaryPostgres::shared().create_database().await;
    let other = connect(&url).await;
    let count = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON l.database = d.oid \
                 WHERE l.locktype = 'advisory' AND d.datname = current_database()";
    for number in 0..ROUNDS {
        let store = open(&url).await;
        let mut transaction = put(number);
        transaction.log(TOPIC, number.to_string());
        store.commit(transaction).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(other.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 0, "ids are free");
        assert_eq!(store.published().to_string(), format!("s{}", number + 1), "all by the first writer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_relaxed_is_on_disk_when_the_store_is_closed() {
    let server = Arc::new(TemporaryPostgres::start());
    // The server itself takes its time.
    server.execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    let restart = async || {
        let server = Arc::clone(&server);
        tokio::task::spawn_blocking(move || server.crash_and_restart()).await.unwrap();
    };
    restart().await;
    let url = server.create_database().await;
    for number in 0..3 {
        let store = open(&url).await;
        let mut transaction = Transaction::relaxed();
        transaction.put(&ROWS, (0, number), &number);
        store.commit(transaction).await.unwrap();
        store.close().await.unwrap();
        restart().await;
        let read = open(&url).await.snapshot().await.unwrap().get(&ROWS, (0, number)).await.unwrap();
        assert_eq!(read, Some(number));
    }
}
