//! The writer: one task, one connection, one SERIALIZABLE transaction at a time.
//!
//! A lost connection can leave open whether the last transaction was committed. Each group therefore moves its session's mark
//! on in its own transaction. Before anything else is done on a new connection, the same is tried there: if the mark still was
//! behind, the group was not committed and never will be, for it would find the mark changed by another; otherwise it was.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep},
};
use tokio_postgres::{Client, Statement, error::SqlState};

use super::{
    connect::{Connector, LOCK_CLASS, failure, unavailable},
    listener, statements,
};
use crate::{
    Commit, Keyspace, LogPosition, Position, StorageError, Transaction, Write, WriterId,
    engine::{
        RowKey,
        group::{Group, MergedWrites, RecentOutcomes, position_of},
    },
    log::HEADS,
};

/// Transactions in a group commit at the most.
const MOST_IN_GROUP: usize = 512;
/// A group that has this many bytes of rows and entries takes no further transaction.
const MOST_GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Writers that can share a database.
const MOST_WRITERS: i32 = 1_000;
/// A group that loses against other writers is tried this often.
const MOST_ATTEMPTS: u32 = 20;
/// A group during which the connection is lost this often is given up: it may itself be the reason.
const MOST_LOST_CONNECTIONS: u32 = 5;
/// Callers wait this long for a database that is away.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between attempts to connect again.
const PAUSE: Duration = Duration::from_millis(250);

pub(super) type Answer = oneshot::Sender<Result<Commit, StorageError>>;

pub(super) enum Command {
    Commit(Box<Transaction>, Answer),
    Close(oneshot::Sender<()>),
}

pub(super) struct Writer {
    connector: Connector,
    positions: Arc<watch::Sender<Position>>,
    session: Option<Session>,
    recent: RecentOutcomes,
    /// A group of an earlier session whose outcome is not known.
    unsettled: Option<Unsettled>,
}

struct Unsettled {
    mark: Mark,
    writer: WriterId,
    merged: MergedWrites,
}

/// Names a group: the session in which it was committed, and its number there.
#[derive(Clone, Debug)]
struct Mark {
    session: String,
    number: i64,
}

/// A connection that holds a writer's id.
struct Session {
    client: Client,
    writer: WriterId,
    mark: Mark,
    statements: Statements,
}

struct Statements {
    get_many: Statement,
    put_many: Statement,
    delete_many: Statement,
    mark: Statement,
    notify: Statement,
}

/// Why a group was not committed.
enum GroupError {
    /// Other writers were faster; nothing was written.
    Lost,
    /// Nothing was written.
    Failed(StorageError),
    /// The connection broke before anything was to be committed.
    Disconnected(StorageError),
    /// The connection broke when everything was on its way.
    Unknown(Mark, MergedWrites, StorageError),
}

impl Writer {
    /// Connects.
    pub(super) async fn start(
        connector: Connector,
        positions: Arc<watch::Sender<Position>>,
    ) -> Result<Self, StorageError> {
        let session = Session::open(&connector).await?;
        let heads = super::connect::read_heads(&session.client).await?;
        listener::publish(&positions, &heads);
        Ok(Self {
            connector,
            positions,
            session: Some(session),
            recent: RecentOutcomes::default(),
            unsettled: None,
        })
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut closing = None;
        while let Some(mut command) = queue.recv().await {
            let mut waiting = Vec::new();
            let mut bytes = 0;
            loop {
                match command {
                    Command::Commit(transaction, answer) => {
                        bytes += size_of(&transaction);
                        waiting.push((transaction, answer));
                    }
                    Command::Close(answer) => {
                        queue.close();
                        closing = Some(answer);
                    }
                }
                if waiting.len() == MOST_IN_GROUP || bytes >= MOST_GROUP_BYTES {
                    break;
                }
                match queue.try_recv() {
                    Ok(next) => command = next,
                    Err(_) => break,
                }
            }
            if !waiting.is_empty() {
                self.commit(waiting).await;
            }
        }
        if let Some(session) = self.session.take()
            && let Err(error) = session.end().await
        {
            tracing::warn!(%error, "the writer's connection was lost at its end");
        }
        if let Some(answer) = closing {
            let _ = answer.send(());
        }
    }

