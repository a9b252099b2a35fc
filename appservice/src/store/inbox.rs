//! What came in, and how far it was handled.

use rusqlite::{OptionalExtension as _, params};

use super::{Store, StoreError};

/// How many handled transactions and events are remembered.
const MOST_HANDLED: i64 = 200_000;
/// How many events wait for keys at the most; the oldest give way.
const MOST_WAITING: i64 = 5_000;

/// An encrypted event whose key has not come yet.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) event_id: String,
    pub(crate) session_id: String,
    /// Milliseconds since 1970.
    pub(crate) since: u64,
    /// The event as it came.
    pub(crate) event: String,
}

/// How often something failed, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failures {
    pub(crate) count: u32,
    /// Milliseconds since 1970.
    pub(crate) since: u64,
}

impl Store {
    /// Whether a transaction or event was handled.
    pub(crate) async fn is_handled(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.run(move |connection| {
            let mut statement = connection.prepare_cached("SELECT is_done FROM handled WHERE id = ?1")?;
            let is_done: Option<bool> = statement.query_row([id], |row| row.get(0)).optional()?;
            Ok(is_done.unwrap_or(false))
        })
        .await
    }

    /// Notes that a transaction or event was handled, and that it no longer waits for a key.
    pub(crate) async fn mark_handled(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.run(move |connection| {
            let transaction = connection.transaction()?;
            let note = "INSERT INTO handled (id, failures, is_done) VALUES (?1, 0, 1)
                        ON CONFLICT (id) DO UPDATE SET is_done = 1";
            transaction.prepare_cached(note)?.execute([&id])?;
            transaction.prepare_cached("DELETE FROM waiting WHERE event_id = ?1")?.execute([&id])?;
            let forget = "DELETE FROM handled WHERE number <= (SELECT MAX(number) FROM handled) - ?1";
            transaction.prepare_cached(forget)?.execute([MOST_HANDLED])?;
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Notes that handling something failed now, in milliseconds since 1970, and says how often it has and since when.
    pub(crate) async fn mark_failed(&self, id: &str, now: u64) -> Result<Failures, StoreError> {
        let id = id.to_owned();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.run(move |connection| {
            let note = "INSERT INTO handled (id, failures, is_done, failing_since) VALUES (?1, 1, 0, ?2)
                        ON CONFLICT (id) DO UPDATE SET failures = failures + 1,
                        failing_since = COALESCE(failing_since, excluded.failing_since)
                        RETURNING failures, failing_since";
            Ok(connection.prepare_cached(note)?.query_row(params![id, now], |row| {
                let since: i64 = row.get(1)?;
                Ok(Failures { count: row.get(0)?, since: u64::try_from(since).unwrap_or(0) })
            })?)
        })
        .await
    }

    /// Keeps an event until its key comes.
    pub(crate) async fn keep_waiting(&self, waiting: Waiting) -> Result<(), StoreError> {
        self.run(move |connection| {
            let transaction = connection.transaction()?;
            let Waiting { event_id, session_id, since, event } = waiting;
            let since = i64::try_from(since).unwrap_or(i64::MAX);
            let keep =
                "INSERT OR IGNORE INTO waiting (event_id, session_id, since, event) VALUES (?1, ?2, ?3, ?4)";
            transaction.prepare_cached(keep)?.execute(params![event_id, session_id, since, event])?;
            let forget = "DELETE FROM waiting WHERE number <= (SELECT MAX(number) FROM waiting) - ?1";
            transaction.prepare_cached(forget)?.execute([MOST_WAITING])?;
            Ok(transaction.commit()?)
        })
        .await
    }

    /// The events that wait for the key of a session, oldest first.
    pub(crate) async fn waiting_for(&self, session_id: &str) -> Result<Vec<Waiting>, StoreError> {
        let session_id = session_id.to_owned();
        self.run(move |connection| {
            let query = "SELECT event_id, session_id, since, event FROM waiting WHERE session_id = ?1 ORDER BY number";
            let mut statement = connection.prepare_cached(query)?;
            let rows = statement.query_map([session_id], |row| {
                let since: i64 = row.get(2)?;
                Ok(Waiting {
                    event_id: row.get(0)?,
                    session_id: row.get(1)?,
                    since: u64::try_from(since).unwrap_or(0),
                    event: row.get(3)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The sessions whose keys are waited for.
    pub(crate) async fn awaited_sessions(&self) -> Result<Vec<String>, StoreError> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT DISTINCT session_id FROM waiting")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Gives up on events that have waited since before `since`, in milliseconds since 1970. Says how many still wait.
    pub(crate) async fn give_up_waiting(&self, since: u64) -> Result<i64, StoreError> {
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        self.run(move |connection| {
            connection.prepare_cached("DELETE FROM waiting WHERE since < ?1")?.execute([since])?;
            Ok(connection.prepare_cached("SELECT COUNT(*) FROM waiting")?.query_row([], |row| row.get(0))?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.sqlite3")).await.unwrap();
        (directory, store)
    }

    #[tokio::test]
    async fn failures_are_counted_until_it_is_done() {
        let (_directory, store) = store().await;
        assert_eq!(store.mark_failed("$a", 5).await.unwrap(), Failures { count: 1, since: 5 });
        assert_eq!(store.mark_failed("$a", 9).await.unwrap(), Failures { count: 2, since: 5 });
        assert!(!store.is_handled("$a").await.unwrap());
        store.mark_handled("$a").await.unwrap();
        assert!(store.is_handled("$a").await.unwrap());
    }

    #[tokio::test]
    async fn what_waits_is_found_by_session_once() {
        let (_directory, store) = store().await;
        let waiting = |event_id: &str, since| Waiting {
            event_id: event_id.to_owned(),
            session_id: "s".to_owned(),
            since,
            event: "{}".to_owned(),
        };
        for (event_id, since) in [("$a", 1), ("$b", 5), ("$a", 9)] {
            store.keep_waiting(waiting(event_id, since)).await.unwrap();
        }
        let found: Vec<_> =
            store.waiting_for("s").await.unwrap().into_iter().map(|w| (w.event_id, w.since)).collect();
        assert_eq!(found, [("$a".to_owned(), 1), ("$b".to_owned(), 5)]);
        assert!(store.waiting_for("t").await.unwrap().is_empty());
        assert_eq!(store.give_up_waiting(5).await.unwrap(), 1);
        store.mark_handled("$b").await.unwrap();
        assert!(store.waiting_for("s").await.unwrap().is_empty());
    }
}
