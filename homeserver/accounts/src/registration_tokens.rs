use entente_environment::Timestamp;
use entente_storage::{Snapshot, StorageError, Transaction};

use crate::{
    AccountError, Accounts,
    rows::{self, RegistrationTokenRow},
};

/// Registration tokens have at most this many characters (C-S API, "Token-authenticated registration").
const MOST_TOKEN_CHARACTERS: usize = 64;
/// The characters of a token that the server makes up: 100 bits.
const GENERATED_CHARACTERS: usize = 20;

/// A token that lets its holder register.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrationToken {
    /// Its text: 1 to 64 of `A-Z a-z 0-9 . _ ~ -`. Empty in a new one: the server makes it up.
    pub token: String,
    /// How often it may be used; `None`: any number of times.
    pub uses_allowed: Option<u64>,
    /// How often it was used.
    pub completed: u64,
    /// When it ends; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// Whether who registers with it becomes an administrator.
    pub admin: bool,
}

impl Accounts {
    /// Adds a registration token. Answers its text.
    pub async fn create_registration_token(&self, new: &RegistrationToken) -> Result<String, AccountError> {
        let token = if new.token.is_empty() {
            self.inner.environment.randomness().readable(GENERATED_CHARACTERS)
        } else {
            new.token.clone()
        };
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
        if token.len() > MOST_TOKEN_CHARACTERS || !token.bytes().all(is_allowed) {
            return Err(AccountError::InvalidParameter(
                "a registration token has 1 to 64 characters of A-Z a-z 0-9 . _ ~ -",
            ));
        }
        let row = RegistrationTokenRow {
            uses_allowed: new.uses_allowed,
            completed: 0,
            expires_at: new.expires_at.map(Timestamp::millis),
            admin: new.admin,
        };
        let mut transaction = Transaction::new();
        transaction.check_absent(&rows::REGISTRATION_TOKENS, token.as_str());
        transaction.put(&rows::REGISTRATION_TOKENS, token.as_str(), &row);
        match self.store().commit(transaction).await {
            Err(StorageError::Conflict { .. }) => {
                Err(AccountError::InvalidParameter("there is a registration token with this text already"))
            }
            outcome => Ok(outcome.map(|_| token)?),
        }
    }

    /// All registration tokens, in the order of their texts.
    pub async fn registration_tokens(&self) -> Result<Vec<RegistrationToken>, AccountError> {
        let rows = self.snapshot().await?.scan_all(rows::REGISTRATION_TOKENS.scan(())).await?;
        let token = |(token, row): (String, RegistrationTokenRow)| RegistrationToken {
            token,
            uses_allowed: row.uses_allowed,
            completed: row.completed,
            expires_at: row.expires_at.map(Timestamp),
            admin: row.admin,
        };
        Ok(rows.into_iter().map(token).collect())
    }

    /// Ends a registration token.
    pub async fn delete_registration_token(&self, token: &str) -> Result<(), AccountError> {
        let mut transaction = Transaction::new();
        transaction.check_present(&rows::REGISTRATION_TOKENS, token);
        transaction.delete(&rows::REGISTRATION_TOKENS, token);
        match self.store().commit(transaction).await {
            Err(StorageError::Conflict { .. }) => {
                Err(AccountError::NotFound("there is no such registration token"))
            }
            outcome => Ok(outcome.map(|_| ())?),
        }
    }

    /// Whether somebody could register with this token now.
    pub async fn is_registration_token_valid(&self, token: &str) -> Result<bool, AccountError> {
        let snapshot = self.snapshot().await?;
        Ok(self.usable_registration_token(&snapshot, token).await?.is_some())
    }

    /// A token for the first administrator, if there is no account and no registration token yet.
    pub async fn first_registration_token(&self) -> Result<Option<String>, AccountError> {
        let snapshot = self.snapshot().await?;
        let users = snapshot.scan(&rows::USERS.scan(()).limit(1)).await?.rows;
        if !users.is_empty() {
            return Ok(None);
        }
        let tokens = self.registration_tokens().await?;
        if let Some(existing) = tokens.into_iter().find(|token| token.admin && token.completed == 0) {
            return Ok(Some(existing.token));
        }
        let first = RegistrationToken { uses_allowed: Some(1), admin: true, ..RegistrationToken::default() };
        self.create_registration_token(&first).await.map(Some)
    }

    pub(crate) async fn usable_registration_token(
        &self,
        snapshot: &Snapshot,
        token: &str,
    ) -> Result<Option<RegistrationTokenRow>, AccountError> {
        if !self.settings().registration_tokens {
            return Ok(None);
        }
        let now = self.inner.environment.now().millis();
        let is_usable = |row: &RegistrationTokenRow| {
            row.uses_allowed.is_none_or(|allowed| row.completed < allowed)
                && row.expires_at.is_none_or(|at| at > now)
        };
        Ok(snapshot.get(&rows::REGISTRATION_TOKENS, token).await?.filter(is_usable))
    }
}
