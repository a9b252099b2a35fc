//! Identifiers of the Matrix specification that settings name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{InvalidValue, ServerName};

/// The part of a user's identifier between `@` and `:`, in the characters that new users may have: `a` to `z`, digits and
/// `._=-/+` ([Matrix specification, user identifiers](https://spec.matrix.org/latest/appendices/#user-identifiers)).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Localpart(String);

impl Localpart {
    /// The localpart as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Localpart {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte);
        if (1..=255).contains(&text.len()) && text.bytes().all(is_allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue::new(format!(
                "expected the local part of a user's name, such as \"admin\" (a to z, digits, ._=-/+), found {text:?}"
            )))
        }
    }
}

impl TryFrom<String> for Localpart {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Localpart> for String {
    fn from(localpart: Localpart) -> Self {
        localpart.0
    }
}

impl fmt::Display for Localpart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The identifier of a user anywhere in Matrix, such as `@admin:example.org`; at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MatrixId(String);

impl MatrixId {
    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MatrixId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.strip_prefix('@').and_then(|rest| rest.split_once(':'));
        let valid = parts.is_some_and(|(localpart, server_name)| {
            // The historical characters too: the person may live on an older server.
            !localpart.is_empty()
                && localpart.bytes().all(|byte| byte.is_ascii_graphic())
                && server_name.parse::<ServerName>().is_ok()
        });
        if valid && text.len() <= 255 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue::new(format!(
                "expected a user's name such as \"@admin:example.org\", found {text:?}"
            )))
        }
    }
}

impl TryFrom<String> for MatrixId {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MatrixId> for String {
    fn from(id: MatrixId) -> Self {
        id.0
    }
}

impl fmt::Display for MatrixId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a contact can help with: `m.role.admin`, `m.role.security`, or another name of the common namespaced identifier
/// grammar (`a` to `z` first, then `a` to `z`, digits and `-_.`, at most 255 bytes), which is what
/// `/.well-known/matrix/support` allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SupportRole(String);

impl SupportRole {
    /// The role as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SupportRole {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        // Names without a dot would be in the specification's own, still empty, part of the namespace.
        let valid = text.len() <= 255
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.contains('.')
            && text.bytes().all(is_allowed);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue::new(format!(
                "expected \"m.role.admin\", \"m.role.security\" or a namespaced role of your own, found {text:?}"
            )))
        }
    }
}

impl TryFrom<String> for SupportRole {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SupportRole> for String {
    fn from(role: SupportRole) -> Self {
        role.0
    }
}

impl fmt::Display for SupportRole {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localparts() {
        assert!("admin".parse::<Localpart>().is_ok());
        for text in ["", "Admin", "@admin", "ad min", "admin:example.org"] {
            assert!(text.parse::<Localpart>().is_err(), "{text}");
        }
    }

    #[test]
    fn matrix_ids() {
        assert!("@admin:example.org:8448".parse::<MatrixId>().is_ok());
        assert!("@Old!Name:example.org".parse::<MatrixId>().is_ok());
        for text in
            ["", "admin", "@admin", "@:example.org", "@admin:", "@ad min:example.org", "#room:example.org"]
        {
            assert!(text.parse::<MatrixId>().is_err(), "{text}");
        }
    }

    #[test]
    fn support_roles() {
        assert!("m.role.admin".parse::<SupportRole>().is_ok());
        assert!("org.example.night-shift".parse::<SupportRole>().is_ok());
        for text in ["", "admin", "M.role.admin", "m.role admin", ".admin"] {
            assert!(text.parse::<SupportRole>().is_err(), "{text}");
        }
    }
}
