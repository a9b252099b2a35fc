use std::{path::PathBuf, time::Duration};

use entente_accounts::{NewAccount, RegistrationToken};
use ruma::{MxcUri, OwnedServerName, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::{Operator, calls};
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
    /// Registers an application service.
    AddAppservice {
        /// Its registration: YAML.
        registration: String,
    },
    /// Removes an application service that was added so.
    RemoveAppservice {
        /// Its id.
        id: String,
    },
    /// Lists application services.
    Appservices,
    /// Tells how calls fare.
    Calls,
    /// Deletes a file.
    DeleteMedia {
        /// `mxc://server/id`.
        uri: String,
    },
    /// Deletes all that a user uploaded.
    DeleteMediaOf {
        /// The localpart or the whole id.
        user: String,
    },
    /// Keeps a file from everybody, or not any more.
    QuarantineMedia {
        /// `mxc://server/id`.
        uri: String,
        /// Whether it is given out again.
        release: bool,
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
        let Operator { accounts, store, environment, .. } = operator;
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
            Self::RegistrationToken { uses, lifetime_seconds, admin } => {
                let expires_at =
                    lifetime_seconds.map(|seconds| environment.now().after(Duration::from_secs(seconds)));
                let new = RegistrationToken { uses_allowed: uses, expires_at, admin, ..Default::default() };
                let token =
                    accounts.create_registration_token(&new).await.map_err(|error| error.to_string())?;
                tracing::info!(token.admin = admin, "an operator made a registration token");
                Ok(token)
            }
            Self::AddAppservice { registration } => {
                let id = operator.add_appservice(&registration).await.map_err(|error| error.to_string())?;
                tracing::info!(service = id, "an operator added an application service");
                Ok(format!("the application service {id} was added"))
            }
            Self::RemoveAppservice { id } => {
                operator.remove_appservice(&id).await.map_err(|error| error.to_string())?;
                tracing::info!(service = id, "an operator removed an application service");
                Ok(format!("the application service {id} was removed"))
            }
            Self::Appservices => {
                let registry = operator.registrations.read().await.map_err(|error| error.to_string())?;
                let line = |service: &std::sync::Arc<entente_appservices::Registration>| {
                    let url = service.url.as_ref().map_or("no url", url::Url::as_str);
                    format!("{}: {}, {url}", service.id, service.sender)
                };
                let lines: Vec<String> = registry.services().iter().map(line).collect();
                Ok(if lines.is_empty() { String::from("none") } else { lines.join("\n") })
            }
            Self::Calls => calls::describe(operator.bridge.as_ref()).await,
            request @ (Self::DeleteMedia { .. }
            | Self::DeleteMediaOf { .. }
            | Self::QuarantineMedia { .. }) => request.attempt_on_media(operator).await,
            Self::Backup { file } => backups::write(store, &file).await,
        }
    }

    async fn attempt_on_media(self, operator: &Operator) -> Result<String, String> {
        match self {
            Self::DeleteMedia { uri } => {
                let (server, media_id) = place(operator, &uri)?;
                let removed = operator.media()?.delete(server.as_deref(), &media_id).await;
                let removed = removed.map_err(|error| error.to_string())?;
                tracing::info!(media = uri, "an operator deleted media");
                Ok(format!("{uri} was deleted, {} bytes", removed.bytes))
            }
            Self::DeleteMediaOf { user } => {
                let user_id = own_user(operator, &user)?;
                let removed = operator.media()?.delete_of(user_id.localpart(), u64::MAX).await;
                let removed = removed.map_err(|error| error.to_string())?;
                tracing::info!(user.id = %user_id, media = removed.media, "an operator deleted a user's media");
                Ok(format!("{} files of {user_id} were deleted, {} bytes", removed.media, removed.bytes))
            }
            Self::QuarantineMedia { uri, release } => {
                let (server, media_id) = place(operator, &uri)?;
                let done = operator.media()?.quarantine(server.as_deref(), &media_id, !release).await;
                done.map_err(|error| error.to_string())?;
                tracing::info!(media = uri, release, "an operator quarantined media, or released it");
                Ok(format!("{uri} is {}", if release { "given out again" } else { "kept from everybody" }))
            }
            _ => Err(String::from("that has nothing to do with media")),
        }
    }
}
