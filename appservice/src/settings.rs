//! How a service is set up.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use matrix_sdk::ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::Deserialize;
use url::Url;

/// The settings of a service, as they stand in a configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the homeserver's client API is.
    pub homeserver_url: Url,
    /// The homeserver's name, that user ids end with.
    pub server_name: OwnedServerName,
    /// Where the homeserver reaches the service.
    pub listen: SocketAddr,
    /// Where `/health` and `/metrics` are served; nowhere without.
    #[serde(default)]
    pub observe: Option<SocketAddr>,
    /// The directory of the store and of keys. It must not be lost.
    pub data: PathBuf,
    /// What the localparts of ghosts begin with. Empty: there are none.
    #[serde(default)]
    pub ghost_prefix: String,
    /// The bot's display name.
    #[serde(default)]
    pub bot_name: Option<String>,
    /// Whose invites are accepted.
    #[serde(default)]
    pub invites: Invites,
    /// Encryption.
    #[serde(default)]
    pub encryption: EncryptionSettings,
    /// How long a homeserver that is away is waited for by one request, in seconds.
    #[serde(default = "sixty")]
    pub patience_seconds: u64,
    /// How long a handler may take, in seconds.
    #[serde(default = "hundred_and_twenty")]
    pub handler_timeout_seconds: u64,
}

fn sixty() -> u64 {
    60
}

fn hundred_and_twenty() -> u64 {
    120
}

impl Settings {
    /// Settings with the defaults for everything that has one.
    pub fn new(homeserver_url: Url, server_name: OwnedServerName, listen: SocketAddr, data: PathBuf) -> Self {
        Self {
            homeserver_url,
            server_name,
            listen,
            observe: None,
            data,
            ghost_prefix: String::new(),
            bot_name: None,
            invites: Invites::default(),
            encryption: EncryptionSettings::default(),
            patience_seconds: sixty(),
            handler_timeout_seconds: hundred_and_twenty(),
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience_seconds)
    }

    pub(crate) fn handler_timeout(&self) -> Duration {
        Duration::from_secs(self.handler_timeout_seconds)
    }
}

/// Whose invites the service's users accept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invites {
    /// Nobody's.
    Nobody,
    /// Those of these users.
    Users(Vec<OwnedUserId>),
    /// Those of the homeserver's own users.
    #[default]
    Server,
    /// Everybody's.
    Everybody,
}

impl Invites {
    pub(crate) fn allow(&self, sender: &UserId, server_name: &ServerName) -> bool {
        match self {
            Self::Nobody => false,
            Self::Users(users) => users.iter().any(|user_id| user_id == sender),
            Self::Server => sender.server_name() == server_name,
            Self::Everybody => true,
        }
    }
}

/// Who encrypts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encrypting {
    /// Nobody: the service neither reads nor writes in encrypted rooms.
    Nobody,
    /// The bot alone.
    #[default]
    Bot,
    /// The bot and every ghost, each with a device of its own.
    Everybody,
}

/// How the service encrypts.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncryptionSettings {
    /// Who encrypts.
    pub who: Encrypting,
    /// What the key stores are encrypted with. Without one, whoever reads the data directory reads the keys.
    pub passphrase: Option<String>,
    /// Keys go to and come from devices only that their owners have cross-signed (MSC4153).
    pub only_cross_signed: bool,
    /// The bot's room keys are kept on the homeserver as well, encrypted with the recovery key.
    pub key_backup: bool,
    /// The recovery key, as clients show it. Without one it is made at first and written to `recovery-key` in the data directory, in the
    /// clear also where there is a passphrase.
    pub recovery_key: Option<String>,
}

impl std::fmt::Debug for EncryptionSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EncryptionSettings")
            .field("who", &self.who)
            .field("only_cross_signed", &self.only_cross_signed)
            .field("key_backup", &self.key_backup)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use matrix_sdk::ruma::{server_name, user_id};

    use super::*;

    #[test]
    fn invites_are_accepted_from_whom_it_was_said() {
        let (near, far, server) = (user_id!("@a:x.org"), user_id!("@a:y.org"), server_name!("x.org"));
        let allowed = |invites: &Invites| [near, far].map(|user_id| invites.allow(user_id, server));
        assert_eq!(allowed(&Invites::Nobody), [false, false]);
        assert_eq!(allowed(&Invites::Users(vec![far.to_owned()])), [false, true]);
        assert_eq!(allowed(&Invites::Server), [true, false]);
        assert_eq!(allowed(&Invites::Everybody), [true, true]);
    }
}
