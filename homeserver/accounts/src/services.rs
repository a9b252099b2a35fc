//! Users of application services: they have no passwords, and the service acts as them with its own token.

use entente_storage::Transaction;
use ruma::UserId;

use crate::{
    AccountError, Accounts, Change, NewAccount, Registered, Session, SessionRequest,
    rows::{self, DeviceRow, SeenRow, TokenPair},
    tokens::{TokenKind, digest},
};

/// Ids and names of devices have at most this many bytes.
const MOST_ID_BYTES: usize = 255;

impl Accounts {
    /// Registers a user for an application service that may have that name.
    pub async fn create_service_user(
        &self,
        username: &str,
        session: Option<SessionRequest>,
    ) -> Result<Registered, AccountError> {
        let username = Some(username.to_owned());
        self.create_user(&NewAccount { username, session, of_service: true, ..NewAccount::default() }).await
    }

    /// What an application service does as a user that it may be, and as a device of that user if it says so. Devices that are not
    /// there are refused with [`AccountError::UnknownDevice`] (MSC4326).
    pub async fn service_session(
        &self,
        user_id: &UserId,
        device_id: Option<&str>,
        service: &str,
        rate_limited: bool,
    ) -> Result<Session, AccountError> {
        let localpart = self.local(user_id)?;
        let snapshot = self.snapshot().await?;
        let Some(user) = snapshot.get(&rows::USERS, localpart).await? else {
            return Err(AccountError::Forbidden("the application service has not registered that user"));
        };
        self.check_may_log_in(&user)?;
        if let Some(device_id) = device_id
            && snapshot.get(&rows::DEVICES, (localpart, device_id)).await?.is_none()
        {
            return Err(AccountError::UnknownDevice);
        }
        Ok(Session {
            user_id: user_id.to_owned(),
            device_id: device_id.unwrap_or_default().into(),
            admin: user.admin,
            suspended: user.suspended,
            guest: false,
            service: Some(service.to_owned()),
            rate_limited,
        })
    }

    /// Makes a device without a token, or names one that is there (MSC4190). Answers whether it is new.
    pub async fn put_device(
        &self,
        user_id: &UserId,
        device_id: &str,
        display_name: Option<&str>,
    ) -> Result<bool, AccountError> {
        let is_long = display_name.is_some_and(|name| name.len() > MOST_ID_BYTES);
        if device_id.is_empty() || device_id.len() > MOST_ID_BYTES || is_long {
            return Err(AccountError::InvalidParameter("a device id and its name have at most 255 bytes"));
        }
        let localpart = self.local(user_id)?;
        let key = (localpart, device_id);
        let now = self.inner.environment.now().millis();
        // A digest of a text that nobody ever sees.
        let access = digest(&TokenKind::Access.generate(self.inner.environment.randomness()));
        let (is_new, _) = self
            .store()
            .run(async |snapshot| {
                let existing = snapshot.get(&rows::DEVICES, key).await?;
                let is_new = existing.is_none();
                let mut transaction = Transaction::new();
                if !is_new && display_name.is_none() {
                    return Ok((transaction, false));
                }
                transaction.check_present(&rows::USERS, localpart);
                transaction.check_unchanged(&rows::DEVICES, key, existing.as_ref());
                let device = match existing {
                    Some(device) => DeviceRow { display_name: display_name.map(str::to_owned), ..device },
                    None => DeviceRow {
                        display_name: display_name.map(str::to_owned),
                        created_at: now,
                        tokens: TokenPair { access, refresh: None },
                        refreshed: None,
                    },
                };
                transaction.put(&rows::DEVICES, key, &device);
                if is_new {
                    transaction.put(&rows::SEEN, key, &SeenRow { at: now, address: None });
                }
                let device_ids = vec![device_id.to_owned()];
                Change::Devices { localpart: localpart.to_owned(), device_ids }.log_in(&mut transaction);
                Ok::<_, AccountError>((transaction, is_new))
            })
            .await?;
        Ok(is_new)
    }
}
