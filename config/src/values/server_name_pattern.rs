//! Patterns that server names are held against.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{InvalidValue, ServerName, server_name::split_port};

/// A server name in which `*` stands for any run of characters and `?` for any one, as in server access control lists
/// (`m.room.server_acl`). Letters match in either case. A pattern without a port matches a server on every port; one with a
/// port only that port. A name that ends with a dot leads to the same server as the one without, and is matched as that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerNamePattern(String);

impl ServerNamePattern {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the server is meant. Takes text rather than a [`ServerName`]: names from the network come as other types.
    pub fn matches(&self, server_name: &str) -> bool {
        let (_, pattern_port) = split_port(&self.0);
        let (host, port) = split_port(server_name);
        let mut subject = host.trim_end_matches('.').to_owned();
        if let (Some(_), Some(port)) = (pattern_port, port) {
            subject = format!("{subject}:{port}");
        }
        glob_matches(self.0.as_bytes(), subject.as_bytes())
    }
}

/// Matches by stepping back to the last `*` on a mismatch: at worst the product of both lengths, never exponential.
fn glob_matches(pattern: &[u8], subject: &[u8]) -> bool {
    let (mut in_pattern, mut in_subject) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while let Some(&byte) = subject.get(in_subject) {
        match pattern.get(in_pattern) {
            Some(b'*') => {
                last_star = Some((in_pattern, in_subject));
                in_pattern += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted.eq_ignore_ascii_case(&byte) => {
                in_pattern += 1;
                in_subject += 1;
            }
            _ => {
                let Some((star, swallowed)) = last_star else { return false };
                last_star = Some((star, swallowed + 1));
                in_pattern = star + 1;
                in_subject = swallowed + 1;
            }
        }
    }
    pattern.iter().skip(in_pattern).all(|&byte| byte == b'*')
}

impl FromStr for ServerNamePattern {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]*?".contains(&byte);
        if (1..=255).contains(&text.len()) && text.bytes().all(is_name_byte) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue::new(format!(
                "expected a server name or a pattern such as \"*.example.org\", found {text:?}"
            )))
        }
    }
}

impl TryFrom<String> for ServerNamePattern {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The pattern that matches just this name.
impl From<ServerName> for ServerNamePattern {
    fn from(name: ServerName) -> Self {
        Self(name.into())
    }
}

impl From<ServerNamePattern> for String {
    fn from(pattern: ServerNamePattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for ServerNamePattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        pattern.parse::<ServerNamePattern>().expect("a valid pattern").matches(name)
    }

    #[test]
    fn stars_and_question_marks() {
        assert!(matches("*", "example.org"));
        assert!(matches("*.example.org", "matrix.example.org"));
        assert!(matches("*.example.org", "a.b.example.org"));
        assert!(!matches("*.example.org", "example.org"));
        assert!(!matches("*.example.org", "matrix.example.org.evil.net"));
        assert!(matches("m?trix.example.org", "mAtrix.EXAMPLE.org"));
        assert!(!matches("example.org", "example.orgs"));
        assert!(!matches("example.org", "notexample.org"));
        assert!(matches("*a*b*", "xxaxxbxx"));
        assert!(!matches("*a*b*", "xxbxxaxx"));
        assert!(!matches("*a*a*a*a*a*a*b", &"a".repeat(200)));
    }

    #[test]
    fn a_port_counts_only_where_the_pattern_has_one() {
        assert!(matches("example.org", "example.org:8448"));
        assert!(matches("example.org:8448", "example.org:8448"));
        assert!(!matches("example.org:8448", "example.org"));
        assert!(!matches("example.org:8448", "example.org:443"));
        assert!(matches("[2001:db8::1]", "[2001:db8::1]:8448"));
        assert!(!matches("[2001:db8::1]:443", "[2001:db8::1]:8448"));
    }

    #[test]
    fn a_dot_at_the_end_makes_no_other_name() {
        assert!(matches("*.example.org", "matrix.example.org."));
        assert!(matches("example.org", "example.org.:8448"));
        assert!(matches("example.org:8448", "example.org.:8448"));
        assert!(!matches("example.org:8448", "example.org."));
    }

    #[test]
    fn what_no_server_name_can_hold_is_refused() {
        for text in ["", "https://example.org", "exa mple", "example.org,example.net"] {
            assert!(text.parse::<ServerNamePattern>().is_err(), "{text}");
        }
    }
}
