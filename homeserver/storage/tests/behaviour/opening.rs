//! Opening and closing: what is there again, what is refused, and how older stores are brought forward.

use entente_storage::{Keyspace, LogPosition, Migration, StorageError, Store, Transaction, value::Stamped};
use tokio::task::JoinSet;

use crate::support::{
    EVENTS, Home, NUMBERS, TOPIC, VERSION, log_one, payloads, put_number, schema, schema_with, whole_log,
    within, writer_and_sequence,
};

pub(crate) async fn everything_is_there_again(home: impl Home) {
    let mut store = home.store().await;
    for round in 0..5_u64 {
        let mut transaction = Transaction::new();
        let row = Stamped { position: LogPosition::AT_COMMIT, value: round };
        transaction.put(&EVENTS, (String::from("!room"), LogPosition::AT_COMMIT), &row);
        transaction.put(&NUMBERS, round, &round);
        transaction.delete(&NUMBERS, round.wrapping_sub(1));
        transaction.log(TOPIC, round.to_string());
        let position = store.commit(transaction).await.unwrap().position.unwrap();
        let published = store.published();
        assert!(published.includes(position));

        store = home.reopen(store).await;
        assert!(store.published().covers(&published), "a token that was given out is from the future");
        let log = whole_log(&store).await;
        assert_eq!(payloads(&log), (0..=round).map(|number| number.to_string()).collect::<Vec<_>>());
        let snapshot = store.snapshot().await.unwrap();
        assert_eq!(snapshot.scan_all(NUMBERS.scan(())).await.unwrap(), [(round, round)]);
        let events = snapshot.scan_all(EVENTS.scan(())).await.unwrap();
        let logged: Vec<_> = log.iter().map(|record| record.position).collect();
        assert_eq!(events.iter().map(|((_, position), _)| *position).collect::<Vec<_>>(), logged);
        let numbers: Vec<_> = logged.into_iter().map(writer_and_sequence).collect();
        assert!(numbers.is_sorted());
    }
}

pub(crate) async fn a_newer_schema_is_refused(home: impl Home) {
    let newer = Store::open(home.engine().await, schema_with(VERSION + 2, Vec::new())).await.unwrap();
    put_number(&newer, 1, 1).await;
    newer.close().await.unwrap();
    drop(newer);
    for _ in 0..2 {
        let engine = home.engine().await;
        let error = Store::open(engine.clone(), schema()).await.unwrap_err();
        assert!(matches!(error, StorageError::SchemaTooNew { found: 3, supported: 1 }), "{error}");
        assert!(error.to_string().contains("start a newer version"), "{error}");
        engine.close().await.unwrap();
    }
    let newer = Store::open(home.engine().await, schema_with(VERSION + 2, Vec::new())).await.unwrap();
    assert_eq!(newer.snapshot().await.unwrap().get(&NUMBERS, 1).await.unwrap(), Some(1));
}

/// The steps that have run, in their order.
const STEPS: Keyspace<u64, u64> = NUMBERS;
/// Present while step 3 is to fail.
const OBSTACLE: u64 = 1_000;

async fn note_step(store: &Store, step: u64) -> Result<(), StorageError> {
    let snapshot = store.snapshot().await?;
    let steps = snapshot.scan_all(STEPS.scan(()).before(OBSTACLE)).await?.len() as u64;
    let mut transaction = Transaction::new();
    transaction.put(&STEPS, steps, &step);
    store.commit(transaction).await?;
    if step == 3 && snapshot.get(&STEPS, OBSTACLE).await?.is_some() {
        return Err(StorageError::Refused(String::from("an obstacle")));
    }
    Ok(())
}

fn migrations() -> Vec<Migration> {
    vec![
        Migration { to: 2, name: "the second", run: |store| Box::pin(note_step(store, 2)) },
        Migration { to: 3, name: "the third", run: |store| Box::pin(note_step(store, 3)) },
        Migration { to: 4, name: "the fourth", run: |store| Box::pin(note_step(store, 4)) },
    ]
}

async fn steps(store: &Store) -> Vec<u64> {
    let rows = store.snapshot().await.unwrap().scan_all(STEPS.scan(()).before(OBSTACLE)).await.unwrap();
    rows.into_iter().map(|(_, step)| step).collect()
}

