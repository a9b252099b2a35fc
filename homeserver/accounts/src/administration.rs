use entente_environment::Timestamp;
use entente_storage::Transaction;
use ruma::UserId;

use crate::{AccountError, Accounts, Change, rows, rows::UserRow};

/// What an administrator sees of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a decision of its own")]
pub struct AccountStatus {
    /// Whether the user is an administrator.
    pub admin: bool,
    /// Whether the account was closed for ever.
    pub deactivated: bool,
    /// Whether the user can neither log in nor use existing sessions.
    pub locked: bool,
    /// Whether the user may only read and leave.
    pub suspended: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it is valid; `None`: for ever.
    pub valid_until: Option<Timestamp>,
}

impl Accounts {
    /// The status of an account.
    pub async fn status(&self, user_id: &UserId) -> Result<AccountStatus, AccountError> {
        let snapshot = self.snapshot().await?;
        let user = self.user_row(&snapshot, self.local(user_id)?).await?;
        Ok(AccountStatus {
            admin: user.admin,
            deactivated: user.deactivated,
            locked: user.locked,
            suspended: user.suspended,
            created_at: Timestamp(user.created_at),
            valid_until: user.valid_until.map(Timestamp),
        })
    }

    /// Locks or unlocks an account (`PUT /admin/lock/{userId}`). Its devices and tokens stay.
    pub async fn set_locked(&self, user_id: &UserId, locked: bool) -> Result<(), AccountError> {
        self.change_status(user_id, |user| UserRow { locked, ..user }).await
    }

    /// Suspends or reinstates an account (`PUT /admin/suspend/{userId}`).
    pub async fn set_suspended(&self, user_id: &UserId, suspended: bool) -> Result<(), AccountError> {
        self.change_status(user_id, |user| UserRow { suspended, ..user }).await
    }

    /// Makes a user an administrator, or takes it back.
    pub async fn set_admin(&self, user_id: &UserId, admin: bool) -> Result<(), AccountError> {
        self.change_status(user_id, |user| UserRow { admin, ..user }).await
    }

    /// Says until when an account is valid; `None`: for ever.
    pub async fn set_valid_until(
        &self,
        user_id: &UserId,
        valid_until: Option<Timestamp>,
    ) -> Result<(), AccountError> {
        let valid_until = valid_until.map(Timestamp::millis);
        self.change_status(user_id, |user| UserRow { valid_until, ..user }).await
    }

    async fn change_status(
        &self,
        user_id: &UserId,
        change: impl Fn(UserRow) -> UserRow,
    ) -> Result<(), AccountError> {
        let localpart = self.local(user_id)?;
        self.store()
            .run(async |snapshot| {
                let user = self.user_row(&snapshot, localpart).await?;
                if user.deactivated {
                    return Err(AccountError::UserDeactivated);
                }
                let mut transaction = Transaction::new();
                let changed = change(user.clone());
                if changed != user {
                    transaction.check_unchanged(&rows::USERS, localpart, Some(&user));
                    transaction.put(&rows::USERS, localpart, &changed);
                    Change::Status { localpart: localpart.to_owned() }.log_in(&mut transaction);
                }
                Ok((transaction, ()))
            })
            .await?;
        Ok(())
    }
}
