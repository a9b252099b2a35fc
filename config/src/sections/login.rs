//! `[login]`: how sessions begin and how long tokens live.

use serde::{Deserialize, Serialize};

use crate::{validation::Contradictions, values::TimeSpan};

/// How sessions begin and how long tokens live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Login {
    /// Whether users may log in with a password (`m.login.password`, and on the OAuth 2.0 pages).
    pub password: bool,
    /// How long an access token lives that can be refreshed.
    pub refreshable_access_token_lifetime: TimeSpan,
    /// How long an access token lives that can't be refreshed; absent: until logout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_lifetime: Option<TimeSpan>,
    /// How long a refresh token lives unused; absent: until logout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token_lifetime: Option<TimeSpan>,
    /// How long a token for logging in another device lives (`m.login.token`, `/v1/login/get_token`).
    pub login_token_lifetime: TimeSpan,
    /// How long a token that proves a user's identity to others lives (`/openid/request_token`).
    pub openid_token_lifetime: TimeSpan,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            password: true,
            refreshable_access_token_lifetime: TimeSpan::minutes(5),
            access_token_lifetime: None,
            refresh_token_lifetime: None,
            login_token_lifetime: TimeSpan::minutes(2),
            openid_token_lifetime: TimeSpan::hours(1),
        }
    }
}

impl Login {
    pub(crate) fn check(&self, found: &mut Contradictions) {
        let lifetimes = [
            ("login.refreshable_access_token_lifetime", Some(self.refreshable_access_token_lifetime)),
            ("login.access_token_lifetime", self.access_token_lifetime),
            ("login.refresh_token_lifetime", self.refresh_token_lifetime),
            ("login.login_token_lifetime", Some(self.login_token_lifetime)),
            ("login.openid_token_lifetime", Some(self.openid_token_lifetime)),
        ];
        found.refuse_zero_spans(&lifetimes);
        if self
            .refresh_token_lifetime
            .is_some_and(|lifetime| lifetime <= self.refreshable_access_token_lifetime)
        {
            let message =
                "a refresh token has to outlive the access token (login.refreshable_access_token_lifetime)";
            found.add(&["login.refresh_token_lifetime", "login.refreshable_access_token_lifetime"], message);
        }
    }
}
