use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use entente_environment::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// Bytes of a user in a name, which has at most 508 (RFC 8489, section 14.3).
const LONGEST_USER: usize = 480;

/// The STUN and TURN servers that clients are told of. Cheap to clone.
///
/// Credentials are those of the "TURN REST API" (draft-uberti-behave-turn-rest-00), which other TURN servers can be told to take too:
/// the name begins with the second of the Unix era in which it ends, and the password follows from the name and a secret.
#[derive(Clone)]
pub struct TurnService {
    uris: Arc<[String]>,
    secret: Arc<str>,
    lifetime: Duration,
}

/// What lets one user in, for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnCredentials {
    /// The second in which it ends, a colon, and the user.
    pub username: String,
    /// Follows from the name.
    pub password: String,
    /// For how long it lets in.
    pub lifetime: Duration,
}

impl TurnService {
    /// Servers at these addresses (RFC 7064, RFC 7065) that know this secret.
    pub fn new(uris: Vec<String>, secret: &str, lifetime: Duration) -> Self {
        Self { uris: uris.into(), secret: secret.into(), lifetime }
    }

    /// Where the servers are.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// New credentials for a user, whose name is cut off where it does not fit into a STUN message.
    pub fn credentials(&self, user: &str, now: Timestamp) -> TurnCredentials {
        let end = now.after(self.lifetime).millis() / 1_000;
        let fits = user.char_indices().map_while(|(at, character)| {
            let end = at + character.len_utf8();
            (end <= LONGEST_USER).then_some(end)
        });
        let user = user.get(..fits.last().unwrap_or(0)).unwrap_or_default();
        let username = format!("{end}:{user}");
        let password = password(&self.secret, &username);
        TurnCredentials { username, password, lifetime: self.lifetime }
    }
}

impl fmt::Debug for TurnService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TurnService").field("uris", &self.uris).finish_non_exhaustive()
    }
}

/// The password that goes with a name.
pub(crate) fn password(secret: &str, username: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

/// The user whom a name stands for, unless it has ended or is none of ours.
pub(crate) fn user(username: &str, now: Timestamp) -> Option<&str> {
    let (end, user) = username.split_once(':')?;
    let end: u64 = end.parse().ok()?;
    (end.checked_mul(1_000)? > now.millis()).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_what_other_servers_expect() {
        // printf '1433895918:alice' | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(password("north", "1433895918:alice"), "RqMvcGPYTJMGThVLSi4amT4zFtI=");
    }

    #[test]
    fn a_name_ends() {
        let service =
            TurnService::new(vec!["turn:example.org".to_owned()], "secret", Duration::from_secs(60));
        let now = Timestamp(1_000_000);
        let credentials = service.credentials("@alice:example.org", now);
        assert_eq!(credentials.username, "1060:@alice:example.org");
        assert_eq!(
            user(&credentials.username, now.after(Duration::from_secs(59))),
            Some("@alice:example.org")
        );
        assert_eq!(user(&credentials.username, now.after(Duration::from_secs(60))), None);
        for none in ["", "alice", "x:alice", ":alice", "-1:alice", "18446744073709551615:alice"] {
            assert_eq!(user(none, now), None, "{none}");
        }
        let long = service.credentials(&"é".repeat(400), now).username;
        assert_eq!(user(&long, now).map(str::len), Some(LONGEST_USER));
        assert!(!format!("{service:?}").contains("secret"));
    }
}
