use entente_storage::Transaction;
use ruma::OwnedUserId;

use crate::{
    AccountError, Accounts, Change, NewSession, Proof, SessionRequest,
    rows::{self, RegistrationTokenRow, UserRow},
};

/// A user who is to be.
#[derive(Clone, Debug, Default)]
pub struct NewAccount {
    /// The name; one is made up if there is none.
    pub username: Option<String>,
    /// The password; without one the user cannot log in with a password.
    pub password: Option<String>,
    /// A first session; `None`: the user logs in later.
    pub session: Option<SessionRequest>,
    /// Whether the user becomes an administrator.
    pub admin: bool,
    /// Whether the user is a guest.
    pub guest: bool,
    /// Whether an application service makes it: such a user is valid for as long as the service is.
    pub of_service: bool,
}

/// A user who is.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The user.
    pub user_id: OwnedUserId,
    /// The first session, if one was asked for.
    pub session: Option<NewSession>,
}

impl Accounts {
    /// Registers a user whose client has proved that it may (`POST /register`). A registration token is used up in the same
    /// transaction.
    pub async fn register(&self, account: &NewAccount, proof: &Proof) -> Result<Registered, AccountError> {
        self.register_with(account, proof.registration_token.as_deref()).await
    }

    /// Registers a guest, if there may be any (`POST /register?kind=guest`).
    pub async fn register_guest(&self, session: SessionRequest) -> Result<Registered, AccountError> {
        if !self.settings().guests {
            return Err(AccountError::GuestsRefused);
        }
        let guest = NewAccount { session: Some(session), guest: true, ..NewAccount::default() };
        self.register_with(&guest, None).await
    }

    /// Registers a user on behalf of an administrator.
    pub async fn create_user(&self, account: &NewAccount) -> Result<Registered, AccountError> {
        self.register_with(account, None).await
    }

    async fn register_with(
        &self,
        account: &NewAccount,
        registration_token: Option<&str>,
    ) -> Result<Registered, AccountError> {
        let localpart = &match &account.username {
            Some(username) if account.of_service => self.service_localpart(username)?,
            Some(username) => self.new_localpart(username)?,
            None => format!("u{}", self.inner.environment.randomness().readable(11)),
        };
        if let Some(password) = &account.password {
            self.check_password_policy(password)?;
        }
        // Hashing is dear: who asks for a taken name is told so before it.
        self.check_free(localpart).await?;
        let password_hash = match &account.password {
            Some(password) => Some(self.inner.passwords.hash(password).await?),
            None => None,
        };
        let now = self.inner.environment.now();
        let validity = self.settings().validity.filter(|_| !account.of_service);
        let user = &UserRow {
            password_hash,
            created_at: now.millis(),
            admin: account.admin,
            guest: account.guest,
            valid_until: validity.map(|validity| now.after(validity).millis()),
            ..UserRow::default()
        };
        let (session, _) = self
            .store()
            .run(async |snapshot| {
                if snapshot.get(&rows::USERS, localpart).await?.is_some() {
                    return Err(AccountError::UsernameTaken);
                }
                let mut transaction = Transaction::new();
                transaction.check_absent(&rows::USERS, localpart);
                let mut user = user.clone();
                if let Some(token) = registration_token {
                    let row = self.usable_registration_token(&snapshot, token).await?;
                    let row = row.ok_or(AccountError::RegistrationClosed)?;
                    transaction.check_unchanged(&rows::REGISTRATION_TOKENS, token, Some(&row));
                    user.admin |= row.admin;
                    let counted = RegistrationTokenRow { completed: row.completed + 1, ..row };
                    transaction.put(&rows::REGISTRATION_TOKENS, token, &counted);
                }
                transaction.put(&rows::USERS, localpart, &user);
                Change::Registered { localpart: localpart.clone() }.log_in(&mut transaction);
                let session = match &account.session {
                    Some(request) => {
                        Some(self.create_session_in(&mut transaction, None, localpart, request).await?)
                    }
                    None => None,
                };
                Ok((transaction, session))
            })
            .await?;
        Ok(Registered { user_id: self.user_id(localpart)?, session })
    }
}
