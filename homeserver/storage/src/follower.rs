use std::{convert::Infallible, fmt::Display, future::Future, time::Duration};

use crate::{Keyspace, LogRecord, Position, StorageError, Store, Transaction, Watch};

/// Before a follower that failed goes on.
const PAUSE: Duration = Duration::from_secs(1);

/// How far each follower has come, under its name.
pub(crate) const CURSORS: Keyspace<String, Position> = Keyspace::new(3, "storage.cursors");

/// Where a follower begins that has no cursor yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// With the first commit ever.
    Beginning,
    /// With the next commit.
    Now,
}

/// Follows for as long as it is polled: what failed begins again, at its stored cursor. That another node was quicker, which
/// `is_conflict` tells, is nothing to worry about.
pub async fn keep_following<E: Display, Fut: Future<Output = Result<Infallible, E>>>(
    name: &str,
    is_conflict: impl Fn(&E) -> bool,
    mut follow_until_failure: impl FnMut() -> Fut,
) {
    loop {
        let Err(error) = follow_until_failure().await;
        if is_conflict(&error) {
            tracing::debug!(follower = name, "another node was quicker");
        } else {
            tracing::warn!(%error, follower = name, "a follower of the log failed and begins again at its cursor");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads the log from a stored cursor: in order, without a gap, from where it stood before a crash.
///
/// What a follower does with a record happens at least once: store the cursor in the same transaction as the effect
/// ([`Follower::advance_in`]) and it happens exactly once.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    name: String,
    watch: Watch,
    /// Up to where the log was handed out.
    read: Position,
    /// What is stored.
    stored: Position,
}

impl Follower {
    /// Opens the follower `name`, at its stored cursor if it has one.
    pub async fn open(store: &Store, name: &str, start: StartFrom) -> Result<Self, StorageError> {
        let snapshot = store.snapshot().await?;
        let stored = if let Some(stored) = snapshot.get(&CURSORS, name).await? {
            stored
        } else {
            let first = match start {
                StartFrom::Beginning => Position::start(),
                StartFrom::Now => snapshot.position().await?,
            };
            // Noted at once: what is committed from here on is not lost if nothing is read before a crash, and what lies behind
            // a cursor is not trimmed.
            let mut transaction = Transaction::new();
            transaction.check_absent(&CURSORS, name);
            transaction.put(&CURSORS, name, &first);
            store.commit(transaction).await?;
            first
        };
        let watch = store.watch();
        Ok(Self { store: store.clone(), name: name.to_owned(), watch, read: stored.clone(), stored })
    }

    /// The next records, at most `limit` (at least 1); waits until there are some.
    ///
    /// Safe to cancel: nothing is handed out by a call that did not return.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<LogRecord>, StorageError> {
        loop {
            self.watch.beyond(&self.read).await?;
            let (records, reached) = self.store.read_log(&self.read, limit.max(1)).await?;
            if !records.is_empty() {
                self.read = reached;
                return Ok(records);
            }
        }
    }

    /// Up to where the log was handed out.
    pub fn position(&self) -> &Position {
        &self.read
    }

    /// Adds the cursor to the transaction that carries the effect of what was handed out. Call [`Follower::advanced`]
    /// when it has been committed.
    ///
    /// Two processes that run the same follower by mistake conflict here instead of doing its work twice.
    pub fn advance_in(&self, transaction: &mut Transaction) {
        transaction.check_unchanged(&CURSORS, self.name.as_str(), Some(&self.stored));
        transaction.put(&CURSORS, self.name.as_str(), &self.read);
    }

    /// Notes that a transaction with [`Follower::advance_in`] has been committed.
    pub fn advanced(&mut self) {
        self.stored = self.read.clone();
    }

    /// Stores the cursor, for effects outside the store. After a crash, what was not stored is handed out again.
    pub async fn advance(&mut self) -> Result<(), StorageError> {
        if self.stored == self.read {
            return Ok(());
        }
        let mut transaction = Transaction::new();
        self.advance_in(&mut transaction);
        self.store.commit(transaction).await?;
        self.advanced();
        Ok(())
    }

    /// Hands out again what lies behind this place, up to which the effects of what was handed out last were collected.
    pub fn go_back_to(&mut self, position: Position) {
        self.read = position;
    }

    /// Forgets what was handed out but not stored, to read it again.
    pub fn rewind(&mut self) {
        self.read = self.stored.clone();
    }
}
