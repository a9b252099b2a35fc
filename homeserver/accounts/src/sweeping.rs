use entente_storage::{Keyspace, Transaction};

use crate::{
    AccountError, Accounts,
    rows::{self, InteractiveRow, ShortTokenRow},
    tokens::Digest,
};

/// Rows that are looked at, and deleted, at once.
const PAGE_ROWS: usize = 500;

/// A row that means nothing any more after a time.
trait Expires {
    /// Milliseconds since 1970.
    fn expires_at(&self) -> u64;
}

impl Expires for ShortTokenRow {
    fn expires_at(&self) -> u64 {
        self.expires_at
    }
}

impl Expires for InteractiveRow {
    fn expires_at(&self) -> u64 {
        self.expires_at
    }
}

impl Accounts {
    /// Deletes login tokens, `OpenID` tokens and sessions of user-interactive authentication that have expired. Answers how
    /// many. Expired access tokens stay until their device goes: they tell its client to keep what it has.
    pub async fn delete_expired(&self) -> Result<u64, AccountError> {
        let tokens = self.delete_expired_in(&rows::LOGIN_TOKENS).await?;
        let openid_tokens = self.delete_expired_in(&rows::OPENID_TOKENS).await?;
        let sessions = self.delete_expired_in(&rows::INTERACTIVE).await?;
        Ok(tokens + openid_tokens + sessions)
    }

    async fn delete_expired_in<V>(&self, keyspace: &Keyspace<Digest, V>) -> Result<u64, AccountError>
    where
        V: Expires + entente_storage::value::Value,
    {
        let now = self.inner.environment.now().millis();
        let mut deleted = 0;
        let mut resume = None;
        loop {
            let mut scan = keyspace.scan(()).limit(PAGE_ROWS);
            if let Some(resume) = resume {
                scan = scan.resume(resume);
            }
            let page = self.snapshot().await?.scan(&scan).await?;
            let mut transaction = Transaction::relaxed();
            for (key, row) in &page.rows {
                if row.expires_at() <= now {
                    // Nothing makes an expired row valid again, so nothing needs to be checked.
                    transaction.delete(keyspace, *key);
                    deleted += 1;
                }
            }
            if !transaction.is_empty() {
                self.store().commit(transaction).await?;
            }
            match page.next {
                Some(next) => resume = Some(next),
                None => return Ok(deleted),
            }
        }
    }
}