/// Opens the store with the migrations up to a version, and closes it again.
async fn open_as(home: &impl Home, version: u32) -> Result<Vec<u64>, StorageError> {
    let known = migrations().into_iter().filter(|migration| migration.to <= version).collect();
    let engine = home.engine().await;
    let outcome = match Store::open(engine.clone(), schema_with(version, known)).await {
        Ok(store) => Ok(steps(&store).await),
        Err(error) => Err(error),
    };
    engine.close().await.unwrap();
    outcome
}

pub(crate) async fn migrations_run_once_and_in_order(home: impl Home) {
    assert_eq!(open_as(&home, 1).await.unwrap(), []);
    assert_eq!(open_as(&home, 2).await.unwrap(), [2]);
    assert_eq!(open_as(&home, 4).await.unwrap(), [2, 3, 4]);
    assert_eq!(open_as(&home, 4).await.unwrap(), [2, 3, 4]);
    let error = open_as(&home, 3).await.unwrap_err();
    assert!(matches!(error, StorageError::SchemaTooNew { found: 4, supported: 3 }), "{error}");
}

pub(crate) async fn an_interrupted_migration_is_run_again(home: impl Home) {
    let store = home.store().await;
    put_number(&store, OBSTACLE, 0).await;
    store.close().await.unwrap();
    drop(store);
    let error = open_as(&home, 4).await.unwrap_err();
    assert!(error.to_string().contains("an obstacle"), "{error}");
    // The second step counts as done, the third does not.
    assert_eq!(open_as(&home, 2).await.unwrap(), [2, 3]);
    let store = Store::open(home.engine().await, schema_with(2, Vec::new())).await.unwrap();
    let mut transaction = Transaction::new();
    transaction.delete(&NUMBERS, OBSTACLE);
    store.commit(transaction).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    assert_eq!(open_as(&home, 4).await.unwrap(), [2, 3, 3, 4]);
}

pub(crate) async fn a_missing_migration_is_noticed(home: impl Home) {
    assert_eq!(open_as(&home, 2).await.unwrap(), []);
    let engine = home.engine().await;
    let error = Store::open(engine.clone(), schema_with(3, Vec::new())).await.unwrap_err();
    assert!(error.to_string().contains("no migration leads from schema 2 to 3"), "{error}");
    engine.close().await.unwrap();
    drop(engine);
    assert_eq!(open_as(&home, 2).await.unwrap(), []);
}

pub(crate) async fn what_was_accepted_before_a_close_is_kept(home: impl Home) {
    let store = home.store().await;
    let mut commits = JoinSet::new();
    for number in 0..100_u64 {
        let store = store.clone();
        commits.spawn(async move {
            let mut transaction = Transaction::new();
            transaction.put(&NUMBERS, number, &number);
            transaction.log(TOPIC, number.to_string());
            let accepted = store.commit(transaction).await;
            (number, accepted)
        });
    }
    log_one(&store, "at least one").await;
    within(store.close()).await.unwrap();
    let mut acknowledged = Vec::new();
    for (number, outcome) in within(commits.join_all()).await {
        match outcome {
            Ok(_) => acknowledged.push(number),
            Err(error) => assert!(matches!(error, StorageError::Unavailable(_)), "{error}"),
        }
    }
    drop(store);
    let store = home.store().await;
    let rows = store.snapshot().await.unwrap().scan_all(NUMBERS.scan(())).await.unwrap();
    for number in acknowledged {
        assert!(rows.contains(&(number, number)), "{number} was acknowledged and is gone");
    }
    assert_eq!(whole_log(&store).await.len(), rows.len() + 1);
}

pub(crate) async fn a_closed_store_answers(home: impl Home) {
    let store = home.store().await;
    put_number(&store, 1, 1).await;
    within(store.close()).await.unwrap();
    within(store.close()).await.unwrap();
    let mut transaction = Transaction::new();
    transaction.put(&NUMBERS, 2, &2);
    let error = within(store.commit(transaction)).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable(_)), "{error}");
    drop(store);
    let store = home.store().await;
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.scan_all(NUMBERS.scan(())).await.unwrap(), [(1, 1)]);
}
