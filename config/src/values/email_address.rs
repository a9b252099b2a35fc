//! E-mail addresses of people who run the server.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::InvalidValue;

/// An address such as `admin@example.org`. Checked only for its shape (one part before the last `@`, a host after it, no white
/// space, at most 254 bytes): whether mail arrives there only sending can tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress(String);

impl EmailAddress {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EmailAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let has_both_parts =
            text.rsplit_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
        let is_one_word = !text.chars().any(|character| character.is_whitespace() || character.is_control());
        if has_both_parts && is_one_word && text.len() <= 254 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue::new(format!(
                "expected an e-mail address such as \"admin@example.org\", found {text:?}"
            )))
        }
    }
}

impl TryFrom<String> for EmailAddress {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> Self {
        address.0
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shape_is_checked() {
        assert!("admin@example.org".parse::<EmailAddress>().is_ok());
        for text in ["", "admin", "@example.org", "admin@", "ad min@example.org", "admin@example.org\n"] {
            assert!(text.parse::<EmailAddress>().is_err(), "{text:?}");
        }
    }
}
