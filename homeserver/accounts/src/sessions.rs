use std::{collections::HashMap, net::IpAddr, time::Duration};

use entente_environment::Timestamp;
use entente_storage::{Snapshot, StorageError, Transaction};
use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use crate::{
    AccountError, Accounts, Change,
    rows::{self, DeviceRow, SeenRow, ShortTokenRow, TokenPair, TokenRow, UserRow},
    tokens::{Digest, TokenKind, digest},
};

/// A device's last use is noted this often.
const SEEN_EVERY: Duration = Duration::from_secs(60);
/// Devices whose last note is remembered; beyond it all are forgotten and noted anew.
const MOST_REMEMBERED: usize = 100_000;
/// Ids and names that a client chooses have at most this many bytes.
const MOST_ID_BYTES: usize = 255;

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a matter of its own")]
pub struct Session {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// Whether the user is an administrator of this server.
    pub admin: bool,
    /// Whether the user was suspended, and may only read and leave.
    pub suspended: bool,
    /// Whether the user is a guest, who may do little.
    pub guest: bool,
    /// The application service that acts as this user, by its id. The device is empty then if it acts as none.
    pub service: Option<String>,
    /// Whether its requests are counted against the limits: not those of application services that are exempt.
    pub rate_limited: bool,
}

/// What a client wants when it logs in.
#[derive(Clone, Debug, Default)]
pub struct SessionRequest {
    /// A device of its choice; one that exists is taken over and its old tokens end.
    pub device_id: Option<OwnedDeviceId>,
    /// The name of a new device.
    pub initial_device_display_name: Option<String>,
    /// Whether it can refresh its tokens.
    pub refresh_token: bool,
}

/// Tokens for a client.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The access token.
    pub access_token: String,
    /// The refresh token, if the client asked for one.
    pub refresh_token: Option<String>,
    /// How long the access token lives; `None`: for ever.
    pub expires_in: Option<Duration>,
}

/// When the use of each access token was last noted.
#[derive(Debug, Default)]
pub(crate) struct SeenDevices(Mutex<HashMap<Digest, Timestamp>>);

impl SeenDevices {
    /// Whether a use at `now` should be noted.
    fn is_due(&self, token: Digest, now: Timestamp) -> bool {
        let mut seen = self.0.lock();
        if seen.get(&token).is_some_and(|&noted| now.since(noted) < SEEN_EVERY) {
            return false;
        }
        if seen.len() >= MOST_REMEMBERED {
            seen.clear();
        }
        seen.insert(token, now);
        true
    }
}

/// A pair of tokens in clear, to be handed out once, with the rows that stand for it.
struct IssuedTokens {
    access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<Duration>,
    pair: TokenPair,
}