    async fn commit(&mut self, waiting: Vec<(Box<Transaction>, Answer)>) {
        let (transactions, answers): (Vec<_>, Vec<_>) =
            waiting.into_iter().map(|(transaction, answer)| (*transaction, answer)).unzip();
        let outcomes = self.commit_all(&transactions).await;
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // A caller that went away does not withdraw its transaction.
            let _ = answer.send(outcome);
        }
    }

    /// The outcome of each transaction.
    async fn commit_all(&mut self, transactions: &[Transaction]) -> Vec<Result<Commit, StorageError>> {
        let all = |error: StorageError| transactions.iter().map(|_| Err(error.clone())).collect();
        let give_up_at = Instant::now() + PATIENCE;
        let (mut attempt, mut lost_connections) = (0, 0);
        loop {
            if let Err(error) = self.be_connected(give_up_at).await {
                return all(error);
            }
            let Some(session) = &mut self.session else { continue };
            let lost = match session.commit_group(transactions, &self.recent).await {
                Ok((outcomes, merged)) => {
                    if let Some(merged) = merged {
                        let writer = session.writer;
                        self.committed(writer, &merged);
                    }
                    return outcomes;
                }
                Err(GroupError::Lost) if attempt < MOST_ATTEMPTS => {
                    attempt += 1;
                    // Writers that collided should not meet again: each waits by its own id.
                    let stagger = u64::from(session.writer.0 % 7 + 1) * u64::from(attempt.min(10));
                    sleep(Duration::from_millis(stagger)).await;
                    continue;
                }
                Err(GroupError::Lost) => return all(StorageError::Conflict { keyspace: HEADS.info().id.0 }),
                Err(GroupError::Failed(error)) => return all(error),
                Err(GroupError::Disconnected(error)) => error,
                Err(GroupError::Unknown(mark, merged, error)) => {
                    self.unsettled = Some(Unsettled { mark, writer: session.writer, merged });
                    error
                }
            };
            tracing::warn!(error = %lost, "the writer's connection was lost");
            self.session = None;
            lost_connections += 1;
            if lost_connections == MOST_LOST_CONNECTIONS {
                return all(lost);
            }
        }
    }

    fn committed(&mut self, writer: WriterId, merged: &MergedWrites) {
        self.recent.remember(&merged.admitted);
        listener::publish(&self.positions, &position_of(writer, merged.sequence));
    }

    /// Connects if need be, and settles what an earlier connection left open.
    async fn be_connected(&mut self, give_up_at: Instant) -> Result<(), StorageError> {
        while self.session.is_none() {
            match self.connect_and_settle().await {
                Ok(session) => self.session = Some(session),
                Err(error) if Instant::now() >= give_up_at => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "no connection to write with");
                    sleep(PAUSE).await;
                }
            }
        }
        Ok(())
    }

    async fn connect_and_settle(&mut self) -> Result<Session, StorageError> {
        let session = Session::open(&self.connector).await?;
        if let Some(unsettled) = self.unsettled.take() {
            match session.settle(&unsettled.mark).await {
                Ok(true) => {
                    tracing::info!("the last commit before the connection was lost is there");
                    self.committed(unsettled.writer, &unsettled.merged);
                }
                // It never happened: whoever waits for it has it tried again.
                Ok(false) => {}
                Err(error) => {
                    self.unsettled = Some(unsettled);
                    return Err(error);
                }
            }
        }
        Ok(session)
    }
}

