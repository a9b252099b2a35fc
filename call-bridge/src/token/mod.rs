//! Access tokens: JSON Web Tokens (RFC 7519) signed with HMAC-SHA256, with LiveKit's grants.

mod grants;

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use entente_environment::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

pub use self::grants::VideoGrant;

/// Longer tokens are not even looked at, in bytes.
const MAXIMUM_TOKEN_BYTES: usize = 16 * 1_024;
/// Clocks of other machines may be off by this much.
const LEEWAY: Duration = Duration::from_secs(60);
/// Identities, names and room names, in bytes.
pub(crate) const MAXIMUM_NAME_BYTES: usize = 512;

/// Who may sign tokens: a key's name and the secret that belongs to it.
#[derive(Clone)]
pub struct ApiKey {
    /// What tokens call their issuer.
    pub name: String,
    /// What they are signed with: 32 bytes or more that nobody can guess.
    pub secret: String,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ApiKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The name of the key that signed it.
    #[serde(default)]
    pub iss: String,
    /// The participant's identity.
    #[serde(default)]
    pub sub: String,
    /// Seconds since 1970 from which it is valid.
    #[serde(default)]
    pub nbf: u64,
    /// Seconds since 1970 up to which it is valid.
    #[serde(default)]
    pub exp: u64,
    /// What the others see.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Free text of the application.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    /// Free texts of the application.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Whom the application takes the holder for. Whoever runs the bridge can remove all of an owner's participants; other
    /// participants are not told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// On whose account it counts that the holder takes places in rooms, and what is relayed for them, whatever identities they choose. If
    /// empty, places are not counted and relaying is on the identity's account.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub quota_user: String,
    /// The digest of what it is sent with: the base64 of a SHA-256. For webhooks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// What the holder may do.
    #[serde(default)]
    pub video: VideoGrant,
}

/// Why a token is not accepted; always 401.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token.
    #[error("invalid authorization token")]
    Malformed,
    /// It was not signed by a key of ours.
    #[error("invalid API key or signature")]
    Signature,
    /// Its time has not come, or is over.
    #[error("the token is not valid at this time")]
    Time,
}

#[derive(Deserialize, Serialize)]
struct Header<'a> {
    alg: &'a str,
    #[serde(skip_deserializing)]
    typ: &'a str,
}

impl ApiKey {
    /// Signs `claims`, in which the issuer and the times are set here.
    pub fn sign(&self, claims: Claims, now: Timestamp, lifetime: Duration) -> String {
        let seconds = now.millis() / 1_000;
        let claims = Claims {
            iss: self.name.clone(),
            nbf: seconds,
            exp: seconds.saturating_add(lifetime.as_secs()),
            ..claims
        };
        let encode = |json: Result<Vec<u8>, _>| URL_SAFE_NO_PAD.encode(json.unwrap_or_default());
        let header = encode(serde_json::to_vec(&Header { alg: "HS256", typ: "JWT" }));
        let signed = format!("{header}.{}", encode(serde_json::to_vec(&claims)));
        let signature = URL_SAFE_NO_PAD.encode(self.mac(&signed).finalize().into_bytes());
        format!("{signed}.{signature}")
    }

    /// Checks a token's signature and times.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        if token.len() > MAXIMUM_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let header = decode(header)?;
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
        // Nothing but what we sign with: a token does not choose its algorithm.
        if header.alg != "HS256" {
            return Err(TokenError::Signature);
        }
        // Compares in constant time.
        self.mac(signed).verify_slice(&decode(signature)?).map_err(|_| TokenError::Signature)?;
        let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Malformed)?;
        if claims.iss != self.name {
            return Err(TokenError::Signature);
        }
        let seconds = now.millis() / 1_000;
        let begun = claims.nbf <= seconds.saturating_add(LEEWAY.as_secs());
        let ended = claims.exp.saturating_add(LEEWAY.as_secs()) < seconds;
        if begun && !ended { Ok(claims) } else { Err(TokenError::Time) }
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        // HMAC takes keys of any length; the error type is for other constructions.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes())
            .unwrap_or_else(|_| Hmac::new(&hmac::digest::Key::<Hmac<Sha256>>::default()));
        mac.update(signed.as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn key() -> ApiKey {
        ApiKey { name: "key".to_owned(), secret: "secret".to_owned() }
    }

    fn claims() -> Claims {
        Claims {
            sub: "@alice:example.org:DEVICE".to_owned(),
            video: VideoGrant { room: "room".to_owned(), room_join: true, ..VideoGrant::default() },
            ..Claims::default()
        }
    }

    #[test]
    fn what_was_signed_is_read_again() {
        let token = key().sign(claims(), NOW, Duration::from_secs(600));
        let read = key().verify(&token, NOW.after(Duration::from_secs(300))).unwrap();
        assert_eq!((read.sub, read.video), (claims().sub, claims().video));
        assert_eq!((read.iss.as_str(), read.exp), ("key", 1_700_000_600));
    }

    #[test]
    fn forged_tokens_are_refused() {
        let token = key().sign(claims(), NOW, Duration::from_secs(600));
        let other = ApiKey { secret: "other".to_owned(), ..key() };
        assert_eq!(other.verify(&token, NOW), Err(TokenError::Signature));
        let [header, body, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(key().verify(&format!("{none}.{body}."), NOW), Err(TokenError::Signature));
        let body = URL_SAFE_NO_PAD.encode(r#"{"iss":"key","sub":"@mallory","exp":9999999999}"#);
        assert_eq!(key().verify(&format!("{header}.{body}.{signature}"), NOW), Err(TokenError::Signature));
        assert_eq!(key().verify("nonsense", NOW), Err(TokenError::Malformed));
    }

    #[test]
    fn times_hold_with_some_leeway() {
        let token = key().sign(claims(), NOW, Duration::from_secs(600));
        assert!(key().verify(&token, NOW.after(Duration::from_secs(650))).is_ok());
        assert_eq!(key().verify(&token, NOW.after(Duration::from_secs(662))), Err(TokenError::Time));
        assert_eq!(key().verify(&token, Timestamp(NOW.millis() - 120_000)), Err(TokenError::Time));
    }

    /// Made with another program: `{"alg":"HS256","typ":"JWT"}` and secret `secret`.
    #[test]
    fn the_signature_is_that_of_others() {
        let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJrZXkiLCJzdWIiOiJAYWxpY2UiLCJuYmYiOjE2MDAwMDAwMDAsImV4cCI6MTkwMDAwMDAwMCwidmlkZW8iOnsicm9vbUpvaW4iOnRydWUsInJvb20iOiJyIn19.mWmnJ9IkaNBZRJxChj81wqxUOzgGkBl90r8V8BnlLeU";
        assert!(key().verify(token, NOW).is_ok());
    }
}