impl Accounts {
    /// Logs a user in whose identity was proved: makes or takes over a device.
    pub async fn create_session(
        &self,
        localpart: &str,
        request: &SessionRequest,
    ) -> Result<NewSession, AccountError> {
        let (session, _) = self
            .store()
            .run(async |snapshot| {
                let user = self.user_row(&snapshot, localpart).await?;
                self.check_may_log_in(&user)?;
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::USERS, localpart, Some(&user));
                let session =
                    self.create_session_in(&mut transaction, Some(&snapshot), localpart, request).await?;
                Ok::<_, AccountError>((transaction, session))
            })
            .await?;
        Ok(session)
    }

    /// Adds a session to a transaction. `snapshot` is `None` for a user who cannot have devices yet.
    pub(crate) async fn create_session_in(
        &self,
        transaction: &mut Transaction,
        snapshot: Option<&Snapshot>,
        localpart: &str,
        request: &SessionRequest,
    ) -> Result<NewSession, AccountError> {
        let device_id = match &request.device_id {
            Some(device_id) => device_id.clone(),
            None => self.inner.environment.randomness().alphanumeric(10).to_uppercase().into(),
        };
        let name_is_long =
            request.initial_device_display_name.as_ref().is_some_and(|name| name.len() > MOST_ID_BYTES);
        if device_id.as_str().is_empty() || device_id.as_str().len() > MOST_ID_BYTES || name_is_long {
            return Err(AccountError::InvalidParameter("a device id and its name have at most 255 bytes"));
        }
        let key = (localpart, device_id.as_str());
        let existing = match snapshot {
            Some(snapshot) => snapshot.get(&rows::DEVICES, key).await?,
            None => None,
        };
        transaction.check_unchanged(&rows::DEVICES, key, existing.as_ref());
        if let Some(device) = &existing {
            delete_tokens_in(transaction, device);
        }
        let issued =
            self.issue_tokens_in(transaction, localpart, device_id.as_str(), request.refresh_token, false);
        let now = self.inner.environment.now().millis();
        let device = match existing {
            Some(device) => DeviceRow { tokens: issued.pair.clone(), refreshed: None, ..device },
            None => DeviceRow {
                display_name: request.initial_device_display_name.clone(),
                created_at: now,
                tokens: issued.pair.clone(),
                refreshed: None,
            },
        };
        transaction.put(&rows::DEVICES, key, &device);
        transaction.put(&rows::SEEN, key, &SeenRow { at: now, address: None });
        let device_ids = vec![device_id.to_string()];
        Change::Devices { localpart: localpart.to_owned(), device_ids }.log_in(transaction);
        let IssuedTokens { access_token, refresh_token, expires_in, .. } = issued;
        Ok(NewSession { device_id, access_token, refresh_token, expires_in })
    }

    fn issue_tokens_in(
        &self,
        transaction: &mut Transaction,
        localpart: &str,
        device_id: &str,
        with_refresh_token: bool,
        refreshed: bool,
    ) -> IssuedTokens {
        let randomness = self.inner.environment.randomness();
        let now = self.inner.environment.now();
        let expires_in = if with_refresh_token {
            Some(self.settings().refreshable_access_token_lifetime)
        } else {
            self.settings().access_token_lifetime
        };
        let row = |lifetime: Option<Duration>| TokenRow {
            localpart: localpart.to_owned(),
            device_id: device_id.to_owned(),
            expires_at: lifetime.map(|lifetime| now.after(lifetime).millis()),
            refreshed,
        };
        let access_token = TokenKind::Access.generate(randomness);
        let refresh_token = with_refresh_token.then(|| TokenKind::Refresh.generate(randomness));
        let pair = TokenPair { access: digest(&access_token), refresh: refresh_token.as_deref().map(digest) };
        transaction.put(&rows::ACCESS_TOKENS, pair.access, &row(expires_in));
        if let Some(refresh) = pair.refresh {
            transaction.put(&rows::REFRESH_TOKENS, refresh, &row(self.settings().refresh_token_lifetime));
        }
        IssuedTokens { access_token, refresh_token, expires_in, pair }
    }

    /// Who an access token belongs to. Its first use after a refresh ends the tokens before it.
    pub async fn authenticate(
        &self,
        access_token: &str,
        address: Option<IpAddr>,
    ) -> Result<Session, AccountError> {
        self.session_of(access_token, address, false).await
    }

    /// The same for who wants to log out: also users who are locked may (C-S API, "Account locking").
    pub async fn authenticate_to_log_out(
        &self,
        access_token: &str,
        address: Option<IpAddr>,
    ) -> Result<Session, AccountError> {
        self.session_of(access_token, address, true).await
    }

    async fn session_of(
        &self,
        access_token: &str,
        address: Option<IpAddr>,
        even_locked: bool,
    ) -> Result<Session, AccountError> {
        let token = digest(access_token);
        let snapshot = self.snapshot().await?;
        let row = snapshot.get(&rows::ACCESS_TOKENS, token).await?;
        let row = row.ok_or(AccountError::UnknownToken { soft_logout: false })?;
        let now = self.inner.environment.now();
        if row.expires_at.is_some_and(|at| at <= now.millis()) {
            return Err(AccountError::UnknownToken { soft_logout: true });
        }
        let user = self.user_row(&snapshot, &row.localpart).await?;
        match self.check_session_allowed(&user) {
            Err(AccountError::UserLocked) if even_locked => {}
            allowed => allowed?,
        }
        if row.refreshed {
            self.confirm_refresh(&row).await?;
        }
        if self.inner.seen.is_due(token, now) {
            self.note_seen(&row, now, address).await?;
        }
        Ok(Session {
            user_id: self.user_id(&row.localpart)?,
            device_id: row.device_id.into(),
            admin: user.admin,
            suspended: user.suspended,
            guest: user.guest,
            service: None,
            rate_limited: true,
        })
    }

    fn check_session_allowed(&self, user: &UserRow) -> Result<(), AccountError> {
        match self.check_may_log_in(user) {
            Err(AccountError::UserDeactivated) => Err(AccountError::UnknownToken { soft_logout: false }),
            outcome => outcome,
        }
    }

    async fn note_seen(
        &self,
        row: &TokenRow,
        now: Timestamp,
        address: Option<IpAddr>,
    ) -> Result<(), AccountError> {
        let key = (row.localpart.as_str(), row.device_id.as_str());
        let mut transaction = Transaction::relaxed();
        // A device that was removed meanwhile must not leave a row behind.
        transaction.check_present(&rows::DEVICES, key);
        let seen = SeenRow { at: now.millis(), address: address.map(|address| address.to_string()) };
        transaction.put(&rows::SEEN, key, &seen);
        match self.store().commit(transaction).await {
            Err(StorageError::Conflict { .. }) => Err(AccountError::UnknownToken { soft_logout: false }),
            outcome => Ok(outcome.map(|_| ())?),
        }
    }

    async fn confirm_refresh(&self, row: &TokenRow) -> Result<(), AccountError> {
        let key = (row.localpart.as_str(), row.device_id.as_str());
        self.store()
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                if let Some(device) = snapshot.get(&rows::DEVICES, key).await?
                    && let Some(refreshed) = device.refreshed.clone()
                {
                    transaction.check_unchanged(&rows::DEVICES, key, Some(&device));
                    adopt_refreshed_in(&mut transaction, &snapshot, key, device, refreshed).await?;
                }
                Ok::<_, AccountError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// Trades a refresh token for new tokens (`POST /refresh`). The old ones stay valid until a new one is used; a refresh
    /// token whose successor was used is refused.
    pub async fn refresh(&self, refresh_token: &str) -> Result<NewSession, AccountError> {
        let token = &digest(refresh_token);
        let refused = || AccountError::UnknownToken { soft_logout: false };
        let (session, _) = self
            .store()
            .run(async |snapshot| {
                let row = snapshot.get(&rows::REFRESH_TOKENS, token).await?.ok_or_else(refused)?;
                let now = self.inner.environment.now().millis();
                if row.expires_at.is_some_and(|at| at <= now) {
                    return Err(AccountError::UnknownToken { soft_logout: true });
                }
                let user = self.user_row(&snapshot, &row.localpart).await?;
                self.check_session_allowed(&user)?;
                let key = (row.localpart.as_str(), row.device_id.as_str());
                let device = snapshot.get(&rows::DEVICES, key).await?.ok_or_else(refused)?;
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::DEVICES, key, Some(&device));
                let is_current = device.tokens.refresh == Some(*token);
                let tokens = match &device.refreshed {
                    Some(refreshed) if is_current => {
                        // The answer to an earlier refresh got lost: what it carried ends unused.
                        delete_pair_in(&mut transaction, refreshed);
                        device.tokens.clone()
                    }
                    Some(refreshed) if refreshed.refresh == Some(*token) => {
                        delete_pair_in(&mut transaction, &device.tokens);
                        refreshed.clone()
                    }
                    None if is_current => device.tokens.clone(),
                    _ => return Err(refused()),
                };
                let issued =
                    self.issue_tokens_in(&mut transaction, &row.localpart, &row.device_id, true, true);
                let device = DeviceRow { tokens, refreshed: Some(issued.pair), ..device };
                transaction.put(&rows::DEVICES, key, &device);
                let session = NewSession {
                    device_id: row.device_id.as_str().into(),
                    access_token: issued.access_token,
                    refresh_token: issued.refresh_token,
                    expires_in: issued.expires_in,
                };
                Ok((transaction, session))
            })
            .await?;
        Ok(session)
    }

    /// A token with which the user can log in once on another device (`POST /login/get_token`).
    pub async fn create_login_token(&self, user_id: &UserId) -> Result<(String, Duration), AccountError> {
        let localpart = self.local(user_id)?.to_owned();
        let token = TokenKind::Login.generate(self.inner.environment.randomness());
        let lifetime = self.settings().login_token_lifetime;
        let expires_at = self.inner.environment.now().after(lifetime).millis();
        let mut transaction = Transaction::new();
        transaction.put(&rows::LOGIN_TOKENS, digest(&token), &ShortTokenRow { localpart, expires_at });
        self.store().commit(transaction).await?;
        Ok((token, lifetime))
    }

    /// Takes a login token, which ends it. Answers whose it was.
    pub async fn take_login_token(&self, token: &str) -> Result<String, AccountError> {
        let token = &digest(token);
        let now = self.inner.environment.now().millis();
        let (row, _) = self
            .store()
            .run(async |snapshot| {
                let row = snapshot.get(&rows::LOGIN_TOKENS, token).await?;
                let row = row.ok_or(AccountError::InvalidLoginToken)?;
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::LOGIN_TOKENS, token, Some(&row));
                transaction.delete(&rows::LOGIN_TOKENS, token);
                Ok::<_, AccountError>((transaction, row))
            })
            .await?;
        if row.expires_at <= now { Err(AccountError::InvalidLoginToken) } else { Ok(row.localpart) }
    }
}

/// Ends the tokens in use for those that a refresh handed out.
async fn adopt_refreshed_in(
    transaction: &mut Transaction,
    snapshot: &Snapshot,
    key: (&str, &str),
    device: DeviceRow,
    refreshed: TokenPair,
) -> Result<(), AccountError> {
    delete_pair_in(transaction, &device.tokens);
    if let Some(row) = snapshot.get(&rows::ACCESS_TOKENS, refreshed.access).await? {
        transaction.put(&rows::ACCESS_TOKENS, refreshed.access, &TokenRow { refreshed: false, ..row });
    }
    transaction.put(&rows::DEVICES, key, &DeviceRow { tokens: refreshed, refreshed: None, ..device });
    Ok(())
}

pub(crate) fn delete_tokens_in(transaction: &mut Transaction, device: &DeviceRow) {
    for pair in [Some(&device.tokens), device.refreshed.as_ref()].into_iter().flatten() {
        delete_pair_in(transaction, pair);
    }
}

fn delete_pair_in(transaction: &mut Transaction, pair: &TokenPair) {
    transaction.delete(&rows::ACCESS_TOKENS, pair.access);
    if let Some(refresh) = pair.refresh {
        transaction.delete(&rows::REFRESH_TOKENS, refresh);
    }
}