impl Session {
    async fn open(connector: &Connector) -> Result<Self, StorageError> {
        let client = connector.connect(None).await.map_err(|error| unavailable(&error))?;
        let opened = async {
            client.batch_execute(statements::WRITER_SESSION).await?;
            let row = client
                .query_one("SELECT gen_random_uuid()::text, current_setting('synchronous_commit')", &[])
                .await?;
            let (session, synchronous_commit): (String, String) = (row.get(0), row.get(1));
            if synchronous_commit == "off" {
                // What was acknowledged has to be on disk, whatever the server does for others.
                client.batch_execute("SET synchronous_commit = on").await?;
            }
            let statements = Statements {
                get_many: client.prepare(statements::GET_MANY).await?,
                put_many: client.prepare(statements::PUT_MANY).await?,
                delete_many: client.prepare(statements::DELETE_MANY).await?,
                mark: client.prepare(statements::MARK_GROUP).await?,
                notify: client.prepare("SELECT pg_notify($1, $2)").await?,
            };
            Ok::<_, tokio_postgres::Error>((session, statements))
        };
        let (session, statements) = opened.await.map_err(|error| failure(&error))?;
        let writer = take_writer_id(&client).await?;
        Ok(Self { client, writer, mark: Mark { session, number: 0 }, statements })
    }

    /// Whether the group with this mark was committed. From here on it cannot be any more, if it was not.
    async fn settle(&self, mark: &Mark) -> Result<bool, StorageError> {
        let marked = self.client.execute(statements::SETTLE_GROUP, &[&mark.session, &mark.number]).await;
        marked.map(|rows| rows == 0).map_err(|error| failure(&error))
    }

    /// Makes relaxed commits durable, and frees the id for others. That the server hears of a connection's end may take longer.
    async fn end(&self) -> Result<(), tokio_postgres::Error> {
        self.client.execute(statements::FORGET_MARK, &[&self.mark.session]).await?;
        self.client.batch_execute("SELECT pg_advisory_unlock_all()").await
    }

    /// Decides the transactions, and commits those that pass. Leaves no transaction open.
    async fn commit_group(
        &mut self,
        transactions: &[Transaction],
        recent: &RecentOutcomes,
    ) -> Result<(Vec<Result<Commit, StorageError>>, Option<MergedWrites>), GroupError> {
        let outcome = self.try_group(transactions, recent).await;
        if matches!(outcome, Ok((_, None)) | Err(GroupError::Lost | GroupError::Failed(_))) {
            let ended = self.client.batch_execute("ROLLBACK").await;
            ended.map_err(|error| GroupError::Disconnected(unavailable(&error)))?;
        }
        outcome
    }

    async fn try_group(
        &mut self,
        transactions: &[Transaction],
        recent: &RecentOutcomes,
    ) -> Result<(Vec<Result<Commit, StorageError>>, Option<MergedWrites>), GroupError> {
        let head = HEADS.row_key(self.writer);
        let stored = self.begin_and_read(transactions, &head).await?;
        let sequence = match stored.get(&head) {
            Some(value) => {
                Keyspace::<WriterId, u64>::decode_value(HEADS.info(), value).map_err(GroupError::Failed)?
            }
            None => 0,
        };
        let mut group = Group::new(self.writer, sequence);
        let decide = |transaction: &Transaction| match recent.get(transaction.id) {
            Some(commit) => Ok(commit),
            None => group.admit(transaction.clone(), |key| Ok(stored.get(key).cloned())),
        };
        let outcomes = transactions.iter().map(decide).collect();
        let Some(merged) = group.finish() else { return Ok((outcomes, None)) };
        self.mark.number += 1;
        match self.write(&merged, merged.sequence > sequence).await {
            Ok(()) => Ok((outcomes, Some(merged))),
            Err(error) => match failure(&error) {
                // A server that shuts down can have committed before it says so.
                error @ StorageError::Unavailable(_) => {
                    Err(GroupError::Unknown(self.mark.clone(), merged, error))
                }
                // The COMMIT behind the statement that failed was a rollback.
                _ => Err(before_commit(&error)),
            },
        }
    }

