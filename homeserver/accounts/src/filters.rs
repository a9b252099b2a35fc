use entente_storage::{Bytes, Transaction};
use ruma::UserId;

use crate::{
    AccountError, Accounts,
    rows::{self, UserRow},
};

/// A filter has at most this many bytes.
const MOST_BYTES: usize = 64 * 1024;
/// A user has at most this many filters; clients store a handful.
const MOST_FILTERS: u64 = 10_000;

impl Accounts {
    /// Stores a filter, a JSON object, and answers its id. An equal one keeps its id.
    pub async fn create_filter(&self, user_id: &UserId, filter: Bytes) -> Result<String, AccountError> {
        if filter.len() > MOST_BYTES {
            return Err(AccountError::TooLarge("a filter has at most 64 KiB"));
        }
        let localpart = self.local(user_id)?;
        let filter = &filter;
        let (number, _) = self
            .store()
            .run(async |snapshot| {
                let user = self.user_row(&snapshot, localpart).await?;
                let filters = snapshot.scan_all(rows::FILTERS.scan((localpart,))).await?;
                let equal = filters.iter().find(|(_, stored)| stored == filter);
                if let Some(((_, number), _)) = equal {
                    return Ok((Transaction::new(), *number));
                }
                let number = user.next_filter;
                if number >= MOST_FILTERS {
                    return Err(AccountError::TooLarge("this user has too many filters"));
                }
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::USERS, localpart, Some(&user));
                transaction.put(&rows::USERS, localpart, &UserRow { next_filter: number + 1, ..user });
                transaction.put(&rows::FILTERS, (localpart, number), filter);
                Ok::<_, AccountError>((transaction, number))
            })
            .await?;
        Ok(number.to_string())
    }

    /// A stored filter.
    pub async fn filter(&self, user_id: &UserId, filter_id: &str) -> Result<Bytes, AccountError> {
        let not_found = AccountError::NotFound("there is no such filter");
        let localpart = self.local(user_id)?;
        let Ok(number) = filter_id.parse::<u64>() else { return Err(not_found) };
        self.snapshot().await?.get(&rows::FILTERS, (localpart, number)).await?.ok_or(not_found)
    }
}
