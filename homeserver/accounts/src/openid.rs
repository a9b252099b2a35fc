use std::time::Duration;

use entente_storage::Transaction;
use ruma::{OwnedUserId, UserId};

use crate::{
    AccountError, Accounts,
    rows::{self, ShortTokenRow},
    tokens::{TokenKind, digest},
};

/// A token with which a third party can ask this server who its bearer is (C-S API, "OpenID").
#[derive(Clone, Debug)]
pub struct OpenIdToken {
    /// The token.
    pub access_token: String,
    /// How long it lives.
    pub expires_in: Duration,
}

impl Accounts {
    /// A new `OpenID` token for a user.
    pub async fn create_openid_token(&self, user_id: &UserId) -> Result<OpenIdToken, AccountError> {
        let localpart = self.local(user_id)?.to_owned();
        let access_token = TokenKind::OpenId.generate(self.inner.environment.randomness());
        let expires_in = self.settings().openid_token_lifetime;
        let expires_at = self.inner.environment.now().after(expires_in).millis();
        let mut transaction = Transaction::new();
        transaction.put(
            &rows::OPENID_TOKENS,
            digest(&access_token),
            &ShortTokenRow { localpart, expires_at },
        );
        self.store().commit(transaction).await?;
        Ok(OpenIdToken { access_token, expires_in })
    }

    /// Whose `OpenID` token this is (S-S API, `GET /openid/userinfo`).
    pub async fn openid_user(&self, token: &str) -> Result<OwnedUserId, AccountError> {
        let row = self.snapshot().await?.get(&rows::OPENID_TOKENS, digest(token)).await?;
        let now = self.inner.environment.now().millis();
        let row = row.filter(|row| row.expires_at > now);
        let row = row.ok_or(AccountError::UnknownToken { soft_logout: false })?;
        self.user_id(&row.localpart)
    }
}