    /// Opens the transaction and reads every row that something depends on, in one round trip.
    async fn begin_and_read(
        &self,
        transactions: &[Transaction],
        head: &RowKey,
    ) -> Result<HashMap<RowKey, Bytes>, GroupError> {
        let checked =
            transactions.iter().flat_map(|transaction| transaction.checks.iter().map(|(key, _)| key));
        let keys: BTreeSet<&RowKey> = checked.chain([head]).collect();
        let (spaces, bytes) = columns(keys.iter().copied());
        let begun = self.client.batch_execute(statements::BEGIN_GROUP);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&spaces, &bytes];
        let rows = self.client.query(&self.statements.get_many, &parameters);
        let ((), rows) = tokio::try_join!(biased; begun, rows).map_err(|error| before_commit(&error))?;
        let value = |row: tokio_postgres::Row| row.get::<_, Option<Vec<u8>>>(0).map(Bytes::from);
        let found = keys.into_iter().zip(rows.into_iter().map(value));
        Ok(found.filter_map(|(key, value)| Some((key.clone(), value?))).collect())
    }

    /// Writes everything and commits, in one round trip.
    async fn write(&self, merged: &MergedWrites, grew: bool) -> Result<(), tokio_postgres::Error> {
        let Self { client, statements, mark, .. } = self;
        let puts: Vec<(&RowKey, &Bytes)> =
            merged.rows.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).collect();
        let (put_spaces, put_keys) = columns(puts.iter().map(|(key, _)| *key));
        let put_values: Vec<&[u8]> = puts.iter().map(|(_, value)| value.as_ref()).collect();
        let deleted = merged.rows.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key);
        let (delete_spaces, delete_keys) = columns(deleted);
        let position = LogPosition { writer: self.writer, sequence: merged.sequence };
        let put = async {
            if puts.is_empty() {
                return Ok(0);
            }
            client.execute(&statements.put_many, &[&put_spaces, &put_keys, &put_values]).await
        };
        let delete = async {
            if delete_keys.is_empty() {
                return Ok(0);
            }
            client.execute(&statements.delete_many, &[&delete_spaces, &delete_keys]).await
        };
        let announce = async {
            if !grew {
                return Ok(0);
            }
            client.execute(&statements.notify, &[&listener::CHANNEL, &listener::announce(position)]).await
        };
        // Polled in this order, so sent in this order; nothing is waited for in between.
        let commit = if merged.durable { "COMMIT" } else { "SET LOCAL synchronous_commit = off; COMMIT" };
        tokio::try_join!(
            biased;
            put,
            delete,
            async { client.execute(&statements.mark, &[&mark.session, &mark.number]).await },
            announce,
            client.batch_execute(commit),
        )?;
        Ok(())
    }
}

/// The bytes that a transaction has the database write, about.
fn size_of(transaction: &Transaction) -> usize {
    let writes = transaction.writes.iter().map(|write| match write {
        Write::Put { key, value, .. } => key.key.len() + value.len(),
        Write::Delete { key } => key.key.len(),
    });
    writes.chain(transaction.entries.iter().map(|entry| entry.payload.len())).sum()
}

fn columns<'a>(keys: impl Iterator<Item = &'a RowKey>) -> (Vec<i32>, Vec<&'a [u8]>) {
    keys.map(|key| (i32::from(key.info.id.0), key.key.as_ref())).unzip()
}

/// What an error means as long as nothing can have been committed.
fn before_commit(error: &tokio_postgres::Error) -> GroupError {
    match error.code() {
        Some(code)
            if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code) =>
        {
            GroupError::Lost
        }
        Some(_) => match failure(error) {
            error @ StorageError::Unavailable(_) => GroupError::Disconnected(error),
            error => GroupError::Failed(error),
        },
        None => GroupError::Disconnected(unavailable(error)),
    }
}

/// The lowest id that no other session has. The lock goes with the session.
async fn take_writer_id(client: &Client) -> Result<WriterId, StorageError> {
    for id in 0..MOST_WRITERS {
        let row = client
            .query_one("SELECT pg_try_advisory_lock($1, $2)", &[&LOCK_CLASS, &id])
            .await
            .map_err(|error| failure(&error))?;
        if row.get(0) {
            return Ok(WriterId(id.unsigned_abs().try_into().map_err(|_| too_many())?));
        }
    }
    Err(too_many())
}

fn too_many() -> StorageError {
    StorageError::Unavailable(format!("{MOST_WRITERS} writers use the database already"))
}
