use crate::{Position, StorageError, Store, Transaction, follower::CURSORS, log::LOG};

/// Records that are deleted by one transaction.
const MOST_AT_ONCE: usize = 1_000;

impl Store {
    /// Deletes the records of the log that every follower has behind it, but for the newest `keep` of each writer: who reads
    /// the log without a stored cursor is never that far back. Answers how many were deleted. What a follower that is not run
    /// has not read yet is kept.
    pub async fn trim_log(&self, keep: u64) -> Result<u64, StorageError> {
        let snapshot = self.snapshot().await?;
        let cursors: Vec<Position> =
            snapshot.scan_all(CURSORS.scan(())).await?.into_iter().map(|(_, cursor)| cursor).collect();
        let mut deleted = 0;
        for (writer, newest) in snapshot.position().await?.writers() {
            let followed = cursors.iter().map(|cursor| cursor.sequence_of(writer)).min().unwrap_or(newest);
            let last = followed.min(newest.saturating_sub(keep));
            if last == 0 {
                continue;
            }
            let mut next = Some(LOG.scan((writer,)).to((writer, last)).limit(MOST_AT_ONCE));
            while let Some(scan) = next {
                let page = self.snapshot().await?.scan(&scan).await?;
                let mut transaction = Transaction::relaxed();
                for (key, _) in &page.rows {
                    transaction.delete(&LOG, *key);
                }
                if !transaction.is_empty() {
                    self.commit(transaction).await?;
                }
                deleted += page.rows.len() as u64;
                next = page.next.map(|at| scan.resume(at));
            }
        }
        Ok(deleted)
    }
}
