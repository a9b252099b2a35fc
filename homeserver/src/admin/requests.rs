use std::{path::PathBuf, time::Duration};

use entente_accounts::{NewAccount, RegistrationToken};
use ruma::UserId;
use serde::{Deserialize, Serialize};

use super::Operator;
use crate::backups;

/// One thing that an operator wants done. Travels over the socket as a line of JSON.
#[derive(Clone, Deserialize, Serialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum AdminRequest {
    /// Makes a user.
    CreateUser {
        /// The localpart.
        name: String,
        /// The password.
        password: String,
        /// Whether the user becomes an administrator.
        admin: bool,
    },
    /// Gives a user a new password and ends all sessions.
    ResetPassword {
        /// The localpart or the whole id.
        user: String,
        /// The new password.
        password: String,
    },
    /// Makes a registration token.
    RegistrationToken {
        /// How often it may be used; `None`: any number of times.
        uses: Option<u64>,
        /// How many seconds it lives; `None`: for ever.
        lifetime_seconds: Option<u64>,
        /// Whether who registers with it becomes an administrator.
        admin: bool,
    },
    /// Backs up the store.
    Backup {
        /// The file to write: an absolute path.
        file: PathBuf,
    },
}

/// The answer, as a line of JSON: a sentence for the operator either way.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "outcome", content = "message", rename_all = "snake_case")]
pub(crate) enum AdminAnswer {
    /// It was done.
    Done(String),
    /// It was not, and nothing was changed.
    Refused(String),
}

impl AdminRequest {
    /// Does it.
    pub(crate) async fn run(self, operator: &Operator) -> AdminAnswer {
        match self.attempt(operator).await {
            Ok(message) => AdminAnswer::Done(message),
            Err(message) => AdminAnswer::Refused(message),
        }
    }

    async fn attempt(self, operator: &Operator) -> Result<String, String> {
        let Operator { accounts, store, environment } = operator;
        match self {
            Self::CreateUser { name, password, admin } => {
                let account =
                    NewAccount { username: Some(name), password: Some(password), session: None, admin };
                let registered = accounts.create_user(&account).await.map_err(|error| error.to_string())?;
                tracing::info!(user.id = %registered.user_id, user.admin = admin, "an operator made a user");
                Ok(format!("{} was made", registered.user_id))
            }
            Self::ResetPassword { user, password } => {
                let user_id = UserId::parse_with_server_name(user.as_str(), accounts.server_name())
                    .map_err(|error| error.to_string())?;
                accounts
                    .change_password(&user_id, &password, true, None)
                    .await
                    .map_err(|error| error.to_string())?;
                tracing::info!(user.id = %user_id, "an operator reset a password");
                Ok(format!("{user_id} has a new password, and was logged out everywhere"))
            }
            Self::RegistrationToken { uses, lifetime_seconds, admin } => {
                let expires_at =
                    lifetime_seconds.map(|seconds| environment.now().after(Duration::from_secs(seconds)));
                let new = RegistrationToken { uses_allowed: uses, expires_at, admin, ..Default::default() };
                let token =
                    accounts.create_registration_token(&new).await.map_err(|error| error.to_string())?;
                tracing::info!(token.admin = admin, "an operator made a registration token");
                Ok(token)
            }
            Self::Backup { file } => backups::write(store, &file).await,
        }
    }
}
