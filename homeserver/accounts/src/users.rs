use entente_storage::Transaction;
use ruma::{UserId, api::client::uiaa::UserIdentifier};

use crate::{
    AccountError, Accounts, Change,
    rows::{self, UserRow},
};

/// User ids have at most this many bytes (Appendices, "User identifiers").
const MOST_USER_ID_BYTES: usize = 255;

impl Accounts {
    /// Whether somebody could register this name now (`GET /register/available`).
    pub async fn check_available(&self, username: &str) -> Result<(), AccountError> {
        self.check_free(&self.new_localpart(username)?).await
    }

    /// Whether nobody has this localpart.
    pub(crate) async fn check_free(&self, localpart: &str) -> Result<(), AccountError> {
        match self.snapshot().await?.get(&rows::USERS, localpart).await? {
            Some(_) => Err(AccountError::UsernameTaken),
            None => Ok(()),
        }
    }

    /// Whether there is an account for this user, even if it was deactivated.
    pub async fn exists(&self, user_id: &UserId) -> Result<bool, AccountError> {
        let Ok(localpart) = self.local(user_id) else { return Ok(false) };
        Ok(self.snapshot().await?.get(&rows::USERS, localpart).await?.is_some())
    }

    /// The localpart that a new user would get who asks for `username`; upper case is taken for lower case.
    pub(crate) fn new_localpart(&self, username: &str) -> Result<String, AccountError> {
        let localpart = self.service_localpart(username)?;
        if self.settings().reserved_names.iter().any(|name| name.eq_ignore_ascii_case(&localpart)) {
            return Err(AccountError::InvalidUsername);
        }
        Ok(localpart)
    }

    /// The same for a user of an application service. The operator gave the service its names: those that are kept from others too.
    pub(crate) fn service_localpart(&self, username: &str) -> Result<String, AccountError> {
        let localpart = username.to_lowercase();
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte);
        let id_length = "@:".len() + localpart.len() + self.server_name().as_str().len();
        if localpart.is_empty() || !localpart.bytes().all(is_allowed) || id_length > MOST_USER_ID_BYTES {
            return Err(AccountError::InvalidUsername);
        }
        Ok(localpart)
    }

    /// The localpart of the local user that a client names when it logs in.
    pub fn identified_localpart(&self, identifier: &UserIdentifier) -> Result<String, AccountError> {
        let UserIdentifier::Matrix(identifier) = identifier else {
            return Err(AccountError::WrongCredentials);
        };
        let named = identifier.user.as_str();
        if named.len() > MOST_USER_ID_BYTES {
            return Err(AccountError::WrongCredentials);
        }
        if named.starts_with('@') {
            let user_id = UserId::parse(named).map_err(|_| AccountError::WrongCredentials)?;
            let localpart = self.local(&user_id).map_err(|_| AccountError::WrongCredentials)?;
            return Ok(localpart.to_lowercase());
        }
        Ok(named.to_lowercase())
    }

    pub(crate) fn check_password_policy(&self, password: &str) -> Result<(), AccountError> {
        let minimum = self.settings().minimum_password_length;
        let maximum_bytes = self.settings().maximum_password_bytes;
        if password.chars().count() < minimum || password.len() > maximum_bytes {
            return Err(AccountError::WeakPassword { minimum, maximum_bytes });
        }
        Ok(())
    }

    /// Verifies a user's password. Who does not exist takes as long to refuse as a wrong password.
    pub async fn verify_password(&self, localpart: &str, password: &str) -> Result<(), AccountError> {
        if !self.settings().password_login {
            return Err(AccountError::PasswordLoginDisabled);
        }
        if password.len() > self.settings().maximum_password_bytes {
            return Err(AccountError::WrongCredentials);
        }
        let user = self.snapshot().await?.get(&rows::USERS, localpart).await?;
        let hashed = user.as_ref().and_then(|user| user.password_hash.as_deref());
        if !self.inner.passwords.verify(password, hashed).await? {
            return Err(AccountError::WrongCredentials);
        }
        self.check_may_log_in(&user.unwrap_or_default())
    }

    /// Those of the given users who are guests.
    pub async fn guests_among(&self, localparts: &[String]) -> Result<Vec<String>, AccountError> {
        let snapshot = self.snapshot().await?;
        let users = snapshot.get_many(&rows::USERS, localparts.iter().map(String::as_str)).await?;
        let guests =
            localparts.iter().zip(users).filter(|(_, user)| user.as_ref().is_some_and(|user| user.guest));
        Ok(guests.map(|(localpart, _)| localpart.clone()).collect())
    }

    pub(crate) fn check_may_log_in(&self, user: &UserRow) -> Result<(), AccountError> {
        if user.deactivated {
            return Err(AccountError::UserDeactivated);
        }
        if user.locked {
            return Err(AccountError::UserLocked);
        }
        if user.valid_until.is_some_and(|until| until <= self.inner.environment.now().millis()) {
            return Err(AccountError::AccountExpired);
        }
        Ok(())
    }

    /// Sets a new password, and ends the sessions of all devices but `keep_device` if `logout_devices`.
    pub async fn change_password(
        &self,
        user_id: &UserId,
        new_password: &str,
        logout_devices: bool,
        keep_device: Option<&str>,
    ) -> Result<(), AccountError> {
        self.check_password_policy(new_password)?;
        let localpart = self.local(user_id)?;
        let hashed = &self.inner.passwords.hash(new_password).await?;
        self.store()
            .run(async |snapshot| {
                let user = self.user_row(&snapshot, localpart).await?;
                if user.deactivated {
                    return Err(AccountError::UserDeactivated);
                }
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::USERS, localpart, Some(&user));
                let changed = UserRow { password_hash: Some(hashed.clone()), ..user };
                transaction.put(&rows::USERS, localpart, &changed);
                if logout_devices {
                    self.remove_devices_in(&mut transaction, &snapshot, localpart, |id| {
                        Some(id) != keep_device
                    })
                    .await?;
                }
                Ok((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// Closes an account for ever: its sessions, devices, profile, account data and filters go, its name stays taken.
    pub async fn deactivate(&self, user_id: &UserId, erase: bool) -> Result<(), AccountError> {
        let localpart = self.local(user_id)?;
        self.store()
            .run(async |snapshot| {
                let user = self.user_row(&snapshot, localpart).await?;
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::USERS, localpart, Some(&user));
                let closed = UserRow {
                    password_hash: None,
                    admin: false,
                    deactivated: true,
                    erased: erase || user.erased,
                    ..user
                };
                transaction.put(&rows::USERS, localpart, &closed);
                self.remove_devices_in(&mut transaction, &snapshot, localpart, |_| true).await?;
                for ((_, field), _) in snapshot.scan_all(rows::PROFILES.scan((localpart,))).await? {
                    transaction.delete(&rows::PROFILES, (localpart, field.as_str()));
                    Change::Profile { localpart: localpart.to_owned(), field }.log_in(&mut transaction);
                }
                for (key, _) in snapshot.scan_all(rows::ACCOUNT_DATA.scan((localpart,))).await? {
                    transaction.delete(&rows::ACCOUNT_DATA, &key);
                }
                for (key, _) in snapshot.scan_all(rows::FILTERS.scan((localpart,))).await? {
                    transaction.delete(&rows::FILTERS, &key);
                }
                let change = Change::Deactivated { localpart: localpart.to_owned(), erase: closed.erased };
                change.log_in(&mut transaction);
                Ok::<_, AccountError>((transaction, ()))
            })
            .await?;
        Ok(())
    }
}
