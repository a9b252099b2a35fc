use std::{path::PathBuf, time::Duration};

use entente_accounts::{NewAccount, RegistrationToken};
use ruma::{MxcUri, OwnedServerName, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::{Operator, calls};
use crate::{
    backups,
    command_line::{MediaCommand, PlainCommand, RegistrationTokenArguments},
};

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
    /// Registers an application service.
    AddAppservice {
        /// Its registration: YAML.
        registration: String,
    },
    /// What was typed.
    Plain {
        /// As it was typed.
        command: PlainCommand,
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

/// Where a file is: on which server, if it is another, and under which id.
fn place(operator: &Operator, uri: &str) -> Result<(Option<OwnedServerName>, String), String> {
    let uri = <&MxcUri>::from(uri);
    let (server, media_id) = uri.parts().map_err(|error| format!("{uri}: {error}"))?;
    let other = (server != operator.accounts.server_name()).then(|| server.to_owned());
    Ok((other, media_id.to_owned()))
}

/// A user of this server, by name or id.
fn own_user(operator: &Operator, user: &str) -> Result<OwnedUserId, String> {
    let server_name = operator.accounts.server_name();
    let user_id = UserId::parse_with_server_name(user, server_name).map_err(|error| error.to_string())?;
    if user_id.server_name() != server_name {
        return Err(format!("{user_id} is not a user of this server"));
    }
    Ok(user_id)
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
        let Operator { accounts, store, .. } = operator;
        match self {
            Self::CreateUser { name, password, admin } => {
                let account = NewAccount {
                    username: Some(name),
                    password: Some(password),
                    admin,
                    ..NewAccount::default()
                };
                let registered = accounts.create_user(&account).await.map_err(|error| error.to_string())?;
                tracing::info!(user.id = %registered.user_id, user.admin = admin, "an operator made a user");
                Ok(format!("{} was made", registered.user_id))
            }
            Self::ResetPassword { user, password } => {
                let user_id = own_user(operator, &user)?;
                accounts
                    .change_password(&user_id, &password, true, None)
                    .await
                    .map_err(|error| error.to_string())?;
                tracing::info!(user.id = %user_id, "an operator reset a password");
                Ok(format!("{user_id} has a new password, and was logged out everywhere"))
            }
            Self::AddAppservice { registration } => {
                let id = operator.add_appservice(&registration).await.map_err(|error| error.to_string())?;
                tracing::info!(service = id, "an operator added an application service");
                Ok(format!("the application service {id} was added"))
            }
            Self::Plain { command } => do_plainly(command, operator).await,
            Self::Backup { file } => backups::write(store, &file).await,
        }
    }
}

async fn do_plainly(command: PlainCommand, operator: &Operator) -> Result<String, String> {
    match command {
        PlainCommand::RegistrationToken(RegistrationTokenArguments { uses, lifetime, admin }) => {
            let now = operator.environment.now();
            let expires_at = lifetime.map(|seconds| now.after(Duration::from_secs(seconds)));
            let new = RegistrationToken { uses_allowed: uses, expires_at, admin, ..Default::default() };
            let token = operator.accounts.create_registration_token(&new).await;
            let token = token.map_err(|error| error.to_string())?;
            tracing::info!(token.admin = admin, "an operator made a registration token");
            Ok(token)
        }
        PlainCommand::RemoveAppservice { id } => {
            operator.remove_appservice(&id).await.map_err(|error| error.to_string())?;
            tracing::info!(service = id, "an operator removed an application service");
            Ok(format!("the application service {id} was removed"))
        }
        PlainCommand::Appservices => {
            let registry = operator.registrations.read().await.map_err(|error| error.to_string())?;
            let line = |service: &std::sync::Arc<entente_appservices::Registration>| {
                let url = service.url.as_ref().map_or("no url", url::Url::as_str);
                format!("{}: {}, {url}", service.id, service.sender)
            };
            let lines: Vec<String> = registry.services().iter().map(line).collect();
            Ok(if lines.is_empty() { String::from("none") } else { lines.join("\n") })
        }
        PlainCommand::Calls => calls::describe(operator.bridge.as_ref()).await,
        PlainCommand::Media(command) => do_to_media(command, operator).await,
    }
}

async fn do_to_media(command: MediaCommand, operator: &Operator) -> Result<String, String> {
    let media = operator.media()?;
    match command {
        MediaCommand::DeleteMedia { uri } => {
            let (server, media_id) = place(operator, &uri)?;
            let removed = media.delete(server.as_deref(), &media_id).await;
            let removed = removed.map_err(|error| error.to_string())?;
            tracing::info!(media = uri, "an operator deleted media");
            Ok(format!("{uri} was deleted, {} bytes", removed.bytes))
        }
        MediaCommand::DeleteMediaOf { user } => {
            let user_id = own_user(operator, &user)?;
            let removed = media.delete_of(user_id.localpart(), u64::MAX).await;
            let removed = removed.map_err(|error| error.to_string())?;
            tracing::info!(user.id = %user_id, media = removed.media, "an operator deleted a user's media");
            Ok(format!("{} files of {user_id} were deleted, {} bytes", removed.media, removed.bytes))
        }
        MediaCommand::QuarantineMedia { uri, release } => {
            let (server, media_id) = place(operator, &uri)?;
            let done = media.quarantine(server.as_deref(), &media_id, !release).await;
            done.map_err(|error| error.to_string())?;
            tracing::info!(media = uri, release, "an operator quarantined media, or released it");
            Ok(format!("{uri} is {}", if release { "given out again" } else { "kept from everybody" }))
        }
    }
}
