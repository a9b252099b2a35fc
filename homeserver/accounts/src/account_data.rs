use entente_storage::{Bytes, LogPosition, Transaction, value::Stamped};
use ruma::{RoomId, UserId};

use crate::{AccountError, Accounts, Change, rows};

/// Account data of one type has at most this many bytes.
const MOST_BYTES: usize = 1024 * 1024;
/// An event type has at most this many bytes.
const MOST_TYPE_BYTES: usize = 255;

/// What account data is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountDataScope<'a> {
    /// The user as a whole.
    Global,
    /// The user in one room.
    Room(&'a RoomId),
}

impl AccountDataScope<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Global => "",
            Self::Room(room_id) => room_id.as_str(),
        }
    }
}

impl Accounts {
    /// The content of account data, as the client sent it.
    pub async fn account_data(
        &self,
        user_id: &UserId,
        scope: AccountDataScope<'_>,
        event_type: &str,
    ) -> Result<Bytes, AccountError> {
        let key = (self.local(user_id)?, scope.as_str(), event_type);
        let row = self.snapshot().await?.get(&rows::ACCOUNT_DATA, key).await?;
        let content = row.map(|row| row.value).filter(|content| !content.is_empty());
        content.ok_or(AccountError::NotFound("there is no account data of this type"))
    }

    /// Stores account data. `content` is a JSON object.
    pub async fn set_account_data(
        &self,
        user_id: &UserId,
        scope: AccountDataScope<'_>,
        event_type: &str,
        content: Bytes,
    ) -> Result<(), AccountError> {
        if content.len() > MOST_BYTES || event_type.len() > MOST_TYPE_BYTES {
            return Err(AccountError::TooLarge("account data has at most 1 MiB, its type 255 bytes"));
        }
        let localpart = self.local(user_id)?;
        let mut transaction = Transaction::new();
        let row = Stamped { position: LogPosition::AT_COMMIT, value: content };
        transaction.put(&rows::ACCOUNT_DATA, (localpart, scope.as_str(), event_type), &row);
        let change = Change::AccountData {
            localpart: localpart.to_owned(),
            room_id: scope.as_str().to_owned(),
            event_type: event_type.to_owned(),
        };
        change.log_in(&mut transaction);
        self.store().commit(transaction).await?;
        Ok(())
    }
}
