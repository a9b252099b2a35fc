//! Names of hosts in the domain name system.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::InvalidValue;

/// A fully qualified name for which a certificate can be issued: dot-separated labels of letters, digits and inner hyphens,
/// at most 253 bytes, kept in lower case. No wildcards, no addresses (RFC 1123 section 2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

impl DomainName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DomainName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let last_label = text.rsplit('.').next().unwrap_or_default();
        // A last label of digits would make it an IPv4 address or a misspelling of one.
        let valid = text.len() <= 253
            && text.split('.').all(is_label)
            && !last_label.bytes().all(|byte| byte.is_ascii_digit());
        if valid {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidValue::new(format!(
                "expected a domain name such as \"matrix.example.org\", found {text:?}"
            )))
        }
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl TryFrom<String> for DomainName {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        name.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses_and_wildcards() {
        for text in ["example.org", "Matrix.Example.org", "localhost", "xn--bcher-kva.example", "4.example"] {
            assert_eq!(text.parse::<DomainName>().map(String::from), Ok(text.to_lowercase()));
        }
        for text in
            ["", ".", "example.org.", "*.example.org", "192.0.2.1", "::1", "exa_mple.org", "-a.org", "a b"]
        {
            assert!(text.parse::<DomainName>().is_err(), "{text}");
        }
    }
}
