//! Users, sessions, devices, profiles, account data and filters: who somebody is, and what the server keeps for them.
//!
//! [`Accounts`] is the entry to all of it; each file adds one family of operations. Everything that others must learn is
//! logged under [`TOPIC`] as a [`Change`].

mod account_data;
mod administration;
mod attendance;
mod changes;
mod default_rules;
mod device_names;
mod devices;
mod error;
mod filters;
mod interactive;
mod openid;
mod passwords;
mod presence;
mod presence_elsewhere;
mod profiles;
mod push_evaluation;
mod push_rules;
mod registration;
mod registration_tokens;
mod rows;
mod services;
mod sessions;
mod settings;
mod succession;
mod sweeping;
mod tokens;
mod users;

use std::sync::Arc;

use entente_environment::Environment;
use entente_storage::{Snapshot, Store, Transaction};
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

pub use self::{
    account_data::{AccountDataEntry, AccountDataScope},
    administration::AccountStatus,
    changes::{Change, TOPIC},
    devices::Device,
    error::AccountError,
    interactive::{Operation, Proof},
    openid::OpenIdToken,
    presence::{Attendance, Presence, PresenceState},
    profiles::Profile,
    push_evaluation::{PushEvaluator, PushOutcome, PushPowerLevels, PushRoom, PushUser},
    push_rules::PushRuleChange,
    registration::{NewAccount, Registered},
    registration_tokens::RegistrationToken,
    rows::KEYSPACES,
    sessions::{NewSession, Session, SessionRequest},
    settings::{Argon2Parameters, Settings},
};
use self::{
    attendance::Attendances, passwords::Passwords, push_rules::ParsedRules, rows::UserRow,
    sessions::SeenDevices,
};

/// The accounts of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Accounts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    environment: Environment,
    server_name: OwnedServerName,
    settings: Settings,
    passwords: Passwords,
    seen: SeenDevices,
    push_rules: ParsedRules,
    attendances: Attendances,
}

impl Accounts {
    /// The accounts in `store`, of the server `server_name`. A store belongs to one server name for ever: another is refused
    /// with [`AccountError::OtherServer`].
    pub async fn open(
        store: Store,
        environment: Environment,
        server_name: OwnedServerName,
        settings: Settings,
    ) -> Result<Self, AccountError> {
        pin_server_name(&store, &server_name).await?;
        let passwords = Passwords::new(settings.argon2, environment.randomness().clone())?;
        let seen = SeenDevices::default();
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                environment,
                server_name,
                settings,
                passwords,
                seen,
                push_rules: ParsedRules::default(),
                attendances: Attendances::default(),
            }),
        })
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.inner.server_name
    }

    fn store(&self) -> &Store {
        &self.inner.store
    }

    async fn snapshot(&self) -> Result<Snapshot, AccountError> {
        Ok(self.store().snapshot().await?)
    }

    /// The id of the user with this localpart.
    pub fn user_id(&self, localpart: &str) -> Result<OwnedUserId, AccountError> {
        UserId::parse_with_server_name(localpart, self.server_name())
            .map_err(|_| AccountError::InvalidUsername)
    }

    /// Refuses users of other servers.
    fn local<'a>(&self, user_id: &'a UserId) -> Result<&'a str, AccountError> {
        if user_id.server_name() == self.server_name() {
            Ok(user_id.localpart())
        } else {
            Err(AccountError::UserNotFound)
        }
    }

    /// The row of a local user who has an account, deactivated ones included.
    async fn user_row(&self, snapshot: &Snapshot, localpart: &str) -> Result<UserRow, AccountError> {
        snapshot.get(&rows::USERS, localpart).await?.ok_or(AccountError::UserNotFound)
    }
}

/// User ids end in the server's name and are in everything that was ever sent: a server that took another name would be a
/// stranger to its own users.
async fn pin_server_name(store: &Store, server_name: &ServerName) -> Result<(), AccountError> {
    const KEY: &str = "server_name";
    store
        .run(async |snapshot| {
            let mut transaction = Transaction::new();
            match snapshot.get(&rows::SERVER, KEY).await? {
                Some(pinned) if pinned == server_name.as_str() => {}
                Some(pinned) => {
                    return Err(AccountError::OtherServer { pinned, configured: server_name.to_string() });
                }
                None => {
                    transaction.check_absent(&rows::SERVER, KEY);
                    transaction.put(&rows::SERVER, KEY, &server_name.to_string());
                }
            }
            Ok((transaction, ()))
        })
        .await?;
    Ok(())
}
